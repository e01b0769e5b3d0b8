"""Restormer (arXiv 2111.09881): a four-level U of transformer blocks that attend over channels."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax.nn import blocks, layers
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class RestormerConfig:
    """Hyper-parameters under the reference's names; the defaults are the published network."""

    inp_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    # "BiasFree" in the published networks for denoising, "WithBias" in all others.
    LayerNorm_type: str = "WithBias"
    # Two views in (inp_channels=6), one picture out, so no input to add to the output.
    dual_pixel_task: bool = False
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


SIZES = {"restormer": {}}


class Restormer(nnx.Module):
    """Restores a picture blindly: one network, one degradation."""

    def __init__(self, config: RestormerConfig):
        self.config = config
        dim, heads, depth = config.dim, config.heads, config.num_blocks

        def stage(level: int, channels: int, heads: int, depth: int) -> layers.Stage:
            make_block = functools.partial(blocks.TransformerBlock, channels, heads, config)
            options = dict(remat=config.remat, unroll=config.scan_unroll)
            pieces = (
                config.microbatches * channels // (dim * 4**level)
            )  # of arrays of about the same size
            return layers.Stage(make_block, depth, microbatches=max(1, pieces), **options)

        self.patch_embed = layers.Conv(config.inp_channels, dim)
        self.encoder_level1 = stage(0, dim, heads[0], depth[0])
        self.down1_2 = layers.Downsample(dim)
        self.encoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.down2_3 = layers.Downsample(2 * dim)
        self.encoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.down3_4 = layers.Downsample(4 * dim)
        self.latent = stage(3, 8 * dim, heads[3], depth[3])
        self.up4_3 = layers.Upsample(8 * dim)
        self.reduce_chan_level3 = layers.Linear(8 * dim, 4 * dim, bias=config.bias)
        self.decoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.up3_2 = layers.Upsample(4 * dim)
        self.reduce_chan_level2 = layers.Linear(4 * dim, 2 * dim, bias=config.bias)
        self.decoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.up2_1 = layers.Upsample(2 * dim)
        self.decoder_level1 = stage(0, 2 * dim, heads[0], depth[0])
        self.refinement = stage(0, 2 * dim, heads[0], config.num_refinement_blocks)
        if config.dual_pixel_task:
            self.skip_conv = layers.Linear(dim, 2 * dim, bias=config.bias)
        self.output = layers.Conv(2 * dim, config.out_channels, bias=config.bias)

    def __call__(
        self, images: Float[Array, "b h w c"], *, fuse: Callable | None = None
    ) -> Float32[Array, "b h w d"]:
        """Restores a batch of pictures.

        Args:
            images: in [0, 1], of any size, c = inp_channels; sides are continued by reflection to
                multiples of `config.multiple`, as the reference's test scripts do.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not.

        Returns:
            About [0, 1], not clipped; d = out_channels.
        """
        config, fuse = self.config, fuse or layers.keep
        _, height, width, _ = images.shape
        x = layers.pad_to_multiple(images, config.multiple).astype(config.dtype)

        embedded = fuse(0, self.patch_embed(x))
        level1 = self.encoder_level1(embedded)
        level2 = self.encoder_level2(fuse(1, self.down1_2(level1)))
        level3 = self.encoder_level3(fuse(2, self.down2_3(level2)))
        x = self.latent(fuse(3, self.down3_4(level3)))

        x = jnp.concatenate([self.up4_3(x), level3], -1)
        x = self.decoder_level3(self.reduce_chan_level3(x))
        x = jnp.concatenate([self.up3_2(x), level2], -1)
        x = self.decoder_level2(self.reduce_chan_level2(x))
        x = jnp.concatenate([self.up2_1(x), level1], -1)
        x = self.refinement(self.decoder_level1(x))
        if config.dual_pixel_task:
            x = x + self.skip_conv(embedded)
        x = self.output(x)[:, :height, :width].astype(jnp.float32)
        return x if config.dual_pixel_task else images.astype(jnp.float32) + x
