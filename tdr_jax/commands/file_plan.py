"""Which file becomes which: inputs, outputs, views, guidance, prompts, settled before any work."""

import contextlib
import itertools
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tdr_jax import images
from tdr_jax.data import pairs
from tdr_jax.errors import InputError


@dataclass(frozen=True)
class PlannedFile:
    """One picture to restore: where from, where to, and how it was named on the way."""

    source: Path
    target: Path
    panel: Path | None
    name: str  # relative to the folder that was given, with forward slashes
    right: Path | None = None  # the right view that goes with it
    guidance: Path | None = None  # the picture that guides it, which may have to be drawn yet


class Tally:
    """Counts pictures that are done; what is wrong with one is said and stops no other.

    Args:
        count: how many there are.
        done: what is done to them, in a word.
    """

    def __init__(self, count: int, done: str):
        self.count, self.done, self.failed = count, done, 0

    @contextlib.contextmanager
    def one(self, source: Path) -> Iterator[None]:
        """Take the errors of what is done to one picture: it, or memory, is not as it should be."""
        try:
            yield
        except InputError as error:
            self.failed += 1
            print(f"tdr: error: {error}", file=sys.stderr)
        except MemoryError:
            self.failed += 1
            print(f"tdr: error: {source}: not enough memory for it", file=sys.stderr)

    def close(self) -> int:
        """Say how many were done, and return the exit status: 0, or 1 if one failed."""
        failed = f"; {self.failed} failed" if self.failed else ""
        say(f"{self.done} {self.count - self.failed} of {self.count}{failed}")
        return 1 if self.failed else 0


def say(line: str) -> None:
    """Print a line about the progress."""
    print(line, file=sys.stderr, flush=True)


def plan(
    inputs: Iterable[str],
    out: str,
    panel: str | None = None,
    right: str | None = None,
    guidance: str | None = None,
    drawn: str | None = None,
    *,
    ending: str = "",
    form: str | None = None,
    keep: bool = False,
) -> list[PlannedFile]:
    """Pair every input picture with an output name that is its own.

    Args:
        inputs: files and folders (searched with the folders in them).
        out: a file for a single input file, else a folder, in which the order of the input's
            folders is kept.
        panel: a folder for a NAME_panel.png of each picture; "" puts it beside the output, None
            makes none.
        right: the right view of a single input file, or the folder in which `data.pairs.find`
            finds those of all inputs; None where pictures have one view.
        guidance: a picture that guides all inputs, or a folder in which `data.pairs.find`
            finds that of each; None for neither.
        drawn: a folder in which guidance is to be drawn, a PNG after each input; or None.
        ending: what is put behind the name of each output in a folder, before its suffix.
        form: the format of each output in a folder, such as "png"; None keeps that of the input.
        keep: whether outputs that exist are left alone, so that one may lie among the inputs.

    Returns:
        the planned files, in the order of the inputs; no two write the same file, none writes an
            input.

    Raises:
        InputError: an input, right view or guidance is missing, a folder holds no picture, an
            output would overwrite an input, `out` or another folder is a file, or the ending or
            format is none.
    """
    inputs = list(inputs)
    for folder in filter(None, (panel, drawn)):
        _check_folder(folder)
    if Path(f"x{ending}").name != f"x{ending}" or "\0" in ending:
        raise InputError(f"--suffix is {ending!r}; it is part of a file's name, without /")
    form = None if form is None else "." + form.lower().removeprefix(".")
    if form not in (None, *images.WRITABLE):
        known = " ".join(suffix[1:] for suffix in images.WRITABLE)
        raise InputError(f"--format is {form[1:]}; it must be one of {known}")
    sources = _sources(inputs, *filter(None, (out, panel, guidance, drawn)))
    taken: set[str] = set()
    single = len(inputs) == 1 and os.path.isfile(inputs[0]) and not _means_folder(out)
    if single:
        images.check_writable(out)
        if ending or form:
            raise InputError(f"{out}: names the output; --suffix and --format are for folders")
        targets = [_claim(Path(out), taken)]
    else:
        if os.path.exists(out) and not os.path.isdir(out):
            raise InputError(f"{out}: is a file; several pictures need a folder")
        if Path(out).suffix.lower() in images.WRITABLE and not _means_folder(out):
            raise InputError(f"{out}: names one picture; several pictures need a folder")
        targets = [_claim(_output(Path(out), name, ending, form), taken) for _, name in sources]
        if keep:
            made = {identity for target in targets if (identity := _identity(target))}
            earlier = [_identity(source) in made for source, _ in sources]
            sources = list(itertools.compress(sources, (not each for each in earlier)))
            targets = list(itertools.compress(targets, (not each for each in earlier)))
    panels: list[Path | None] = [None] * len(targets)
    if panel is not None:  # after all pictures, so that these keep their own names
        root = Path(out).parent if single else Path(out)
        places = [Path(panel) / t.relative_to(root) if panel else t for t in targets]
        panels = [_claim(p.with_name(f"{p.stem}_panel.png"), taken) for p in places]
    rights = _right_views(right, [name for _, name in sources])
    guides: list[Path | None] = [None] * len(targets)
    made = []
    if drawn is not None:
        guides = made = [_claim(Path(drawn) / _drawn_name(name), taken) for _, name in sources]
    elif guidance is not None:
        guides = _guidance(guidance, [name for _, name in sources])
    read = [*(source for source, _ in sources), *filter(None, rights)]
    read += [] if made else filter(None, guides)
    _refuse_overwriting(read, [*targets, *filter(None, panels), *made])
    _tell_passed_over(inputs)
    return [
        PlannedFile(source, target, beside, name, view, guide)
        for (source, name), target, beside, view, guide in zip(
            sources, targets, panels, rights, guides, strict=True
        )
    ]


def pictures(
    inputs: Iterable[str], *outs: str | None, by_scene: bool = False
) -> list[tuple[Path, str]]:
    """List every input picture once, in the order of the inputs.

    Args:
        inputs: files and folders (searched with the folders in them).
        *outs: folders in one of these whose pictures are no inputs; None for nothing.
        by_scene: only the first picture of each scene. The scene is the name before its first
            underscore, in which data sets of haze keep what they did to it.

    Returns:
        each path, and its name relative to the folder that was given, with forward slashes.

    Raises:
        InputError: an input is missing, or a folder holds no picture.
    """
    inputs = list(inputs)
    found = _sources(inputs, *filter(None, outs))
    _tell_passed_over(inputs)
    if not by_scene:
        return found
    scenes: dict[str, tuple[Path, str]] = {}
    for path, name in found:
        scenes.setdefault(_drawn_name(name, by_scene), (path, name))
    return list(scenes.values())


def plan_drawn(
    inputs: Iterable[str],
    out: str,
    *,
    by_scene: bool = False,
    suffix: str = ".png",
    within: Iterable[str] = (),
) -> list[PlannedFile]:
    """Give every input picture, or scene, the name of a picture that is made after it.

    Args:
        inputs, by_scene: as in `pictures`.
        out: a folder, in which the order of the input's folders is kept.
        suffix: of what is made.
        within: more folders whose pictures are no inputs, see `pictures`.

    Returns:
        the planned files, in the order of the inputs; no two write the same file, none writes an
            input.

    Raises:
        InputError: an input is missing, a folder holds no picture, an output would overwrite an
            input, or `out` is a file or an input.
    """
    inputs = list(inputs)
    folder = Path(out)
    _check_folder(out)
    if os.path.realpath(out) in {os.path.realpath(given) for given in inputs}:
        raise InputError(f"{out}: is the input; choose another -o, inputs are never overwritten")
    within = (out, *within)
    sources = pictures(inputs, *within, by_scene=by_scene)
    taken: set[str] = set()
    targets = [_claim(folder / _drawn_name(name, by_scene, suffix), taken) for _, name in sources]
    _refuse_overwriting([path for path, _ in _sources(inputs, *within)], targets)
    return [
        PlannedFile(path, target, None, name)
        for (path, name), target in zip(sources, targets, strict=True)
    ]


def plan_made(
    inputs: Iterable[str],
    out: str,
    suffix: str,
    writable: Collection[str],
    within: Iterable[str] = (),
) -> list[PlannedFile]:
    """Give every input picture the name of one that is made after it.

    Args:
        inputs, suffix, within: as in `plan_drawn`.
        out: a file for a single input file, else a folder.
        writable: suffixes that such a file may have.

    Raises:
        InputError: as in `plan_drawn`, or `out` has another suffix.
    """
    inputs = list(inputs)
    if len(inputs) > 1 or not os.path.isfile(inputs[0]) or _means_folder(out):
        return plan_drawn(inputs, out, suffix=suffix, within=within)
    source, target = Path(inputs[0]), Path(out)
    if target.suffix.lower() not in writable:
        raise InputError(f"{out}: '{target.suffix}' would not keep it; use {' '.join(writable)}")
    _refuse_overwriting([source], [target])
    return [PlannedFile(source, target, None, source.name)]


def read_prompts(path: str) -> dict[str, str]:
    """Read which picture gets which prompt.

    Args:
        path: a UTF-8 text file of lines "file<TAB>prompt"; empty lines, lines that begin with #
            and a first line "file<TAB>prompt" are passed over.

    Returns:
        name -> prompt; names as `pairs.normal` spells them.

    Raises:
        InputError: the file cannot be read, or a line is not like that.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    prompts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, tab, prompt = (part.strip() for part in line.partition("\t"))
        if not line.strip() or line.startswith("#") or (name, prompt) == ("file", "prompt"):
            continue
        if not (name and prompt):
            raise InputError(f"{path}:{number}: expected a file, a tab and a prompt")
        if pairs.normal(name) in prompts:
            raise InputError(f"{path}:{number}: {name} has a prompt already")
        prompts[pairs.normal(name)] = prompt
    return prompts


def prompts_of(
    planned: PlannedFile, prompts: dict[str, str], default: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Find the prompts of a picture: by its path in the folder, its name, else the default.

    Raises:
        InputError: there is none.
    """
    prompt = None
    if prompts:
        names = map(pairs.normal, (planned.name, planned.source.name))
        prompt = next((prompts[name] for name in names if name in prompts), None)
    if prompt is None and default is None:
        raise InputError(
            f"{planned.name}: has no prompt; give --prompt TEXT, or --prompt auto, for what "
            "--prompts omits"
        )
    return default if prompt is None else (prompt,)


def _sources(inputs: list[str], *others: str) -> list[tuple[Path, str]]:
    """Return (path, name) of every picture once.

    What an earlier run left in one of the others, a folder inside an input, is none.
    """
    found: dict[str, tuple[Path, str]] = {}
    others = tuple(os.path.realpath(other) for other in others)
    for given in inputs:
        if os.path.isdir(given):
            root = Path(given)
            names = [path.relative_to(root).as_posix() for path in images.list_pictures(root)]
            inside = [other for other in others if _is_below(other, os.path.realpath(root))]
            here = [
                (root / name, name)
                for name in names
                if not any(_is_below(os.path.realpath(root / name), other) for other in inside)
            ]
            if not here:
                unread = " and ".join(filter(None, images.passed_over(root)))
                but = f", but {unread}, which is not read" if unread else ""
                suffixes = " ".join(sorted(images.SUFFIXES))
                raise InputError(f"{given}: holds no picture ({suffixes}){but}")
        elif os.path.lexists(given):
            here = [(Path(given), Path(given).name)]
        else:
            raise InputError(f"{given}: no such file or folder")
        for path, name in here:
            found.setdefault(os.path.abspath(path), (path, name))
    return list(found.values())


def _tell_passed_over(inputs: Iterable[str]) -> None:
    """Say which files of folders are no inputs, pictures of kinds that are not read by name."""
    for root in filter(os.path.isdir, inputs):
        for kind, paths in sorted(images.passed_over(root).items()):
            names = ", ".join(path.relative_to(root).as_posix() for path in paths[:3])
            names += ", ..." if len(paths) > 3 else ""
            what = f"{kind}, which is not read" if kind else "no pictures by their names"
            files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
            say(f"{root}: passes over {files} ({what}): {names}")


def _drawn_name(name: str, by_scene: bool = False, suffix: str = ".png") -> str:
    """Return the name of what is made after a picture, or after its scene."""
    path = Path(name)
    scene = path.stem.split("_")[0] if by_scene else ""
    return path.with_name(f"{scene or path.stem}{suffix}").as_posix()


def _right_views(right: str | None, names: list[str]) -> list[Path] | list[None]:
    """Return the right view of the picture of each name."""
    if right is None:
        return [None] * len(names)
    if os.path.isdir(right):
        return pairs.find(right, names, "right view", pairs.VIEWS)
    if len(names) > 1:
        raise InputError(
            f"{right}: is no folder; the right views of {len(names)} pictures need one"
        )
    if not os.path.isfile(right):
        raise InputError(f"{right}: no such file; it is the right view of {names[0]}")
    return [Path(right)]


def _guidance(guidance: str, names: list[str]) -> list[Path]:
    """Return the picture that guides the restoration of each name."""
    if os.path.isdir(guidance):
        return pairs.find(guidance, names, "guidance")
    if not os.path.isfile(guidance):
        raise InputError(f"{guidance}: no such file or folder; it is the guidance")
    return [Path(guidance)] * len(names)


def _check_folder(path: str) -> None:
    folder = Path(path)
    if folder.suffix.lower() in images.WRITABLE or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{path}: names a file; give a folder, which is made if missing")


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _means_folder(out: str) -> bool:
    return os.path.isdir(out) or out.endswith(("/", os.sep)) or not Path(out).suffix


def _output(folder: Path, name: str, ending: str = "", form: str | None = None) -> Path:
    """Return the output's path; formats that are only read become PNG."""
    target = folder / name
    if form is None:
        form = "" if target.suffix.lower() in images.WRITABLE else ".png"
        return target.with_name(target.stem + ending + target.suffix + form)
    return target.with_name(target.stem + ending + form)


def _claim(path: Path, taken: set[str]) -> Path:
    """Return the path, or one with a number if an earlier planned file has that name.

    Names are compared without case, because many file systems do.
    """
    free, number = path, 1
    while os.path.abspath(free).casefold() in taken:
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    taken.add(os.path.abspath(free).casefold())
    return free


def _refuse_overwriting(sources: list[Path], targets: list[Path]) -> None:
    """Compare what the names lead to (links followed), as os.path.samefile does."""
    known = {_identity(source): source for source in sources}
    for target in targets:
        source = known.get(_identity(target)) if target.exists() else None
        if source is not None:
            raise InputError(
                f"{target}: is the input {source}; choose another -o, inputs are never overwritten"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, or a folder that may not be entered
        return None
    return status.st_dev, status.st_ino
