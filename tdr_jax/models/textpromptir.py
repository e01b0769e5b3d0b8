"""TextPromptIR (arXiv 2312.06162): an all-in-one restoration transformer steered by one sentence.

A four-level U of Restormer's blocks in which every attention (IMTA) and every feed-forward (IGFN)
is modulated by the sentence vector, gated by statistics of the picture. Only the tensors that take
part in the forward pass exist here; the reference's dead ones are listed in `convert.tables`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax.nn import blocks, extent, layers, remat
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class TextPromptIRConfig:
    """Hyper-parameters under the reference's names; the defaults are the published network."""

    inp_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    text_dim: int = 768
    text_hidden: tuple[int, int] = (576, 384)
    # Pixel-unshuffle before patch_embed: 1 as published; 2 makes every level four times cheaper.
    input_shuffle: int = 1
    # What training has taught it: degradations it removes (none: unknown), and whether a shorter
    # sentence vector asks for less.
    trained_for: tuple[str, ...] = ()
    text_strength: bool = False
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1

    @property
    def multiple(self) -> int:
        """Heights and widths that the network works on: three halvings after the input shuffle."""
        return 8 * self.input_shuffle

    @property
    def channels(self) -> tuple[int, int]:
        """Channels that come in and go out."""
        return self.inp_channels, self.out_channels

    @property
    def heeds_extent(self) -> bool:
        """Whether pictures may fill less than the arrays they come in, see `nn.extent`."""
        return True


SIZES = {
    "textpromptir": {},
    # Sized so that two CPU cores can train it in an hour and restore a photograph in seconds.
    "textpromptir-compact": dict(
        dim=32,
        num_blocks=(1, 2, 2, 2),
        num_refinement_blocks=1,
        heads=(1, 2, 4, 8),
        ffn_expansion_factor=2.5,  # hidden widths are then multiples of 16
        text_dim=384,
        text_hidden=(128, 64),
        input_shuffle=2,
    ),
    "textpromptir-tiny": dict(
        dim=8,
        num_blocks=(1, 1, 1, 2),
        num_refinement_blocks=1,
        heads=(1, 1, 2, 2),
        text_dim=384,
        text_hidden=(32, 16),
    ),
}


class TextGate(nnx.Module):
    """Turns the sentence vector into a scale and a shift, gated by the picture's channel means.

    gamma, beta = W1 m, W2 m with m = (W0 e) * sigmoid(conv1d(means)); the convolution slides along
    the channels (ECA's gate): the only place where picture and words meet.
    """

    def __init__(self, channels: int, text_features: int):
        size = int(abs(math.log2(channels) + 1) / 2)
        size += 1 - size % 2
        self.fusion = layers.param((size,), fan_in=size)
        self.linear = layers.Linear(text_features, channels)
        self.linear_1 = layers.Linear(channels, channels)
        self.linear_2 = layers.Linear(channels, channels)

    def __call__(
        self, means: Float32[Array, "b c"], text: Float32[Array, "b e"]
    ) -> tuple[Float32[Array, "b c"], Float32[Array, "b c"]]:
        """Maps channel means and text to gamma and beta."""
        channels, size = means.shape[-1], self.fusion.shape[0]
        padded = jnp.pad(means, ((0, 0), (size // 2, size // 2)))
        mixed = sum(padded[:, i : i + channels] * self.fusion[i] for i in range(size))
        message = self.linear(text) * jax.nn.sigmoid(mixed)
        return self.linear_1(message), self.linear_2(message)


def modulate(
    x: Float[Array, "b h w c"], text: Float32[Array, "b e"], norm: layers.LayerNorm, gate: TextGate
) -> Float[Array, "b h w c"]:
    """LayerNorm, then gamma * . + beta: folded into one scale and shift a sample and channel."""
    normed = layers.normalise(x, norm.eps)
    weight, bias = norm.weight[...], norm.bias[...]
    gamma, beta = gate(extent.mean(normed) * weight + bias, text)
    z = normed * (weight * gamma)[:, None, None] + (bias * gamma + beta)[:, None, None]
    return z.astype(x.dtype)


class TransformerBlock(nnx.Module):
    """Restormer's block with each half modulated by the sentence (IMTA, then IGFN)."""

    def __init__(self, channels: int, heads: int, config: TextPromptIRConfig):
        self.norm1 = layers.LayerNorm(channels)
        self.text1 = TextGate(channels, config.text_hidden[1])
        self.attn = blocks.Attention(channels, heads, bias=config.bias)
        self.norm2 = layers.LayerNorm(channels)
        self.text2 = TextGate(channels, config.text_hidden[1])
        self.ffn = blocks.FeedForward(channels, config.ffn_expansion_factor, bias=config.bias)

    def __call__(
        self, x: Float[Array, "b h w c"], text: Float32[Array, "b e"]
    ) -> Float[Array, "b h w c"]:
        """Maps features and text to features of the same dtype."""
        x = remat.half(x + self.attn(modulate(x, text, self.norm1, self.text1)))
        return x + self.ffn(modulate(x, text, self.norm2, self.text2))


class TextPromptIR(nnx.Module):
    """Restores a picture as a sentence asks.

    The text trunk runs once a picture; every block reads its output.
    """

    def __init__(self, config: TextPromptIRConfig):
        self.config = config
        dim, heads, depth = config.dim, config.heads, config.num_blocks
        shuffled = config.input_shuffle**2

        def stage(level: int, channels: int, heads: int, depth: int) -> layers.Stage:
            make_block = functools.partial(TransformerBlock, channels, heads, config)
            options = dict(remat=config.remat, unroll=config.scan_unroll)
            # Of arrays of about the same size.
            pieces = config.microbatches * channels // (dim * 4**level)
            pieces = max(1, pieces) if config.microbatches > 1 else 1
            return layers.Stage(make_block, depth, microbatches=pieces, **options)

        self.linear1 = layers.Linear(config.text_dim, config.text_hidden[0])
        self.linear2 = layers.Linear(*config.text_hidden)
        self.patch_embed = layers.Conv(config.inp_channels * shuffled, dim)
        self.encoder_level1 = stage(0, dim, heads[0], depth[0])
        self.down1_2 = layers.Downsample(dim)
        self.encoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.down2_3 = layers.Downsample(2 * dim)
        self.encoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.down3_4 = layers.Downsample(4 * dim)
        self.latent = stage(3, 8 * dim, heads[3], depth[3])
        self.up4_3 = layers.Upsample(8 * dim)
        self.reduce_chan_level3 = layers.Linear(8 * dim, 4 * dim, bias=config.bias)
        # heads[1] here, where Restormer has heads[2]: as in the reference.
        self.decoder_level3 = stage(2, 4 * dim, heads[1], depth[2])
        self.up3_2 = layers.Upsample(4 * dim)
        self.reduce_chan_level2 = layers.Linear(4 * dim, 2 * dim, bias=config.bias)
        self.decoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.up2_1 = layers.Upsample(2 * dim)
        self.decoder_level1 = stage(0, 2 * dim, heads[0], depth[0])
        self.refinement = stage(0, 2 * dim, heads[0], config.num_refinement_blocks)
        self.output = layers.Conv(2 * dim, config.out_channels * shuffled, bias=config.bias)

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        sentence_vectors: Float[Array, "b e"],
        *,
        fuse: Callable | None = None,
    ) -> Float32[Array, "b h w d"]:
        """Restores a batch of pictures.

        Args:
            images: in [0, 1], of any size, c = inp_channels; sides are continued by reflection to
                multiples of `config.multiple`.
            sentence_vectors: one sentence a picture, of length 1 or, for less of it, shorter;
                e = text_dim.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not; it is also
                given what the blocks read of the sentence.

        Returns:
            About [0, 1], not clipped; d = out_channels.
        """
        config, fuse = self.config, fuse or layers.keep
        _, height, width, _ = images.shape
        text = nnx.leaky_relu(self.linear1(sentence_vectors.astype(jnp.float32)), 0.2)
        text = nnx.leaky_relu(self.linear2(text), 0.2)

        x = layers.pad_to_multiple(images, config.multiple).astype(config.dtype)
        x = layers.pixel_unshuffle(x, config.input_shuffle)
        level1 = self.encoder_level1(fuse(0, self.patch_embed(x), text), text)
        level2 = self.encoder_level2(fuse(1, self.down1_2(level1), text), text)
        level3 = self.encoder_level3(fuse(2, self.down2_3(level2), text), text)
        x = self.latent(fuse(3, self.down3_4(level3), text), text)

        x = jnp.concatenate([self.up4_3(x), level3], -1)
        x = self.decoder_level3(self.reduce_chan_level3(x), text)
        x = jnp.concatenate([self.up3_2(x), level2], -1)
        x = self.decoder_level2(self.reduce_chan_level2(x), text)
        x = jnp.concatenate([self.up2_1(x), level1], -1)
        x = self.refinement(self.decoder_level1(x, text), text)
        residual = layers.pixel_shuffle(self.output(x), config.input_shuffle)
        return images.astype(jnp.float32) + residual[:, :height, :width].astype(jnp.float32)
