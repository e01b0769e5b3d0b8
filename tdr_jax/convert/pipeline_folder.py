"""Pipelines as diffusers lays them out: a folder for each network, a schedule and a tokenizer."""

from collections.abc import Mapping
from pathlib import Path

from tdr_jax import disk, models
from tdr_jax.convert import hugging_face

INDEX = "model_index.json"
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer"


def is_folder(path: Path) -> bool:
    """Whether a path is a pipeline's folder."""
    return (path / INDEX).is_file()


def write(
    folder: Path,
    networks: Mapping[str, models.Network],
    params: Mapping[str, models.Params],
    scheduler: dict,
    tokenizer,
    dtype: str,
) -> Path:
    """Writes a folder that diffusers' StableDiffusionPipeline loads.

    Args:
        folder: made if missing.
        networks: "unet", "vae" and "text_encoder".
        params: flat parameters of each.
        scheduler: the contents of `scheduler_config.json`.
        tokenizer: transformers' CLIPTokenizer, or None.
        dtype: of the files: "float32", "float16" or "bfloat16".

    Returns:
        The folder.

    Raises:
        InputError: it cannot be written.
    """
    for name, network in networks.items():
        hugging_face.write(folder / name, network, params[name], dtype)
    disk.write_json(folder / SCHEDULER, scheduler)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.40.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": [None, None] if tokenizer is None else ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    disk.write_json(folder / INDEX, index)  # last: without it the folder is no pipeline
    return folder
