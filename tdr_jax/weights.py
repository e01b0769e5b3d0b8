"""Weights on disk: shipped ones by name, folders of ours and of others, all that converts."""

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


def shipped_pipelines() -> list[str]:
    """Returns the names of the diffusion pipelines that come with the package."""
    from tdr_jax.convert import hugging_face

    return sorted(path.parent.name for path in ASSETS.glob(f"*/{hugging_face.INDEX}"))


def find(path_or_name: str | os.PathLike) -> Path:
    """Returns where weights are: the path itself, the folder of shipped ones or of a download.

    Raises:
        InputError: there is no such file, folder or name, and no repository of the Hugging Face hub
            that can be reached.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    names = [*shipped(), *shipped_pipelines()]
    if path_or_name in names:
        return ASSETS / path_or_name
    from tdr_jax.convert import hub

    if hub.is_id(str(path_or_name)):
        return hub.download(str(path_or_name))
    raise InputError(
        f"no weights at {path_or_name}: give a folder with {FILE_NAME}, a .safetensors file, a "
        f"PyTorch checkpoint, a hub id (owner/name), or one of {', '.join(names)}"
    )


def load(
    path_or_name: str | os.PathLike,
    part: str | None = None,
    *,
    dtype: str = "float32",
    shardings=None,
):
    """Reads a network, or a whole pipeline, and its parameters.

    Args:
        path_or_name: a shipped name; a folder or `.safetensors` file that `save` wrote; a
            checkpoint with PyTorch's names, `.safetensors` or of torch.save (which needs PyTorch),
            whose network and hyper-parameters are recognised; a folder of transformers or
            diffusers, or the id of one on the Hugging Face hub; or a Stable Diffusion checkpoint in
            one file.
        part: of a pipeline, "unet", "vae" or "text_encoder"; of a CLIP model, "vision_model" (the
            default) or "text_model". None otherwise.
        dtype: of the parameters of towers and diffusion networks: "float32", "bfloat16", "float16".
        shardings: where these go: one `jax.sharding.Sharding`, or a function of name and shape that
            gives one. Each parameter is read, laid out and placed before the next is.

    Returns:
        The network, and its parameters as float32 arrays (or of `dtype`) whatever the file's dtype
        is. Of a whole pipeline: a `Pipeline`, and the parameters of each part by its name.

    Raises:
        InputError: there is no such file or name, it is damaged, or it holds no network known here.
    """
    from tdr_jax import convert
    from tdr_jax.convert import hugging_face
    from tdr_jax.diffusion import pipeline

    path = find(path_or_name)
    if pipeline.is_pipeline(path):
        return pipeline.load(path, part, dtype=dtype, shardings=shardings)
    if hugging_face.is_folder(path):
        return hugging_face.load(path, part, dtype, shardings)
    if part is not None or dtype != "float32" or shardings is not None:
        raise InputError(
            f"{path}: part, dtype and shardings are for towers and diffusion networks; leave them"
        )
    network, params, _ = convert.adopt(io.read(path))
    return network, params


def save(
    path: str | os.PathLike,
    network,
    params,
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a network, or a whole pipeline, and its parameters.

    A folder for a tower or a diffusion network is one of transformers or diffusers, under their
    names, which they load unchanged. Everything else is written under our names, whole or not at
    all.

    Args:
        path: a `.safetensors` file, or a folder (made if missing) that is to hold the weights and
            `config.json`.
        network: a Network; or the `Pipeline` that `load` returned.
        params: flat dict of arrays; for a pipeline, one for each part.
        dtype: of the file: "float32", or "float16" or "bfloat16" for half the size.
        metadata: further strings to keep (training data, licence) in files under our names.

    Returns:
        The weight file written; for a pipeline, its folder.

    Raises:
        InputError: it cannot be written.
    """
    from tdr_jax.convert import hugging_face
    from tdr_jax.diffusion import pipeline

    path = Path(path)
    if isinstance(network, pipeline.Pipeline):
        return pipeline.save(path, network, params, dtype)
    models.check(params, network.abstract_params(), f"network {network.name}")
    if network.kind in hugging_face.KINDS and path.suffix != io.SUFFIX:
        return hugging_face.save(path, network, params, dtype)
    tensors = {name: np.asarray(value) for name, value in params.items()}
    said, free = describe(network), metadata or {}
    content = None
    if path.suffix != io.SUFFIX:
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
