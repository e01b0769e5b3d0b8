"""Pictures of one's own as a data set: any folder of clean pictures, of pairs or of two views."""

import re
from pathlib import Path

from tdr_jax.data import pairs
from tdr_jax.data.benchmarks.kinds import VIEWS, Benchmark, Split
from tdr_jax.data.benchmarks.layouts import Found, Record
from tdr_jax.degradations.vocabulary import TASKS
from tdr_jax.errors import InputError
from tdr_jax.images import folders

SPLITS = ("train", "val", "test")


def find(
    folder: str | Path, name: str, task: str | None = None, split: str | None = None
) -> tuple[Benchmark, dict[str, Found]]:
    """Finds the splits and the pairs of a folder.

    Args:
        folder: with the folders train/, val/ or test/ for splits, or without.
        name: that the data set is to have: a small letter, then small letters, digits and `_`.
        task: what separates degraded from clean, one of `TASKS`; None for clean pictures.
        split: of a folder without splits; None for "train".

    Returns:
        the data set, and split -> what was found.

    Raises:
        InputError: a name or task that cannot be, no picture, or pairs that do not hold.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"{name!r} cannot name a data set; use small letters, digits and _")
    if task is not None and task not in TASKS:
        raise InputError(f"no task {task!r}; use one of {', '.join(TASKS)}")
    root = Path(folder)
    parts = {one: root / one for one in SPLITS if (root / one).is_dir()}
    if parts and split is not None:
        raise InputError(f"{root} has splits of its own ({', '.join(parts)}); leave out --split")
    found = {
        one: _found(part, task or "") for one, part in (parts or {split or "train": root}).items()
    }
    widths = {len(one.records[0].files) for one in found.values()}
    if len(widths) > 1:
        raise InputError(f"the splits of {root} differ: some are of pairs, some are not")
    views = widths.pop()
    if (views > 1) != (task is not None):
        told = "pairs; name what separates them: --task" if views > 1 else "clean pictures; no task"
        raise InputError(f"{root} holds {told}")
    benchmark = Benchmark(
        name=name,
        title=name,
        task=task or "",
        splits={one: Split(len(what.records), ()) for one, what in found.items()},
        layouts=(tuple("{path}" for _ in range(views)),),
        homepage="",
        terms="",
        citation="",
        deep=VIEWS[views] == VIEWS[3],
    )
    return benchmark, found


def _found(root: Path, task: str) -> Found:
    if all((root / view).is_dir() for view in VIEWS[3]):
        return _dual(root, task)
    sides = pairs.split(root)
    if sides is None:
        records = tuple(Record(name, (path,)) for name, path in folders.listed(root).items())
        return Found(records, (), "clean pictures")
    matching = pairs.match(list(sides.degraded), list(sides.clean))
    pairs.refuse_missing(matching, root, "clean picture")
    records = tuple(
        Record(name, (sides.degraded[name], sides.clean[clean]), task)
        for name, clean in matching.pairs
    )
    return Found(records, (), matching.rule)


def _dual(root: Path, task: str) -> Found:
    left, right, clean = (root / view for view in VIEWS[3])
    targets, matching = pairs.of_folders(left, clean)
    views, _ = pairs.of_folders(left, right, pairs.VIEWS, "right view")
    records = tuple(
        Record(path.relative_to(left).as_posix(), (path, other, target), task)
        for (path, target), (_, other) in zip(targets, views, strict=True)
    )
    return Found(records, (), matching.rule)
