"""What a program is traced for, where that decides between formulations."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_KIND: contextvars.ContextVar[str | None] = contextvars.ContextVar("kind", default=None)
_SHARING: contextvars.ContextVar[int] = contextvars.ContextVar("sharing", default=1)


def name() -> str:
    """Returns "cpu", "gpu" or "tpu": where what is being traced will run."""
    return _KIND.get() or jax.default_backend()


def sharing() -> int:
    """Returns the number of devices that the batch of what is being traced is cut over."""
    return _SHARING.get()


def compiling_for(kind: str) -> contextlib.AbstractContextManager:
    """Traces for devices that are not there, as a compilation ahead of time does.

    Args:
      kind: "cpu", "gpu" or "tpu".
    """
    return _setting(_KIND, kind)


def batch_over(devices: int) -> contextlib.AbstractContextManager:
    """Traces for a batch that is cut over so many devices."""
    return _setting(_SHARING, devices)


@contextlib.contextmanager
def _setting(variable: contextvars.ContextVar, value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
