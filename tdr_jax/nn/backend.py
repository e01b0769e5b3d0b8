"""What a program is traced for, where that decides between formulations."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

_KIND: contextvars.ContextVar[str | None] = contextvars.ContextVar("kind", default=None)
_MESH: contextvars.ContextVar[jax.sharding.Mesh | None] = contextvars.ContextVar(
    "mesh", default=None
)


def name() -> str:
    """Returns "cpu", "gpu" or "tpu": where what is being traced will run."""
    return _KIND.get() or jax.default_backend()


def mesh() -> jax.sharding.Mesh | None:
    """Returns the devices that the batch of what is being traced is cut over, None for one."""
    found = _MESH.get()
    return found if found is not None and found.size > 1 else None


def sharing() -> int:
    """Returns the number of those devices."""
    found = mesh()
    return 1 if found is None else found.size


def all_gather(tree: PyTree) -> PyTree:
    """Gathers parameters of which each device holds a part, where what is traced is so laid out.

    Args:
        tree: of arrays.

    Returns:
        the same tree, whole on every device.
    """
    found = mesh()
    if found is None or found.shape.get("fsdp", 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(found, PartitionSpec()))


def compiling_for(kind: str) -> contextlib.AbstractContextManager:
    """Traces for devices that are not there, as a compilation ahead of time does.

    Args:
        kind: "cpu", "gpu" or "tpu".
    """
    return _setting(_KIND, kind)


def batch_over(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Traces for a batch whose examples are cut over all devices of a mesh."""
    return _setting(_MESH, mesh)


@contextlib.contextmanager
def _setting(variable: contextvars.ContextVar, value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
