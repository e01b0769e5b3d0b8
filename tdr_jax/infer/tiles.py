"""Covering a large picture with equal, overlapping tiles and blending them without a seam."""

import math

import numpy as np

OVERLAP = 128  # pixels two neighbours share at least; a quarter of the tile if that is less


def padded(height: int, width: int, multiple: int, rows: int = 1) -> tuple[int, int]:
    """Return the sides rounded up to the multiple, and the height to one for each of the rows."""
    return _up(height, rows * multiple), _up(width, multiple)


def tile_shape(
    height: int, width: int, max_pixels: int, multiple: int, rows: int = 1
) -> tuple[int, int]:
    """Choose the one shape that all tiles of a picture have.

    Args:
        height, width: of the picture, at least 1.
        max_pixels: the most pixels a tile may have, at least 4 * rows * multiple**2.
        multiple: tile sides are multiples of it.
        rows: devices that a tile is cut over: its height is a multiple of rows * multiple.

    Returns:
        (height, width) of a tile: the padded picture itself if that is small enough, else about
        square and no larger than it takes to cover the picture.
    """
    high, wide = padded(height, width, multiple, rows)
    if high * wide <= max_pixels:
        return high, wide
    step = rows * multiple
    tall = min(high, _down(math.isqrt(max_pixels), step))
    broad = min(wide, _down(max_pixels // tall, multiple))
    tall = min(high, _down(max_pixels // broad, step))
    return _shrink(height, tall, step), _shrink(width, broad, multiple)


def pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect the right and lower edge of (h, w, C) until it is (height, width, C)."""
    for axis, length in enumerate((height, width)):
        missing = length - pixels.shape[axis]
        if missing:
            # NumPy repeats the reflection for smaller pictures; one row has no second to show.
            mode = "reflect" if pixels.shape[axis] > 1 else "edge"
            margins = [(0, 0)] * 3
            margins[axis] = (0, missing)
            pixels = np.pad(pixels, margins, mode=mode)
    return pixels


def starts(length: int, tile: int) -> list[int]:
    """Place tiles evenly along one side.

    Args:
        length: of the side, in pixels.
        tile: length of a tile; the side is covered by one tile if it is not longer.

    Returns:
        the first pixel of each tile; neighbours overlap by at least min(OVERLAP, tile // 4).
    """
    count = _count(length, tile)
    if count == 1:
        return [0]
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def windows(length: int, tile: int, firsts: list[int]) -> list[np.ndarray]:
    """Give each tile along one side its share in every pixel.

    The share rises and falls as a raised cosine over the overlap, so that a tile counts for
    nothing at its own edge, where its view of the picture ends.

    Args:
        length: of the side.
        tile: length of a tile.
        firsts: from starts().

    Returns:
        one float32 (tile,) for each tile, all above 0; at every pixel they add up to 1.
    """
    overlap = _overlap(tile)
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
    shares = []
    for first in firsts:
        share = np.ones(tile)
        if first > 0:
            share[:overlap] *= ramp
        if first + tile < length:
            share[-overlap:] *= ramp[::-1]
        shares.append(share)
    total = np.zeros(max(length, tile))
    for first, share in zip(firsts, shares, strict=True):
        total[first : first + tile] += share
    return [
        (share / total[first : first + tile]).astype(np.float32)
        for first, share in zip(firsts, shares, strict=True)
    ]


def _overlap(tile: int) -> int:
    return min(OVERLAP, tile // 4)


def _count(length: int, tile: int) -> int:
    overlap = _overlap(tile)
    return 1 if length <= tile else math.ceil((length - overlap) / (tile - overlap))


def _shrink(length: int, tile: int, multiple: int) -> int:
    """Return the smallest tile that covers the side with as many tiles as `tile` does."""
    count, overlap = _count(length, tile), _overlap(tile)
    least = _up(math.ceil((length + (count - 1) * overlap) / count), multiple)
    return min(tile, least)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _down(value: int, multiple: int) -> int:
    return max(value // multiple, 1) * multiple
