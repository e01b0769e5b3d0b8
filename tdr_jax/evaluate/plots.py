"""Plots as SVG: scores over the level of the damage, and of every picture over its input's."""

import html
import math
import re
from collections.abc import Sequence

from tdr_jax.evaluate.report import Row

WIDTH, HEIGHT, LEFT, BELOW = 360, 240, 40, 34
LEVEL = re.compile(r"(.*\D)(\d+(?:\.\d+)?)(float)?(@.*)?")  # noise25, BSD68-25, noise25float@rain


def all_of(rows: Sequence[Row]) -> str:
    """The plots of a measurement, one after the other.

    Args:
        rows: those that differ in a level alone (noise15, noise25) share a plot of PSNR and of
            SSIM over it; each has one of its pictures.
    """
    families: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        if found := LEVEL.fullmatch(row.setting):
            task, level, mode, words = found.groups("")
            families.setdefault(task.rstrip("-") + mode + words, []).append((float(level), row))
    parts = []
    for name, family in families.items():
        family.sort(key=lambda each: each[0])
        if len(family) < 2:
            continue
        for score, label in (("psnr", "PSNR dB"), ("ssim", "SSIM")):
            lines = {}
            for kind, field in (("restored", score), ("input", f"input_{score}")):
                points = [(level, getattr(row, field)) for level, row in family]
                lines[kind] = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
            parts.append(_plot(f"{label} over level of {name}", lines, joined=True))
    return "".join([*parts, *map(_of_pictures, rows)])


def _of_pictures(row: Row) -> str:
    scores = [score for score in row.scores if math.isfinite(score.psnr)]
    if all(score.input_psnr is not None and math.isfinite(score.input_psnr) for score in scores):
        points = [(score.input_psnr, score.psnr) for score in scores]
        title = f"{row.setting}: PSNR dB over that of the input; the line is no gain"
        return _plot(title, {"restored": points}, diagonal=True)
    points = list(enumerate(sorted(score.psnr for score in scores)))
    return _plot(f"{row.setting}: PSNR dB of each picture, sorted", {"restored": points})


def _plot(title: str, lines: dict[str, list], joined=False, diagonal=False) -> str:
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    (left, right), (low, high) = (_range(values) for values in zip(*points, strict=True))
    if diagonal:
        low, high = min(low, left), max(high, right)

    def x(value):
        return LEFT + (value - left) / (right - left) * (WIDTH - LEFT - 10)

    def y(value):
        return HEIGHT - BELOW - (value - low) / (high - low) * (HEIGHT - BELOW - 10)

    parts = [
        f"<line class=axis x1={LEFT} x2={WIDTH - 10} y1={y(at):.1f} y2={y(at):.1f} />"
        f"<text x={LEFT - 5} y={y(at) + 4:.1f} text-anchor=end>{at:g}</text>"
        for at in _ticks(low, high)
    ] + [
        f"<text x={x(at):.1f} y={HEIGHT - BELOW + 16} text-anchor=middle>{at:g}</text>"
        for at in _ticks(left, right)
    ]
    if diagonal:
        ends = [max(left, low), min(right, high)]
        parts.append(
            "<line class=axis x1={:.1f} y1={:.1f} x2={:.1f} y2={:.1f} />".format(
                *(f(end) for end in ends for f in (x, y))
            )
        )
    for place, (kind, line) in enumerate(lines.items()):
        if joined and line:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
            parts.append(f"<polyline class={kind} points='{path}' />")
        parts += [f"<circle class={kind} cx={x(a):.1f} cy={y(b):.1f} r=3 />" for a, b in line]
        if len(lines) > 1:
            at = LEFT + 10 + 80 * place
            parts.append(f"<text class={kind} x={at} y={HEIGHT - 4} stroke=none>{kind}</text>")
    caption = html.escape(title)
    return (
        f"<figure><svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{caption}'>"
        f"{''.join(parts)}</svg><figcaption>{caption}</figcaption></figure>"
    )


def _range(values) -> tuple[float, float]:
    """A little more than all of the values, and never nothing."""
    low, high = min(values), max(values)
    edge = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - edge, high + edge


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within a range."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(each for each in (1, 2, 5, 10) if (high - low) / (step * each) <= 6)
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step) + 1)]
