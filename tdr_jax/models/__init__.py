"""The networks by name: `build(name, **overrides)` gives one ready to initialise and apply."""

import dataclasses
import functools
import importlib
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tdr_jax.nn import remat

_NAFNET_SIDD = dict(enc_blk_nums=(2, 2, 4, 8), middle_blk_num=12, dec_blk_nums=(2, 2, 2, 2))

# Text towers of Stable Diffusion 1 and 2; the second is OpenCLIP's ViT-H without its last layer.
_SD1_TEXT = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    projection_dim=768,
)
_SD2_TEXT = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
    projection_dim=512,
)
# The sizes of Stable Diffusion 2's UNet that differ from 1's, which are the defaults.
_SD2_UNET = dict(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
_TINY_TEXT = dict(
    vocab_size=1000,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=16,
)
_TINY_UNET = dict(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=32,
)
_TINY_VAE = dict(block_out_channels=(32, 64), layers_per_block=1, sample_size=32)

# The stack that this project trains itself, on two CPU cores; never a pretrained CLIP or SD.
_OWN_TEXT = dict(
    vocab_size=998,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=64,
    eos_token_id=997,
)
_OWN_UNET = dict(
    sample_size=16,
    block_out_channels=(64, 128),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=128,
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    norm_num_groups=8,
)
# Two groups: a norm over a pair of channels would take colour and contrast from flat pictures.
_OWN_VAE = dict(
    block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=2, sample_size=128
)


def _stable_diffusion(unet: dict, text: dict, vae: dict) -> dict[str, tuple]:
    """The networks of one pipeline, under the names of their folders."""
    return {
        "unet": ("unet", "UNet", unet),
        "vae": ("vae", "AutoencoderKL", vae),
        "text_encoder": ("clip", "ClipText", text),
    }


_PIPELINES = {
    "sd14": _stable_diffusion({}, _SD1_TEXT, {}),
    "sd15": _stable_diffusion({}, _SD1_TEXT, {}),
    "sd20-base": _stable_diffusion(_SD2_UNET, _SD2_TEXT, dict(sample_size=768)),
    "sd20": _stable_diffusion(_SD2_UNET | dict(sample_size=96), _SD2_TEXT, dict(sample_size=768)),
    "sd21-base": _stable_diffusion(_SD2_UNET, _SD2_TEXT, dict(sample_size=768)),
    "sd21": _stable_diffusion(
        _SD2_UNET | dict(sample_size=96, upcast_attention=True), _SD2_TEXT, dict(sample_size=768)
    ),
    "sd15-tiny": _stable_diffusion(_TINY_UNET | dict(attention_head_dim=2), _TINY_TEXT, _TINY_VAE),
    "sd21-tiny": _stable_diffusion(
        _TINY_UNET | dict(attention_head_dim=(2, 4), use_linear_projection=True),
        _TINY_TEXT | dict(hidden_act="gelu"),
        _TINY_VAE,
    ),
    "tdr-tiny": _stable_diffusion(_OWN_UNET, _OWN_TEXT, _OWN_VAE)
    | {
        "image_encoder": (
            "clip",
            "ClipVision",
            dict(
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=64,
                patch_size=8,
                projection_dim=64,
                with_projection=True,
            ),
        ),
        "image_to_text": (
            "mapper",
            "ImageToText",
            dict(
                input_dim=128,
                hidden_dim=192,
                output_dim=128,
                cross_attention=tuple(
                    (f"{place}.transformer_blocks.0.attn2", 128)
                    for place in (
                        "down_blocks.1.attentions.0",
                        "mid_block.attentions.0",
                        "up_blocks.0.attentions.0",
                        "up_blocks.0.attentions.1",
                    )
                ),
            ),
        ),
        "textual_restoration": (
            "mapper",
            "TextualRestoration",
            dict(input_dim=128, hidden_dim=128, residual=True, attention=True),
        ),
    },
}

# name -> (module, class, config class, overrides). The modules load when a network is built.
_REGISTRY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "textpromptir": ("textpromptir", "TextPromptIR", {}),
    # Sized so that two CPU cores can train it in an hour and restore a photograph in seconds.
    "textpromptir-compact": (
        "textpromptir",
        "TextPromptIR",
        dict(
            dim=32,
            num_blocks=(1, 2, 2, 2),
            num_refinement_blocks=1,
            heads=(1, 2, 4, 8),
            ffn_expansion_factor=2.5,  # hidden widths are then multiples of 16
            text_dim=384,
            text_hidden=(128, 64),
            input_shuffle=2,
        ),
    ),
    "textpromptir-tiny": (
        "textpromptir",
        "TextPromptIR",
        dict(
            dim=8,
            num_blocks=(1, 1, 1, 2),
            num_refinement_blocks=1,
            heads=(1, 1, 2, 2),
            text_dim=384,
            text_hidden=(32, 16),
        ),
    ),
    "restormer": ("restormer", "Restormer", {}),
    "promptir": ("promptir", "PromptIR", {}),
    # The GoPro networks, those of SIDD, and GoPro's as it is tested: with local means.
    "nafnet": ("nafnet", "NAFNet", {}),
    "nafnet-32": ("nafnet", "NAFNet", dict(width=32)),
    "nafnet-sidd": ("nafnet", "NAFNet", _NAFNET_SIDD),
    "nafnet-sidd-32": ("nafnet", "NAFNet", dict(width=32, **_NAFNET_SIDD)),
    "nafnet-local": ("nafnet", "NAFNet", dict(train_size=(1, 3, 256, 256))),
    "sfnet": ("sfnet", "SFNet", {}),
    "drsformer": ("drsformer", "DRSformer", {}),
    "drsformer-200l": ("drsformer", "DRSformer", dict(mefc=False)),  # Rain200L and SPA-Data
    # Around any of the above: build("guided", backbone="restormer", and its backbone's own fields).
    "guided": ("guided", "Guided", {}),
    "bert": ("bert", "Bert", {}),
    # Towers and diffusion networks; without a size in the name, the defaults of their configs.
    "clip-text": ("clip", "ClipText", {}),
    "clip-vision": ("clip", "ClipVision", {}),
    "clip-vit-b-32-openai": ("clip", "ClipVision", {}),
    "clip-vit-b-16-openai": ("clip", "ClipVision", dict(patch_size=16)),
    "clip-vit-l-14-openai": (
        "clip",
        "ClipVision",
        dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=14,
            projection_dim=768,
        ),
    ),
    "clip-vit-h-14-laion": (
        "clip",
        "ClipVision",
        dict(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
            hidden_act="gelu",
            projection_dim=1024,
        ),
    ),
    "clip-vit-tiny": (
        "clip",
        "ClipVision",
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            projection_dim=16,
        ),
    ),
    "dinov2": ("dinov2", "Dinov2", {}),
    "dinov2-vits14": ("dinov2", "Dinov2", dict(hidden_size=384, num_attention_heads=6)),
    "dinov2-vitb14": ("dinov2", "Dinov2", {}),
    "dinov2-vitl14": (
        "dinov2",
        "Dinov2",
        dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
    ),
    "dinov2-vitg14": (
        "dinov2",
        "Dinov2",
        dict(hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True),
    ),
    "dinov2-tiny": (
        "dinov2",
        "Dinov2",
        dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=70),
    ),
    # Words from pictures and words restored; with Stable Diffusion 2.1 and CLIP ViT-H/14 unless
    # the name says otherwise: 1.5 goes with ViT-L/14, tiny with clip-vit-tiny and sd21-tiny.
    "image-to-text": ("mapper", "ImageToText", {}),
    "image-to-text-sd15": ("mapper", "ImageToText", dict(input_dim=1024, output_dim=768)),
    "image-to-text-tiny": (
        "mapper",
        "ImageToText",
        dict(
            num_words=4,
            input_dim=32,
            hidden_dim=48,
            output_dim=32,
            cross_attention=tuple(
                (f"{block}.transformer_blocks.0.attn2", width)
                for block, width in (
                    ("down_blocks.0.attentions.0", 32),
                    ("mid_block.attentions.0", 64),
                    ("up_blocks.1.attentions.0", 32),
                    ("up_blocks.1.attentions.1", 32),
                )
            ),
        ),
    ),
    "degradation-estimator": ("estimator", "DegradationEstimator", {}),
    "textual-restoration": ("mapper", "TextualRestoration", {}),
    "textual-restoration-sd15": ("mapper", "TextualRestoration", dict(input_dim=768)),
    "textual-restoration-tiny": (
        "mapper",
        "TextualRestoration",
        dict(num_words=4, input_dim=32, hidden_dim=48),
    ),
    "unet": ("unet", "UNet", {}),
    "vae": ("vae", "AutoencoderKL", {}),
    **{
        f"{pipeline}/{part}": entry
        for pipeline, parts in _PIPELINES.items()
        for part, entry in parts.items()
    },
}

Params = dict[str, jax.Array]

# What a normalisation counts instead of learning: parameters by name, not by number.
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network without its parameters: pure functions of a flat dict of dotted names."""

    name: str
    config: Any
    _module: type[nnx.Module]

    def __post_init__(self):
        remat.name_of(getattr(self.config, "remat", False))

    @property
    def kind(self) -> str:
        """The class of the network, whatever its size: the key of its conversion table."""
        return self._module.__name__

    @property
    def size(self) -> int:
        """The number of learnt parameters."""
        shapes = self.abstract_params().items()
        return sum(math.prod(spec.shape) for key, spec in shapes if not key.endswith(RUNNING))

    def has(self, method: str) -> bool:
        """Whether the network has that method, so that `apply` can be asked for it."""
        return callable(getattr(self._module, method, None))

    def replace(self, **fields) -> "Network":
        """Returns the network with other fields in its config, `dtype` for one."""
        config = dataclasses.replace(self.config, **fields)
        return Network(self.name, config, self._module)

    def module(self) -> nnx.Module:
        """Makes the module itself, for another network that holds it."""
        return self._module(self.config)

    @functools.cached_property
    def _split(self) -> tuple[nnx.GraphDef, dict[tuple, Any]]:
        model = nnx.eval_shape(lambda: self.module())
        graphdef, state = nnx.split(model, nnx.Param)
        return graphdef, dict(nnx.to_flat_state(state))

    def init(self, seed: int = 0) -> Params:
        """Draws float32 parameters; the same seed gives the same values on every machine."""
        return {
            _dotted(path): jnp.asarray(_draw(param, (seed, zlib.crc32(_dotted(path).encode()))))
            for path, param in self._split[1].items()
        }

    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of the parameters without computing any."""
        return {
            _dotted(path): jax.ShapeDtypeStruct(param.shape, param.dtype)
            for path, param in self._split[1].items()
        }

    def apply(self, params: Params, *inputs, method: str = "__call__", **kwargs):
        """Calls a method of the network with these parameters; works under every jax transform.

        Raises:
            ValueError: the names or shapes of `params` are not this network's.
        """
        graphdef, spec = self._split
        check(params, self.abstract_params(), f"network {self.name}")
        state = nnx.from_flat_state(
            [(path, param.replace(params[_dotted(path)])) for path, param in spec.items()]
        )
        return getattr(nnx.merge(graphdef, state), method)(*inputs, **kwargs)


def _draw(param, key: tuple[int, int]) -> np.ndarray:
    """Draws one parameter from its own stream, so that the value hangs on seed and name alone."""
    initial = param.get_metadata("initial")
    generator = np.random.Generator(np.random.Philox(key=key))
    values = np.full(param.shape, initial.constant)
    if initial.bound:
        values += generator.uniform(-initial.bound, initial.bound, param.shape)
    if initial.std:
        values += initial.std * generator.standard_normal(param.shape)
    return values.astype(np.float32)


def _dotted(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def check(params, expected, what: str) -> None:
    """Compares names and shapes with the expected ones.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name at once.
    """
    faults = [f"missing {name}" for name in expected if name not in params]
    faults += [f"unexpected {name}" for name in params if name not in expected]
    faults += [
        f"{name} is {tuple(params[name].shape)}, not {tuple(spec.shape)}"
        for name, spec in expected.items()
        if name in params and tuple(params[name].shape) != tuple(spec.shape)
    ]
    if faults:
        raise ValueError(f"parameters do not fit {what}: " + "; ".join(faults))


def names() -> tuple[str, ...]:
    """Returns every name that `build` knows."""
    return tuple(_REGISTRY)


def config_class(name: str) -> type:
    """Returns the dataclass of the network's config.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _REGISTRY:
        raise ValueError(f"no network {name!r}; there are: {', '.join(names())}")
    file, class_name, _ = _REGISTRY[name]
    return getattr(importlib.import_module(f"tdr_jax.models.{file}"), f"{class_name}Config")


def build(name: str, **overrides) -> Network:
    """Builds the network of that name.

    Args:
        name: one of `names()`.
        **overrides: fields of its config, under the reference's own names (lists become tuples).

    Raises:
        ValueError: the name, a field or what `remat` asks for is unknown.
    """
    config = config_class(name)
    file, class_name, defaults = _REGISTRY[name]
    module = importlib.import_module(f"tdr_jax.models.{file}")
    fields = [field.name for field in dataclasses.fields(config)]
    values = {key: _tuples(value) for key, value in (defaults | overrides).items()}
    unknown = sorted(set(values) - set(fields))
    if "overrides" in fields:  # of a network around another one, whose fields these must be
        inner = dict(values.pop("overrides", ())) | {key: values.pop(key) for key in unknown}
        values["overrides"] = tuple(sorted(inner.items()))
    elif unknown:
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has: {', '.join(fields)}")
    return Network(name, config(**values), getattr(module, class_name))


def _tuples(value):
    """Lists as tuples, to the innermost: what comes from JSON must be hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
