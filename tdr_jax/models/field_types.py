"""Whether a value fits a field of a network's config, as the field's annotation has it."""

import math
import types
import typing
from typing import Any

from tdr_jax.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
_WORDS = {int: "a whole number of at least 0", float: "a finite number", str: "a text"}


def check(name: str, config: type, values: dict[str, Any]) -> None:
    """Holds values against the fields' types.

    Args:
        name: of the network.
        config: its dataclass.
        values: by the names of its fields.

    Raises:
        InputError: one does not fit; names the field, the value and what does.
    """
    hints = typing.get_type_hints(config)
    for field, value in values.items():
        if field == "dtype":
            fits, says = value in DTYPES, " or ".join(DTYPES)
        else:
            fits, says = _fits(value, hints[field]), _says(hints[field])
        if not fits:
            raise InputError(f"{name}: {field} is {value!r}; give {says}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if inner[-1] is ...:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is int:
        return type(value) is int and value >= 0
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return hint is Any or type(value) is hint


def _says(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join(map(_says, inner))
    if origin is tuple and inner[-1] is ...:
        return f"a tuple, each {_says(inner[0])}"
    if origin is tuple:
        return f"({', '.join(map(_says, inner))})"
    return _WORDS.get(hint, "True or False")
