"""The tables of the field: which sets and settings they have, and what others reached on them."""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tdr_jax.data import sources
from tdr_jax.data.benchmarks import layouts, table
from tdr_jax.errors import InputError
from tdr_jax.evaluate.report import Row

DEPTH = 3  # folders in folders that are searched for a set's own


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: pictures of a data set under a setting.

    Attributes:
        name: as in the published table.
        dataset: its name in `tdr_jax.data.benchmarks.table`.
        setting: see `Setting.parse`; "" where each picture tells its own, as in CDD-11.
        split: of the data set.
    """

    name: str
    dataset: str
    setting: str
    split: str = "test"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A table of the field.

    Attributes:
        title: what it is.
        protocol: by which the papers score it, see `scoring.PROTOCOLS`.
        columns: from left to right.
    """

    title: str
    protocol: str
    columns: tuple[Column, ...]


def _noise(name: str, dataset: str, mode: str = "", sigmas=(15, 25, 50)) -> tuple[Column, ...]:
    return tuple(Column(f"{name}-{sigma}", dataset, f"noise{sigma}{mode}") for sigma in sigmas)


_SOTS = Column("SOTS", "sots_outdoor", "haze")
_RAIN = Column("Rain100L", "rain100l", "rain")
_LOL = Column("LOL", "lol", "low_light")

BENCHMARKS = {
    "three-task": Benchmark(
        "Three degradations by one network", "promptir", (_SOTS, _RAIN, *_noise("BSD68", "cbsd68"))
    ),
    "five-task": Benchmark(
        "Five degradations by one network",
        "promptir",
        (
            _SOTS,
            _RAIN,
            *_noise("BSD68", "cbsd68", sigmas=(25,)),
            Column("GoPro", "gopro", "blur"),
            _LOL,
        ),
    ),
    "cdd11": Benchmark("CDD-11, eleven mixtures", "promptir", (Column("CDD-11", "cdd11", ""),)),
    "denoise": Benchmark(
        "Gaussian noise in floats, colour",
        "basicsr",
        (
            *_noise("CBSD68", "cbsd68", "float"),
            *_noise("Kodak24", "kodak24", "float"),
            *_noise("McMaster", "mcmaster", "float"),
            *_noise("Urban100", "urban100", "float"),
        ),
    ),
    "derain": Benchmark(
        "Rain, on the Y channel",
        "restormer-derain",
        tuple(
            Column(name, name.lower(), "rain")
            for name in ("Rain200L", "Rain200H", "DID", "DDN", "SPA")
        ),
    ),
    "dehaze": Benchmark(
        "Haze",
        "basicsr",
        (
            Column("SOTS-indoor", "sots_indoor", "haze"),
            Column("SOTS-outdoor", "sots_outdoor", "haze"),
        ),
    ),
    "deblur": Benchmark(
        "Motion blur",
        "nafnet",
        (
            Column("GoPro", "gopro", "blur"),
            Column("HIDE", "hide", "blur"),
            Column("RealBlur-J", "realblur_j", "blur"),
            Column("RealBlur-R", "realblur_r", "blur"),
        ),
    ),
    "defocus": Benchmark("Defocus blur", "basicsr", (Column("DPDD", "dpdd", "blur"),)),
    "real-noise": Benchmark(
        "Noise of cameras",
        "sidd",
        (
            Column("SIDD", "sidd", "noise", "val"),
            Column("CC15", "cc15", "noise"),
            Column("PolyU", "polyu", "noise"),
        ),
    ),
    "lowlight": Benchmark("Low light", "promptir", (_LOL,)),
}


def benchmark(name: str) -> Benchmark:
    """A table by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}; use one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


@dataclasses.dataclass(frozen=True)
class Part:
    """What of a column is there.

    Attributes:
        column: which.
        source: its pictures by `Setting`; one setting, but for CDD-11.
        pictures: how many there are.
        whole: how many the set has.
        folder: where.
        missing: why there are none; "" where there are.
    """

    column: Column
    source: Mapping[Any, object] = dataclasses.field(default_factory=dict)
    pictures: int = 0
    whole: int = 0
    folder: Path | None = None
    missing: str = ""

    @property
    def note(self) -> str:
        """What is to be said about it; "" where it is whole."""
        if self.missing:
            return f"{self.column.name}: not measured: {self.missing}"
        if self.pictures != self.whole:
            return (
                f"{self.column.name}: {self.pictures} of {self.whole} pictures, in {self.folder}: "
                "not comparable"
            )
        return ""


def open_parts(chosen: Benchmark, root: str | Path) -> list[Part]:
    """Finds the pictures of a table's columns.

    Args:
        chosen: the table.
        root: a folder that holds the sets, each in a folder of its name or by the layout in which
            PromptIR has them.

    Returns:
        A part for each column, found or not.

    Raises:
        InputError: there is no such folder, or none of the sets in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the one that holds the data sets")
    folders = _folders(root)
    found = {}
    for dataset, split in {(c.dataset, c.split): None for c in chosen.columns}:
        found[dataset, split] = _find(dataset, split, root, folders)
    parts = [_part(column, *found[column.dataset, column.split]) for column in chosen.columns]
    if all(part.missing for part in parts):
        raise InputError(f"{root} holds none of the sets: " + "; ".join(p.note for p in parts))
    return parts


def _part(column: Column, known, folder: Path | None, records, why: str) -> Part:
    if why:
        return Part(column, missing=why)
    from tdr_jax.evaluate.protocols import Setting  # with JAX, which `--help` does not wait for

    grouped: dict[Setting, list] = {}
    for record in records:
        setting = Setting.parse(column.setting) if column.setting else Setting(record.task)
        grouped.setdefault(setting, []).append(record)
    source = {setting: _Records(known, given) for setting, given in grouped.items()}
    return Part(column, source, len(records), known.splits[column.split].count, folder)


class _Records:
    """The pictures of a data set's files, read each time; see `tdr_jax.data.sources`."""

    def __init__(self, known, records):
        self._known, self._records = known, records
        self.names = [record.name for record in records]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        record = self._records[index]
        where = {
            view: str(path) for view, path in zip(self._known.views, record.files, strict=True)
        }
        deep = self._known.deep
        views = {view: sources.decode(Path(path), deep=deep) for view, path in where.items()}
        return sources.item(views, record.name, record.task or None, where)


def _find(dataset: str, split: str, root: Path, folders: Sequence[Path]):
    """(the set, its folder, its records, why there are none)."""
    known = table.find(dataset)
    words = {_plain(word) for word in (known.name, known.title, *known.folders)}
    # Its own name before the words of folders that may hold other sets too.
    near = [f for f in folders if any(_plain(f.name).startswith(word) for word in words)]
    reasons = []
    for folder in near:
        try:
            splits = layouts.find(known, folder, None)
        except InputError as error:
            reasons.append(str(error))
            try:
                splits = layouts.find(known, folder, split)
            except InputError:
                continue
        if split in splits:
            return known, folder, splits[split].records, ""
        reasons.append(f"{folder} holds no {split} split")
    why = reasons[0] if reasons else f"no folder in {root} is called {known.title}"
    return known, None, (), why


def _folders(root: Path) -> list[Path]:
    """The folder and those in it, the outer ones first, by name."""
    level, found = [root], [root]
    for _ in range(DEPTH):
        level = sorted(
            folder
            for outer in level
            for folder in outer.iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
        )
        found += level
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of somebody's table.

    Attributes:
        method, params: as published.
        scores: column -> "31.31/.888", PSNR and, where it was told, SSIM.
        source: where it stands.
    """

    method: str
    params: str
    scores: Mapping[str, str]
    source: str


def published(name: str) -> list[Published]:
    """What others reached on a benchmark: as their sources tell it, not measured again."""
    file = resources.files("tdr_jax") / "assets" / "published" / f"{name}.csv"
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    return [Published(row.pop("method"), row.pop("params"), row, row.pop("source")) for row in rows]


def beside(
    name: str, ours: tuple[str, str], rows: Mapping[str, Row], parts: Sequence[Part]
) -> tuple[list[str], list[list[str]]]:
    """Our row among the published ones, best mean last.

    Args:
        name: of the benchmark.
        ours: what our row is called, and how many parameters it has.
        rows: column -> what was measured.
        parts: of the columns.

    Returns:
        the headings; and rows of cells, ours first. The mean stands only where no column is
        missing.
    """
    columns = [column.name for column in benchmark(name).columns]
    own = {key: f"{row.psnr:.2f}/{row.ssim:.3f}" for key, row in rows.items()}
    short = {part.column.name for part in parts if part.note and not part.missing}
    own = {key: text + ("*" if key in short else "") for key, text in own.items()}
    mean = _mean(own, columns) + ("*" if short and len(own) == len(columns) else "")
    mine = [*ours, *(own.get(column, "-") for column in columns), mean, "here"]
    others = [
        [
            row.method,
            row.params or "-",
            *(row.scores.get(column) or "-" for column in columns),
            _mean(row.scores, columns),
            row.source,
        ]
        for row in published(name)
    ]
    others.sort(key=lambda cells: float(cells[-2].partition("/")[0]) if cells[-2] != "-" else 0.0)
    return ["method", "parameters", *columns, "mean", "source"], [mine, *others]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean(scores: Mapping[str, str], columns: Sequence[str]) -> str:
    values = [(scores.get(column) or "").rstrip("*") for column in columns]
    if not all(values):
        return "-"
    psnr, ssim = zip(*((value.partition("/")[::2]) for value in values), strict=True)
    mean = f"{sum(map(float, psnr)) / len(psnr):.2f}"
    return f"{mean}/{sum(map(float, ssim)) / len(ssim):.3f}" if all(ssim) else mean
