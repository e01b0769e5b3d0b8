"""Weights on disk: shipped ones by name, our own folders and `.safetensors` files."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tdr_jax import models
from tdr_jax.errors import InputError

ASSETS = Path(__file__).parent / "assets"
FILE_NAME = "model.safetensors"


def shipped() -> list[str]:
    """Returns the names of the restoration weights that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"textpromptir*/{FILE_NAME}"))


def load(path_or_name: str | os.PathLike) -> tuple[models.Network, models.Params]:
    """Reads a network and its parameters.

    Args:
      path_or_name: a shipped name, a `.safetensors` file written by `save`, or the folder of one.

    Returns:
      The network, and its parameters as float32 arrays whatever the file's dtype is.

    Raises:
      InputError: there is no such file or name, or it does not hold what `save` writes.
    """
    path = Path(path_or_name)
    if not path.exists() and (ASSETS / path_or_name / FILE_NAME).exists():
        path = ASSETS / path_or_name
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise InputError(
            f"no weights at {path_or_name}: give a .safetensors file, a folder with {FILE_NAME}, "
            f"or one of {', '.join(shipped())}"
        )
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable .safetensors file: {error}") from error
    if "network" not in metadata:
        raise InputError(f"{path} names no network in its metadata: it was not saved by tdr_jax")
    try:
        network = models.build(metadata["network"], **json.loads(metadata["config"]))
        models.check(tensors, network.abstract_params(), f"network {network.name}")
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    return network, {name: jnp.asarray(t, jnp.float32) for name, t in tensors.items()}


def save(
    path: str | os.PathLike,
    network: models.Network,
    params: models.Params,
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a network and its parameters to one `.safetensors` file, whole or not at all.

    Args:
      path: the file, or a folder (made if missing) that is to hold `model.safetensors`.
      network: its name and config go into the file's metadata.
      params: flat dict of arrays.
      dtype: of the file: "float32", or "float16" for half the size.
      metadata: further strings to keep in the file (training data, licence).

    Returns:
      The file written.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    models.check(params, network.abstract_params(), f"network {network.name}")
    tensors = {name: np.asarray(value, dtype) for name, value in params.items()}
    config = json.dumps(dataclasses.asdict(network.config))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, {"network": network.name, "config": config, **(metadata or {})})
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return path
