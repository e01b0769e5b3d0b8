"""Restormer's block and its halves (arXiv 2111.09881, section 3), shared by its descendants.

The halves take the already normalised (or modulated) features. The weights are sliced instead of
the activations, which spares the backward pass its largest concatenations.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.nn import extent, layers, ops, points, remat
from tdr_jax.nn.typing import Array


class Attention(nnx.Module):
    """Transposed attention (MDTA): channels attend to channels within each head.

    softmax(tau_h q k^T) v with q and k of unit length along the pixels. All heads share one C x C
    product whose blocks off the diagonal are masked, and where there are enough pixels the weights
    are folded into the output projection: no head is ever split off, and v is read once.
    """

    def __init__(self, channels: int, heads: int, *, bias: bool = False):
        self.temperature = layers.param((heads, 1, 1), constant=1.0)
        self.qkv = layers.Linear(channels, 3 * channels, bias=bias)
        self.qkv_dwconv = layers.DepthwiseConv(3 * channels, bias=bias)
        self.project_out = layers.Linear(channels, channels, bias=bias)

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps normalised features to what is added to them, of the same dtype."""
        b, h, w, c = z.shape
        heads = self.temperature.shape[0]
        logits, v = self.cosines(z)
        logits *= jnp.repeat(self.temperature[:, :, 0], c // heads, axis=0)
        head = jnp.arange(c) // (c // heads)
        logits = jnp.where(head[:, None] == head, logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1)
        if h * w < c:  # then folding costs more than it spares
            attended = ops.matmul(v, weights.swapaxes(1, 2).astype(z.dtype))
            return self.project_out(attended.reshape(b, h, w, c))
        folded = jnp.einsum("bcd,ce->bde", weights, self.project_out.kernel[...]).astype(z.dtype)
        return self.project_out.add_bias(ops.matmul(v, folded).reshape(b, h, w, c))

    def cosines(
        self, z: Float[Array, "b h w c"]
    ) -> tuple[Float32[Array, "b c c"], Float[Array, "b n c"]]:
        """Maps features to cosines of q and k over all heads, in [-1, 1], and v by pixel."""
        b, h, w, c = z.shape
        q, k, v = (
            self.qkv_dwconv(self.qkv(z, part), part)
            for part in (slice(0, c), slice(c, 2 * c), slice(2 * c, 3 * c))
        )
        q, k = (extent.inside(x, counted=True).reshape(b, h * w, c) for x in (q, k))
        products, *squares = points.total((ops.gram(q, k), squared_length(q), squared_length(k)))
        of_q, of_k = (lax.rsqrt(jnp.maximum(each, 1e-24)) for each in squares)
        return products * (of_q[:, :, None] * of_k[:, None, :]), v.reshape(b, h * w, c)


def squared_length(x: Float[Array, "b n c"]) -> Float32[Array, "b c"]:
    """||x||^2 along the pixels, summed in float32."""
    # Without the barrier XLA computes x a second time, channel by channel.
    x = lax.optimization_barrier(x).astype(jnp.float32)
    return jnp.square(x).sum(1)


class FeedForward(nnx.Module):
    """Gated feed-forward (GDFN): project_out(gelu(a) * b), a and b depthwise-filtered halves."""

    def __init__(self, channels: int, expansion: float, *, bias: bool = False):
        hidden = int(channels * expansion)
        self.project_in = layers.Linear(channels, 2 * hidden, bias=bias)
        self.dwconv = layers.DepthwiseConv(2 * hidden, bias=bias)
        self.project_out = layers.Linear(hidden, channels, bias=bias)

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps normalised features to what is added to them, of the same dtype."""
        hidden = self.project_out.kernel.shape[0]
        a, b = (
            self.dwconv(self.project_in(z, part), part)
            for part in (slice(0, hidden), slice(hidden, 2 * hidden))
        )
        return self.project_out(ops.gelu_gate(a, b))


def layer_norm(channels: int, kind: str) -> layers.LayerNorm:
    """Returns the norm that the references call `LayerNorm_type`.

    Args:
        channels: of the features.
        kind: "WithBias", or "BiasFree", which does not centre either.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("WithBias", "BiasFree"):
        raise ValueError(f"LayerNorm_type is {kind!r}; there are: WithBias, BiasFree")
    return layers.LayerNorm(channels, bias=kind == "WithBias")


class TransformerBlock(nnx.Module):
    """Restormer's block: x + MDTA(norm x), then x + GDFN(norm x).

    Args:
        channels: of the features.
        heads: of the attention; divides `channels`.
        config: of the network: reads ffn_expansion_factor, bias and LayerNorm_type.
    """

    def __init__(self, channels: int, heads: int, config):
        self.norm1 = layer_norm(channels, config.LayerNorm_type)
        self.attn = Attention(channels, heads, bias=config.bias)
        self.norm2 = layer_norm(channels, config.LayerNorm_type)
        self.ffn = FeedForward(channels, config.ffn_expansion_factor, bias=config.bias)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        x = remat.half(x + self.attn(self.norm1(x)))
        return x + self.ffn(self.norm2(x))
