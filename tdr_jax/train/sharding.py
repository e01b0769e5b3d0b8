"""Where arrays live: one mesh of all devices, its single axis called "data"."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tdr_jax.errors import InputError


def make_mesh() -> Mesh:
    """All devices of all processes in a row.

    Returns:
        a mesh with the axis "data". Its type is Auto: Explicit axes, jax's default, reject pixel
        shuffle and head split.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and scalars: a whole copy on each device."""
    return NamedSharding(mesh, P())


def by_example(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis cut over the devices."""
    return NamedSharding(mesh, P("data"))


def put_batch(batch, mesh: Mesh):
    """Make global arrays out of this process's part of a batch.

    Args:
        batch: dict of NumPy arrays (B / processes, ...).
        mesh: from `make_mesh`.

    Returns:
        dict of jax arrays (B, ...), cut over the devices along the first axis.

    Raises:
        InputError: if B is not a multiple of the number of devices.
    """
    size = len(next(iter(batch.values()))) * jax.process_count()
    if size % mesh.size:
        raise InputError(
            f"a batch of {size} pictures does not divide over {mesh.size} devices; "
            f"make the batch of every stage in config.data.stages a multiple of {mesh.size}"
        )
    sharding = by_example(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }
