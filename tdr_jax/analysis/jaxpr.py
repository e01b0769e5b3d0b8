"""Walking through traced programs."""

from collections.abc import Iterator

from jax.extend.core import Jaxpr


def inner(equation) -> Iterator[Jaxpr]:
    """The programs that an equation runs: a scan's body, a jitted or differentiable function."""
    for value in equation.params.values():
        yield from _programs(value)


def _programs(value):
    value = getattr(value, "jaxpr", value)  # of a closed program, the program itself
    if hasattr(value, "eqns"):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _programs(part)
