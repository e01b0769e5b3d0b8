"""What a measurement is told in: rows, a Markdown table, JSON, and panels of pictures."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tdr_jax import disk


@dataclasses.dataclass(frozen=True)
class Scores:
    """One picture: its name, the sentence it was restored with, if any, PSNR in dB and SSIM."""

    name: str
    prompt: str | None
    psnr: float
    ssim: float
    input_psnr: float
    input_ssim: float


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
    def input_psnr(self) -> float:
        """Mean PSNR of the degraded pictures, dB."""
        return self._mean("input_psnr")

    @property
    def input_ssim(self) -> float:
        """Mean SSIM of the degraded pictures."""
        return self._mean("input_ssim")

    @property
    def gain(self) -> float:
        """PSNR won over the input, dB; 0 where both are infinite."""
        return 0.0 if self.psnr == self.input_psnr else self.psnr - self.input_psnr

    def _mean(self, field: str) -> float:
        return math.fsum(getattr(s, field) for s in self.scores) / len(self.scores)


COLUMNS = ("psnr", "ssim", "input_psnr", "input_ssim", "gain")


def values(row: Row) -> dict[str, float]:
    """The numbers of a row by column, unrounded."""
    return {column: getattr(row, column) for column in COLUMNS}


def average(rows: Sequence[Row]) -> dict[str, float] | None:
    """Plain mean of the rows, as the papers' last column; None below two rows.

    Rows with the words of another task ("noise25@haze") are left out.
    """
    right = [values(row) for row in rows if "@" not in row.setting]
    if len(right) < 2:
        return None
    return {column: sum(row[column] for row in right) / len(right) for column in COLUMNS}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: PSNR / SSIM restored and of the input, and the gain in dB.

    Args:
        rows: from `evaluate`.

    Returns:
        text ending in a newline; the last line is the average where there are several rows.
    """

    def line(name, pictures, v):
        return (
            f"| {name} | {pictures} | {v['psnr']:.2f} / {v['ssim']:.4f} "
            f"| {v['input_psnr']:.2f} / {v['input_ssim']:.4f} | {v['gain']:+.2f} |"
        )

    lines = [
        "| setting | pictures | PSNR dB / SSIM | input | gain dB |",
        "|---|---|---|---|---|",
        *(line(row.setting, row.pictures, values(row)) for row in rows),
    ]
    mean = average(rows)
    if mean is not None:
        lines.append(line("average", "", mean))
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
                "scores": [dataclasses.asdict(s) for s in row.scores],
            }
            for row in rows
        ],
        "average": average(rows),
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


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
