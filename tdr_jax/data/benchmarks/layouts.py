"""Which of a data set's layouts a folder has, and with it every example's files."""

import collections
import dataclasses
import re
from pathlib import Path, PurePosixPath

from tdr_jax.data import pairs
from tdr_jax.data.benchmarks.kinds import TASK_FOLDERS, Benchmark
from tdr_jax.errors import InputError
from tdr_jax.images.folders import list_pictures


@dataclasses.dataclass(frozen=True)
class Record:
    """The files of an example.

    Attributes:
        name: of the first, relative to the deepest folder of all first ones of the split.
        files: of the views of `Benchmark.views`, in their order.
        task: what separates degraded from clean, several joined by "+"; "" for a clean picture.
    """

    name: str
    files: tuple[Path, ...]
    task: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """What of a split lies in a folder.

    Attributes:
        records: sorted by name.
        alone: pictures that a layout takes for degraded ones, but without their clean ones.
        layout: the templates, as in "rainy/rain-{id} and gt/norain-{id}".
    """

    records: tuple[Record, ...]
    alone: tuple[Path, ...]
    layout: str


def find(benchmark: Benchmark, folder: str | Path, split: str | None = None) -> dict[str, Found]:
    """Finds the splits of a data set in a folder.

    Args:
        benchmark: which data set.
        folder: holds it whole, or some of its splits, or one of them alone, by any of its layouts.
        split: the one that is there, where neither names nor counts tell.

    Returns:
        split -> what was found, in the order of the data set's; those that are missing are left
        out.

    Raises:
        InputError: no layout fits, or several folders or splits do.
    """
    if split is not None and split not in benchmark.splits:
        known = ", ".join(benchmark.splits)
        raise InputError(f"{benchmark.title} has no split {split!r}; use one of {known}")
    root = Path(folder)
    files = _files(root)
    named = _Named(benchmark, root, split)
    candidates = collections.defaultdict(list)
    for layout in benchmark.layouts:
        for name, found in named.sorted_out(_matches(layout, files)).items():
            candidates[name].append((" and ".join(layout), *found))
    for name, found in _in_order(benchmark, files).items():
        candidates[name].append((" and ".join(benchmark.in_order), found, []))
    splits = {}
    for name, expected in benchmark.splits.items():
        if not candidates[name] or split not in (None, name):
            continue
        counts = (expected.count, *expected.also)
        # The first that gives the whole set, or else the most pairs; of clean pictures, which any
        # file could be, the first that gives some.
        most = len(benchmark.views) > 1
        layout, matches, alone = max(
            candidates[name], key=lambda one: (len(one[1]) in counts, most and len(one[1]))
        )
        matches = named.one_place(name, matches, counts)
        if matches:
            splits[name] = Found(_records(benchmark, matches), tuple(alone), layout)
    if not splits:
        examples = "; ".join(" and ".join(layout) for layout in benchmark.layouts[:6])
        raise InputError(
            f"{root} has no layout of {benchmark.title} that is known here, such as {examples} "
            "(any extension); give the folder that holds these"
        )
    return splits


def told(benchmark: Benchmark, splits: dict[str, Found]) -> list[str]:
    """What was found, a line for each split: how many of how many, and what stands alone."""
    lines = []
    for name, expected in benchmark.splits.items():
        if name not in splits:
            lines.append(f"{benchmark.title} {name}: not there")
            continue
        found, count = splits[name], len(splits[name].records)
        other = expected.also.get(count)
        whole = f" of {expected.count}" if count != expected.count and other is None else ""
        lines.append(
            f"{benchmark.title} {name}: {count}{whole} examples by {found.layout}"
            + (f" ({other})" if other else "")
        )
        if found.alone:
            names = ", ".join(path.name for path in found.alone[:5])
            lines.append(f"  {len(found.alone)} without a clean picture are left out: {names}")
    return lines


@dataclasses.dataclass(frozen=True)
class _Match:
    """Files that go together; `inside` is the folder of the first, relative to the one given."""

    inside: PurePosixPath
    root: str
    files: tuple[Path, ...]
    task: str = ""


def _files(root: Path) -> dict[str, list[Path]]:
    """Relative names without extensions, in lower case and one spelling -> files."""
    files = collections.defaultdict(list)
    for path in list_pictures(root):
        name = path.relative_to(root).with_suffix("").as_posix()
        files[pairs.normal(name).lower()].append(path)
    if not files:
        raise InputError(f"no picture in {root}; give the folder where the data set was unpacked")
    return files


def _matches(layout: tuple[str, ...], files: dict) -> tuple[list[_Match], list[_Match]]:
    """Examples by a layout, and pictures whose partners are missing."""
    pattern = re.compile(r"(?P<root>(?:.+/)?)" + _regex(layout[0]))
    matches, alone = [], []
    for key, paths in files.items():
        found = pattern.fullmatch(key)
        if found is None:
            continue
        parts = found.groupdict()
        task = TASK_FOLDERS.get(parts.get("task", ""), "")
        if "task" in parts and not task:
            continue
        inside = PurePosixPath(key).parent
        partners = [files.get(parts["root"] + template.format(**parts)) for template in layout[1:]]
        whole = all(partners)
        views = [paths, *filter(None, partners)]
        for choice in views:
            if whole and len(choice) > 1:
                raise InputError(
                    f"{choice[0]} and {choice[1]} differ in their extension or case only; keep one"
                )
        match = _Match(inside, parts["root"], tuple(choice[0] for choice in views), task)
        (matches if whole else alone).append(match)
    return matches, alone


def _regex(template: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    kinds = {"path": ".+"}
    return "".join(
        f"(?P<{part}>{kinds.get(part, '[^/]+?')})" if i % 2 else re.escape(part)
        for i, part in enumerate(parts)
    )


def _in_order(benchmark: Benchmark, files: dict) -> dict[str, list[_Match]]:
    """Split -> examples, where the folders of `Benchmark.in_order` are there."""
    found = {}
    for split in benchmark.splits if benchmark.in_order else ():
        views = []
        for template in benchmark.in_order:
            folder = re.compile(r"(?:.+/)?" + re.escape(template.format(split=split)))
            keys = [key for key in files if folder.fullmatch(str(PurePosixPath(key).parent))]
            views.append(sorted(keys, key=_natural))
        if not views[0]:
            continue
        if len({len(view) for view in views}) > 1:
            counts = ", ".join(
                f"{template.format(split=split)} {len(view)}"
                for template, view in zip(benchmark.in_order, views, strict=True)
            )
            raise InputError(
                f"{benchmark.title} pairs its pictures by their order, but their numbers differ: "
                f"{counts}; unpack it again"
            )
        found[split] = [
            _Match(PurePosixPath(keys[0]).parent, "", tuple(files[key][0] for key in keys))
            for keys in zip(*views, strict=True)
        ]
    return found


def _natural(key: str):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


class _Named:
    """Tells splits by the names of folders."""

    def __init__(self, benchmark: Benchmark, root: Path, split: str | None):
        self.benchmark, self.root, self.split = benchmark, root, split
        self.above = (root.resolve().name,)
        self.lists = {
            name: {line.split()[-1] for line in path.read_text().splitlines() if line.strip()}
            for name, file in benchmark.lists.items()
            for path in sorted(root.rglob(file))[:1]
        }

    def sorted_out(self, found: tuple[list, list]) -> dict[str, tuple[list, list]]:
        """Split -> matches and pictures alone; without those whose split nothing tells."""
        matches, alone = found
        by_split = collections.defaultdict(lambda: ([], []))
        for where, group in enumerate((matches, alone)):
            for match in group:
                name = self._split_of(match)
                if name != "":
                    by_split[name][where].append(match if where == 0 else match.files[0])
        unnamed, unnamed_alone = by_split.pop(None, ([], []))
        if unnamed:
            name = self._by_count(len(unnamed))
            by_split[name][0].extend(unnamed)
            by_split[name][1].extend(unnamed_alone)
        return {name: group for name, group in by_split.items() if group[0]}

    def _split_of(self, match: _Match) -> str | None:
        """The name of a split; None if nothing tells; "" for what is not of this data set."""
        splits = self.benchmark.splits
        inside = match.inside.parts[::-1]
        if any(word in self.benchmark.skip for part in inside for word in _words(part)):
            return ""
        for name, listed in self.lists.items():
            if any(match.files[0].as_posix().endswith(f"/{line}") for line in listed):
                return name
        if len(splits) == 1:
            return next(iter(splits))
        for part in (*inside, *self.above):
            words = _words(part)
            for name, expected in splits.items():
                if any(word in expected.folders for word in words):
                    return name
        return None

    def _by_count(self, count: int) -> str:
        if self.split is not None:
            return self.split
        splits = self.benchmark.splits.items()
        fits = [name for name, split in splits if count in (split.count, *split.also)]
        if len(fits) == 1:
            return fits[0]
        raise InputError(
            f"{self.root} holds {count} examples of {self.benchmark.title} and no folder says of "
            f"which split; name it: --split {' or '.join(self.benchmark.splits)}"
        )

    def one_place(self, name: str, matches: list[_Match], counts) -> list[_Match]:
        """Of examples in several folders those that belong to the data set."""
        roots = collections.defaultdict(list)
        for match in matches:
            roots[match.root].append(match)
        if len(roots) == 1 or len(matches) <= max(counts):
            return matches
        ours = [
            root
            for root in roots
            if any(
                word in self.benchmark.folders
                for part in PurePosixPath(root).parts
                for word in _words(part)
            )
        ]
        ours = ours or [root for root, group in roots.items() if len(group) in counts]
        if len(ours) != 1:
            listed = ", ".join(str(self.root / root) for root in list(ours or roots)[:4])
            raise InputError(
                f"{self.root} holds several folders that could be {self.benchmark.title}'s "
                f"{name}: {listed}; give one of them"
            )
        return roots[ours[0]]


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())


def _records(benchmark: Benchmark, matches: list[_Match]) -> tuple[Record, ...]:
    firsts = [match.files[0] for match in matches]
    common = Path(firsts[0]).parent
    while not all(path.is_relative_to(common) for path in firsts):
        common = common.parent
    task = {"mixed": None, "": ""}.get(benchmark.task, benchmark.task)
    records = (
        Record(
            match.files[0].relative_to(common).as_posix(),
            match.files,
            match.task if task is None else task,
        )
        for match in matches
    )
    return tuple(sorted(records, key=lambda record: record.name))
