"""What a run that goes on does otherwise than it began, found before anything is touched.

`hparams.json` holds the config that the run began with, `inputs.json` what lay in the folders that
it names, by the files' names and sizes: a folder that was moved is the same, and one that was
changed in its place is another.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from tdr_jax import disk, distributed
from tdr_jax.errors import InputError
from tdr_jax.images.folders import list_pictures
from tdr_jax.train.config import RENAMED
from tdr_jax.train.workdir import CHECKPOINTS, HPARAMS, INPUTS, Workdir

# What changes nothing of what is learnt, but for rounding: when things are written or measured, and
# how the work is cut and fed. A name stands for all fields below it.
FREE = (
    "accumulate",
    "allow_changes",
    "data.cache_mb",
    "data.check",
    "data.decoded",
    "data.on_damaged",  # a run that met a damaged picture goes on with "skip"
    "data.tfds_dir",
    "data.workers",
    "eval_data",
    "eval_every",
    "keep",
    "log_every",
    "mesh",
    "network.overrides.microbatches",
    "network.overrides.remat",
    "network.overrides.scan_unroll",
    "panel_every",
    "peak_tflops",
    "save_every",
    "stack.remat",
)
PICTURES = ("data.path", "data.pairs", "guidance.path")
PLACES = (
    *PICTURES,
    "encoder",
    "guidance.dinov2",
    "init_base",
    "init_from",
    "network.text_encoder",
    "stack.image_encoder",
    "stack.image_to_text",
    "stack.path",
    "stack.vae",
)
STAGES = "data.stages"
LENGTHS = ("optim.max_epochs", "optim.periods")  # of schedules that configs fit to the stages
MOST = 6  # changes that are listed


def check(config, workdir: Workdir) -> list[str]:
    """Compare a config with that of the run which it goes on with.

    Args:
        config: an `ml_collections.ConfigDict`; with `allow_changes`, changes are told and no error.
        workdir: where the run is; nothing in it is changed.

    Returns:
        lines about what differs and may, on process 0; [] where there is nothing to go on with.

    Raises:
        InputError: a field that matters differs, or what lies where it says. Every process does.
    """
    wrong: list[str] = []
    lines: list[str] = []
    if distributed.is_lead():
        wrong, lines = _compare(config, epath.Path(workdir.path))
    allowed = config.get("allow_changes", False)
    if distributed.lead_says(bool(wrong) and not allowed):
        listed = "; ".join(wrong[:MOST]) or "process 0 says what"
        more = f" and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        raise InputError(
            f"{workdir.path} would go on otherwise than it began: {listed}{more}; give what was "
            "before, another --workdir, or --config.allow_changes=true"
        )
    return [f"changed: {each}" for each in wrong] + lines


def remember(config, folder: Path) -> None:
    """Write down what lies in the folders that a config names.

    Args:
        config: see `check`.
        folder: of the run, on disk.
    """
    values = flat(config.to_dict())
    found = {}
    for field in PLACES:
        for path in _paths(values.get(field, "")):
            found[path] = _print_of(path, field in PICTURES)
    disk.write_json(folder / INPUTS, found)


def _compare(config, folder) -> tuple[list[str], list[str]]:
    """What differs and must not, and lines about what differs and may."""
    steps = _steps(folder)
    if not steps or not (folder / HPARAMS).exists():
        return [], []
    try:
        before = flat(json.loads((folder / HPARAMS).read_text()))
        prints = json.loads((folder / INPUTS).read_text()) if (folder / INPUTS).exists() else {}
    except ValueError:  # cut off where its writer was killed
        return [], [f"{folder / HPARAMS} cannot be read: whether the config changed is not known"]
    before = {_renamed(name): value for name, value in before.items()}
    now = flat(config.to_dict())
    both = [name for name in now if name in before and not _is_free(name)]
    longer = _is_longer(before.get(STAGES), now.get(STAGES))
    wrong, lines = [], []
    for name in both:
        old, new = before[name], now[name]
        if name in PLACES:
            same, line = _same_place(name, old, new, prints)
            (lines if same else wrong).extend([line] if line else [])
        elif old == new or (name in LENGTHS and longer and _grew(old, new)):
            continue
        elif name == STAGES and longer:
            total, schedule = sum(stage[0] for stage in new), config.optim.schedule
            line = f"config.{name} {_text(old)} -> {_text(new)}: "
            if schedule == "cosine":
                line += f"the schedule is recomputed for {total} steps, from the first on"
            else:
                line += f"the run ends at step {total}; schedule {schedule!r} is as its fields say"
            lines.append(line)
        elif name == STAGES and sum(stage[0] for stage in new) < max(steps):
            continue  # which the loop refuses, whatever is allowed
        else:
            wrong.append(f"config.{name} {_text(old)} -> {_text(new)}")
    for what, names in (
        (
            "fields that the run began without",  # None: as the network has it by its name
            [name for name in now if name not in before and now[name] is not None],
        ),
        ("fields that are gone since it began", [name for name in before if name not in now]),
    ):
        names = [name for name in names if not _is_free(name)]
        if names:
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            said = [f"{n}={_text(now[n])}" if n in now else n for n in names[:MOST]]
            lines.append(f"{what}: {', '.join(said)}{more}")
    return wrong, lines


def _steps(folder) -> list[int]:
    """The steps of a run that were saved."""
    saved = folder / CHECKPOINTS
    if not saved.exists():
        return []
    return [int(entry.name) for entry in saved.iterdir() if entry.name.isdigit()]


def flat(tree, prefix: str = "") -> dict[str, object]:
    """Gives the fields of nested dicts by their dotted names, with values as JSON has them."""
    if not prefix:
        tree = json.loads(json.dumps(tree, default=str))
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _renamed(name: str) -> str:
    return RENAMED.get(name, name)


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _is_longer(before, now) -> bool:
    """Whether stages begin as others do and last longer."""
    if not before or not now or len(now) < len(before):
        return False
    *done, last = before
    return (
        now[: len(done)] == done
        and now[len(done)][1:] == last[1:]
        and now[len(done)][0] >= last[0]
        and now != before
    )


def _grew(before, now) -> bool:
    """Whether numbers, as many as before or more, are at least what they were."""
    old, new = ([each] if isinstance(each, int | float) else each for each in (before, now))
    return len(new) >= len(old) and all(b >= a for a, b in zip(old, new, strict=False))


def _same_place(name: str, old, new, prints: dict) -> tuple[bool, str]:
    """Whether the same lies where a field says, and what to say about it."""
    pictures = name in PICTURES
    now = {path: _print_of(path, pictures) for path in _paths(new)}
    then = {
        path: prints.get(path) or now.get(path) or _print_of(path, pictures)
        for path in {*_strings(old)}
        if path in prints or path in now or path in _paths(old)
    }
    if _with(old, then) == _with(new, now):
        moved = f"config.{name} {_text(old)} -> {_text(new)}: moved, the same files"
        return True, moved if old != new else ""
    if old == new:
        changed = next(path for path in now if then[path] != now[path])
        counts = then[changed]["files"], now[changed]["files"]
        of = "other names or sizes" if counts[0] == counts[1] else f"{counts[0]} -> {counts[1]}"
        return False, f"config.{name}: the files in {changed} changed ({of})"
    return False, f"config.{name} {_text(old)} -> {_text(new)}"


def _print_of(path: str, pictures: bool) -> dict[str, object]:
    """How many files lie there, and a digest of their names and sizes."""
    root = Path(path)
    if root.is_file():
        files = [root]
    elif pictures:
        files = list_pictures(root)
    else:
        files = sorted(each for each in root.rglob("*") if each.is_file())
    lines = (f"{each.relative_to(root).as_posix()}\t{each.stat().st_size}\n" for each in files)
    return {"files": len(files), "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}


def _strings(value) -> Iterator[str]:
    """The places in a field; several may stand in one string, with + between them."""
    if isinstance(value, str):
        yield from [value] if Path(value).exists() else value.split("+")
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _paths(value) -> list[str]:
    """The files and folders that a field names."""
    return [each for each in _strings(value) if each and Path(each).exists()]


def _with(value, prints: dict):
    """A value, in which what lies somewhere stands in place of where."""
    if isinstance(value, str):
        return [prints.get(each, each) for each in _strings(value)]
    return [_with(each, prints) for each in value] if isinstance(value, list) else value


def _text(value) -> str:
    return str(value) if isinstance(value, int | float) else json.dumps(value)
