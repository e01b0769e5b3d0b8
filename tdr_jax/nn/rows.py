"""Pictures whose rows are cut over devices: filters fetch the rows next to theirs and no others.

Under `jax.set_mesh` of a mesh with an axis "rows", features (B, H, W, C) are cut along H. The
compiler cuts by itself whatever goes pixel by pixel, and sums. A filter that is written as pads and
slices it would turn into exchanges of whole parts of the picture: here each device fetches only the
rows that its own results need.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Shaped

from tdr_jax.nn.typing import Array

AXIS = "rows"


def cut() -> bool:
    """Whether what is traced now runs over devices that have some rows each."""
    return AXIS in jax.sharding.get_abstract_mesh().auto_axes


def with_neighbours(
    function: Callable,
    x: Shaped[Array, "b h w c"],
    *others: Shaped[Array, "..."],
    margin: int,
    reflect: bool = False,
) -> Shaped[Array, "b h2 w2 d"]:
    """Applies a function to the rows of each device and some above and below them.

    Args:
        function: maps rows (b, r + 2 margin, w, c) and `others` to (b, r2, w2, d), for r rows of a
            device.
        x: cut along h.
        *others: what each device has the whole of.
        margin: rows fetched from above and from below; beyond the picture they are zeros.
        reflect: beyond the picture, its rows reflected instead; devices have `margin` rows or more.

    Returns:
        What the function gave, cut along h2.

    Raises:
        ValueError: to reflect, and a device has fewer than `margin` rows.
    """

    def local(x, *others):
        return function(_extended(x, margin, reflect), *others)

    cut = P(None, AXIS)
    specs = (cut, *[P()] * len(others))
    return jax.shard_map(local, in_specs=specs, out_specs=cut, axis_names={AXIS})(x, *others)


def _extended(x, margin: int, reflect: bool):
    """Puts `margin` rows of the devices above and below around the rows of this one."""
    if not margin:
        return x
    height, devices = x.shape[1], lax.axis_size(AXIS)
    above, below = [], []
    # Devices may have fewer rows than are needed: then the next ones are asked as well.
    for hop, first in enumerate(range(0, margin, height), 1):
        count = min(height, margin - first)
        down = [(i, i + hop) for i in range(devices - hop)]
        up = [(i + hop, i) for i in range(devices - hop)]
        above.insert(0, lax.ppermute(x[:, height - count :], AXIS, down))
        below.append(lax.ppermute(x[:, :count], AXIS, up))
    extended = jnp.concatenate([*above, x, *below], 1)
    if not reflect:  # nobody sends rows beyond the picture, which makes them zeros
        return extended
    if height < margin:
        raise ValueError(f"a device has {height} rows; reflecting {margin} needs as many")
    place, last = lax.axis_index(AXIS), margin + height - 1
    top = extended[:, margin + 1 : 2 * margin + 1][:, ::-1]
    bottom = extended[:, last - margin : last][:, ::-1]
    top = jnp.where(place == 0, top, extended[:, :margin])
    bottom = jnp.where(place == devices - 1, bottom, extended[:, last + 1 :])
    return jnp.concatenate([top, x, bottom], 1)
