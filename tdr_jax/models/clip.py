"""CLIP's two towers: text to hidden states for a diffusion network, pictures to features.

Parameters carry the names of transformers' CLIPTextModel and CLIPVisionModel, without a prefix and
with the layer index stacked away: `encoder.layers.3.self_attn.q_proj.weight` there is
`encoder.layers.blocks.self_attn.q_proj.kernel` at index 3. Architecture: Radford et al. 2021,
arXiv 2103.00020, section 2.4.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from tdr_jax.errors import InputError
from tdr_jax.nn import layers, ops, remat
from tdr_jax.nn.attention import attend

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """Sizes under their Hugging Face names (defaults: CLIP ViT-B/32's), then how to compute.

    `with_projection` adds the product into the space that both towers share. An `eos_token_id` of 2
    means, as in files older than July 2023, that the end is wherever the highest id is.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    with_projection: bool = False
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1

    def __post_init__(self):
        check_sizes(self)


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes under their Hugging Face names (defaults: CLIP ViT-B/32's), then how to compute.

    `with_projection` adds the product into the space that both towers share.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    with_projection: bool = False
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1

    def __post_init__(self):
        check_sizes(self)
        check_patches(self)


# Text towers of Stable Diffusion 1 and 2; the second is OpenCLIP's ViT-H without its last layer.
_SD1 = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    projection_dim=768,
)
_SD2 = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
    projection_dim=512,
)
_TINY = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=16,
)
_OWN = dict(hidden_size=128, intermediate_size=512, num_attention_heads=4, projection_dim=64)
SIZES = {
    "clip-text": {},
    "clip-vision": {},
    "clip-vit-b-32-openai": {},
    "clip-vit-b-16-openai": dict(patch_size=16),
    "clip-vit-l-14-openai": dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
    ),
    "clip-vit-h-14-laion": dict(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=1024,
    ),
    "clip-vit-tiny": _TINY | dict(image_size=56, patch_size=14),
    "sd14/text_encoder": _SD1,
    "sd15/text_encoder": _SD1,
    "sd20-base/text_encoder": _SD2,
    "sd20/text_encoder": _SD2,
    "sd21-base/text_encoder": _SD2,
    "sd21/text_encoder": _SD2,
    "sd15-tiny/text_encoder": _TINY | dict(vocab_size=1000),
    "sd21-tiny/text_encoder": _TINY | dict(vocab_size=1000, hidden_act="gelu"),
    # Of the pipeline that this project trains itself; never a pretrained CLIP.
    "tdr-tiny/text_encoder": _OWN | dict(vocab_size=998, num_hidden_layers=3, eos_token_id=997),
    "tdr-tiny/image_encoder": _OWN
    | dict(num_hidden_layers=4, image_size=64, patch_size=8, with_projection=True),
}


def check_sizes(config) -> None:
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


def check_patches(config) -> None:
    """Refuses a native picture without a single patch, with an InputError."""
    if not 0 < config.patch_size <= config.image_size:
        raise InputError(
            f"image_size {config.image_size} holds no patch of patch_size {config.patch_size}; "
            "correct one of them"
        )


def normalise(pictures: jax.Array) -> jax.Array:
    """Turns pictures into the pixel values that CLIP's vision tower reads.

    Args:
        pictures: (..., 3), RGB in [0, 1].

    Returns:
        The same shape, float32: the mean of CLIP's training pictures taken off, their standard
        deviation divided out.
    """
    mean, std = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)
    return (pictures - mean) / std


class Patches(layers.Conv):
    """Convolution whose stride is its size, as one matrix product over whole patches."""

    def __init__(self, config, *, bias: bool):
        side = config.patch_size
        super().__init__(3, config.hidden_size, size=side, stride=side, padding=0, bias=bias)

    def __call__(self, pictures):
        """(B, H, W, 3) -> (B, H // side, W // side, C); the rest on the right and below is cut off.

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


def add_positions(token: jax.Array, patches: jax.Array, positions: jax.Array) -> jax.Array:
    """Puts the class token before the patches and adds the embeddings of their positions.

    Args:
        token: (C,).
        patches: (B, h, w, C).
        positions: (1 + n * n, C) float32, the token's first; those of the patches are resized from
            n x n to h x w as torch's bicubic interpolation does, without antialiasing.

    Returns:
        (B, 1 + h * w, C) of the patches' dtype.
    """
    batch, height, width, features = patches.shape
    side = math.isqrt(positions.shape[0] - 1)
    grid = positions[1:]
    if (height, width) != (side, side):
        grid = grid.reshape(side, side, features)
        shape = height, width, features
        grid = jax.image.resize(grid, shape, "cubic-pytorch", antialias=False)
    x = patches.reshape(batch, height * width, features) + grid.reshape(-1, features)
    first = jnp.broadcast_to(token + positions[0], (batch, 1, features))
    return jnp.concatenate([first, x], axis=1).astype(patches.dtype)


def heads_attend(x, query, key, value, out, heads: int, *, causal: bool = False):
    """Multi-head self-attention with four dense layers: (B, T, C) -> (B, T, C)."""
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

    def __call__(self, x):
        dense = self.q_proj, self.k_proj, self.v_proj, self.out_proj
        return heads_attend(x, *dense, self.heads, causal=self.causal)


class Mlp(nnx.Module):
    """Two dense layers and the activation between them."""

    def __init__(self, features: int, hidden: int, activation: str):
        self.fc1 = layers.Linear(features, hidden)
        self.fc2 = layers.Linear(hidden, features)
        self.activation = activation

    def __call__(self, x):
        return self.fc2(layers.ACTIVATIONS[self.activation](self.fc1(x)))


class Layer(nnx.Module):
    """One transformer layer, normalised before each half."""

    def __init__(self, config, causal: bool):
        size, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = Attention(config, causal)
        self.layer_norm1 = layers.LayerNorm(size, eps=eps)
        self.mlp = Mlp(size, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = layers.LayerNorm(size, eps=eps)

    def __call__(self, x):
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

    def __call__(self, x):
        return self.layers(x)

    def states(self, x):
        """(B, T, C) -> (L + 1, B, T, C): what goes in, then what each layer makes of it."""
        graphdef, params = nnx.split(self.layers.blocks)

        def body(x, layer):
            x = nnx.merge(graphdef, layer)(x)
            return x, x

        body = remat.apply(self.layers.remat, body)
        states = lax.scan(body, x, params, unroll=self.layers.unroll)[1]
        return jnp.concatenate([x[None], states])


class TextEmbeddings(nnx.Module):
    """The tables of tokens and positions."""

    def __init__(self, config: ClipTextConfig):
        size = config.hidden_size
        self.token_embedding = layers.Embedding(config.vocab_size, size)
        self.position_embedding = layers.Embedding(config.max_position_embeddings, size)

    def add_positions(self, x):
        length, limit = x.shape[-2], self.position_embedding.weight.shape[0]
        if length > limit:
            raise InputError(
                f"{length} tokens, but this text tower has {limit} positions; truncate"
            )
        return x + self.position_embedding.weight[...][:length]


class ClipText(nnx.Module):
    """The causal text tower, whose hidden states steer Stable Diffusion."""

    def __init__(self, config: ClipTextConfig):
        size = config.hidden_size
        self.dtype = config.dtype
        self.eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, causal=True)
        self.final_layer_norm = layers.LayerNorm(size, eps=config.layer_norm_eps)
        self.text_projection = (
            layers.Linear(size, config.projection_dim, bias=False)
            if config.with_projection
            else None
        )

    def __call__(self, token_ids):
        """Runs the tower.

        Args:
            token_ids: (B, T) integers in [0, vocab_size), T at most max_position_embeddings.

        Returns:
            (B, T, hidden_size) of the config's dtype: the last layer's output, normalised.

        Raises:
            InputError: more tokens than positions.
        """
        return self.from_embeddings(self.embed(token_ids))

    def embed(self, token_ids):
        """Looks tokens up.

        Args:
            token_ids: (B, T) integers in [0, vocab_size).

        Returns:
            (B, T, hidden_size) of the config's dtype, positions not added.
        """
        return self.embeddings.token_embedding.weight[...][token_ids].astype(self.dtype)

    def from_embeddings(self, embeddings):
        """Runs the tower on tokens that were looked up, or made, elsewhere.

        Args:
            embeddings: (B, T, hidden_size), positions not added: `embed`'s, some of them replaced
                by pseudo-words.

        Returns:
            As `__call__`.

        Raises:
            InputError: more tokens than positions.
        """
        return self.final_layer_norm(self.encoder(self._start(embeddings)))

    def hidden_states(self, token_ids):
        """Runs the tower and keeps what every layer gives.

        Args:
            token_ids: as in `__call__`.

        Returns:
            (num_hidden_layers + 1, B, T, hidden_size) of the config's dtype: tokens with positions,
            then the output of each layer, the last not normalised either.

        Raises:
            InputError: more tokens than positions.
        """
        return self.encoder.states(self._start(self.embed(token_ids)))

    def pooled(self, token_ids):
        """Takes the state at the token that ends the text, which has seen all of it.

        Args:
            token_ids: as in `__call__`. The end is the first `eos_token_id`, or the first token if
                there is none; with an `eos_token_id` of 2, the first of the highest ids.

        Returns:
            (B, hidden_size) of the config's dtype, normalised.

        Raises:
            InputError: more tokens than positions.
        """
        is_end = self.eos_token_id == token_ids
        end = (token_ids if self.eos_token_id == 2 else is_end).argmax(-1)
        return jnp.take_along_axis(self(token_ids), end[:, None, None], axis=1)[:, 0]

    def project(self, token_ids):
        """Carries texts into the space that both towers share.

        Args:
            token_ids: as in `pooled`.

        Returns:
            (B, projection_dim) of the config's dtype, not scaled to unit length.

        Raises:
            InputError: built without projection, or more tokens than positions.
        """
        return _projection(self.text_projection)(self.pooled(token_ids))

    def _start(self, embeddings):
        return self.embeddings.add_positions(embeddings).astype(self.dtype)


class VisionEmbeddings(nnx.Module):
    """Class token, patches and positions."""

    def __init__(self, config: ClipVisionConfig):
        size = config.hidden_size
        self.class_embedding = layers.param((size,), std=size**-0.5)
        self.patch_embedding = Patches(config, bias=False)
        count = 1 + (config.image_size // config.patch_size) ** 2
        self.position_embedding = layers.Embedding(count, size)

    def __call__(self, pictures):
        patches = self.patch_embedding(pictures)
        positions = self.position_embedding.weight[...]
        return add_positions(self.class_embedding[...], patches, positions)


class ClipVision(nnx.Module):
    """The vision tower: a vision transformer that is normalised once before its first layer too."""

    def __init__(self, config: ClipVisionConfig):
        size, eps = config.hidden_size, config.layer_norm_eps
        self.dtype = config.dtype
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = layers.LayerNorm(size, eps=eps)  # the checkpoints' own spelling
        self.encoder = Encoder(config, causal=False)
        self.post_layernorm = layers.LayerNorm(size, eps=eps)
        self.visual_projection = (
            layers.Linear(size, config.projection_dim, bias=False)
            if config.with_projection
            else None
        )

    def __call__(self, pictures):
        """Runs the tower.

        Args:
            pictures: (B, H, W, 3) RGB as `normalise` gives them; any size from one patch on. What
                is left over of whole patches is cut off, positions are resized to the size.

        Returns:
            The last layer's output, (B, 1 + h * w, hidden_size), class token first, not normalised;
            and the normalised class token, (B, hidden_size). Both of the config's dtype.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        x = self.encoder(self._start(pictures))
        return x, self.post_layernorm(x[:, 0])

    def hidden_states(self, pictures):
        """Runs the tower and keeps what every layer gives.

        Args:
            pictures: as in `__call__`.

        Returns:
            (num_hidden_layers + 1, B, 1 + h * w, hidden_size) of the config's dtype: the normalised
            embeddings, then the output of each layer.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        return self.encoder.states(self._start(pictures))

    def project(self, pictures):
        """Carries pictures into the space that both towers share.

        Args:
            pictures: as in `__call__`.

        Returns:
            (B, projection_dim) of the config's dtype, not scaled to unit length.

        Raises:
            InputError: built without projection, not RGB pictures, or smaller than one patch.
        """
        return _projection(self.visual_projection)(self(pictures)[1])

    def _start(self, pictures):
        return self.pre_layrnorm(self.embeddings(pictures.astype(self.dtype)))


def _projection(layer: layers.Linear | None) -> layers.Linear:
    if layer is None:
        raise InputError("this tower has no projection; build it with with_projection=True")
    return layer
