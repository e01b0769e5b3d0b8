"""Weights on disk: shipped ones by name, our own folders, and everything that converts."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from tdr_jax import models
from tdr_jax.convert import io
from tdr_jax.errors import InputError

ASSETS = Path(__file__).parent / "assets"
FILE_NAME = io.FILE_NAME


def shipped() -> list[str]:
    """Returns the names of the restoration weights that come with the package."""
    import safetensors

    names = []
    for path in ASSETS.glob(f"*/{FILE_NAME}"):
        with safetensors.safe_open(path, framework="numpy") as file:  # reads no tensor
            if "network" in (file.metadata() or {}):  # not so the sentence encoder's
                names.append(path.parent.name)
    return sorted(names)


def find(path_or_name: str | os.PathLike) -> Path:
    """Returns where weights are: the path itself, or the folder of shipped ones.

    Raises:
      InputError: there is no such file, folder or name.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    if path_or_name in shipped():
        return ASSETS / path_or_name
    raise InputError(
        f"no weights at {path_or_name}: give a folder with {FILE_NAME}, a .safetensors file, a "
        f"PyTorch checkpoint, or one of {', '.join(shipped())}"
    )


def load(path_or_name: str | os.PathLike) -> tuple[models.Network, models.Params]:
    """Reads a network and its parameters.

    Args:
      path_or_name: a shipped name; a folder or `.safetensors` file that `save` wrote; or a
        checkpoint with PyTorch's names, `.safetensors` or of torch.save (which needs PyTorch),
        whose network and hyper-parameters are recognised.

    Returns:
      The network, and its parameters as float32 arrays whatever the file's dtype is.

    Raises:
      InputError: there is no such file or name, it is damaged, or it holds no network known here.
    """
    from tdr_jax import convert

    network, params, _ = convert.adopt(io.read(find(path_or_name)))
    return network, params


def save(
    path: str | os.PathLike,
    network: models.Network,
    params: models.Params,
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a network and its parameters under our names, whole or not at all.

    Args:
      path: a `.safetensors` file, or a folder (made if missing) that is to hold
        `model.safetensors` and `config.json`.
      network: its name and config go into the file's metadata, and into `config.json`.
      params: flat dict of arrays.
      dtype: of the file: "float32", or "float16" or "bfloat16" for half the size.
      metadata: further strings to keep (training data, licence).

    Returns:
      The `.safetensors` file written.

    Raises:
      InputError: it cannot be written.
    """
    path = Path(path)
    models.check(params, network.abstract_params(), f"network {network.name}")
    tensors = {name: np.asarray(value) for name, value in params.items()}
    said, free = describe(network), metadata or {}
    content = None
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
        content = json.dumps(
            {
                "network": network.name,
                "config": dataclasses.asdict(network.config),
                "metadata": free,
            },
            indent=2,
        )
    return io.write_safetensors(path, tensors, said | free, dtype=dtype, config=content)


def describe(network: models.Network) -> dict[str, str]:
    """Returns what a file's metadata says of its network: the name and the whole config."""
    return {"network": network.name, "config": json.dumps(dataclasses.asdict(network.config))}
