"""Where arrays live: a mesh of all devices with the axes "data" and "fsdp".

A batch is cut over both axes. Parameters, their averages and the optimiser's moments are cut over
"fsdp": each device keeps its part and updates it. Within a step the parameters are gathered, those
of stacked blocks one block at a time, so that every objective computes as it does on one device,
and the gradients are cut again.
"""

import dataclasses
import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tdr_jax.errors import InputError
from tdr_jax.nn import layers
from tdr_jax.train.config import refuse_unmatched


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which part of every array each device holds.

    Attributes:
        mesh: with the axes "data" and "fsdp", in this order, of type Auto.
        rules: ((regular expression, dimension or None), ...): a parameter whose name one finds, the
            first that does, is cut along that dimension, or not at all for None.
        min_size: parameters of fewer numbers are not cut, unless a rule says so; all others are
            along their largest dimension that divides by the size of "fsdp".
    """

    mesh: Mesh
    rules: tuple[tuple[str, int | None], ...] = ()
    min_size: int = 2**14

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on each device."""
        return NamedSharding(self.mesh, P())

    @property
    def by_example(self) -> NamedSharding:
        """A batch: its first axis cut over all devices."""
        return NamedSharding(self.mesh, P(self.mesh.axis_names))

    def check(self, params) -> None:
        """Refuses rules that match none of the parameters.

        Args:
            params: flat dict, dotted name -> anything.

        Raises:
            InputError: names the rule.
        """
        refuse_unmatched("mesh.rules", (pattern for pattern, _ in self.rules), params)

    def spec(self, name: str, shape: tuple[int, ...]) -> P:
        """How one array of the state is cut.

        Args:
            name: dotted name of the parameter that the array belongs to.
            shape: of the whole array.

        Raises:
            InputError: a rule names a dimension that is not there or does not divide.
        """
        parts = self.mesh.shape["fsdp"]
        if parts == 1:
            return P()
        for pattern, dimension in self.rules:
            if re.search(pattern, name):
                if dimension is None:
                    return P()
                if not -len(shape) <= dimension < len(shape) or shape[dimension] % parts:
                    raise InputError(
                        f"config.mesh.rules cut {name} of shape {shape} along dimension "
                        f"{dimension} for {pattern!r}, which does not divide into {parts} parts; "
                        "give another dimension, or None to leave it whole"
                    )
                return _sharded(dimension % len(shape))
        dividing = [d for d, size in enumerate(shape) if size and size % parts == 0]
        if math.prod(shape) < self.min_size or not dividing:
            return P()
        return _sharded(max(dividing, key=lambda d: shape[d]))

    def of(self, tree):
        """The shardings of a state, or of any tree whose dicts go by names of parameters.

        Args:
            tree: of arrays or of their shapes.

        Returns:
            the same tree of `NamedSharding`s.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self.spec(name_of(path), leaf.shape)), tree
        )

    def shard(self, tree):
        """Within jit: leaves each device its own part of every array."""
        return jax.lax.with_sharding_constraint(tree, self.of(tree))

    def all_gather(self, params):
        """Within jit: gathers parameters; what is computed of them is not cut by their axes then.

        Args:
            params: flat dict, dotted name -> array. Those of stacked blocks stay as they are: a
                stage gathers each block's when it runs.
        """
        if self.mesh.shape["fsdp"] == 1:
            return params
        return {
            name: value
            if layers.STACKED in name
            else jax.lax.with_sharding_constraint(value, self.replicated)
            for name, value in params.items()
        }

    def gather(self, tree):
        """Outside of jit, in all processes at once: a whole copy of every array on each device."""
        return tree if self.mesh.shape["fsdp"] == 1 else jax.device_put(tree, self.replicated)

    def put(self, tree):
        """Puts a whole copy of every array on each device; all processes bring the same."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        # device_put would send them around first, to see that they are the same.
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(
                np.shape(x), self.replicated, lambda index: np.asarray(x[index])
            ),
            jax.device_get(tree),
        )

    def put_batch(self, batch):
        """Make global arrays out of this process's part of a batch.

        Args:
            batch: dict of NumPy arrays (B / processes, ...).

        Returns:
            dict of jax arrays (B, ...), cut over the devices along the first axis.

        Raises:
            InputError: if B is not a multiple of the number of devices.
        """
        size = len(next(iter(batch.values()))) * jax.process_count()
        if size % self.mesh.size:
            raise InputError(
                f"a batch of {size} pictures does not divide over {self.mesh.size} devices; make "
                f"the batch of every stage in config.data.stages a multiple of {self.mesh.size}"
            )
        return {
            name: jax.make_array_from_process_local_data(self.by_example, np.asarray(value))
            for name, value in batch.items()
        }

    def describe(self) -> str:
        """The shape of the mesh in words."""
        platform = self.mesh.devices.flat[0].platform
        devices = f"{self.mesh.size} {platform} device{'s' if self.mesh.size > 1 else ''}"
        parts = self.mesh.shape["fsdp"]
        return devices if parts == 1 else f"{devices}, the state sharded over {parts}"


def make(config, devices=None) -> Layout:
    """Lay the devices out as the config says.

    Args:
        config: `config.mesh`: `fsdp`, how many devices share one copy of the state, 0 for all of
            them; `rules` and `min_size`, see `Layout`.
        devices: to lay out; by default all of all processes.

    Returns:
        a `Layout`. Its mesh has Auto axes: Explicit ones, jax's default, reject pixel shuffle and
        head split.

    Raises:
        InputError: the number of devices does not divide by `fsdp`.
    """
    devices = jax.devices() if devices is None else devices
    parts = config.fsdp or len(devices)
    if parts < 1 or len(devices) % parts:
        raise InputError(
            f"config.mesh.fsdp is {config.fsdp}, but there are {len(devices)} devices; give a "
            "number that divides them, or 0 for all of them"
        )
    mesh = jax.make_mesh(
        (len(devices) // parts, parts), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices
    )
    return Layout(mesh, tuple(tuple(rule) for rule in config.rules), config.min_size)


def _sharded(dimension: int) -> P:
    return P(*[None] * dimension, "fsdp")


def name_of(path) -> str:
    """The last key of a dict on the way to a leaf: parameters and moments go by it."""
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return str(keys[-1]) if keys else ""
