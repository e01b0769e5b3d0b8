"""The networks by name: `build(name, **overrides)` gives one ready to initialise and apply.

A name is of the family that it is or begins with, `nafnet-32` of `nafnet`; or of the part of a
pipeline behind its slash. The sizes of a family stand in its file, as SIZES; files load when a
network of theirs is built.
"""

import dataclasses
import importlib
from typing import Any

from tdr_jax.errors import InputError
from tdr_jax.models import field_types
from tdr_jax.models.network import Network

# family -> (file, class)
FAMILIES = {
    "textpromptir": ("textpromptir", "TextPromptIR"),
    "restormer": ("restormer", "Restormer"),
    "promptir": ("promptir", "PromptIR"),
    "nafnet": ("nafnet", "NAFNet"),
    "sfnet": ("sfnet", "SFNet"),
    "drsformer": ("drsformer", "DRSformer"),
    # Around any of the above: build("guided", backbone="restormer", and its backbone's own fields).
    "guided": ("guided", "Guided"),
    "bert": ("bert", "Bert"),
    # Towers and diffusion networks; without a size in the name, the defaults of their configs.
    "clip-text": ("clip_text", "ClipText"),
    "clip-vision": ("clip_vision", "ClipVision"),
    "clip-vit": ("clip_vision", "ClipVision"),
    "dinov2": ("dinov2", "Dinov2"),
    # Words from pictures and words restored; with Stable Diffusion 2.1 and CLIP ViT-H/14 unless
    # the name says otherwise: 1.5 goes with ViT-L/14, tiny with clip-vit-tiny and sd21-tiny.
    "image-to-text": ("mapper", "ImageToText"),
    "degradation-estimator": ("estimator", "DegradationEstimator"),
    "textual-restoration": ("mapper", "TextualRestoration"),
    "unet": ("unet", "UNet"),
    "vae": ("vae", "AutoencoderKL"),
}
# The folders of a pipeline -> family.
PARTS = {
    "unet": "unet",
    "vae": "vae",
    "text_encoder": "clip-text",
    "image_encoder": "clip-vision",
    "image_to_text": "image-to-text",
    "textual_restoration": "textual-restoration",
}


def names() -> tuple[str, ...]:
    """Returns every name that `build` knows: networks, then the parts of pipelines."""
    files = dict.fromkeys(file for file, _ in FAMILIES.values())
    known = [name for file in files for name in _module(file).SIZES]
    single = [name for name in known if "/" not in name]
    return (*single, *sorted(set(known) - set(single)))


def config_class(name: str) -> type:
    """Returns the dataclass of the network's config.

    Raises:
        ValueError: the name is unknown.
    """
    file, kind = _where(name)
    return getattr(_module(file), f"{kind}Config")


def build(name: str, **overrides: Any) -> Network:
    """Builds the network of that name.

    Args:
        name: one of `names()`.
        **overrides: fields of its config, under the reference's own names (lists become tuples);
            None leaves a field as the name has it.

    Raises:
        ValueError: the name, a field or what `remat` asks for is unknown.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    file, kind = _where(name)
    module, config = _module(file), config_class(name)
    fields = [field.name for field in dataclasses.fields(config)]
    values = {key: _tuples(value) for key, value in (module.SIZES[name] | overrides).items()}
    unknown = sorted(set(values) - set(fields))
    if "overrides" in fields:  # of a network around another one, whose fields these must be
        inner = dict(values.pop("overrides", ())) | {key: values.pop(key) for key in unknown}
        values["overrides"] = tuple(sorted(inner.items()))
    elif unknown:
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has: {', '.join(fields)}")
    field_types.check(name, config, values)
    return Network(name, config(**values), getattr(module, kind))


def build_from(name: str, fields: dict[str, Any]) -> Network:
    """Builds a network from fields that a file tells.

    Args:
        name: one of `names()`.
        fields: of its config.

    Raises:
        InputError: no such network can be built.
    """
    try:
        network = build(name, **fields)
        network.abstract_params()
    except Exception as error:  # wrong numbers and types fail in every way that there is
        said = ", ".join(f"{key}={value}" for key, value in fields.items())
        reason = error if isinstance(error, ValueError) else repr(error)
        raise InputError(
            f"no {name} can be built with {said or 'its defaults'}: {reason}"
        ) from error
    return network


def _where(name: str) -> tuple[str, str]:
    """The file and class of a network."""
    _, slash, part = name.rpartition("/")
    if slash:
        families = [PARTS[part]] if part in PARTS else []
    else:
        families = [family for family in FAMILIES if f"{name}-".startswith(f"{family}-")]
    if not families or name not in _module(FAMILIES[families[0]][0]).SIZES:
        raise ValueError(f"no network {name!r}; there are: {', '.join(names())}")
    return FAMILIES[families[0]]


def _module(file: str):
    return importlib.import_module(f"tdr_jax.models.{file}")


def _tuples(value):
    """Lists as tuples, to the innermost: what comes from JSON must be hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
