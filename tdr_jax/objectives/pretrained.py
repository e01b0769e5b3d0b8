"""Frozen networks beside those that learn: loaded, or their published shapes to be looked at."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from tdr_jax import diffusion, models
from tdr_jax.diffusion import pipeline, tdr_pipeline
from tdr_jax.errors import InputError
from tdr_jax.objectives import networks
from tdr_jax.objectives.base import Shapes
from tdr_jax.objectives.latent_diffusion import Towers
from tdr_jax.text import captions, templates

# The frozen networks of each size of the configs, and the first stage's.
NAMES = {
    size: tuple((part, f"{stack}/{part}") for part in pipeline.PARTS) + (("image_encoder", vision),)
    for size, stack, vision in (
        ("sd21", "sd21-base", "clip-vit-h-14-laion"),
        ("sd15", "sd15", "clip-vit-l-14-openai"),
        ("tiny", "tdr-tiny", "tdr-tiny/image_encoder"),
    )
}
MAPPERS = {
    "sd21": "image-to-text",
    "sd15": "image-to-text-sd15",
    "tiny": "tdr-tiny/image_to_text",
}
AUTOENCODER = "tdr-tiny/vae"
SELECTOR = "dinov2-vitb14"  # TDR's
RANDOM = "random:"  # before the name of a network in config.guidance.dinov2


def stack(config: Any, *, weights: bool = True) -> tdr_pipeline.TDRPipeline:
    """The networks that draw pictures from words, and those that find words for pictures.

    Args:
        config: `stack`, and `network.name`, which decides what is published beside it.
        weights: False for shapes in place of parameters where `stack.path` is no folder.

    Raises:
        InputError: there is none, or its parts do not fit each other.
    """
    settings = config.stack
    if not weights and not Path(settings.path or "-").is_dir():
        return published(config.network.name, settings.dtype)
    if not settings.path:
        raise InputError(
            "config.stack.path is empty; give a folder of diffusers: --config.stack.path=FOLDER"
        )
    from tdr_jax.weights import load_tdr_pipeline

    return load_tdr_pipeline(
        settings.path,
        image_encoder=settings.image_encoder or None,
        image_to_text=settings.image_to_text or None,
        dtype=settings.dtype,
    )


def published(name: str, dtype: str) -> tdr_pipeline.TDRPipeline:
    """The frozen networks that a network goes with, and shapes in place of their parameters.

    Args:
        name: of the network to train.
        dtype: of the parameters.

    Raises:
        InputError: it goes with none of the published ones.
    """
    size = "tiny" if name.startswith("tdr-tiny/") else "sd15" if name.endswith("-sd15") else "sd21"
    parts = (*NAMES[size], (tdr_pipeline.IMAGE_TO_TEXT, MAPPERS[size]))
    built = {part: models.build(of, dtype=dtype) for part, of in parts}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = caption_tokenizer(Path(folder))
    params = {part: shapes(network, dtype) for part, network in built.items()}
    found = tdr_pipeline.TDRPipeline(built, params, diffusion.Schedule().to_config(), tokenizer)
    found.check(name)
    return found


def caption_tokenizer(folder: Path) -> Any:
    """Writes the tokenizer of captions to a folder, and reads it as a pipeline does."""
    captions.write_tokenizer(folder)
    return pipeline.load_tokenizer(folder)


def shapes(network: models.Network, dtype: str) -> Shapes:
    """Those of a network's parameters, in a dtype."""
    specs = network.abstract_params().items()
    return {name: jax.ShapeDtypeStruct(spec.shape, dtype) for name, spec in specs}


def towers(
    parts: Mapping[str, models.Network],
    scheduler: Mapping[str, Any],
    tokenizer: Any,
    *,
    template: str,
    words: int,
    remat: bool | str,
) -> Towers:
    """Puts the frozen networks together.

    Args:
        parts: networks by name, "image_encoder", "text_encoder", "unet" and "vae".
        scheduler: the contents of `scheduler_config.json`.
        tokenizer: of the text tower.
        template: the sentence, S where the words go.
        words: their number.
        remat: what the backward pass finds cached of the UNet's blocks, see `nn.remat`.

    Raises:
        InputError: the sentence does not hold the words.
    """
    text = parts["text_encoder"]
    ids, position = templates.prepare(
        tokenizer, template, num_words=words, length=text.config.max_position_embeddings
    )
    return Towers(
        parts["image_encoder"],
        text,
        parts["unet"].replace(remat=remat),
        parts["vae"],
        diffusion.Schedule.from_config(scheduler),
        tuple(int(i) for i in ids),
        int(position),
    )


def autoencoder(
    settings: Any, *, weights: bool = True
) -> tuple[models.Network, models.Params | Shapes]:
    """The autoencoder whose latents a UNet learns to draw.

    Args:
        settings: `config.stack`: `vae`, a folder, and `dtype`.
        weights: False for shapes in place of parameters where there is no such folder.

    Returns:
        the network and its parameters.

    Raises:
        InputError: there is none.
    """
    if weights and not settings.vae:
        raise InputError(
            "config.stack.vae is empty; give the folder of an autoencoder: "
            "--config.stack.vae=FOLDER"
        )
    if weights or Path(settings.vae or "-").is_dir():
        from tdr_jax import weights as stored

        return stored.load(settings.vae, dtype=settings.dtype)
    built = models.build(AUTOENCODER, dtype=settings.dtype)
    return built, shapes(built, settings.dtype)


def selector(
    config: Any, *, weights: bool = True
) -> tuple[models.Network | None, models.Params | Shapes | None]:
    """The network that chooses a window of the guidance.

    Args:
        config: `guidance.window`, "full" or "crop", and `guidance.dinov2`, where its weights are;
            `guidance.size` and `data.stages`.
        weights: False for shapes in place of parameters, of the published network where
            `guidance.dinov2` is no folder.

    Returns:
        the network and its parameters; None and None for "full".

    Raises:
        InputError: there is no such window or network, or crops are larger than the guidance.
    """
    guidance = config.guidance
    if guidance.window not in ("full", "crop"):
        raise InputError(f"config.guidance.window is {guidance.window!r}; give 'full' or 'crop'")
    if guidance.window == "full":
        return None, None
    largest = max(crop for _, crop, _ in config.data.stages)
    if guidance.size < largest:
        raise InputError(
            f"config.guidance.size is {guidance.size}, but config.data.stages has crops of "
            f"{largest} pixels; a window of that size must fit"
        )
    if not weights and not Path(guidance.dinov2 or RANDOM).is_dir():
        name = guidance.dinov2.removeprefix(RANDOM) if RANDOM in guidance.dinov2 else SELECTOR
        built = networks.build(name, "config.guidance.dinov2")
        return built, built.abstract_params()
    if not guidance.dinov2:
        raise InputError(
            "config.guidance.dinov2 is empty; give the folder of a DINOv2 that chooses windows: "
            "--config.guidance.dinov2=FOLDER, or set config.guidance.window to 'full'"
        )
    built, params = load_selector(guidance.dinov2, config.seed)
    return built.replace(interpolate_offset=guidance.dinov2_offset), params


def load_selector(path: str, seed: int) -> tuple[models.Network, models.Params]:
    """Loads a DINOv2.

    Args:
        path: a folder or hub id; or "random:" and the name of a network, for a trial without
            weights, drawn by `seed`.

    Returns:
        the network and its parameters.

    Raises:
        InputError: it is none.
    """
    if path.startswith(RANDOM):
        built = networks.build(path.removeprefix(RANDOM), "config.guidance.dinov2")
        params = built.init(seed)
    else:
        from tdr_jax import weights

        built, params = weights.load(path)
    if getattr(built, "kind", "") != "Dinov2":
        raise InputError(f"config.guidance.dinov2={path} is no DINOv2; give the folder of one")
    return built, params
