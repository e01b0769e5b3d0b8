"""The transformer that CLIP's towers and DINOv2 are made of, and what goes into it from pictures.

Parameters carry the names of transformers' CLIP, with the layer index stacked away. Architecture:
Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Float

from tdr_jax.errors import InputError
from tdr_jax.nn import layers, ops, remat
from tdr_jax.nn.attention import attend
from tdr_jax.nn.typing import Array


def check_sizes(config: Any) -> None:
    """Refuses heads that do not divide the width, and unknown activations, with an InputError."""
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}; correct one of them"
        )
    if config.hidden_act not in layers.ACTIVATIONS:
        raise InputError(
            f"hidden_act {config.hidden_act!r} is not known; use one of "
            f"{', '.join(layers.ACTIVATIONS)}"
        )


def check_patches(config: Any) -> None:
    """Refuses a native picture without a single patch, with an InputError."""
    if not 0 < config.patch_size <= config.image_size:
        raise InputError(
            f"image_size {config.image_size} holds no patch of patch_size {config.patch_size}; "
            "correct one of them"
        )


class Patches(layers.Conv):
    """Convolution whose stride is its size, as one matrix product over whole patches."""

    def __init__(self, config, *, bias: bool):
        side = config.patch_size
        super().__init__(3, config.hidden_size, size=side, stride=side, padding=0, bias=bias)

    def __call__(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Embeds whole patches, in the pictures' dtype; the rest right and below is cut off.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        side = self.stride
        if pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise InputError(f"pictures must be (batch, height, width, 3), not {pictures.shape}")
        batch, full_height, full_width, _ = pictures.shape
        height, width = full_height // side, full_width // side
        if not height or not width:
            raise InputError(
                f"a picture of {full_height}x{full_width} is smaller than one patch of "
                f"{side}x{side}; enlarge it"
            )
        x = pictures[:, : height * side, : width * side]
        x = x.reshape(batch, height, side, width, side, 3).transpose(0, 1, 3, 2, 4, 5)
        kernel = self.kernel[...].astype(x.dtype).reshape(1, side * side * 3, -1)
        y = ops.matmul(x.reshape(1, batch * height * width, -1), kernel)
        y = y if self.bias is None else y + self.bias[...].astype(x.dtype)
        return y.reshape(batch, height, width, -1)


def add_positions(
    token: Float[Array, " c"],
    patches: Float[Array, "b h w c"],
    positions: Float[Array, "p c"],
    offset: float = 0.0,
) -> Float[Array, "b 1+h*w c"]:
    """Puts the class token before the patches and adds the embeddings of their positions.

    Args:
        token: the class token.
        patches: in their places.
        positions: p = 1 + n * n, the token's first; those of the patches are resized from n x n to
            h x w as torch's bicubic interpolation does, without antialiasing.
        offset: added to h and w where the factors of resizing are computed, not where the places
            are counted: 0.1 in DINOv2's own code.

    Returns:
        Token and patches, of the patches' dtype.
    """
    batch, height, width, features = patches.shape
    side = math.isqrt(positions.shape[0] - 1)
    grid = positions[1:]
    if (height, width) != (side, side):
        grid = grid.reshape(side, side, features)
        if offset:
            rows, columns = (_bicubic(side, n, offset) for n in (height, width))
            grid = jnp.einsum("ip,pqc,jq->ijc", rows, grid, columns, precision="highest")
        else:
            shape = height, width, features
            grid = jax.image.resize(grid, shape, "cubic-pytorch", antialias=False)
    x = patches.reshape(batch, height * width, features) + grid.reshape(-1, features)
    first = jnp.broadcast_to(token + positions[0], (batch, 1, features))
    return jnp.concatenate([first, x], axis=1).astype(patches.dtype)


def _bicubic(size: int, out: int, offset: float) -> np.ndarray:
    """The weights (out, size) of torch's bicubic interpolation by the factor (out + offset) / size.

    Samples beyond the border are the border's own; A is -0.75, as in torch.
    """
    place = (np.arange(out) + 0.5) * size / (out + offset) - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((out, size), np.float32)
    for tap in (-1, 0, 1, 2):
        x, a = np.abs(place - first - tap), -0.75
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        index = np.clip(first + tap, 0, size - 1)
        np.add.at(weights, (np.arange(out), index), np.where(x <= 1, near, far))
    return weights


def heads_attend(
    x: Float[Array, "b t c"],
    query: layers.Linear,
    key: layers.Linear,
    value: layers.Linear,
    out: layers.Linear,
    heads: int,
    *,
    causal: bool = False,
) -> Float[Array, "b t c"]:
    """Multi-head self-attention with four dense layers, in x's dtype."""
    q, k, v = (dense(x).reshape(*x.shape[:-1], heads, -1) for dense in (query, key, value))
    return out(attend(q, k, v, causal=causal).reshape(x.shape))


class Attention(nnx.Module):
    """Multi-head self-attention; in the text tower a token sees only those before it."""

    def __init__(self, config, causal: bool):
        size = config.hidden_size
        self.q_proj = layers.Linear(size, size)
        self.k_proj = layers.Linear(size, size)
        self.v_proj = layers.Linear(size, size)
        self.out_proj = layers.Linear(size, size)
        self.heads = config.num_attention_heads
        self.causal = causal

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to what is added to them, of the same dtype."""
        dense = self.q_proj, self.k_proj, self.v_proj, self.out_proj
        return heads_attend(x, *dense, self.heads, causal=self.causal)


class Mlp(nnx.Module):
    """Two dense layers and the activation between them."""

    def __init__(self, features: int, hidden: int, activation: str):
        self.fc1 = layers.Linear(features, hidden)
        self.fc2 = layers.Linear(hidden, features)
        self.activation = activation

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to what is added to them, of the same dtype."""
        return self.fc2(layers.ACTIVATIONS[self.activation](self.fc1(x)))


class Layer(nnx.Module):
    """One transformer layer, normalised before each half."""

    def __init__(self, config, causal: bool):
        size, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = Attention(config, causal)
        self.layer_norm1 = layers.LayerNorm(size, eps=eps)
        self.mlp = Mlp(size, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = layers.LayerNorm(size, eps=eps)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """All layers in a row, their parameters stacked."""

    def __init__(self, config, *, causal: bool):
        self.layers = layers.Stage(
            functools.partial(Layer, config, causal),
            config.num_hidden_layers,
            remat=config.remat,
            unroll=config.scan_unroll,
        )

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        return self.layers(x)

    def states(self, x: Float[Array, "b t c"]) -> Float[Array, "l b t c"]:
        """Returns what goes in, then what each layer makes of it, of the same dtype."""
        graphdef, params = nnx.split(self.layers.blocks)

        def body(x, layer):
            x = nnx.merge(graphdef, layer)(x)
            return x, x

        body = remat.apply(self.layers.remat, body)
        states = lax.scan(body, x, params, unroll=self.layers.unroll)[1]
        return jnp.concatenate([x[None], states])


def projection(layer: layers.Linear | None) -> layers.Linear:
    """Returns the product into the space that both of CLIP's towers share, if there is one.

    Raises:
        InputError: the tower was built without.
    """
    if layer is None:
        raise InputError("this tower has no projection; build it with with_projection=True")
    return layer
