"""Amounts of memory as people write them."""

import re

from tdr_jax.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
LEAST = 2**26  # bytes; less is a slip of the pen


def parse(text: str | int) -> int:
    """Read an amount of memory.

    Args:
        text: such as 4GB, 1.5 GiB or 500M; a number alone means bytes.

    Returns:
        bytes.

    Raises:
        InputError: it is no amount of memory, or less than 64 MiB.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", str(text).lower())
    factor = (UNITS | BINARY_UNITS).get(match[2]) if match else None
    try:
        size = int(float(match[1]) * factor)
    except (TypeError, ValueError):
        raise InputError(f"memory is {text!r}; give an amount such as 4GB") from None
    if size < LEAST:
        raise InputError(f"memory is {text!r}; give at least 64MiB")
    return size
