"""Pictures over devices, each of which has a whole one; and a picture turned in eight ways."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32

from tdr_jax.data import turns
from tdr_jax.errors import InputError
from tdr_jax.images.arrays import pad, padded
from tdr_jax.infer.core import finite, program

AXIS = "pictures"
Inputs = tuple[Float32[np.ndarray, "..."], ...]  # a picture, then guidance and a sentence vector


class Spread:
    """One program on several devices, each with a picture of its own.

    Args:
        network: a Network that restores pictures.
        params: its flat dict of parameters.
        count: of devices; 0 for all that this process has.

    Raises:
        InputError: there are fewer devices.
    """

    def __init__(self, network, params, count: int = 0):
        there = jax.local_devices()
        if not 0 <= count <= len(there):
            raise InputError(f"devices is {count}; this process has {len(there)}, or 0 for all")
        self.network, self.count = network, count or len(there)
        self._run, mesh = _program(network, self.count)
        self._each = NamedSharding(mesh, P(AXIS))
        self._params = jax.device_put(params, NamedSharding(mesh, P()))

    def __call__(self, group: Sequence[Inputs]) -> list[Float32[np.ndarray, "h w d"]]:
        """Restores pictures that have one shape, and whose guidance has.

        Args:
            group: at most as many as there are devices; where they are fewer, the last one goes
                through the rest of the devices too.

        Returns:
            For each picture the channels that the network gives, not clipped.

        Raises:
            InputError: the network's answer is not finite.
        """
        height, width, _ = group[0][0].shape
        sides = padded(height, width, self.network.config.multiple)
        padding = self.network.padding
        group = [(pad(pixels, *sides, padding), *others) for pixels, *others in group]
        full = [*group, *[group[-1]] * (self.count - len(group))]
        inputs = [np.stack(each) for each in zip(*full, strict=True)]
        answers = np.asarray(self._run(self._params, *jax.device_put(inputs, self._each)))
        return [finite(self.network, answer)[:height, :width] for answer in answers[: len(group)]]


@functools.lru_cache(maxsize=8)
def _program(network, count: int):
    """The program of one picture on each of `count` devices, and their mesh.

    No number depends on who else is there.
    """
    devices = jax.local_devices()[:count]
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    def run(params, *inputs):
        specs = P(), *(P(AXIS) for _ in inputs)
        each = jax.shard_map(
            program(network), mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
        )
        return each(params, *inputs)

    return jax.jit(run), mesh


def in_eight_ways(restore: Callable) -> Callable:
    """Self-ensemble: the mean of what is restored of a picture turned and mirrored.

    Args:
        restore: maps a group of inputs, as `Spread` does, to restored pictures.

    Returns:
        The same, with eight times the work.

    Source: Timofte et al., CVPR 2016, section 3.4.
    """

    def ensemble(group):
        total: list = [0.0] * len(group)
        for turn in range(8):
            turned = [tuple(_turned(each, turn) for each in inputs) for inputs in group]
            for place, answer in enumerate(restore(turned)):
                total[place] = total[place] + _back(answer, turn) / np.float32(8)
        return total

    return ensemble


def _turned(array: np.ndarray, turn: int) -> np.ndarray:
    """A picture turned; vectors stay."""
    return array if array.ndim < 3 else np.ascontiguousarray(turns.dihedral(array, turn))


def _back(array: np.ndarray, turn: int) -> np.ndarray:
    upright = np.rot90(array, -(turn % 4))
    return upright[:, ::-1] if turn >= 4 else upright
