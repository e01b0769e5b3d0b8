"""What a measurement is told in: rows, a Markdown table, JSON, and panels of pictures."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tdr_jax import disk


@dataclasses.dataclass(frozen=True)
class Scores:
    """One picture: its name, the sentence it was restored with, if any, PSNR in dB and SSIM.

    Those of the input are None where there is none; `more` has further scores, and the input's
    under "input_" and their name.
    """

    name: str
    prompt: str | None
    psnr: float
    ssim: float
    input_psnr: float | None = None
    input_ssim: float | None = None
    more: dict[str, float] = dataclasses.field(default_factory=dict)


def scores(
    name: str,
    prompt: str | None,
    after: Mapping[str, float],
    before: Mapping[str, float],
    most: float = math.inf,
) -> Scores:
    """Scores of a picture from those of its restored and its degraded state.

    Args:
        name, prompt: see `Scores`.
        after: by name, "psnr" and "ssim" among them.
        before: likewise; empty where there is no degraded picture.
        most: PSNR counts no more than this.
    """
    known = ("psnr", "ssim")
    return Scores(
        name,
        prompt,
        min(after["psnr"], most),
        after["ssim"],
        min(before["psnr"], most) if before else None,
        before.get("ssim"),
        {key: value for key, value in after.items() if key not in known}
        | {f"input_{key}": value for key, value in before.items() if key not in known},
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting: plain means over its pictures."""

    setting: str
    scores: tuple[Scores, ...]

    @property
    def pictures(self) -> int:
        """How many pictures were measured."""
        return len(self.scores)

    @property
    def psnr(self) -> float:
        """Mean PSNR of the restored pictures, dB."""
        return self._mean("psnr")

    @property
    def ssim(self) -> float:
        """Mean SSIM of the restored pictures."""
        return self._mean("ssim")

    @property
    def input_psnr(self) -> float | None:
        """Mean PSNR of the degraded pictures, dB; None where there are none."""
        return self._mean("input_psnr")

    @property
    def input_ssim(self) -> float | None:
        """Mean SSIM of the degraded pictures."""
        return self._mean("input_ssim")

    @property
    def gain(self) -> float | None:
        """PSNR won over the input, dB; 0 where both are infinite."""
        if self.input_psnr is None:
            return None
        return 0.0 if self.psnr == self.input_psnr else self.psnr - self.input_psnr

    @property
    def more(self) -> dict[str, float]:
        """Means of the further scores, by name."""
        count = len(self.scores)
        names = self.scores[0].more if self.scores else ()
        return {name: math.fsum(s.more[name] for s in self.scores) / count for name in names}

    def _mean(self, field: str) -> float | None:
        values = [getattr(s, field) for s in self.scores]
        return None if None in values else math.fsum(values) / len(values)


def row(setting: str, columns: Mapping[str, np.ndarray]) -> Row:
    """A row of what was measured, picture by picture.

    Args:
        setting: its name.
        columns: fields of `Scores` by name, each with an entry a picture, and its further scores
            as "more/NAME".
    """
    fields = [field.name for field in dataclasses.fields(Scores) if field.name != "more"]
    # Those of the restored pictures first.
    more = sorted((n for n in columns if n.startswith("more/")), key=lambda n: "/input_" in n)
    lists = {name: columns[name].tolist() for name in (*fields, *more)}
    return Row(
        setting,
        tuple(
            Scores(
                *(lists[name][i] for name in fields),
                more={name.removeprefix("more/"): lists[name][i] for name in more},
            )
            for i in range(len(lists["name"]))
        ),
    )


COLUMNS = ("psnr", "ssim", "input_psnr", "input_ssim", "gain")


def values(row: Row) -> dict[str, float | None]:
    """The numbers of a row by column, unrounded; None where there is no input."""
    return {column: getattr(row, column) for column in COLUMNS}


def average(rows: Sequence[Row]) -> dict[str, float] | None:
    """Plain mean of the rows, as the papers' last column; None below two rows.

    Rows with the words of another task ("noise25@haze") are left out.
    """
    right = [values(row) for row in rows if "@" not in row.setting]
    if len(right) < 2:
        return None

    def mean(column):
        found = [row[column] for row in right]
        return None if None in found else sum(found) / len(found)

    return {column: mean(column) for column in COLUMNS}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: PSNR / SSIM restored and of the input, and the gain in dB.

    Args:
        rows: from `evaluate`.

    Returns:
        text ending in a newline; the last line is the average where there are several rows.
    """

    more = list(dict.fromkeys(name for row in rows for name in row.more))

    def line(name, pictures, v, further):
        cells = [name, pictures, f"{v['psnr']:.2f} / {v['ssim']:.4f}", "-", "-"]
        if v["input_psnr"] is not None:
            cells[3:] = [f"{v['input_psnr']:.2f} / {v['input_ssim']:.4f}", f"{v['gain']:+.2f}"]
        cells += [f"{further[name]:.4f}" if name in further else "" for name in more]
        return f"| {' | '.join(map(str, cells))} |"

    heads = ["setting", "pictures", "PSNR dB / SSIM", "input", "gain dB"]
    lines = [
        f"| {' | '.join([*heads, *more])} |",
        "|" + "---|" * (5 + len(more)),
        *(line(row.setting, row.pictures, values(row), row.more) for row in rows),
    ]
    mean = average(rows)
    if mean is not None:
        lines.append(line("average", "", mean, {}))
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row], about: Mapping[str, object] | None = None) -> str:
    """The rows, every picture's scores and what was measured, as JSON.

    Args:
        rows: from `evaluate`.
        about: JSON values that say what was measured (weights, data, seed).

    Returns:
        JSON text with `about`, `rows` and `average`; infinite values are the string "inf", since
        JSON has no number for them.
    """
    document = {
        "about": dict(about or {}),
        "rows": [
            {
                "setting": row.setting,
                "pictures": row.pictures,
                **values(row),
                **row.more,
                "scores": [_flat(s) for s in row.scores],
            }
            for row in rows
        ],
        "average": average(rows),
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each picture of each row: the row, the picture's name and its scores."""
    table = [{"row": row.setting} | _flat(score) for row in rows for score in row.scores]
    names = list(dict.fromkeys(name for line in table for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _flat(score: Scores) -> dict[str, object]:
    fields = dataclasses.asdict(score)
    return fields | fields.pop("more")


def write(rows: Sequence[Row], folder, about: Mapping[str, object] | None = None) -> list[Path]:
    """Write `table.md` and `table.json`; each appears whole or not at all.

    Args:
        rows: from `evaluate`.
        folder: made if it is not there.
        about: see `to_json`.

    Returns:
        the two paths.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    texts = {"table.md": markdown(rows), "table.json": to_json(rows, about)}
    for name, text in texts.items():
        disk.write_text(folder / name, text)
    return [folder / name for name in texts]


def panel(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Pictures side by side under small captions.

    Args:
        images: float [0, 1] or uint8 (H, W, 3), all of one size.
        captions: one short ASCII line each.

    Returns:
        uint8 (H + caption, n W + gaps, 3), white between the pictures.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = images[0].shape[:2]
    # Readable when a wide panel is shown small; never taller than what stands under it.
    points = int(np.clip(width // 20, 9, 40))
    band, gap = points + points // 2 + 4, 4
    sheet = Image.new("RGB", ((width + gap) * len(images) - gap, height + band), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(points)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if image.dtype != np.uint8:
            image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        left = place * (width + gap)
        sheet.paste(Image.fromarray(image), (left, band))
        draw.text((left + 2, 2), caption, fill="black", font=font)
    return np.asarray(sheet)


# Dark to light, so that it reads in grey as well.
_HEAT = np.array(
    [[16, 12, 44], [86, 24, 108], [176, 48, 92], [236, 110, 52], [250, 196, 72], [252, 252, 200]],
    np.float32,
)


def heat(values: np.ndarray) -> np.ndarray:
    """A map of values as a picture: 0 is nearly black, 1 pale yellow.

    Args:
        values: float (H, W); beyond [0, 1] they are clipped.

    Returns:
        uint8 (H, W, 3).
    """
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.rint(np.interp(values, stops, c)) for c in _HEAT.T], -1).astype(np.uint8)


def _finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
