"""A measurement as one HTML file that needs nothing beside it: tables, plots and pictures."""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from io import BytesIO

import numpy as np

from tdr_jax.evaluate import bootstrap, plots, report
from tdr_jax.evaluate.report import Row

LONGEST = 640  # pixels of a side of what is shown
ERROR_TOP = 0.1  # an error of a tenth of the range is the lightest


class Gallery:
    """Pictures to be shown: those of each row that were restored worst and best.

    Args:
        most: pictures of each row that are kept; the others are let go at once.
    """

    def __init__(self, most: int = 12):
        self.most = most
        self._rows: dict[str, list] = {}
        self._seen: dict[str, int] = {}

    def __call__(self, row, result) -> None:
        """Takes a result of a row: what `evaluators.evaluate` and `outputs.evaluate` call.

        Args:
            row: its name, or its `Setting`.
            result: an `evaluators.Result`.
        """
        name = getattr(row, "name", row)
        self._seen[name] = self._seen.get(name, 0) + 1
        kept = self._rows.setdefault(name, [])
        entry = [result.scores.psnr, result.example.index, ""]
        kept.append(entry)
        kept.sort(key=lambda each: each[:2])
        if len(kept) <= self.most or kept.pop(self.most // 2) is not entry:
            entry[2] = _figure(result)  # small, which whole pictures are not

    def html(self) -> str:
        """The pictures of every row, worst first."""
        parts = []
        for name, kept in self._rows.items():
            which = f"The {len(kept)} worst and best" if len(kept) < self._seen[name] else "All"
            figures = "".join(figure for _, _, figure in kept)
            parts.append(
                f"<h2>Pictures: {html.escape(name)}</h2>"
                f"<p>{which}, worst first. Move over a picture to compare; "
                f"shrunk to {LONGEST} pixels. Errors from black (none) to pale yellow "
                f"({ERROR_TOP:g} of the range and more).</p><div class=pictures>{figures}</div>"
            )
        return "".join(parts)


def page(
    rows: Sequence[Row],
    about: Mapping[str, object],
    gallery: Gallery,
    *,
    title: str,
    benchmark: str = "",
    seed: int = 0,
) -> str:
    """The whole file.

    Args:
        rows: what was measured.
        about: what with, by name.
        gallery: that was given the results.
        title: plain text.
        benchmark: HTML of a table beside published ones, or "".
        seed: of the bootstrap.
    """
    files = resources.files("tdr_jax") / "assets" / "report"
    style, script = ((files / name).read_text("utf-8") for name in ("report.css", "report.js"))
    told = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{_code(value) if name == 'pyiqa' else _text(value)}"
        "</dd>"
        for name, value in about.items()
        if value not in (None, "", False)
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{_text(title)}</title><style>{style}</style>"
        f"<h1>{_text(title)}</h1><dl>{told}</dl>{benchmark}"
        f"<h2>Rows</h2><p>Means with 95% bootstrap intervals; a click on a heading sorts.</p>"
        f"{_summary(rows, seed)}<h2>Plots</h2><div class=plots>{plots.all_of(rows)}</div>"
        f"{gallery.html()}<h2>Every picture</h2>{_pictures(rows)}<script>{script}</script></html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence], ours: Sequence[bool] = ()) -> str:
    """A table that can be sorted.

    Args:
        heads: plain texts.
        rows: of cells: text, a number, None, or (number to sort by, text).
        ours: which rows stand out.
    """
    lines = []
    for place, row in enumerate(rows):
        mark = " class=ours" if place < len(ours) and ours[place] else ""
        lines.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def beside(heads: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table of the field with our row on top, see `benchmarks.beside`, and what is to be said."""
    lines = [[_score(cell) for cell in row] for row in cells]
    said = "".join(f"<br>{_text(note)}" for note in notes)
    return (
        f"<h2>Beside published results</h2>{table(heads, lines, [True])}"
        f"<p>PSNR dB / SSIM; the others' as their sources tell them, not measured here.{said}</p>"
    )


def _score(cell: str):
    """A cell to sort by its decibels, if it is one of "31.31/.888"."""
    found = re.match(r"(\d+\.\d+)(/|\*|$)", cell)
    return (found[1], cell) if found else None if cell == "-" else cell


def _summary(rows: Sequence[Row], seed: int) -> str:
    more = list(dict.fromkeys(name for row in rows for name in row.more))
    heads = ["row", "pictures", "PSNR dB", "SSIM", "input PSNR", "input SSIM", "gain dB", *more]
    lines = []
    for row in rows:
        cells: list = [row.setting, row.pictures]
        for name, digits in (("psnr", 2), ("ssim", 4)):
            mean, interval = getattr(row, name), bootstrap.interval(row, name, seed)
            low, high = (f"{bound:.{digits}f}" for bound in interval)
            cells.append((mean, f"{mean:.{digits}f} [{low}, {high}]"))
        cells += [_rounded(row.input_psnr, 2), _rounded(row.input_ssim, 4), _rounded(row.gain, 2)]
        lines.append([*cells, *(_rounded(row.more.get(name), 4) for name in more)])
    return table(heads, lines)


def _pictures(rows: Sequence[Row]) -> str:
    more = list(dict.fromkeys(name for row in rows for name in row.more))
    spoken = any(score.prompt for row in rows for score in row.scores)
    heads = ["row", "picture", "PSNR dB", "SSIM", "input PSNR", "input SSIM", *more]
    lines = [
        [
            row.setting,
            score.name,
            _rounded(score.psnr, 2),
            _rounded(score.ssim, 4),
            _rounded(score.input_psnr, 2),
            _rounded(score.input_ssim, 4),
            *(_rounded(score.more.get(name), 4) for name in more),
            *([score.prompt or ""] if spoken else []),
        ]
        for row in rows
        for score in row.scores
    ]
    return table([*heads, *(["sentence"] if spoken else [])], lines)


def _figure(result) -> str:
    scores, example = result.scores, result.example
    clean, restored = example.clean, result.restored
    given = example.degraded
    before = clean if given is None else np.clip(given[..., : clean.shape[-1]], 0, 1)
    names = ("target" if given is None else "input", "restored")
    maps = [("clean", clean), ("error after", _error(restored, clean))]
    if given is not None:
        maps.insert(1, ("error before", _error(before, clean)))
    shown = "".join(
        f"<div><img alt='{_text(name)}' src='{_image(picture)}'><br><span>{name}</span></div>"
        for name, picture in maps
    )
    was = "" if scores.input_psnr is None else f"{scores.input_psnr:.2f} &rarr; "
    said = f"<br>{_text(scores.prompt)}" if scores.prompt else ""
    return (
        f"<figure><div class=pair><img alt='{names[1]}' src='{_image(restored)}'>"
        f"<img class=over alt='{names[0]}' src='{_image(before)}'><span class=edge></span>"
        f"<input type=range min=0 max=100 value=50 aria-label='{names[0]} to {names[1]}'></div>"
        f"<div class=maps>{shown}</div><figcaption><h3>{_text(scores.name)}</h3>"
        f"{was}{scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}; left {names[0]}, right {names[1]}"
        f"{said}</figcaption></figure>"
    )


def _error(picture, clean) -> np.ndarray:
    return report.heat(np.abs(picture - clean).mean(-1) / ERROR_TOP)


def _image(picture: np.ndarray) -> str:
    """A picture as text that stands in the page itself."""
    from PIL import Image

    if picture.dtype != np.uint8:
        picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    image.thumbnail((LONGEST, LONGEST))
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cell(value) -> str:
    if isinstance(value, tuple):
        number, text = value
        return f"<td data-value='{number}'>{_text(text)}</td>"
    if value is None:
        return "<td data-value=''>&ndash;</td>"
    if isinstance(value, str):
        return f"<td class=text>{_text(value)}</td>"
    return f"<td>{value}</td>"


def _rounded(value: float | None, digits: int):
    if value is None:
        return None
    # "inf" is no number to JavaScript.
    return (value if math.isfinite(value) else 1e9, f"{value:.{digits}f}")


def _text(value) -> str:
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f]", "", str(value)), quote=True)


def _code(value) -> str:
    return f"<code>{_text(value)}</code>"
