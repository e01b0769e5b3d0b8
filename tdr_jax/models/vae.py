"""The autoencoder of Stable Diffusion, with diffusers' names (`AutoencoderKL`).

Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G: pictures to latents of an eighth
of their sides, and back.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float

from tdr_jax.errors import InputError
from tdr_jax.nn import layers, resnet
from tdr_jax.nn.attention import attend
from tdr_jax.nn.typing import Array

EPS = 1e-6  # of every norm of the autoencoder; the UNet has 1e-5
OVERLAP = 0.25  # of neighbouring tiles, diffusers' default


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Sizes under diffusers' names (defaults: Stable Diffusion 1 and 2), then how to compute.

    `sample_size` is the side of a tile, in pixels. `scaling_factor` multiplies latents on their way
    into the UNet; `encode` and `decode` leave it to the caller, as diffusers does.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    sample_size: int = 512
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    dtype: str = "float32"
    remat: bool | str = False

    def __post_init__(self):
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise InputError(
                    f"block_out_channels has {channels}, which is no multiple of the "
                    f"{self.norm_num_groups} groups of norm_num_groups"
                )

    @property
    def factor(self) -> int:
        """Pixels a side for each latent."""
        return 2 ** (len(self.block_out_channels) - 1)


_SD2 = dict(sample_size=768)
_TINY = dict(block_out_channels=(32, 64), layers_per_block=1, sample_size=32)
SIZES = {
    "vae": {},
    "sd14/vae": {},
    "sd15/vae": {},
    "sd20-base/vae": _SD2,
    "sd20/vae": _SD2,
    "sd21-base/vae": _SD2,
    "sd21/vae": _SD2,
    "sd15-tiny/vae": _TINY,
    "sd21-tiny/vae": _TINY,
    # Two groups: a norm over a pair of channels would take colour and contrast from flat pictures.
    "tdr-tiny/vae": dict(
        block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=2, sample_size=128
    ),
}


class Attention(nnx.Module):
    """Attention of pixels to one another, with one head, added to its input."""

    def __init__(self, channels: int, config: AutoencoderKLConfig):
        self.group_norm = layers.GroupNorm(config.norm_num_groups, channels, eps=EPS)
        self.to_q = layers.Linear(channels, channels)
        self.to_k = layers.Linear(channels, channels)
        self.to_v = layers.Linear(channels, channels)
        self.to_out = nnx.List([layers.Linear(channels, channels)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        b, h, w, c = x.shape
        z = self.group_norm(x).reshape(b, h * w, c)
        q, k, v = (f(z)[:, :, None] for f in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out[0](attend(q, k, v).reshape(b, h, w, c))


class MidBlock(nnx.Module):
    """Attention between two residual blocks."""

    def __init__(self, channels: int, config: AutoencoderKLConfig):
        self.resnets = nnx.List([_residual(channels, channels, config) for _ in range(2)])
        wanted = config.mid_block_add_attention
        self.attentions = nnx.List([Attention(channels, config)] if wanted else [])
        self.remat = config.remat

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        for module in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = resnet.call(module, x, policy=self.remat)
        return x


class Level(nnx.Module):
    """Residual blocks of one resolution and, but for the last level, the way to the next one."""

    def __init__(self, in_channels, channels, depth: int, config, *, down=False, up=False):
        widths = [in_channels] + [channels] * (depth - 1)
        self.resnets = nnx.List([_residual(width, channels, config) for width in widths])
        if down:
            self.downsamplers = nnx.List([resnet.Downsample(channels, even=False)])
        if up:
            self.upsamplers = nnx.List([resnet.Upsample(channels)])
        self.joint = "downsamplers" if down else "upsamplers" if up else None
        self.remat = config.remat

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps features to those of the next level, of the same dtype."""
        for block in self.resnets:
            x = resnet.call(block, x, policy=self.remat)
        return getattr(self, self.joint)[0](x) if self.joint else x


def _residual(in_channels: int, channels: int, config: AutoencoderKLConfig) -> resnet.ResnetBlock:
    return resnet.ResnetBlock(in_channels, channels, groups=config.norm_num_groups, eps=EPS)


class Encoder(nnx.Module):
    """Pictures to the moments of their latents."""

    def __init__(self, config: AutoencoderKLConfig):
        widths = config.block_out_channels
        last = len(widths) - 1
        self.conv_in = layers.Conv(config.in_channels, widths[0], bias=True)
        self.down_blocks = nnx.List(
            [
                Level(widths[max(i - 1, 0)], width, config.layers_per_block, config, down=i < last)
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = layers.GroupNorm(config.norm_num_groups, widths[-1], eps=EPS)
        self.conv_out = layers.Conv(widths[-1], 2 * config.latent_channels, bias=True)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps pictures in [-1, 1] to mean and logarithm of the variance, side by side."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Latents to pictures."""

    def __init__(self, config: AutoencoderKLConfig):
        widths = config.block_out_channels[::-1]
        last = len(widths) - 1
        self.conv_in = layers.Conv(config.latent_channels, widths[0], bias=True)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nnx.List(
            [
                Level(
                    widths[max(i - 1, 0)], width, config.layers_per_block + 1, config, up=i < last
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = layers.GroupNorm(config.norm_num_groups, widths[-1], eps=EPS)
        self.conv_out = layers.Conv(widths[-1], config.out_channels, bias=True)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps latents to pictures, about [-1, 1]."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Encoder and decoder; a picture's latents are normally distributed around their mean."""

    def __init__(self, config: AutoencoderKLConfig):
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        channels = config.latent_channels
        self.quant_conv = (
            layers.Conv(2 * channels, 2 * channels, size=1, bias=True)
            if config.use_quant_conv
            else None
        )
        self.post_quant_conv = (
            layers.Conv(channels, channels, size=1, bias=True)
            if config.use_post_quant_conv
            else None
        )

    def __call__(self, pictures: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Reconstructs pictures in [-1, 1] from the means of their latents."""
        return self.decode(self.encode(pictures)[0])

    def encode(
        self, pictures: Float[Array, "b h w c"], *, slicing: bool = False, tiling: bool = False
    ) -> tuple[Float[Array, "b h2 w2 d"], Float[Array, "b h2 w2 d"]]:
        """Encodes pictures.

        Args:
            pictures: in [-1, 1], c = in_channels, sides multiples of `config.factor` (8).
            slicing: one picture of the batch after the other, for less memory.
            tiling: in tiles of `sample_size` pixels where pictures are larger, blended where they
                overlap: memory no longer grows with the picture, and the latents differ a little,
                since every tile has its own norms.

        Returns:
            Mean and logarithm of the variance (in [-30, 20]) of the latents, not scaled, of the
            config's dtype; h2 = h / `config.factor`, d = latent_channels.
        """
        config = self.config
        tile = (config.sample_size, config.sample_size // config.factor)
        run = _each(lambda x: self._moments(x), slicing)
        moments = _tiled(run, pictures, *tile) if tiling else run(pictures)
        mean, logvar = jnp.split(moments, 2, -1)
        return mean, jnp.clip(logvar, -30, 20)

    def decode(
        self, latents: Float[Array, "b h w c"], *, slicing: bool = False, tiling: bool = False
    ) -> Float[Array, "b h2 w2 d"]:
        """Decodes latents, divided by the scaling factor.

        Args:
            latents: not scaled; c = latent_channels.
            slicing, tiling: as in `encode`.

        Returns:
            About [-1, 1], not clipped, of the config's dtype; h2 = h * `config.factor`,
            d = out_channels.
        """
        config = self.config
        tile = (config.sample_size // config.factor, config.sample_size)
        run = _each(lambda z: self._pictures(z), slicing)
        return _tiled(run, latents, *tile) if tiling else run(latents)

    def _moments(self, pictures):
        moments = self.encoder(pictures.astype(self.config.dtype))
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _pictures(self, latents):
        latents = latents.astype(self.config.dtype)
        return self.decoder(
            latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        )


def sample(
    mean: Float[Array, "*n"], logvar: Float[Array, "*n"], noise: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Returns latents drawn from their distribution: mean + std * noise, noise ~ N(0, 1)."""
    return mean + jnp.exp(0.5 * logvar) * noise


def _each(run, slicing: bool):
    """Runs on the whole batch, or on one sample after the other."""
    return (lambda x: lax.map(lambda one: run(one[None])[0], x)) if slicing else run


def _tiled(run, x, tile: int, out_tile: int):
    """Runs on overlapping square tiles and joins what they give, cross-faded where they overlap.

    Args:
        run: (B, h, w, C) to (B, f h, f w, D).
        x: (B, H, W, C); taken whole where it fits one tile.
        tile, out_tile: side of a tile before and after `run`.

    Returns:
        (B, f H, f W, D). Tiles start every 3/4 of their side, those at the lower and right edges
        are smaller; equal shapes run one after the other in one loop, so that memory holds one
        tile's intermediate results.
    """
    b, height, width, c = x.shape
    if max(height, width) <= tile:
        return run(x)
    stride, fade = int(tile * (1 - OVERLAP)), int(out_tile * OVERLAP)
    rows, columns = range(0, height, stride), range(0, width, stride)
    shapes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i in rows:
        for j in columns:
            shapes.setdefault((min(tile, height - i), min(tile, width - j)), []).append((i, j))
    done = {}
    for (h, w), corners in shapes.items():

        def one(corner, h=h, w=w):
            return run(lax.dynamic_slice(x, (0, *corner, 0), (b, h, w, c)))

        outputs = lax.map(lambda corner: one((corner[0], corner[1])), jnp.array(corners))
        done |= dict(zip(corners, outputs, strict=True))
    keep = out_tile - fade
    bands = []
    for i in rows:
        band = []
        for j in columns:
            # The neighbour as it is after its own fading, as in the published implementation.
            if i:
                done[i, j] = _faded(done[i - stride, j], done[i, j], fade, 1)
            if j:
                done[i, j] = _faded(done[i, j - stride], done[i, j], fade, 2)
            band.append(done[i, j][:, :keep, :keep])
        bands.append(jnp.concatenate(band, 2))
    return jnp.concatenate(bands, 1)


def _faded(before, after, fade: int, axis: int):
    """Blends the end of one tile into the start of the next, linearly along an axis."""
    fade = min(before.shape[axis], after.shape[axis], fade)
    shape = [1, 1, 1, 1]
    shape[axis] = fade
    weight = (jnp.arange(fade, dtype=before.dtype) / fade).reshape(shape)
    end = lax.slice_in_dim(before, before.shape[axis] - fade, before.shape[axis], axis=axis)
    start = lax.slice_in_dim(after, 0, fade, axis=axis)
    rest = lax.slice_in_dim(after, fade, after.shape[axis], axis=axis)
    return jnp.concatenate([end * (1 - weight) + start * weight, rest], axis)
