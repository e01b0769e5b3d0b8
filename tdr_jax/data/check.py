"""Looks through the pictures of a data set and says by name what is wrong with them."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tdr_jax.data import looks, pairs
from tdr_jax.data.benchmarks import layouts
from tdr_jax.data.benchmarks.kinds import Benchmark
from tdr_jax.data.looks import Look
from tdr_jax.images.folders import listed

NOTES = 5  # of one kind are told; all faults are
GAPS = 0.1  # of a series of numbers may be missing for the rest to tell which


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, or worth a look.

    Attributes:
        kind: "damaged", "no partner", "no input", "unclear", "size", "count", "duplicate",
            "unchanged", "leaked" or "spelling"; of notes also "alike" and "beside".
        files: that it is about.
        told: a line about it, names included.
    """

    kind: str
    files: tuple[str, ...]
    told: str


@dataclass
class Report:
    """What was found.

    Attributes:
        about: what was looked through.
        rule: by which its pictures are paired, or how it is laid out.
        counts: split -> how many examples it has.
        expected: split -> how many it should have, where that is known.
        pairs: the files of each example, degraded ones first.
        sizes: "WIDTHxHEIGHT" -> how many files.
        faults: what is wrong.
        notes: what is worth a look.
    """

    about: str
    rule: str
    counts: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    pairs: list[tuple[str, ...]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    def to_dict(self) -> dict:
        """What JSON can hold."""
        return asdict(self)


@dataclass
class _Set:
    """Files that belong together, before anybody looked into them."""

    report: Report
    examples: list[tuple[Path, ...]]  # degraded ones first, clean ones last
    alone: list[Path] = field(default_factory=list)  # degraded, without a partner
    left_over: list[Path] = field(default_factory=list)  # clean, likewise
    others: list[Path] = field(default_factory=list)

    def fault(self, kind: str, told: str, *files: Path) -> None:
        self.report.faults.append(Fault(kind, tuple(map(str, files)), told))

    def note(self, kind: str, told: str, *files: Path) -> None:
        self.report.notes.append(Fault(kind, tuple(map(str, files)), told))


def check_folder(path: str | os.PathLike, clean: str | os.PathLike | None = None, **options):
    """Checks a folder of clean pictures or of pairs, or two folders.

    Args:
        path: the folder, or that of the degraded pictures.
        clean: that of the clean ones.
        **options: see `_look_into`.

    Returns:
        the `Report`.

    Raises:
        InputError: a folder is missing or holds no picture.
    """
    if clean is None:
        sides = pairs.split(path)
    else:
        sides = pairs.Sides(listed(path), listed(clean))
    about = str(path) if clean is None else f"{path} and {clean}"
    if sides is None:
        files = [(file,) for file in listed(path).values()]
        found = _Set(Report(about, "clean pictures", {"all": len(files)}), files)
        return _look_into(found, **options)
    matching = pairs.match(list(sides.degraded), list(sides.clean))
    report = Report(about, matching.rule, {"all": len(matching.pairs)})
    found = _Set(
        report,
        [(sides.degraded[one], sides.clean[other]) for one, other in matching.pairs],
        [sides.degraded[name] for name in matching.missing],
        [sides.clean[name] for name in matching.left_over],
        list(sides.neither),
    )
    for name, fits in matching.unclear:
        files = [sides.degraded[name], *(sides.clean[one] for one in fits)]
        found.fault("unclear", f"{' and '.join(map(str, files[1:]))} all fit {files[0]}", *files)
    return _look_into(found, **options)


def check_benchmark(
    benchmark: Benchmark, path: str | os.PathLike, split: str | None = None, **options
) -> Report:
    """Checks a folder of a known data set, its counts included.

    Args:
        benchmark: from `benchmarks.table`.
        path: the folder.
        split: the one that is there, where neither names nor counts tell.
        **options: see `_look_into`.

    Raises:
        InputError: no layout of the data set fits the folder.
    """
    splits = layouts.find(benchmark, path, split)
    layout = "; ".join(dict.fromkeys(found.layout for found in splits.values()))
    report = Report(f"{path}, {benchmark.title}", layout)
    records = [record for found in splits.values() for record in found.records]
    alone = [path for found in splits.values() for path in found.alone]
    used = {file for record in records for file in record.files}
    rest = [file for file in listed(path).values() if file not in used.union(alone)]
    # A clean picture whose degraded one is missing lies among those that have theirs.
    clean = {record.files[-1].parent for record in records if len(record.files) > 1}
    found = _Set(
        report,
        [record.files for record in records],
        alone,
        [file for file in rest if file.parent in clean],
        [file for file in rest if file.parent not in clean],
    )
    for name, what in splits.items():
        split, count = benchmark.splits[name], len(what.records)
        report.counts[name], report.expected[name] = count, split.count
        if count in split.also:
            report.expected[name] = count
            found.note("count", f"{name}: {count}, {split.also[count]} (else {split.count})")
        elif count != split.count:
            gaps = _gaps([record.name for record in what.records])
            missing = f"; missing numbers: {', '.join(gaps)}" if gaps else ""
            found.fault("count", f"{name}: {count} of {split.count}{missing}")
    return _look_into(found, **options)


def told(report: Report, *, whole: bool = False) -> str:
    """Writes a report as lines.

    Args:
        report: of a check.
        whole: list every example, too.
    """
    lines = [f"{report.about}; by: {report.rule}"]
    for name, count in report.counts.items():
        known = f" of {report.expected[name]}" if name in report.expected else ""
        what = "pictures" if report.pairs and len(report.pairs[0]) == 1 else "pairs"
        lines.append(f"{name}: {count}{known} {what}")
    sizes = [f"{size} ({count})" for size, count in report.sizes.items()]
    lines.append(f"sizes: {pairs.shown(sizes)}")
    if whole:
        lines += ["\t".join(example) for example in report.pairs]
    by_kind: dict[str, list[str]] = defaultdict(list)
    for note in report.notes:
        by_kind[note.kind].append(note.told)
    for kind, notes in by_kind.items():
        lines += [f"note: {kind}: {line}" for line in notes[:NOTES]]
        if len(notes) > NOTES:
            lines.append(f"note: {kind}: {len(notes) - NOTES} more; --json has them")
    lines += [f"{fault.kind}: {fault.told}" for fault in report.faults]
    count = len(report.faults)
    lines.append(f"{count or 'no'} fault{'' if count == 1 else 's'}")
    return "\n".join(lines)


def _gaps(names: Iterable[str]) -> list[str]:
    """The numbers that a nearly whole series of names lacks."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", os.path.splitext(name)[0]) for name in names]
    if not all(parts) or len({(part[1], part[3]) for part in parts}) > 1:
        return []
    there = {int(part[2]) for part in parts}
    gaps = sorted(set(range(min(there), max(there) + 1)) - there)
    return list(map(str, gaps)) if len(gaps) <= GAPS * len(there) else []


def _look_into(
    found: _Set,
    against: dict[Path, Look] | None = None,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> Report:
    """Decodes every file and adds what is wrong to the report.

    Args:
        found: what lies there.
        against: what is seen of pictures that must not be among these, such as those of a test.
        progress: see `looks.look_at`.
    """
    report = found.report
    report.pairs = [tuple(map(str, files)) for files in found.examples]
    files = [file for example in found.examples for file in example]
    seen, damaged = looks.look_at([*files, *found.alone, *found.left_over, *found.others], progress)
    for path, why in damaged.items():
        found.fault("damaged", why, path)
    sizes = Counter("{}x{}".format(*one.size) for one in seen.values())
    report.sizes = dict(sizes.most_common())
    _partners(found, seen)
    for path in (*files, *found.alone, *found.left_over):
        if path.name != pairs.normal(path.name):
            found.fault(
                "spelling",
                f"{path}: is spelled with separate accents (NFD), by which other programs do not "
                "find it; rename it",
                path,
            )
    for example in found.examples:
        _sizes(found, example, seen)
    _repeated(found, seen)
    if against:
        ours = {path: one for path, one in seen.items() if path not in against}
        for mine, other, cosine in looks.alike(ours, against):
            same = ours[mine].pixels == against[other].pixels
            how = "the same pixels" if same else f"the same scene, {cosine:.3f} alike"
            found.fault("leaked", f"{mine} is {other} of the pictures to test on: {how}", mine)
    if found.others:
        names = pairs.shown(list(map(str, found.others)))
        count = len(found.others)
        belong = "picture belongs" if count == 1 else "pictures belong"
        told = f"{count} {belong} to no example: {names}"
        found.note("beside", told, *found.others)
    return report


def _partners(found: _Set, seen: dict[Path, Look]) -> None:
    """Files without a partner, and whose it might be that was renamed."""
    left = {path: seen[path] for path in found.left_over if path in seen}
    alone = {path: seen[path] for path in found.alone if path in seen}
    guess: dict[Path, Path] = {}
    for one, other, _ in sorted(looks.alike(alone, left), key=lambda match: match[2]):
        guess |= {one: other, other: one}
    for path in found.alone:
        found.fault("no partner", f"{path}: has no clean picture{_perhaps(guess, path)}", path)
    for path in found.left_over:
        found.fault("no input", f"{path}: belongs to no degraded one{_perhaps(guess, path)}", path)


def _perhaps(guess: dict[Path, Path], path: Path) -> str:
    return f"; {guess[path]} looks like it, as if one was renamed" if path in guess else ""


def _sizes(found: _Set, example: tuple[Path, ...], seen: dict[Path, Look]) -> None:
    """Sizes within an example differ, or nothing else does."""
    *inputs, clean = example
    if clean not in seen:
        return
    for path in inputs:
        if path not in seen:
            continue
        (w, h), (width, height) = seen[path].size, seen[clean].size
        if (w, h) != (width, height):
            told = f"{path} is {w}x{h}, but its clean picture {clean} {width}x{height}"
            found.fault("size", told, path, clean)
        elif seen[path].pixels == seen[clean].pixels:
            told = f"{path} has the very pixels of its clean picture {clean}"
            found.fault("unchanged", told, path, clean)


def _repeated(found: _Set, seen: dict[Path, Look]) -> None:
    """Examples that are there twice, and clean pictures that show the same scene."""
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for example in found.examples:
        shown = example[:-1] or example
        if all(path in seen for path in shown):
            groups[tuple(seen[path].pixels for path in shown)].append(example[0])
    for group in groups.values():
        for other in group[1:]:
            bytes_too = seen[group[0]].content == seen[other].content
            told = f"{other} repeats {group[0]}: the same {'bytes' if bytes_too else 'pixels'}"
            found.fault("duplicate", told, other, group[0])
    clean = {example[-1]: seen[example[-1]] for example in found.examples if example[-1] in seen}
    told_already = {frozenset((group[0], other)) for group in groups.values() for other in group}
    near = [
        (one, other, cosine)
        for one, other, cosine in looks.alike(clean, clean)
        if frozenset((one, other)) not in told_already
    ]
    for one, other, cosine in near:
        same = clean[one].pixels == clean[other].pixels
        how = "the same pixels" if same else f"{cosine:.3f} alike"
        found.note("alike", f"{one} and {other} show the same scene: {how}", one, other)
