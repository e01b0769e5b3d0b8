"""Tensors that are still on disk, and where parameters go when they are read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax.convert.exchange import to_numpy
from tdr_jax.errors import InputError

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is still on disk: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype)


def section(tensor, which: int, of: int) -> Tensor:
    """One of several equal parts of a tensor's first axis; nothing is read yet.

    Args:
        tensor: has a `shape` and can be read by `to_numpy`.
        which: of the parts, from 0.
        of: how many; they divide the first axis.

    Returns:
        A tensor of shape (rows / of, ...) that reads the whole when it is asked for its values.
    """
    rows = tensor.shape[0] // of
    mine = slice(which * rows, (which + 1) * rows)
    return Tensor((rows, *tensor.shape[1:]), lambda: to_numpy(tensor)[mine])


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Opens a `.safetensors` file without reading its tensors.

    Raises:
        InputError: it is damaged or cut short.
    """
    import safetensors

    try:
        file = safetensors.safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable .safetensors file ({error}); copy or download it again"
        ) from error

    def reader(name: str, dtype: str):
        def read():
            if dtype not in DTYPES:
                raise InputError(
                    f"{path}: {name} is {dtype}; parameters are {', '.join(DTYPES)}: "
                    "save it as one of these"
                )
            return file.get_tensor(name)

        return read

    return {
        name: Tensor(tuple(part.get_shape()), reader(name, part.get_dtype()))
        for name, part in slices.items()
    }


def placing(dtype: str, shardings):
    """Returns what makes a parameter of its name and array, for `exchange.from_tensors`.

    Args:
        dtype: of the parameters, "float32", "bfloat16" or "float16".
        shardings: where parameters go: one sharding for all, or a function of name and shape. None
            is the default device.

    Raises:
        InputError: the dtype is another.
    """
    if dtype not in DTYPES.values():
        raise InputError(f"dtype {dtype!r}: parameters are {', '.join(DTYPES.values())}")

    def place(name, array):
        array = array.astype(jnp.dtype(dtype), copy=False)
        if shardings is None:
            return jax.device_put(array)
        sharding = shardings(name, array.shape) if callable(shardings) else shardings
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return place
