"""A contact sheet: what a source of pictures holds, at a glance."""

import numpy as np
from jaxtyping import UInt8

CELL = 192  # pixels, the longer side of a small picture
MARGIN, LINE = 6, 14  # pixels around a picture, and of the name below it
PAPER, INK = 255, (40, 40, 40)


def draw(source, count: int = 24, columns: int = 6) -> UInt8[np.ndarray, "h w 3"]:
    """Draws pictures spread evenly over a source, each over its name; pairs side by side.

    Args:
        source: see `tdr_jax.data.sources`.
        count: how many of them at most, >= 1; the first and the last are among them.
        columns: how many stand in a row.

    Returns:
        uint8 (h, w, 3).

    Raises:
        InputError: a picture that cannot be read.
    """
    from PIL import Image, ImageDraw

    chosen = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round())
    items = [_views(source[int(index)]) for index in chosen]
    width = max(sum(view.width + MARGIN for view in views) for _, views in items) + MARGIN
    height = max(view.height for _, views in items for view in views) + LINE + 2 * MARGIN
    columns = min(columns, len(items))
    sheet = Image.new("RGB", (columns * width, -(-len(items) // columns) * height), (PAPER,) * 3)
    pen = ImageDraw.Draw(sheet)
    for place, (name, views) in enumerate(items):
        row, column = divmod(place, columns)
        x, y = column * width + MARGIN, row * height + MARGIN
        pen.text((x, y + height - LINE - 2 * MARGIN), _fitted(pen, name, width - MARGIN), INK)
        for view in views:
            sheet.paste(view, (x, y))
            x += view.width + MARGIN
    return np.asarray(sheet)


def _views(item: dict) -> tuple[str, list]:
    """The name of an item and small pictures of all that it holds, of 8 bits."""
    from PIL import Image

    views = []
    for array in (item[key] for key in ("degraded", "clean", "image") if key in item):
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
        for start in range(0, array.shape[-1], 3):  # two views of a dual-pixel sensor are six
            view = Image.fromarray(np.ascontiguousarray(array[..., start : start + 3]))
            view.thumbnail((CELL, CELL))
            views.append(view)
    return item["name"], views


def _fitted(pen, name: str, width: int) -> str:
    """The end of a name that is too long, which is what differs."""
    if pen.textlength(name) <= width:
        return name
    while len(name) > 1 and pen.textlength(f"...{name}") > width:
        name = name[1:]
    return f"...{name}"
