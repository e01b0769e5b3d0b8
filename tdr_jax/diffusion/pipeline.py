"""Stable Diffusion as a whole: networks, noise schedule and tokenizer."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from tdr_jax import models
from tdr_jax.errors import InputError

PARTS = ("unet", "vae", "text_encoder")


@dataclasses.dataclass(frozen=True)
class Pipeline(models.Capabilities):
    """The parts that draw pictures from text; `weights.load` and `weights.save` know it.

    Attributes:
        unet, vae, text_encoder: networks without their parameters.
        scheduler: the contents of `scheduler_config.json`, for `diffusion.Schedule.from_config`.
        tokenizer: transformers' CLIPTokenizer; None where there was none, as in single files.
    """

    unet: models.Network
    vae: models.Network
    text_encoder: models.Network
    scheduler: dict[str, Any]
    tokenizer: Any = None
    name: ClassVar[str] = "a diffusion pipeline"
    config: ClassVar[None] = None  # of one network: so it restores no picture

    @property
    def networks(self) -> dict[str, models.Network]:
        """The networks by the names of their folders."""
        return {name: getattr(self, name) for name in PARTS}


def load_tokenizer(path: Path) -> Any:
    """Reads the tokenizer of a pipeline's folder, or the folder of a tokenizer itself.

    Raises:
        InputError: it is missing or damaged.
    """
    from transformers import CLIPTokenizer

    folder = path / "tokenizer" if (path / "tokenizer").is_dir() else path
    remedy = "copy vocab.json, merges.txt and tokenizer_config.json there"
    files = ("vocab.json", "merges.txt")
    if not (folder / "tokenizer.json").exists():  # the one file of newer versions
        if missing := [name for name in files if not (folder / name).exists()]:
            raise InputError(f"{folder} holds no tokenizer of CLIP, {missing[0]} lacks: {remedy}")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files fail in every way that there is
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{folder} holds no readable tokenizer of CLIP ({reason}): {remedy}"
        ) from error
