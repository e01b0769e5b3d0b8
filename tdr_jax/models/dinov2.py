"""DINOv2: a vision transformer whose patch features serve without any fine-tuning.

Parameters carry the names of transformers' Dinov2Model (5.x: `attention.q_proj`, and `gate_proj`
with `up_proj` where files hold the two in one `weights_in`), with the layer index stacked away.
Architecture: Oquab et al. 2023, arXiv 2304.07193, section 4, without registers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from tdr_jax.models import vit
from tdr_jax.nn import layers
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class Dinov2Config:
    """Sizes under their Hugging Face names (defaults: DINOv2 ViT-B/14's), then how to compute."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    image_size: int = 518  # of the published weights; transformers' own default is 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True
    # Of the resizing of positions, see `vit.add_positions`: 0.1 in Facebook's code, which TDR runs;
    # 0 in transformers'. Patch tokens differ by 0.8 to 1.3 % away from image_size.
    interpolate_offset: float = 0.0
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1

    def __post_init__(self):
        vit.check_sizes(self)
        vit.check_patches(self)


SIZES = {
    "dinov2": {},
    "dinov2-vits14": dict(hidden_size=384, num_attention_heads=6),
    "dinov2-vitb14": {},
    "dinov2-vitl14": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
    "dinov2-vitg14": dict(
        hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True
    ),
    "dinov2-tiny": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=70),
}


class PatchEmbeddings(nnx.Module):
    """Holds the patches' product under the name that the checkpoints give it."""

    def __init__(self, config: Dinov2Config):
        self.projection = vit.Patches(config, bias=True)


class Embeddings(nnx.Module):
    """Class token, patches and positions; the mask token serves pretraining alone."""

    def __init__(self, config: Dinov2Config):
        size = config.hidden_size
        count = 1 + (config.image_size // config.patch_size) ** 2
        self.cls_token = layers.param((1, 1, size), std=0.02)
        self.mask_token = layers.param((1, size)) if config.use_mask_token else None
        self.patch_embeddings = PatchEmbeddings(config)
        self.offset = config.interpolate_offset
        self.position_embeddings = layers.param((1, count, size), std=0.02)

    def __call__(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b t c"]:
        """Maps pictures to the class token and their patches, of the same dtype."""
        patches = self.patch_embeddings.projection(pictures)
        token, positions = self.cls_token[...][0, 0], self.position_embeddings[...][0]
        return vit.add_positions(token, patches, positions, self.offset)


class Attention(nnx.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, config: Dinov2Config):
        size, bias = config.hidden_size, config.qkv_bias
        self.q_proj = layers.Linear(size, size, bias=bias)
        self.k_proj = layers.Linear(size, size, bias=bias)
        self.v_proj = layers.Linear(size, size, bias=bias)
        self.o_proj = layers.Linear(size, size)
        self.heads = config.num_attention_heads

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to what is added to them, of the same dtype."""
        return vit.heads_attend(x, self.q_proj, self.k_proj, self.v_proj, self.o_proj, self.heads)


class SwiGlu(nnx.Module):
    """Gated feed-forward network of the giant (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, features: int, hidden: int):
        self.gate_proj = layers.Linear(features, hidden)
        self.up_proj = layers.Linear(features, hidden)
        self.down_proj = layers.Linear(hidden, features)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to what is added to them, of the same dtype."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class LayerScale(nnx.Module):
    """One learnt factor a channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, config: Dinov2Config):
        self.lambda1 = layers.param((config.hidden_size,), constant=config.layerscale_value)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        return x * self.lambda1[...].astype(x.dtype)


class Layer(nnx.Module):
    """One transformer layer: both halves normalised before and scaled after."""

    def __init__(self, config: Dinov2Config):
        size, eps = config.hidden_size, config.layer_norm_eps
        hidden = int(size * config.mlp_ratio)
        self.norm1 = layers.LayerNorm(size, eps=eps)
        self.attention = Attention(config)
        self.layer_scale1 = LayerScale(config)
        self.norm2 = layers.LayerNorm(size, eps=eps)
        if config.use_swiglu_ffn:
            # Two thirds, since there are three kernels for two, in whole eights.
            self.mlp = SwiGlu(size, (int(hidden * 2 / 3) + 7) // 8 * 8)
        else:
            self.mlp = vit.Mlp(size, hidden, config.hidden_act)
        self.layer_scale2 = LayerScale(config)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Encoder(nnx.Module):
    """All layers in a row, their parameters stacked."""

    def __init__(self, config: Dinov2Config):
        self.layer = layers.Stage(
            functools.partial(Layer, config),
            config.num_hidden_layers,
            remat=config.remat,
            unroll=config.scan_unroll,
        )

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Maps tokens to tokens of the same dtype."""
        return self.layer(x)


class Dinov2(nnx.Module):
    """The vision transformer of Oquab et al. 2023."""

    def __init__(self, config: Dinov2Config):
        self.dtype = config.dtype
        self.patch_size = config.patch_size
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = layers.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(
        self, pictures: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b c"]]:
        """Runs the network.

        Args:
            pictures: RGB with ImageNet's mean (0.485, 0.456, 0.406) taken off and its
                standard deviation (0.229, 0.224, 0.225) divided out; any size from one patch on.
                What is left over of whole patches is cut off, positions are resized to the size.

        Returns:
            All tokens, normalised, class token first, then the patches by rows; and that token.
            Both of the config's dtype; c = hidden_size.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        x = self.embeddings(pictures.astype(self.dtype))
        x = self.layernorm(self.encoder(x))
        return x, x[:, 0]

    def patch_tokens(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Computes the features of each patch, in their places.

        Args:
            pictures: as in `__call__`.

        Returns:
            Normalised, of the config's dtype; h2 = h // patch_size, c = hidden_size.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        x = self(pictures)[0][:, 1:]
        height, width = (side // self.patch_size for side in pictures.shape[1:3])
        return x.reshape(x.shape[0], height, width, -1)


def most_alike(
    selector: Any,
    params: dict,
    degraded: Float[Array, "b p p c"],
    guidance: Float[Array, "b g g 3"],
) -> Float[Array, "b p p 3"]:
    """Choose, for each crop, the window of its guidance that DINOv2 finds the most alike.

    Windows are as large as the crop and a quarter of it apart. Pictures go in as they are, in
    [0, 1], resized to whole patches; the patch features of all of a picture are one vector, and
    the highest cosine wins, the first of equal ones. No gradient goes through the choice.

    Args:
        selector: a Dinov2 network and, `params`, its parameters.
        degraded: in [0, 1]: grey, colour, or two views, of which the left one is seen.
        guidance: in [0, 1], g at least p.

    Returns:
        Parts of the guidance.

    Source: TDR, its training code.
    """
    size, whole = degraded.shape[1], guidance.shape[1]
    starts = jnp.arange(0, whole - size + 1, max(1, size // 4))
    corners = jnp.stack(jnp.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 2)
    side = -(-size // selector.config.patch_size) * selector.config.patch_size

    def look(pictures):
        shape = (len(pictures), side, side, 3)
        resized = jax.image.resize(pictures, shape, "bilinear", antialias=False)
        tokens = selector.apply(params, resized, method="patch_tokens").astype(jnp.float32)
        vectors = tokens.reshape(len(tokens), -1)
        return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

    def windows(corner):
        shape = (len(guidance), size, size, 3)
        return jax.lax.dynamic_slice(guidance, (0, corner[0], corner[1], 0), shape)

    seen = jnp.repeat(degraded, 3, -1) if degraded.shape[-1] == 1 else degraded[..., :3]
    wanted = look(seen)
    # One window of every picture at a time: 169 of them would not fit side by side.
    cosines = jax.lax.map(lambda corner: (look(windows(corner)) * wanted).sum(-1), corners)
    best = corners[jax.lax.stop_gradient(cosines).argmax(0)]

    def cut(picture, corner):
        return jax.lax.dynamic_slice(picture, (*corner, 0), (size, size, 3))

    return jax.vmap(cut)(guidance, best)
