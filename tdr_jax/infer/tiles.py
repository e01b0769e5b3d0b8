"""Covering a large picture with equal, overlapping tiles and blending them without a seam."""

import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from tdr_jax.images.arrays import pad, padded, round_up

OVERLAP = 128  # pixels two neighbours share at least; a quarter of the tile if that is less


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


def blend(
    answer: Callable[[Float32[np.ndarray, "h w c"]], Float32[np.ndarray, "h w d"]],
    given: list[Float32[np.ndarray, "h w c"]],
    channels: int,
    shape: tuple[int, int],
    progress: Callable[[int, int], None],
    padding: str = "reflect",
) -> Float32[np.ndarray, "h w k"]:
    """Restore pictures of one size tile by tile, and blend the tiles.

    Memory besides input and output is one tile's.

    Args:
        answer: maps a tile in [0, 1] to what is made of it, `channels` wide.
        given: pictures of one size in [0, 1], one after the other.
        channels: of each answer.
        shape: of a tile, in pixels, from `tile_shape`.
        progress: called as progress(tiles done, tiles in all).
        padding: how a picture that is narrower than a tile is continued, "reflect" or "zeros".

    Returns:
        The channels of what was made of each of the given, side by side.
    """
    height, width, _ = given[0].shape
    tall, broad = shape
    tops, lefts = starts(height, tall), starts(width, broad)
    rows, columns = windows(height, tall, tops), windows(width, broad, lefts)
    total = len(tops) * len(lefts) * len(given)
    restored = np.zeros((height, width, channels * len(given)), np.float32)
    places = itertools.product(
        enumerate(given), zip(tops, rows, strict=True), zip(lefts, columns, strict=True)
    )
    progress(0, total)
    for done, ((plane, pixels), (top, row), (left, column)) in enumerate(places, 1):
        parts = slice(plane * channels, (plane + 1) * channels)
        target = restored[top : top + tall, left : left + broad, parts]
        high, wide, _ = target.shape  # less than a tile where the picture is narrower
        tile = pixels[top : top + tall, left : left + broad]
        target += answer(pad(tile, tall, broad, padding))[:high, :wide] * (
            row[:high, None, None] * column[:wide, None]
        )
        progress(done, total)
    return restored


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


def windows(length: int, tile: int, firsts: list[int]) -> list[Float32[np.ndarray, " {tile}"]]:
    """Give each tile along one side its share in every pixel.

    The share rises and falls as a raised cosine over the overlap, so that a tile counts for
    nothing at its own edge, where its view of the picture ends.

    Args:
        length: of the side.
        tile: length of a tile.
        firsts: from starts().

    Returns:
        shares for each tile, in (0, 1]; at every pixel they add up to 1.
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
    smallest = round_up(math.ceil((length + (count - 1) * overlap) / count), multiple)
    return min(tile, smallest)


def _down(value: int, multiple: int) -> int:
    return max(value // multiple, 1) * multiple
