"""The type checker behind jaxtyping's import hook: of signatures, it looks at the arrays alone."""

import inspect
import typing

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

# Their functions say what shapes and dtypes they take and give.
ROOMS = (
    "tdr_jax.nn",
    "tdr_jax.models",
    "tdr_jax.diffusion",
    "tdr_jax.infer",
    "tdr_jax.evaluate.metrics",
    "tdr_jax.objectives",
)

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _speaks_of_arrays(annotation) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_speaks_of_arrays, typing.get_args(annotation)))


def arrays(function):
    """Checks what a function is annotated to take and give as far as that is arrays."""
    if function.__name__ == "__init__":  # of trees, whose leaves may be anything
        return function
    hints = {k: v for k, v in function.__annotations__.items() if _speaks_of_arrays(v)}
    function.__annotations__ = hints
    return _check(function) if hints else function
