"""Everything from a picture to its guidance in one place: a diffusion pipeline and what reads.

A folder of diffusers that also holds `image_encoder/` (a vision tower of CLIP), `image_to_text/`
and `textual_restoration/` (folders of ours); diffusers loads it as the pipeline that it is.
"""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from tdr_jax import models
from tdr_jax.diffusion import pipeline
from tdr_jax.errors import InputError
from tdr_jax.models.mapper import cross_attention

IMAGE_ENCODER, IMAGE_TO_TEXT, RESTORATION = "image_encoder", "image_to_text", "textual_restoration"
# part -> the class of its network; what a pipeline has not.
READERS = {
    IMAGE_ENCODER: "ClipVision",
    IMAGE_TO_TEXT: "ImageToText",
    RESTORATION: "TextualRestoration",
}


@dataclasses.dataclass(frozen=True)
class TDRPipeline:
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

    def check(self, where: str) -> None:
        """Compares the widths at which the parts meet.

        Args:
            where: the pipeline came from, for the message.

        Raises:
            InputError: two parts do not fit together.
        """
        configs = {name: network.config for name, network in self.networks.items()}
        vision, text, unet = (configs[name] for name in (IMAGE_ENCODER, "text_encoder", "unet"))

        def same(ours: str, width: int, theirs: str, other: int) -> None:
            if width != other:
                raise InputError(
                    f"{where}: {ours} is {width}, but {theirs} is {other}; give parts that were "
                    "trained together"
                )

        text_width = text.hidden_size
        context = unet.cross_attention_dim
        same("unet's cross_attention_dim", context, "text_encoder's width", text_width)
        mapper = configs.get(IMAGE_TO_TEXT)
        if mapper is not None:
            seen = vision.hidden_size
            same(f"{IMAGE_TO_TEXT}'s input_dim", mapper.input_dim, "vision width", seen)
            same(f"{IMAGE_TO_TEXT}'s output_dim", mapper.output_dim, "text width", text_width)
            ours = dict(mapper.cross_attention)
            theirs = dict(cross_attention(self.networks["unet"]))
            if ours != theirs:
                odd = sorted(set(ours.items()) ^ set(theirs.items()))
                raise InputError(
                    f"{where}: {IMAGE_TO_TEXT} has keys and values for {len(ours)} "
                    f"cross-attentions, the UNet has {len(theirs)}, and they differ at "
                    f"{odd[0][0]}; give the mapper of this UNet"
                )
        restoration = configs.get(RESTORATION)
        if restoration is not None:
            same(f"{RESTORATION}'s input_dim", restoration.input_dim, "text width", text_width)
            if mapper is not None:
                words = f"{IMAGE_TO_TEXT}'s number of words"
                same(f"{RESTORATION}'s num_words", restoration.num_words, words, mapper.num_words)
