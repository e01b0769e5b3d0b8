"""PromptIR (arXiv 2306.13090): Restormer's U whose decoder reads learned pictures, the prompts.

At each decoder level the features' means choose a mixture of five learned pictures, which is joined
to the features. Only the tensors that take part in the forward pass exist here; the reference's
dead ones are listed in `convert.tables`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax.nn import blocks, extent, layers
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class PromptIRConfig:
    """Hyper-parameters under the reference's names; the defaults are the published network.

    `prompt_dim`, `prompt_len` and `prompt_size` (of levels 1, 2 and 3) are constants in the
    reference, which runs with dim 48 alone; here every dim fits.
    """

    inp_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    LayerNorm_type: str = "WithBias"
    decoder: bool = True
    prompt_dim: tuple[int, int, int] = (64, 128, 320)
    prompt_len: int = 5
    prompt_size: tuple[int, int, int] = (64, 32, 16)
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1

    @property
    def multiple(self) -> int:
        """Heights and widths that the network works on are multiples of this: three halvings."""
        return 8

    @property
    def channels(self) -> tuple[int, int]:
        """Channels that come in and go out."""
        return self.inp_channels, self.out_channels

    @property
    def heeds_extent(self) -> bool:
        """Whether pictures may fill less than the arrays they come in, see `nn.extent`."""
        return True


SIZES = {"promptir": {}}


class PromptGenBlock(nnx.Module):
    """Makes a prompt for some features: a mixture of learned pictures, resized and filtered.

    Args:
        prompt_dim: channels of the pictures.
        prompt_len: how many pictures.
        prompt_size: their side.
        lin_dim: channels of the features.
    """

    def __init__(self, prompt_dim: int, prompt_len: int, prompt_size: int, lin_dim: int):
        shape = prompt_len, prompt_size, prompt_size, prompt_dim
        self.prompt_param = layers.param(shape, fan_in=4, constant=0.5)  # U(0, 1)
        self.linear_layer = layers.Linear(lin_dim, prompt_len)
        self.conv3x3 = layers.Conv(prompt_dim, prompt_dim)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Maps features to a prompt of the same dtype, d = prompt_dim."""
        _, height, width, _ = x.shape
        weights = jax.nn.softmax(self.linear_layer(extent.mean(x)))
        prompt = jnp.einsum("bl,lhwc->bhwc", weights, self.prompt_param[...])
        return self.conv3x3(resize(prompt, height, width).astype(x.dtype))


def resize(
    x: Float[Array, "b h w c"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Bilinear resize as torch's `interpolate`: half-pixel centres, no antialias, any two sizes.

    Args:
        x: float32, or the result is rounded as its dtype asks.
        height, width: of the result, in pixels.
    """
    if extent.known():
        both = zip(x.shape[1:3], extent.places(height, width), extent.sides(height), strict=True)
        rows, columns = (_interpolation_within(*each) for each in both)
        return jnp.einsum("bip,bpqc,bjq->bijc", rows, x, columns)
    rows, columns = _interpolation(x.shape[1], height), _interpolation(x.shape[2], width)
    return jnp.einsum("ip,bpqc,jq->bijc", rows, x, columns)


def _interpolation_within(size, places, lengths):
    """float32 (b, places, size): the weights at some places of lengths that differ."""
    position = (places + 0.5) * (size / lengths[:, None]) - 0.5
    position = jnp.clip(position, 0, size - 1)[..., None]
    return jnp.maximum(0, 1 - jnp.abs(position - jnp.arange(size)))


def _interpolation(size: int, out: int) -> np.ndarray:
    """float32 (out, size): the weights of the two samples around each position."""
    position = np.maximum((np.arange(out) + 0.5) * size / out - 0.5, 0)
    low = position.astype(int)
    matrix = np.zeros((out, size), np.float32)
    matrix[np.arange(out), low] = 1 - (position - low)
    matrix[np.arange(out), np.minimum(low + 1, size - 1)] += position - low
    return matrix


class PromptIR(nnx.Module):
    """Restores a picture blindly: one network for several degradations."""

    def __init__(self, config: PromptIRConfig):
        if not config.decoder:
            raise ValueError(
                "PromptIR has decoder=False, which leaves channels that do not fit together (in "
                "the reference too); use decoder=True, or restormer for a network without prompts"
            )
        self.config = config
        dim, heads, depth = config.dim, config.heads, config.num_blocks
        prompt_dim, length, size = config.prompt_dim, config.prompt_len, config.prompt_size

        def stage(level: int, channels: int, heads: int, depth: int) -> layers.Stage:
            make_block = functools.partial(blocks.TransformerBlock, channels, heads, config)
            options = dict(remat=config.remat, unroll=config.scan_unroll)
            pieces = (
                config.microbatches * channels // (dim * 4**level)
            )  # of arrays of about the same size
            return layers.Stage(make_block, depth, microbatches=max(1, pieces), **options)

        def joined(channels: int, level: int, out: int):
            """The block that reads features and prompt together, and the way back to features."""
            channels += prompt_dim[level - 1]
            block = blocks.TransformerBlock(channels, heads[2], config)
            return block, layers.Linear(channels, out, bias=config.bias)

        self.patch_embed = layers.Conv(config.inp_channels, dim)
        self.encoder_level1 = stage(0, dim, heads[0], depth[0])
        self.down1_2 = layers.Downsample(dim)
        self.encoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.down2_3 = layers.Downsample(2 * dim)
        self.encoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.down3_4 = layers.Downsample(4 * dim)
        self.latent = stage(3, 8 * dim, heads[3], depth[3])
        self.prompt3 = PromptGenBlock(prompt_dim[2], length, size[2], 8 * dim)
        self.noise_level3, self.reduce_noise_level3 = joined(8 * dim, 3, 4 * dim)
        self.up4_3 = layers.Upsample(4 * dim)
        self.reduce_chan_level3 = layers.Linear(6 * dim, 4 * dim, bias=config.bias)
        self.decoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.prompt2 = PromptGenBlock(prompt_dim[1], length, size[1], 4 * dim)
        self.noise_level2, self.reduce_noise_level2 = joined(4 * dim, 2, 4 * dim)
        self.up3_2 = layers.Upsample(4 * dim)
        self.reduce_chan_level2 = layers.Linear(4 * dim, 2 * dim, bias=config.bias)
        self.decoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.prompt1 = PromptGenBlock(prompt_dim[0], length, size[0], 2 * dim)
        self.noise_level1, self.reduce_noise_level1 = joined(2 * dim, 1, 2 * dim)
        self.up2_1 = layers.Upsample(2 * dim)
        self.decoder_level1 = stage(0, 2 * dim, heads[0], depth[0])
        self.refinement = stage(0, 2 * dim, heads[0], config.num_refinement_blocks)
        self.output = layers.Conv(2 * dim, config.out_channels, bias=config.bias)

    def __call__(
        self, images: Float[Array, "b h w c"], *, fuse: Callable | None = None
    ) -> Float32[Array, "b h w d"]:
        """Restores a batch of pictures.

        Args:
            images: in [0, 1], of any size, c = inp_channels; sides are continued by reflection to
                multiples of `config.multiple`.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not.

        Returns:
            About [0, 1], not clipped; d = out_channels.
        """
        config, fuse = self.config, fuse or layers.keep
        _, height, width, _ = images.shape
        x = layers.pad_to_multiple(images, config.multiple).astype(config.dtype)

        level1 = self.encoder_level1(fuse(0, self.patch_embed(x)))
        level2 = self.encoder_level2(fuse(1, self.down1_2(level1)))
        level3 = self.encoder_level3(fuse(2, self.down2_3(level2)))
        x = self.latent(fuse(3, self.down3_4(level3)))

        x = self._read_prompt(x, self.prompt3, self.noise_level3, self.reduce_noise_level3)
        x = jnp.concatenate([self.up4_3(x), level3], -1)
        x = self.decoder_level3(self.reduce_chan_level3(x))
        x = self._read_prompt(x, self.prompt2, self.noise_level2, self.reduce_noise_level2)
        x = jnp.concatenate([self.up3_2(x), level2], -1)
        x = self.decoder_level2(self.reduce_chan_level2(x))
        x = self._read_prompt(x, self.prompt1, self.noise_level1, self.reduce_noise_level1)
        x = jnp.concatenate([self.up2_1(x), level1], -1)
        x = self.output(self.refinement(self.decoder_level1(x)))
        return images.astype(jnp.float32) + x[:, :height, :width].astype(jnp.float32)

    def _read_prompt(self, x, prompt, block, reduce):
        x = jnp.concatenate([x, prompt(x)], -1)
        return reduce(layers.run_block(block, x, remat=self.config.remat))
