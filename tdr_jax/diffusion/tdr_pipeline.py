"""Everything from a picture to its guidance in one place: a diffusion pipeline and what reads.

A folder of diffusers that also holds `image_encoder/` (a vision tower of CLIP), `image_to_text/`
and `textual_restoration/` (folders of ours); diffusers loads it as the pipeline that it is.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax import models, weights
from tdr_jax.diffusion import pipeline
from tdr_jax.errors import InputError

IMAGE_ENCODER, IMAGE_TO_TEXT, RESTORATION = "image_encoder", "image_to_text", "textual_restoration"
# part -> the class of its network; what a pipeline has not.
READERS = {
    IMAGE_ENCODER: "ClipVision",
    IMAGE_TO_TEXT: "ImageToText",
    RESTORATION: "TextualRestoration",
}


@dataclasses.dataclass(frozen=True)
class Stack:
    """The parts that describe a picture in pseudo-words and draw one from them.

    Attributes:
        networks: "unet", "vae", "text_encoder" and "image_encoder"; "image_to_text" and
            "textual_restoration" where there are any. Without their parameters.
        params: flat parameters of each part.
        scheduler: the contents of `scheduler_config.json`.
        tokenizer: transformers' CLIPTokenizer.
    """

    networks: dict[str, models.Network]
    params: dict[str, models.Params]
    scheduler: dict[str, Any]
    tokenizer: Any

    @property
    def pipeline(self) -> pipeline.Pipeline:
        """The parts that draw."""
        parts = {name: self.networks[name] for name in pipeline.PARTS}
        return pipeline.Pipeline(**parts, scheduler=self.scheduler, tokenizer=self.tokenizer)

    def digest(self) -> str:
        """Returns the SHA-256 of all that decides what is drawn: 64 hexadecimal digits.

        Every parameter with its name, dtype and shape, the configs, the schedule and the
        tokenizer's vocabulary; not where the files lie or how they are split.
        """
        told = {name: dataclasses.asdict(network.config) for name, network in self.networks.items()}
        told |= {"scheduler": self.scheduler, "vocabulary": self.tokenizer.get_vocab()}
        sha = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for part in sorted(self.params):
            for name, value in sorted(self.params[part].items()):
                array = np.ascontiguousarray(value)
                sha.update(f"{part} {name} {array.dtype} {array.shape}\n".encode())
                sha.update(array.view(np.uint8).reshape(-1))
        return sha.hexdigest()


def load(
    path: str | os.PathLike,
    *,
    image_encoder: str | os.PathLike | None = None,
    image_to_text: str | os.PathLike | None = None,
    textual_restoration: str | os.PathLike | None = None,
    dtype: str = "float32",
    shardings=None,
) -> Stack:
    """Reads a stack.

    Args:
        path: a folder, a shipped name, or a hub id, as `weights.load` takes them for a pipeline.
        image_encoder: a vision tower of CLIP from elsewhere: whatever `weights.load` takes.
        image_to_text: a mapper from elsewhere, the reference's `mapper_*.pt` among others.
        textual_restoration: likewise.
        dtype: of the parameters: "float32", "bfloat16" or "float16".
        shardings: where parameters go, as in `weights.load`.

    Returns:
        The stack. Without `image_to_text/` in the folder or given it has no such part, and likewise
        without `textual_restoration/`.

    Raises:
        InputError: a part is missing, damaged, or of something else; or widths do not fit together.
    """
    folder = weights.find(path)
    loaded = weights.load(folder, dtype=dtype, shardings=shardings)
    drawn, params = loaded
    if not isinstance(drawn, pipeline.Pipeline):
        raise InputError(
            f"{path} holds {drawn.name} alone; give a folder with model_index.json, unet/, vae/, "
            "text_encoder/, tokenizer/, scheduler/ and image_encoder/"
        )
    if drawn.tokenizer is None:
        raise InputError(f"{path} has no tokenizer; give the folder of a pipeline, not its file")
    networks = {name: getattr(drawn, name) for name in pipeline.PARTS}
    given = {
        IMAGE_ENCODER: image_encoder,
        IMAGE_TO_TEXT: image_to_text,
        RESTORATION: textual_restoration,
    }
    for part, elsewhere in given.items():
        if elsewhere is None and (folder / part).is_dir():
            elsewhere = folder / part
        if elsewhere is not None:
            networks[part], params[part] = _read(part, elsewhere, dtype, shardings)
    if IMAGE_ENCODER not in networks:
        raise InputError(
            f"{path} has no {IMAGE_ENCODER}/: put the vision tower of CLIP there that its mapper "
            "was trained with, or give that tower's folder or hub id"
        )
    stack = Stack(networks, params, drawn.scheduler, drawn.tokenizer)
    check(stack, str(path))
    return stack


def _read(part: str, path: str | os.PathLike, dtype: str, shardings):
    """Reads one of the parts that a pipeline has not."""
    found = weights.find(path)
    if part == IMAGE_ENCODER:
        network, params = weights.load(found, dtype=dtype, shardings=shardings)
    else:
        network, params = weights.load(found)
        params = {name: _place(name, value, dtype, shardings) for name, value in params.items()}
    said = getattr(network, "kind", "whole pipeline")
    if said != READERS[part]:
        raise InputError(f"{path} holds a {said}, but {part} is a {READERS[part]}; give another")
    return network, params


def _place(name: str, value: jax.Array, dtype: str, shardings) -> jax.Array:
    value = value.astype(jnp.dtype(dtype))
    if shardings is None:
        return value
    return jax.device_put(value, shardings(name, value.shape) if callable(shardings) else shardings)


def check(stack: Stack, where: str) -> None:
    """Compares the widths at which the parts meet.

    Args:
        stack: any.
        where: it came from, for the message.

    Raises:
        InputError: two parts do not fit together.
    """
    configs = {name: network.config for name, network in stack.networks.items()}
    vision, text, unet = (configs[name] for name in (IMAGE_ENCODER, "text_encoder", "unet"))

    def same(ours: str, width: int, theirs: str, other: int) -> None:
        if width != other:
            raise InputError(
                f"{where}: {ours} is {width}, but {theirs} is {other}; give parts that were "
                "trained together"
            )

    text_width = text.hidden_size
    same("unet's cross_attention_dim", unet.cross_attention_dim, "text_encoder's width", text_width)
    mapper = configs.get(IMAGE_TO_TEXT)
    if mapper is not None:
        from tdr_jax.models.mapper import cross_attention

        same(f"{IMAGE_TO_TEXT}'s input_dim", mapper.input_dim, "vision width", vision.hidden_size)
        same(f"{IMAGE_TO_TEXT}'s output_dim", mapper.output_dim, "text width", text_width)
        ours, theirs = dict(mapper.cross_attention), dict(cross_attention(stack.networks["unet"]))
        if ours != theirs:
            odd = sorted(set(ours.items()) ^ set(theirs.items()))
            raise InputError(
                f"{where}: {IMAGE_TO_TEXT} has keys and values for {len(ours)} cross-attentions, "
                f"the UNet has {len(theirs)}, and they differ at {odd[0][0]}; give the mapper of "
                "this UNet"
            )
    restoration = configs.get(RESTORATION)
    if restoration is not None:
        same(f"{RESTORATION}'s input_dim", restoration.input_dim, "text width", text_width)
        if mapper is not None:
            words = f"{IMAGE_TO_TEXT}'s number of words"
            same(f"{RESTORATION}'s num_words", restoration.num_words, words, mapper.num_words)


def save(folder: str | os.PathLike, stack: Stack, *, dtype: str = "float32") -> Path:
    """Writes a folder that `load` reads, and diffusers' StableDiffusionPipeline.

    Args:
        folder: made if missing.
        stack: to be written.
        dtype: of the files: "float32", or "float16" or "bfloat16" for half the size.

    Returns:
        The folder.

    Raises:
        InputError: the parts do not fit together, or it cannot be written.
    """
    folder = Path(folder)
    check(stack, str(folder))
    for part in READERS:
        if part in stack.networks:
            weights.save(folder / part, stack.networks[part], stack.params[part], dtype=dtype)
    parts = {name: stack.params[name] for name in pipeline.PARTS}
    return weights.save(folder, stack.pipeline, parts, dtype=dtype)  # its index comes last
