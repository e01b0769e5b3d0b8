"""Dead tensors: what a reference's class holds and never uses, by name and shape.

An import ignores them (`tables.Table.dead` names them by pattern). Here they are spelled out, so
that an export can be filled up until the reference's class loads it strictly.
"""

import math
from collections.abc import Iterator

from tdr_jax import models
from tdr_jax.convert.tables import TEXT_HEADS
from tdr_jax.errors import InputError

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def shapes(network: models.Network) -> dict[str, tuple[int, ...]]:
    """Returns the dead tensors of the reference's class of this size.

    Args:
        network: which one, and of which size.

    Returns:
        PyTorch names to shapes; empty for the networks without dead tensors.

    Raises:
        InputError: the reference fixes sizes that this network does not have.
    """
    if network.kind == "Guided":  # nothing but the backbone has any
        network = network.config.base
    make = {"PromptIR": _promptir, "TextPromptIR": _textpromptir, "SFNet": _sfnet}
    return dict(make[network.kind](network.config)) if network.kind in make else {}


def _check(network: str, config, fixed: dict) -> None:
    wrong = [
        f"{key} is {getattr(config, key)}" for key in fixed if getattr(config, key) != fixed[key]
    ]
    if wrong:
        raise InputError(
            f"the reference's {network} has no dead tensors to fill at this size "
            f"({', '.join(wrong)}): it exists with "
            + ", ".join(f"{key} {value}" for key, value in fixed.items())
        )


def _conv1x1(name: str, in_channels: int, out_channels: int, bias: bool) -> Shapes:
    yield f"{name}.weight", (out_channels, in_channels, 1, 1)
    if bias:
        yield f"{name}.bias", (out_channels,)


def _linear(name: str, in_features: int, out_features: int) -> Shapes:
    yield f"{name}.weight", (out_features, in_features)
    yield f"{name}.bias", (out_features,)


def _reductions(dim: int, bias: bool) -> Shapes:
    """The 1x1 convolutions of PromptIR's abandoned encoder prompts."""
    prompts = ((64, 64), (128, 128), (320, 256))
    for level, (before, after) in enumerate(prompts):
        width = dim * 2**level
        yield from _conv1x1(f"chnl_reduce{level + 1}", before, after, bias)
        yield from _conv1x1(f"reduce_noise_channel_{level + 1}", width + after, width, bias)


def _promptir(config) -> Shapes:
    yield from _reductions(config.dim, config.bias)


def _sfnet(config) -> Shapes:
    """Gains of a filter's two parts, which its modulator replaced."""
    for part, levels in (("Encoder", (1, 2, 4)), ("Decoder", (4, 2, 1))):
        for k, level in enumerate(levels):
            block = f"{part}.{k}.layers.{config.num_res - 1}"
            for filters in ("dyna", "dyna_2"):
                for gain in ("lamb_l", "lamb_h"):
                    yield f"{block}.{filters}.{gain}", (config.base_channel * level // 2,)


def _textpromptir(config) -> Shapes:
    """Text heads for the widths that a block does not have, and what is left of PromptIR."""
    fixed = dict(dim=48, text_dim=768, text_hidden=(576, 384), input_shuffle=1)
    _check("TextPromptIR", config, fixed)
    dim, bias = config.dim, config.bias
    first, second, third, last = config.num_blocks
    depths = {
        **dict.fromkeys(("encoder_level1", "decoder_level1"), first),
        **dict.fromkeys(("encoder_level2", "decoder_level2"), second),
        **dict.fromkeys(("encoder_level3", "decoder_level3"), third),
        "latent": last,
        "refinement": config.num_refinement_blocks,
    }
    for head, stages in TEXT_HEADS.items():
        for stage in stages.split("|"):
            for index in range(depths[stage]):
                yield from _text_heads(f"{stage}.{index}", dim, config.text_hidden[1], head)

    # Prompts at every level of encoder (1) and decoder (2): channels, side, features they read.
    prompts = {"1_1": (32, 128, dim), "1_2": (64, 64, 2 * dim)}
    prompts |= {"2_1": (64, 32, 2 * dim), "2_2": (64, 32, 2 * dim)}
    prompts |= {"3_1": (128, 64, 4 * dim), "3_2": (128, 128, 4 * dim)}
    for level, (channels, side, features) in prompts.items():
        yield f"prompt{level}.prompt_param", (1, 5, channels, side, side)
        yield from _linear(f"prompt{level}.linear_layer", features, 5)
        yield f"prompt{level}.conv3x3.weight", (channels, channels, 3, 3)
        width = features + channels
        yield from _block(f"noise_level{level}", width, config)
        kernel = int(abs(math.log2(width) + 1) / 2)
        for module in ("attn", "ffn"):
            yield f"noise_level{level}.{module}.fusion.conv.weight", (1, 1, kernel + 1 - kernel % 2)
        yield from _text_heads(f"noise_level{level}", dim, config.text_hidden[1], "")
        yield from _conv1x1(f"reduce_noise_level{level}", width, features, bias)
    # PromptIR's own three, at the widths that it has with 64, 128 and 320 channels a prompt.
    for level, (width, after) in enumerate(
        ((2 * dim + 64, 2 * dim), (2 * dim + 224, 4 * dim), (4 * dim + 512, 4 * dim)), 1
    ):
        yield from _block(f"noise_level{level}", width, config)
        yield from _conv1x1(f"reduce_noise_level{level}", width, after, bias)
    yield from _reductions(dim, bias)


def _text_heads(block: str, dim: int, text: int, used: str) -> Shapes:
    for module in ("attn", "ffn"):
        for head, width in (("1", dim), ("2", 2 * dim), ("3", 4 * dim), ("7", 8 * dim)):
            if head != used:
                yield from _linear(f"{block}.{module}.linear{head}", text, width)
                yield from _linear(f"{block}.{module}.linear{head}_1", width, width)
                yield from _linear(f"{block}.{module}.linear{head}_2", width, width)


def _block(name: str, width: int, config) -> Shapes:
    """Restormer's block as the class builds it for prompts: the third level's heads."""
    hidden = int(width * config.ffn_expansion_factor)
    for norm in ("norm1", "norm2"):
        yield f"{name}.{norm}.body.weight", (width,)
        yield f"{name}.{norm}.body.bias", (width,)
    yield f"{name}.attn.temperature", (config.heads[2], 1, 1)
    yield from _conv1x1(f"{name}.attn.qkv", width, 3 * width, config.bias)
    yield from _conv1x1(f"{name}.attn.project_out", width, width, config.bias)
    yield from _conv1x1(f"{name}.ffn.project_in", width, 2 * hidden, config.bias)
    yield from _conv1x1(f"{name}.ffn.project_out", hidden, width, config.bias)
    for depthwise, channels in (("attn.qkv_dwconv", 3 * width), ("ffn.dwconv", 2 * hidden)):
        yield f"{name}.{depthwise}.weight", (channels, 1, 3, 3)
        if config.bias:
            yield f"{name}.{depthwise}.bias", (channels,)
