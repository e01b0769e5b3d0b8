"""Scaled dot-product attention by the fastest implementation of each backend."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from tdr_jax.nn import backend
from tdr_jax.nn.typing import Array


def attend(
    q: Float[Array, "b t heads d"],
    k: Float[Array, "b s heads d"],
    v: Float[Array, "b s heads d"],
    *,
    causal: bool = False,
) -> Float[Array, "b t heads d"]:
    """Scaled dot-product attention by the fastest implementation of the backend.

    Args:
        q: queries, not yet scaled by 1 / sqrt(d).
        k, v: keys and values, of q's dtype.
        causal: whether a token sees only itself and those before it.

    Returns:
        The weighted values, of q's dtype. Logits and softmax are float32; on a GPU, half precision
        with heads that cuDNN's flash attention takes goes there.
    """
    if backend.name() == "cpu" and not causal and k.shape[1] > 128:
        return _attend_by_rows(q, k, v)
    flash = (
        backend.name() == "gpu"
        and q.dtype.itemsize == 2
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 128
    )
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation="cudnn" if flash else "xla"
    )


def _attend_by_rows(q, k, v):
    """Attention of one head and some hundred queries at a time.

    The logits then stay in the cache: three to four times faster on CPU than all at once, in a
    fraction of the memory. They lie (S, T), because maxima over columns are taken eight or sixteen
    at once, over rows one by one; their sums come out of the product with v, as one more feature.
    The backward pass computes them again.
    """
    b, t, heads, d = q.shape
    rows = next(n for n in range(min(t, 128), 0, -1) if t % n == 0)
    rows = t if rows < 32 else rows  # an awkward number of queries
    q, k, v = (x.swapaxes(1, 2).reshape(b * heads, -1, d) for x in (q * d**-0.5, k, v))
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1).swapaxes(1, 2)

    @jax.checkpoint
    def some(q, k, v):
        logits = jnp.matmul(k, q.T, preferred_element_type=jnp.float32)
        weights = jnp.exp(logits - logits.max(0)).astype(v.dtype)
        y = jnp.matmul(v, weights, preferred_element_type=jnp.float32)
        return (y[:d] / y[d:]).T.astype(v.dtype)

    def head(qkv):
        q, k, v = qkv
        return lax.map(lambda q: some(q, k, v), q.reshape(-1, rows, d)).reshape(t, d)

    return lax.map(head, (q, k, v)).reshape(b, heads, t, d).swapaxes(1, 2)
