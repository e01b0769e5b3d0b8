"""Where the picture lies in the arrays that stand for it, which it need not fill.

A program serves pictures of many sizes if each is put into the upper left corner of an array of one
size, and a strip of a picture is computed with rows of its neighbours around it. Under `within`,
filters find zeros beyond the picture, as they do at its border, and means are those of the picture,
with every row counted once. What lies beyond is arbitrary in between. Networks that do all they do
so are those whose config `heeds_extent`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, Num

from tdr_jax.nn import points
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class Extent:
    """Where pictures lie in an array, in the pixels of the largest features.

    Args:
        sides: height and width of the array; those of other features tell how much smaller they
            are.
        height, width: of each picture; multiples of the smallest features' pixels, as is `top`.
        top: the row of the picture that is the array's first, below zero above it.
        own: the first row of the array that counts in sums, and the first that does not any more.
    """

    sides: tuple[int, int]
    height: Int[Array, " b"]
    width: Int[Array, " b"]
    top: Int[Array, ""] | int = 0
    own: tuple[int, int] | None = None

    def scale(self, height: int) -> int:
        """How many rows of the array stand behind one of features of that height."""
        scale, rest = divmod(self.sides[0], height)
        if rest:
            raise ValueError(f"features of {height} rows are no fraction of {self.sides[0]}")
        return scale


_EXTENT: contextvars.ContextVar[Extent | None] = contextvars.ContextVar("extent", default=None)


@contextlib.contextmanager
def within(extent: Extent) -> Iterator[None]:
    """Traces for pictures that lie so in their arrays."""
    token = _EXTENT.set(extent)
    try:
        yield
    finally:
        _EXTENT.reset(token)


def known() -> bool:
    """Whether pictures may fill less than their arrays."""
    return _EXTENT.get() is not None


def inside(x: Num[Array, "b h w c"], *, counted: bool = False) -> Num[Array, "b h w c"]:
    """Replaces what lies beyond the picture by zeros.

    Args:
        x: features of any dtype and scale.
        counted: also what lies beyond the rows that count in sums.

    Returns:
        x itself where pictures fill their arrays.
    """
    extent = _EXTENT.get()
    return x if extent is None else jnp.where(_mask(extent, *x.shape[1:3], counted), x, 0)


def _mask(extent: Extent, height: int, width: int, counted: bool) -> Bool[Array, "b h w 1"]:
    scale = extent.scale(height)
    (rows, columns), (high, wide) = places(height, width), sides(height)
    down = (rows >= 0) & (rows < high[:, None])
    if counted and extent.own is not None:
        first, end = (row // scale for row in extent.own)
        down &= (jnp.arange(height) >= first) & (jnp.arange(height) < end)
    across = columns < wide[:, None]
    return down[:, :, None, None] & across[:, None, :, None]


def places(height: int, width: int) -> tuple[Int[Array, " {height}"], Int[Array, " {width}"]]:
    """Returns which rows and columns of the picture those of features are, where that is known."""
    extent = _EXTENT.get()
    return jnp.arange(height) + extent.top // extent.scale(height), jnp.arange(width)


def sides(height: int) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
    """Returns heights and widths of the pictures at the scale of features of so many rows."""
    extent = _EXTENT.get()
    scale = extent.scale(height)
    return extent.height // scale, extent.width // scale


def mean(x: Float[Array, "b h w c"]) -> Float32[Array, "b c"]:
    """Returns the mean of each channel over the picture, summed in float32."""
    if not known():
        return points.total(x.mean((1, 2), dtype=jnp.float32))
    sums = points.total(inside(x, counted=True).sum((1, 2), dtype=jnp.float32))
    high, wide = sides(x.shape[1])
    return sums / (high * wide)[:, None].astype(jnp.float32)
