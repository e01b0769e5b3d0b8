"""Few programs for pictures of many sizes: those of about one size share a program.

A program is compiled for one size, which takes as long as many pictures do. A smaller picture lies
in the upper left corner of the program's array, where a network that `heeds_extent` restores it as
if nothing were around it.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32

from tdr_jax import models
from tdr_jax.images.arrays import round_up
from tdr_jax.nn import extent
from tdr_jax.nn.typing import Array

MANY = 48  # sizes that are compared with each other


def choose(
    sizes: Iterable[tuple[int, int]],
    most: int = 6,
    worth: int = 0,
    largest: float = math.inf,
) -> dict[tuple[int, int], bool]:
    """Choose for which sizes programs are compiled.

    Beginning with one for each size, the two are joined to which that adds the fewest pixels, until
    there are few enough and another compilation costs less than the pixels that it would spare.

    Args:
        sizes: (height, width) of every picture, multiples of what the network needs.
        most: programs, at least 1.
        worth: pixels that a program has to spare.
        largest: pixels that a program may have; where it parts pictures, there may be more programs
            than `most`.

    Returns:
        (height, width) of each program, and whether pictures of several sizes share it.
    """
    # size of a program -> the sizes of the pictures that it serves
    counts = Counter(sizes)
    groups = {size: [size] for size in counts}
    # Comparing all pairs of a thousand sizes would take longer than compiling: they are rounded up
    # first, and what that makes too large stays for itself.
    step, alone = 32, {}
    while len(groups) > MANY:
        step *= 2
        groups, alone = {}, {}
        for size in counts:
            rounded = tuple(round_up(side, step) for side in size)
            fits = math.prod(rounded) <= largest
            (groups if fits else alone).setdefault(rounded if fits else size, []).append(size)

    def cost(size, members) -> int:
        return math.prod(size) * sum(counts[member] for member in members)

    while len(groups) > 1:
        joins = []
        for a, b in itertools.combinations(groups, 2):
            joined = tuple(map(max, a, b))
            if math.prod(joined) <= largest:
                apart = cost(a, groups[a]) + cost(b, groups[b])
                joins.append((cost(joined, groups[a] + groups[b]) - apart, a, b, joined))
        if not joins:
            break
        more, a, b, joined = min(joins)
        if len(groups) <= most and more > worth:
            break
        members = groups.pop(a) + groups.pop(b)
        groups[joined] = groups.pop(joined, []) + members
    for size, members in alone.items():
        groups.setdefault(size, []).extend(members)
    return {size: members != [size] for size, members in groups.items()}


def fitting(buckets: Iterable[tuple[int, int]], height: int, width: int) -> tuple[int, int] | None:
    """Return the smallest of some sizes that holds a picture; None if none does."""
    holding = [size for size in buckets if size[0] >= height and size[1] >= width]
    return min(holding, key=lambda size: size[0] * size[1], default=None)


def put(
    pictures: Sequence[Float32[np.ndarray, "_ _ c"]], size: tuple[int, int]
) -> Float32[np.ndarray, "b h w c"]:
    """Lay pictures into the upper left corners of arrays of one size, with zeros around them."""
    channels = pictures[0].shape[-1]
    laid = np.zeros((len(pictures), *size, channels), np.float32)
    for index, picture in enumerate(pictures):
        height, width, _ = picture.shape
        laid[index, :height, :width] = picture
    return laid


def sides(
    pictures: Sequence[Float32[np.ndarray, "_ _ c"]],
) -> tuple[Int32[np.ndarray, " b"], Int32[np.ndarray, " b"]]:
    """Return the heights and the widths of pictures."""
    return tuple(np.array([p.shape[axis] for p in pictures], np.int32) for axis in (0, 1))


@functools.lru_cache(maxsize=8)
def program(network: models.Network) -> Callable:
    """Prepare a network for pictures that lie in arrays which they need not fill.

    Args:
        network: whose `heeds_extent`.

    Returns:
        run(params, images (b, h, w, c), heights (b,), widths (b,), vectors (b, e)) -> float32
        (b, h, w, d), arbitrary beyond each picture; compiled once for each shape.
    """
    import jax

    def run(
        params: dict,
        images: Float[Array, "b h w c"],
        heights: Int32[Array, " b"],
        widths: Int32[Array, " b"],
        *others: Float[Array, "b ..."],
    ) -> Float32[Array, "b h w d"]:
        with extent.within(extent.Extent(images.shape[1:3], heights, widths)):
            return network.apply(params, images, *others).astype(jnp.float32)

    return jax.jit(run)
