"""The kind of device that a program is traced for, which decides between formulations."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_ELSEWHERE: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


def name() -> str:
    """Returns "cpu", "gpu" or "tpu": where what is being traced will run."""
    return _ELSEWHERE.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(kind: str) -> Iterator[None]:
    """Traces for devices that are not there, as a compilation ahead of time does.

    Args:
      kind: "cpu", "gpu" or "tpu".
    """
    token = _ELSEWHERE.set(kind)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)
