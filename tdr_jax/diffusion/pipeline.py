"""Stable Diffusion as a whole: networks, noise schedule and tokenizer, in one folder or file."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from tdr_jax import diffusion, disk, models
from tdr_jax.convert import hugging_face, io, ldm
from tdr_jax.errors import InputError

PARTS = ("unet", "vae", "text_encoder")
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer"


@dataclasses.dataclass(frozen=True)
class Pipeline(models.Capabilities):
    """The parts that draw pictures from text.

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


def is_pipeline(path: Path) -> bool:
    """Whether a path is a pipeline's folder, or a checkpoint of all its networks in one file."""
    if path.is_dir():
        return (path / hugging_face.INDEX).exists()
    return path.suffix == io.SUFFIX and path.is_file() and ldm.is_pipeline(_names(path))


def _names(path: Path) -> list[str]:
    """The names in a `.safetensors` file; none where it cannot be read, which its reader says."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (safetensors.SafetensorError, OSError):
        return []


def load(path: Path, part: str | None = None, *, dtype: str = "float32", shardings=None):
    """Reads a pipeline, or one part of it; see `weights.load`.

    Raises:
        InputError: a file is missing, damaged, or of something else.
    """
    if part is not None and part not in PARTS:
        raise InputError(f"{path}: a pipeline has no part {part!r}; it has {', '.join(PARTS)}")
    wanted = PARTS if part is None else (part,)
    if path.is_dir():
        parts = {name: hugging_face.load(path / name, None, dtype, shardings) for name in wanted}
    else:
        tensors = hugging_face.open_safetensors(path)
        place = hugging_face.placing(dtype, shardings)
        try:
            parts = {name: ldm.load(tensors, name, place) for name in wanted}
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if part is not None:
        return parts[part]
    networks = {name: network for name, (network, _) in parts.items()}
    for name, kind in zip(PARTS, ("UNet", "AutoencoderKL", "ClipText"), strict=True):
        if networks[name].kind != kind:
            raise InputError(f"{path}: {name} is a {networks[name].kind}, expected a {kind}")
    if path.is_dir():
        scheduler, tokenizer = disk.read_json(path / SCHEDULER), load_tokenizer(path)
    else:
        # The schedule that all versions share; a single file does not say what it predicts.
        scheduler, tokenizer = diffusion.Schedule().to_config(), None
    params = {name: params for name, (_, params) in parts.items()}
    return Pipeline(**networks, scheduler=scheduler, tokenizer=tokenizer), params


def load_tokenizer(path: Path):
    """Reads the tokenizer of a pipeline's folder, or the folder of a tokenizer itself.

    Raises:
        InputError: it is missing or damaged.
    """
    from transformers import CLIPTokenizer

    folder = path / TOKENIZER if (path / TOKENIZER).is_dir() else path
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


def save(folder: Path, pipeline: Pipeline, params: dict[str, models.Params], dtype: str) -> Path:
    """Writes a folder that diffusers' StableDiffusionPipeline loads; see `weights.save`."""
    parts = {name: getattr(pipeline, name) for name in PARTS}
    for name, network in parts.items():
        hugging_face.save(folder / name, network, params[name], dtype)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.40.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", pipeline.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    disk.write_json(folder / SCHEDULER, pipeline.scheduler)
    if pipeline.tokenizer is None:
        index["tokenizer"] = [None, None]
    else:
        pipeline.tokenizer.save_pretrained(folder / TOKENIZER)
    disk.write_json(
        folder / hugging_face.INDEX, index
    )  # last: without it the folder is no pipeline
    return folder
