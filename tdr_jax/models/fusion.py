"""What a guided network adds to its backbone: an encoder of both pictures, and fusion.

The blocks that join the guidance's features to the backbone's are of the backbone's own kind, twice
as wide, and start as identities.
"""

import dataclasses
import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Shaped

from tdr_jax.models import drsformer, nafnet, sfnet, textpromptir
from tdr_jax.nn import blocks, layers
from tdr_jax.nn.batch_norm import Running, prefixed
from tdr_jax.nn.typing import Array

# By the class of the backbone.
TRANSFORMER_BLOCKS = {
    "Restormer": blocks.TransformerBlock,
    "PromptIR": blocks.TransformerBlock,
    "DRSformer": drsformer.TransformerBlock,
    "TextPromptIR": textpromptir.TransformerBlock,
}


class ResidualBlock(nnx.Module):
    """x + conv2(relu(conv1(x)))."""

    def __init__(self, channels: int):
        self.conv1 = layers.Conv(channels, channels, bias=True)
        self.conv2 = layers.Conv(channels, channels, bias=True)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        return x + self.conv2(nnx.relu(self.conv1(x)))


class Encoder(nnx.Module):
    """Features of a picture at every level: each half the size and twice the width of the last.

    Source: MASA-SR's encoder (arXiv 2106.02299), with widths that double, as TDR's.
    """

    def __init__(self, config):
        channels = config.encoder_channels * config.shuffle**2
        for level, depth in enumerate(config.n_blks):
            width, stride = config.nf * 2**level, 2 if level else 1
            conv = layers.Conv(channels, width, stride=stride, bias=True)
            make_block = functools.partial(ResidualBlock, width)
            pieces = max(1, config.microbatches // 2**level)
            options = dict(remat=config.remat, unroll=config.scan_unroll, microbatches=pieces)
            setattr(self, f"conv_L{level + 1}", conv)
            setattr(self, f"blk_L{level + 1}", layers.Stage(make_block, depth, **options))
            channels = width
        self.levels = config.levels

    def __call__(self, x: Float[Array, "b h w c"]) -> list[Float[Array, "b _ _ _"]]:
        """Maps a picture to its features of the same dtype, the largest first."""
        features = []
        for level in range(1, self.levels + 1):
            x = nnx.relu(getattr(self, f"conv_L{level}")(x))
            x = getattr(self, f"blk_L{level}")(x)
            features.append(x)
        return features


class Residual(nnx.Module):
    """x + alpha f(x) with one alpha that starts at zero, so that nothing changes at first."""

    def __init__(self, make_body):
        self.body = make_body()
        self.alpha = layers.param((1,))

    def __call__(
        self, x: Float[Array, "b h w c"], *context: Shaped[Array, "b ..."]
    ) -> Float[Array, "b h w c"]:
        """Maps features, and what the body reads beside them, to features of the same dtype."""
        return x + self.alpha[...].astype(x.dtype) * self.body(x, *context)


class FrequencyFusion(nnx.Module):
    """The same around a level of SFNet, whose last block keeps running statistics."""

    def __init__(self, channels: int, config: sfnet.SFNetConfig):
        self.body = sfnet.Level(channels, config)
        self.alpha = layers.param((1,))

    def __call__(
        self, x: Float[Array, "b h w c"], training: bool
    ) -> tuple[Float[Array, "b h w c"], Running]:
        """Maps features to features of the same dtype and the new running statistics."""
        y, running = self.body(x, training)
        return x + self.alpha[...].astype(x.dtype) * y, prefixed("body", running)


def _fusion(config, level: int, channels: int) -> nnx.Module:
    """What joins features at a level: blocks of the backbone's own kind, `channels` wide."""
    base, kind, depth = config.base.config, config.base.kind, config.reffusion_n_blocks[level]
    if kind == "SFNet":
        return FrequencyFusion(channels, dataclasses.replace(base, num_res=depth))
    if kind == "NAFNet":  # beta and gamma, which start at zero, are this block's alpha
        make_block = functools.partial(nafnet.NAFBlock, channels, base.window(level))
    else:
        body = functools.partial(TRANSFORMER_BLOCKS[kind], channels, base.heads[level], base)
        make_block = functools.partial(Residual, body)
    pieces = max(1, 2 * config.microbatches // 2**level)  # twice as wide as the backbone
    options = dict(remat=config.remat, unroll=config.scan_unroll, microbatches=pieces)
    return layers.Stage(make_block, depth, **options)


class Fusion(nnx.Module):
    """Joins the guidance's features to the backbone's, at each level with blocks of its own."""

    def __init__(self, config):
        self.names = tuple(f"enc_level{level}" for level in range(1, config.levels + 1))
        if config.base.kind == "NAFNet":  # the reference's names again
            self.names = *(f"enc_{level}" for level in range(config.levels - 1)), "middle"
        for level, name in enumerate(self.names):
            setattr(self, name, _fusion(config, level, (config.width + config.nf) * 2**level))
        self.keeps_statistics = config.base.kind == "SFNet"

    def __call__(
        self,
        level: int,
        x: Float[Array, "b h w c"],
        guidance: Float[Array, "b h2 w2 d"],
        *context: Shaped[Array, "b ..."],
        training: bool,
    ) -> tuple[Float[Array, "b h w c"], Running]:
        """Joins the features of one level.

        Args:
            level, x, *context: as of `layers.keep`.
            guidance: features at least as large as x; what is over is cut off.
            training: whether running statistics follow the batch.

        Returns:
            what x becomes, and the new running statistics by name.
        """
        _, height, width, channels = x.shape
        joined = jnp.concatenate([x, guidance[:, :height, :width].astype(x.dtype)], -1)
        stage, running = getattr(self, self.names[level]), {}
        if self.keeps_statistics:
            joined, running = stage(joined, training)
        else:
            joined = stage(joined, *context)
        return joined[..., :channels], prefixed(self.names[level], running)
