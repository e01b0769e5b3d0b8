"""What the UNet of Stable Diffusion does with a sentence: transformers over the places of a level.

Names are diffusers' (`Transformer2DModel`); sizes come from a `UNetConfig`.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from tdr_jax.nn import layers, ops
from tdr_jax.nn.attention import attend
from tdr_jax.nn.typing import Array


class Attention(nnx.Module):
    """Multi-head attention of tokens to themselves or to a context."""

    def __init__(self, channels: int, context_channels: int, heads: int):
        self.to_q = layers.Linear(channels, channels, bias=False)
        self.to_k = layers.Linear(context_channels, channels, bias=False)
        self.to_v = layers.Linear(context_channels, channels, bias=False)
        self.to_out = nnx.List([layers.Linear(channels, channels)])
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "b t c"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b t c"]:
        """Lets tokens attend to a context, with other keys and values where `kv` has kernels."""
        k, v = (
            ops.matmul(context, jnp.broadcast_to(kernel, (len(context), *kernel.shape)))
            if (kernel := kv.get(f"{name}.kernel")) is not None
            else getattr(self, name)(context)
            for name in ("to_k", "to_v")
        )
        q, k, v = (t.reshape(*t.shape[:2], self.heads, -1) for t in (self.to_q(x), k, v))
        return self.to_out[0](attend(q, k, v).reshape(x.shape))


class GatedProjection(nnx.Module):
    """GEGLU (Shazeer 2020, arXiv 2002.05202): one half of a projection times gelu of the other."""

    def __init__(self, channels: int, hidden: int):
        self.proj = layers.Linear(channels, 2 * hidden)
        self.hidden = hidden

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        """Maps tokens to hidden features of the same dtype."""
        y = self.proj(x)
        return ops.gelu_gate(y[..., self.hidden :], y[..., : self.hidden])


class FeedForward(nnx.Module):
    """Gated projection to four times the width, and back."""

    def __init__(self, channels: int):
        # diffusers numbers a dropout between the two, which has no parameters.
        self.net = nnx.Dict(
            {
                "0": GatedProjection(channels, 4 * channels),
                "2": layers.Linear(4 * channels, channels),
            }
        )

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to what is added to them, of the same dtype."""
        return self.net["2"](self.net["0"](x))


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the context and feed-forward, each after a norm."""

    def __init__(self, channels: int, context_channels: int, heads: int):
        self.norm1 = layers.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = layers.LayerNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = layers.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def __call__(
        self,
        x: Float[Array, "b t c"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        z = self.norm1(x)
        x = x + self.attn1(z, z, {})
        x = x + self.attn2(self.norm2(x), context, within(kv, "attn2"))
        return x + self.ff(self.norm3(x))


class Transformer(nnx.Module):
    """Transformer blocks over the pixels of a level (diffusers' `Transformer2DModel`)."""

    def __init__(self, channels: int, heads: int, config):
        self.norm = layers.GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = _projection(channels, config)
        self.transformer_blocks = nnx.List(
            [
                TransformerBlock(channels, config.cross_attention_dim, heads)
                for _ in range(config.transformer_layers_per_block)
            ]
        )
        self.proj_out = _projection(channels, config)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b s e"],
        kv: Mapping[str, Float[Array, "e _"]],
    ) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        b, h, w, c = x.shape
        z = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for i, block in enumerate(self.transformer_blocks):
            z = block(z, context, within(kv, f"transformer_blocks.{i}"))
        return x + self.proj_out(z.reshape(b, h, w, c))


def _projection(channels: int, config):
    """The same product in both versions, but version 1 holds it as a 1x1 convolution."""
    if config.use_linear_projection:
        return layers.Linear(channels, channels)
    return layers.Conv(channels, channels, size=1, bias=True)


def within(weights: Mapping, module: str) -> dict:
    """The entries of a module, named from there."""
    prefix = f"{module}."
    return {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
