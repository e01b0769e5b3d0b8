"""The Hugging Face hub: repositories by their id, from the local cache or the network."""

import re
from pathlib import Path

from tdr_jax.errors import InputError

# What is read of a repository; other weights (half precision, other frameworks) are left there.
PATTERNS = (
    "*.json",
    "*/*.json",
    "tokenizer/*",
    "model*.safetensors",
    "unet/diffusion_pytorch_model*.safetensors",
    "vae/diffusion_pytorch_model*.safetensors",
    "text_encoder/model*.safetensors",
    "image_encoder/model*.safetensors",
    "image_to_text/model*.safetensors",
    "textual_restoration/model*.safetensors",
)
LEFT = ("*.fp16.*", "*.non_ema.*", "safety_checker/*", "*.onnx*")


def is_id(name: str) -> bool:
    """Whether a name has the form of a repository's id: owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def download(name: str) -> Path:
    """Returns the folder of a repository, downloaded now or before.

    Raises:
        InputError: it is neither in the cache nor can it be fetched.
    """
    import huggingface_hub

    options = dict(allow_patterns=list(PATTERNS), ignore_patterns=list(LEFT))
    try:
        try:
            return Path(huggingface_hub.snapshot_download(name, local_files_only=True, **options))
        except huggingface_hub.errors.LocalEntryNotFoundError:
            return Path(huggingface_hub.snapshot_download(name, **options))
    except Exception as error:  # every layer below the hub's client has its own
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise InputError(
            f"no file or folder {name}, and the hub gave none of that id ({reason}): put the "
            "repository's config.json and .safetensors files (of a pipeline: model_index.json, "
            "scheduler/, tokenizer/, text_encoder/, unet/ and vae/) into a folder and give that"
        ) from error
