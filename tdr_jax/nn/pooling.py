"""Means over windows, for test time (TLC, arXiv 2112.04491): as large as those of the training.

A network trained on crops has met means over a crop only. On a larger picture the mean over a
window around each pixel stays close to those; the mean over the picture does not.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.nn import backend, extent
from tdr_jax.nn.typing import Array


def window_mean(x: Float[Array, "b h w c"], window: tuple[int, int]) -> Float32[Array, "b h w c"]:
    """Mean over the window around each pixel; near the border, the nearest whole window's.

    Args:
        x: any float dtype and range.
        window: height and width in pixels, cut down to the picture's; if it covers the picture, the
            result is the mean over the picture.

    Source: TLC, section 3.
    """
    return spread(whole_window_mean(x, window), x.shape[1], x.shape[2])


def whole_window_mean(
    x: Float[Array, "b h w c"], window: tuple[int, int]
) -> Float32[Array, "b h2 w2 c"]:
    """Means over the windows of kh x kw pixels that lie in the picture, h - kh + 1 down.

    Pointwise layers may run on this smaller array, and `spread` brings it to the picture's size.
    Sums along an axis are differences of prefix sums. These are taken of what is left without the
    mean over the picture: they stay small, and so does what cancels (about one rounding error for
    every window that fits along the axis).
    """
    _, height, width, _ = x.shape
    x = x.astype(jnp.float32)
    mean = extent.mean(x)[:, None, None]
    if window[0] >= height and window[1] >= width:
        return mean
    return _mean_along(_mean_along(x - mean, 1, window[0]), 2, window[1]) + mean


def spread(
    means: Float[Array, "b h w c"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Repeats the outermost values until there is one for each pixel, of the same dtype.

    Where the number of missing rows or columns is odd, the lower right gets one more.
    """
    missing = height - means.shape[1], width - means.shape[2]
    rows, columns = ((n // 2, (n + 1) // 2) for n in missing)
    return jnp.pad(means, ((0, 0), rows, columns, (0, 0)), mode="edge")


def _mean_along(x, axis: int, size: int):
    length = x.shape[axis]
    if size >= length:
        return x.mean(axis, keepdims=True)
    sums = _prefix_sums(x, axis)
    last = lax.slice_in_dim(sums, size - 1, length, axis=axis)
    before = lax.slice_in_dim(sums, 0, length - size, axis=axis)
    nothing = jnp.zeros_like(lax.slice_in_dim(sums, 0, 1, axis=axis))
    return (last - jnp.concatenate([nothing, before], axis)) / size


def _prefix_sums(x, axis: int):
    """Sums up to and with each entry; on CPU one pass of a scan, which is twice as fast there."""
    if backend.name() != "cpu":
        return lax.cumsum(x, axis)
    x = jnp.moveaxis(x, axis, 0)
    sums = lax.scan(lambda total, row: (total + row,) * 2, jnp.zeros_like(x[0]), x)[1]
    return jnp.moveaxis(sums, 0, axis)
