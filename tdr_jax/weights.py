"""Weights on disk: the one door to networks and pipelines, shipped, ours and of others.

The way in: a path or name is found; a container opens it (ours, PyTorch's, a folder of Hugging
Face, an original diffusion file); the network is recognised; its tensors get our names.
"""

import contextlib
import dataclasses
import json
import logging
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tdr_jax import disk, models, text
from tdr_jax.convert import (
    dinov2_names,
    exchange,
    hub,
    hugging_face,
    io,
    lazy,
    ldm,
    pipeline_folder,
    recognise,
)
from tdr_jax.diffusion.pipeline import PARTS, Pipeline, load_tokenizer
from tdr_jax.diffusion.schedule import Schedule
from tdr_jax.diffusion.tdr_pipeline import IMAGE_ENCODER, READERS, TDRPipeline
from tdr_jax.errors import InputError

ASSETS = Path(__file__).parent / "assets"
FILE_NAME = io.FILE_NAME
ENCODER = "minilm"  # the text encoder of networks that do not say with which they were trained
# What metadata calls a network's EncoderRecord.
_RECORD = {"name": "encoder", "digest": "encoder_sha256"}
_KINDS = {"unet": "UNet", "vae": "AutoencoderKL", "text_encoder": "ClipText"}

_log = logging.getLogger(__name__)


def shipped() -> list[str]:
    """Returns the names of the restoration weights that come with the package."""
    folders = (path.parent for path in ASSETS.glob(f"*/{FILE_NAME}"))
    return sorted(folder.name for folder in folders if io.names_network(folder))


def shipped_pipelines() -> list[str]:
    """Returns the names of the diffusion pipelines that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{pipeline_folder.INDEX}"))


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
    path = find(path_or_name)
    if not io.names_network(path):
        place = lazy.placing(dtype, shardings)
        if pipeline_folder.is_folder(path) or ldm.is_file(path):
            return _load_pipeline(path, part, place)
        if hugging_face.is_folder(path):
            return _read(path, *hugging_face.read(path, part), place)
    if part is not None or dtype != "float32" or shardings is not None:
        raise InputError(
            f"{path}: part, dtype and shardings are for towers and diffusion networks; leave them"
        )
    return adopt(io.read(path))


def adopt(
    checkpoint: io.Checkpoint, name: str | None = None, overrides: dict | None = None
) -> tuple[models.Network, models.Params]:
    """Turns what a file holds into a network and its parameters.

    Args:
        checkpoint: of `convert.io.read`.
        name: of the network it must be; by default what the file says, or what is recognised.
        overrides: fields of the config, over what the file says or the shapes tell.

    Returns:
        The network, which knows its text encoder if the file does, and its float32 parameters.

    Raises:
        InputError: the tensors are of no known network, of another one, or do not fit it.
    """
    tensors = checkpoint.tensors
    with _about(checkpoint.path):
        network = _network_of(checkpoint, name, overrides or {})
        record = {field: checkpoint.metadata.get(key) for field, key in _RECORD.items()}
        if all(record.values()):
            network = dataclasses.replace(network, encoder=models.EncoderRecord(**record))
        if not checkpoint.ours:
            params = exchange.from_tensors(network, dinov2_names.of_transformers(tensors))
            _tell_of_unused(network, params)
            return network, params
        models.check(tensors, network.abstract_params(), f"network {network.name}")
        return network, {key: jnp.asarray(t, jnp.float32) for key, t in tensors.items()}


def _tell_of_unused(network: models.Network, params: models.Params) -> None:
    """Warns of what TDR's code leaves out of a network by a slip, where that makes a difference."""
    if network.kind != "Guided" or getattr(network.config.base.config, "mefc", True):
        return
    alpha = params["masa_blk.enc_level1.blocks.alpha"]
    if np.any(alpha):
        _log.warning(
            "warning: TDR's DRSformer without experts (200L) leaves its fusion at level 1 out; "
            "here it takes part, with alpha %s; for that code's numbers make "
            "masa_blk.enc_level1.blocks.alpha 0",
            ", ".join(f"{value:.3g}" for value in np.ravel(alpha)),
        )


def _network_of(checkpoint: io.Checkpoint, name: str | None, overrides: dict) -> models.Network:
    """The network that a file says it holds, or else looks like."""
    if checkpoint.network is None:
        return recognise.network_of(checkpoint, name, overrides)
    network = models.build_from(checkpoint.network, checkpoint.config | overrides)
    if name is not None and models.build_from(name, {}).kind != network.kind:
        raise InputError(f"it holds {network.name}, not {name}: leave the network's name out")
    return network


def _read(path: Path, network: models.Network, tensors, place):
    with _about(path):
        return network, exchange.from_tensors(network, tensors, place)


@contextlib.contextmanager
def _about(path: Path):
    """Says of which file an error is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load_pipeline(path: Path, part: str | None, place):
    """Reads a pipeline, or one part of it, from a folder or from one file."""
    if part is not None and part not in PARTS:
        raise InputError(f"{path}: a pipeline has no part {part!r}; it has {', '.join(PARTS)}")
    single = path.is_file()
    tensors = lazy.open_safetensors(path) if single else None
    networks, params = {}, {}
    for name in PARTS if part is None else (part,):
        if single:
            with _about(path):
                found = ldm.read(tensors, name)
        else:
            found = hugging_face.read(path / name)
        networks[name], params[name] = _read(path if single else path / name, *found, place)
    if part is not None:
        return networks[part], params[part]
    for name, kind in _KINDS.items():
        if networks[name].kind != kind:
            raise InputError(f"{path}: {name} is a {networks[name].kind}, expected a {kind}")
    if single:
        # The schedule that all versions share; a single file does not say what it predicts.
        scheduler, tokenizer = Schedule().to_config(), None
    else:
        scheduler = disk.read_json(path / pipeline_folder.SCHEDULER)
        tokenizer = load_tokenizer(path)
    return Pipeline(**networks, scheduler=scheduler, tokenizer=tokenizer), params


def save(
    path: str | os.PathLike,
    network,
    params,
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    encoder=None,
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
        encoder: the `TextEncoder` that the network was trained with, which the file is to name;
            what the network was loaded with by default.

    Returns:
        The weight file written; for a pipeline, its folder.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    if isinstance(network, Pipeline):
        about = network.scheduler, network.tokenizer
        return pipeline_folder.write(path, network.networks, params, *about, dtype)
    models.check(params, network.abstract_params(), f"network {network.name}")
    if network.kind in hugging_face.KINDS and path.suffix != io.SUFFIX:
        return hugging_face.write(path, network, params, dtype)
    if encoder is not None:
        network = dataclasses.replace(network, encoder=getattr(encoder, "record", None))
    tensors = {name: np.asarray(value) for name, value in params.items()}
    free = (metadata or {}) | _record(network)
    content = None
    if path.suffix != io.SUFFIX:
        path = path / FILE_NAME
        config = dataclasses.asdict(network.config)
        content = {"network": network.name, "config": config, "metadata": free}
        content = json.dumps(content, indent=2)
    said = free | describe(network)
    return io.write_safetensors(path, tensors, said, dtype=dtype, config=content)


def describe(network: models.Network) -> dict[str, str]:
    """Returns what a file's metadata says of its network: name, whole config, text encoder."""
    config = json.dumps(dataclasses.asdict(network.config))
    return {"network": network.name, "config": config} | _record(network)


def _record(network: models.Network) -> dict[str, str]:
    if network.encoder is None or not network.takes_sentence:
        return {}
    return {key: getattr(network.encoder, field) for field, key in _RECORD.items()}


def with_encoder(network, encoder=None, *, insist: bool = False):
    """Finds the text encoder that a network is to be used with.

    Args:
        network: what `load` returned first.
        encoder: a `TextEncoder`, or the name or folder of one; by default the one that the network
            was trained with, or "minilm" where that is not recorded.
        insist: use `encoder` although the network was trained with another, which is then told.

    Returns:
        The network, and its encoder: None for a network that takes no sentence.

    Raises:
        InputError: there is no such encoder, or the network was trained with another.
    """
    if not network.takes_sentence:
        return network, None
    trained, found = network.encoder, encoder
    if encoder is None:
        found = trained.name if trained else ENCODER
    if isinstance(found, str | os.PathLike):
        try:
            found = text.TextEncoder.from_pretrained(found)
        except InputError as error:
            if encoder is not None or trained is None:
                raise
            raise InputError(
                f"network {network.name} was trained with the text encoder {trained}, which is not "
                "here; give its folder: --encoder FOLDER"
            ) from error
    used = getattr(found, "record", None)
    if insist and trained and used and used.digest != trained.digest:
        _log.warning(
            "warning: network %s was trained with the text encoder %s, and is used with %s",
            network.name,
            trained,
            used,
        )
        network = dataclasses.replace(network, encoder=used)
    network.check_restores(found)
    return network, found


def load_tdr_pipeline(
    path: str | os.PathLike,
    *,
    image_encoder: str | os.PathLike | None = None,
    image_to_text: str | os.PathLike | None = None,
    textual_restoration: str | os.PathLike | None = None,
    dtype: str = "float32",
    shardings=None,
) -> TDRPipeline:
    """Reads a pipeline with what describes pictures to it.

    Args:
        path: a folder, a shipped name, or a hub id, as `load` takes them for a pipeline.
        image_encoder: a vision tower of CLIP from elsewhere: whatever `load` takes.
        image_to_text: a mapper from elsewhere, the reference's `mapper_*.pt` among others.
        textual_restoration: likewise.
        dtype: of the parameters: "float32", "bfloat16" or "float16".
        shardings: where parameters go, as in `load`.

    Returns:
        The pipeline. Without `image_to_text/` in the folder or given it has no such part, and
        likewise without `textual_restoration/`.

    Raises:
        InputError: a part is missing, damaged, or of something else; or widths do not fit together.
    """
    folder = find(path)
    drawn, params = load(folder, dtype=dtype, shardings=shardings)
    if not isinstance(drawn, Pipeline):
        raise InputError(
            f"{path} holds {drawn.name} alone; give a folder with model_index.json, unet/, vae/, "
            "text_encoder/, tokenizer/, scheduler/ and image_encoder/"
        )
    if drawn.tokenizer is None:
        raise InputError(f"{path} has no tokenizer; give the folder of a pipeline, not its file")
    networks, place = drawn.networks, lazy.placing(dtype, shardings)
    elsewhere = image_encoder, image_to_text, textual_restoration
    for part, given in zip(READERS, elsewhere, strict=True):
        if given is None and (folder / part).is_dir():
            given = folder / part
        if given is not None:
            networks[part], params[part] = _load_reader(part, given, place, dtype, shardings)
    if IMAGE_ENCODER not in networks:
        raise InputError(
            f"{path} has no {IMAGE_ENCODER}/: put the vision tower of CLIP there that its mapper "
            "was trained with, or give that tower's folder or hub id"
        )
    found = TDRPipeline(networks, params, drawn.scheduler, drawn.tokenizer)
    found.check(str(path))
    return found


def _load_reader(part: str, path, place, dtype: str, shardings):
    """Reads one of the parts that a pipeline has not."""
    if part == IMAGE_ENCODER:
        network, params = load(path, dtype=dtype, shardings=shardings)
    else:
        network, params = load(path)
        params = {name: place(name, np.asarray(value)) for name, value in params.items()}
    said = getattr(network, "kind", "whole pipeline")
    if said != READERS[part]:
        raise InputError(f"{path} holds a {said}, but {part} is a {READERS[part]}; give another")
    return network, params


def save_tdr_pipeline(
    folder: str | os.PathLike, pipeline: TDRPipeline, *, dtype: str = "float32"
) -> Path:
    """Writes a folder that `load_tdr_pipeline` reads, and diffusers' StableDiffusionPipeline.

    Args:
        folder: made if missing.
        pipeline: to be written.
        dtype: of the files: "float32", or "float16" or "bfloat16" for half the size.

    Returns:
        The folder.

    Raises:
        InputError: the parts do not fit together, or it cannot be written.
    """
    folder = Path(folder)
    pipeline.check(str(folder))
    for part in READERS:
        if part in pipeline.networks:
            save(folder / part, pipeline.networks[part], pipeline.params[part], dtype=dtype)
    parts = {name: pipeline.params[name] for name in PARTS}
    return save(folder, pipeline.pipeline, parts, dtype=dtype)  # its index comes last
