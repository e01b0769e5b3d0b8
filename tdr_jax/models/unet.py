"""The denoising UNet of Stable Diffusion 1 and 2, with diffusers' names (`UNet2DConditionModel`).

Rombach et al. 2022 (arXiv 2112.10752), section 3.3 and appendix E.2. Names keep every index, as the
blocks of one level differ in width: `down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Num

from tdr_jax.errors import InputError
from tdr_jax.models.unet_transformer import Transformer, within
from tdr_jax.nn import layers, resnet
from tdr_jax.nn.typing import Array

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes under diffusers' names (defaults: Stable Diffusion 1.5), then how to compute.

    `attention_head_dim` is the number of heads, of all levels or of each: the name is a slip of
    diffusers that its files keep. `sample_size` is the side of the latents it was trained on;
    `upcast_attention` is told to diffusers, for here attention logits are always float32.
    """

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    up_block_types: tuple[str, ...] = (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP)
    layers_per_block: int = 2
    transformer_layers_per_block: int = 1
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    dtype: str = "float32"
    remat: bool | str = False

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for field, known in (
            ("down_block_types", (CROSS_DOWN, PLAIN_DOWN)),
            ("up_block_types", (CROSS_UP, PLAIN_UP)),
        ):
            types = getattr(self, field)
            unknown = [kind for kind in types if kind not in known]
            if unknown or len(types) != levels:
                raise InputError(
                    f"{field} is {', '.join(types)}; expected {levels} of {' and '.join(known)}, "
                    "one for each of block_out_channels"
                )
        if len(self.heads) != levels:
            raise InputError(
                f"attention_head_dim has {len(self.heads)} entries, block_out_channels {levels}"
            )
        for channels, heads in zip(self.block_out_channels, self.heads, strict=True):
            if channels % heads or channels % self.norm_num_groups:
                raise InputError(
                    f"block_out_channels has {channels}, which is no multiple of {heads} heads "
                    f"and {self.norm_num_groups} groups"
                )

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each level."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else heads


# What differs in Stable Diffusion 2 from 1, which are the defaults.
_SD2 = dict(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
_TINY = dict(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=32,
)
SIZES = {
    "unet": {},
    "sd14/unet": {},
    "sd15/unet": {},
    "sd20-base/unet": _SD2,
    "sd20/unet": _SD2 | dict(sample_size=96),
    "sd21-base/unet": _SD2,
    "sd21/unet": _SD2 | dict(sample_size=96, upcast_attention=True),
    "sd15-tiny/unet": _TINY | dict(attention_head_dim=2),
    "sd21-tiny/unet": _TINY | dict(attention_head_dim=(2, 4), use_linear_projection=True),
    # Of the pipeline that this project trains itself, on two CPU cores.
    "tdr-tiny/unet": dict(
        sample_size=16,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
    ),
}


class Level(nnx.Module):
    """Residual blocks of one resolution, each followed by a transformer where there are any.

    Args:
        widths: input channels of each residual block.
        channels: of what they give.
        heads: of the transformers; 0 for none.
        config: of the network.
    """

    def __init__(self, widths: list[int], channels: int, heads: int, config: UNetConfig):
        self.resnets = nnx.List([_residual(width, channels, config) for width in widths])
        self.attentions = nnx.List(
            [Transformer(channels, heads, config) for _ in widths] if heads else []
        )
        self.remat = config.remat

    def block(
        self,
        i: int,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b f"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b h w d"]:
        """Runs residual block i and its transformer."""
        x = resnet.call(self.resnets[i], x, time, policy=self.remat)
        if self.attentions:
            kv = within(kv, f"attentions.{i}")
            x = resnet.call(self.attentions[i], x, context, kv, policy=self.remat)
        return x


class DownLevel(Level):
    """A level of the encoder; every state it passes is kept for the decoder."""

    def __init__(self, in_channels: int, channels: int, heads: int, last: bool, config: UNetConfig):
        widths = [in_channels] + [channels] * (config.layers_per_block - 1)
        super().__init__(widths, channels, heads, config)
        self.downsamplers = nnx.List([] if last else [resnet.Downsample(channels, even=True)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b f"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> tuple[Float[Array, "b h2 w2 d"], list[Float[Array, "b _ _ d"]]]:
        """Returns what goes to the next level, and the states on the way there."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.block(i, x, time, context, kv)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class UpLevel(Level):
    """A level of the decoder; every residual block takes in one state of the encoder."""

    def __init__(self, widths, channels: int, heads: int, last: bool, config: UNetConfig):
        super().__init__(widths, channels, heads, config)
        self.upsamplers = nnx.List([] if last else [resnet.Upsample(channels)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skips: list[Float[Array, "b _ _ _"]],
        time: Float[Array, "b f"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns what goes to the next level; takes the states it uses from the end of `skips`."""
        for i in range(len(self.resnets)):
            x = self.block(i, jnp.concatenate([x, skips.pop()], -1), time, context, kv)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[1:3])
        return x


class MidLevel(nnx.Module):
    """The lowest level: a transformer between two residual blocks."""

    def __init__(self, channels: int, heads: int, config: UNetConfig):
        self.resnets = nnx.List([_residual(channels, channels, config) for _ in range(2)])
        self.attentions = nnx.List([Transformer(channels, heads, config)])
        self.remat = config.remat

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b f"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        x = resnet.call(self.resnets[0], x, time, policy=self.remat)
        kv = within(kv, "attentions.0")
        x = resnet.call(self.attentions[0], x, context, kv, policy=self.remat)
        return resnet.call(self.resnets[1], x, time, policy=self.remat)


def _residual(in_channels: int, channels: int, config: UNetConfig) -> resnet.ResnetBlock:
    return resnet.ResnetBlock(
        in_channels,
        channels,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        time_channels=4 * config.block_out_channels[0],
    )


class TimeEmbedding(nnx.Module):
    """Two dense layers over the sinusoids of a timestep."""

    def __init__(self, channels: int):
        self.linear_1 = layers.Linear(channels, 4 * channels)
        self.linear_2 = layers.Linear(4 * channels, 4 * channels)

    def __call__(self, sinusoids: Float[Array, "b c"]) -> Float[Array, "b 4*c"]:
        """Embeds what `sinusoids` gives, in its dtype."""
        return self.linear_2(jax.nn.silu(self.linear_1(sinusoids)))


class UNet(nnx.Module):
    """Predicts the noise (or v) in latents at a timestep, given a context."""

    def __init__(self, config: UNetConfig):
        self.config = config
        widths, heads = config.block_out_channels, config.heads
        levels = range(len(widths))
        self.conv_in = layers.Conv(config.in_channels, widths[0], bias=True)
        self.time_embedding = TimeEmbedding(widths[0])
        crossed = [heads[i] * (config.down_block_types[i] == CROSS_DOWN) for i in levels]
        self.down_blocks = nnx.List(
            [
                DownLevel(widths[max(i - 1, 0)], widths[i], crossed[i], i == levels[-1], config)
                for i in levels
            ]
        )
        self.mid_block = MidLevel(widths[-1], heads[-1], config)
        self.up_blocks = nnx.List()
        skips = [widths[0]]  # what the encoder leaves behind, from first to last
        for i in levels:
            skips += [widths[i]] * (config.layers_per_block + (i < levels[-1]))
        below = widths[-1]
        for i in reversed(levels):
            inputs = [below] + [widths[i]] * config.layers_per_block
            inputs = [width + skips.pop() for width in inputs]
            crossed = config.up_block_types[levels[-1] - i] == CROSS_UP
            self.up_blocks.append(UpLevel(inputs, widths[i], heads[i] * crossed, i == 0, config))
            below = widths[i]
        self.conv_norm_out = layers.GroupNorm(
            config.norm_num_groups, widths[0], eps=config.norm_eps
        )
        self.conv_out = layers.Conv(widths[0], config.out_channels, bias=True)

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"] | Num[Array, ""] | float,
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]] | None = None,
    ) -> Float[Array, "b h w d"]:
        """Runs the network.

        Args:
            latents: of any size: pictures' sides over 8, times the autoencoder's scaling factor;
                c = in_channels.
            timesteps: in [0, 1000), of each picture or of all.
            context: hidden states of the text tower; e = cross_attention_dim.
            kv: a second set of weights for the keys and values of attention to the context, used
                instead of the network's own where given: names as in `kv_names`, kernels in them.

        Returns:
            The noise, or v, of the config's dtype; d = out_channels.

        Raises:
            ValueError: `kv` holds a name that is none of `kv_names`.
        """
        config, kv = self.config, kv or {}
        if kv:
            own = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(self))]
            if unknown := sorted(kv.keys() - set(kv_names(own))):
                raise ValueError(f"kv: no keys or values are called {', '.join(unknown)}")
        x, context = latents.astype(config.dtype), context.astype(config.dtype)
        kv = {name: kernel.astype(config.dtype) for name, kernel in kv.items()}
        timesteps = jnp.broadcast_to(jnp.asarray(timesteps), len(x))
        time = self.time_embedding(sinusoids(timesteps, config).astype(x.dtype))
        time = jax.nn.silu(time)
        x = self.conv_in(x)
        skips = [x]
        for i, level in enumerate(self.down_blocks):
            x, passed = level(x, time, context, within(kv, f"down_blocks.{i}"))
            skips += passed
        x = self.mid_block(x, time, context, within(kv, "mid_block"))
        for i, level in enumerate(self.up_blocks):
            x = level(x, skips, time, context, within(kv, f"up_blocks.{i}"))
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


def sinusoids(timesteps: Num[Array, " b"], config: UNetConfig) -> Float32[Array, "b c"]:
    """Returns sines and cosines of timesteps, c of them, the first level's width."""
    half = config.block_out_channels[0] // 2
    exponents = -math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - config.freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponents)
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if config.flip_sin_to_cos else parts, -1)


def kv_names(params: Iterable[str]) -> list[str]:
    """Returns the names of the keys' and values' kernels of attention to the context.

    Args:
        params: the network's flat parameters, or their names alone.
    """
    ends = (".attn2.to_k.kernel", ".attn2.to_v.kernel")
    return [name for name in params if name.endswith(ends)]
