"""CLIP's text tower: token ids to hidden states for a diffusion network, or to one vector.

Parameters carry the names of transformers' CLIPTextModel, without a prefix and with the layer
index stacked away: `encoder.layers.3.self_attn.q_proj.weight` there is
`encoder.layers.blocks.self_attn.q_proj.kernel` at index 3. Architecture: Radford et al. 2021,
arXiv 2103.00020, section 2.4.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from tdr_jax.errors import InputError
from tdr_jax.models import vit
from tdr_jax.nn import layers
from tdr_jax.nn.typing import Array


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
        vit.check_sizes(self)


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
SIZES = {
    "clip-text": {},
    "sd14/text_encoder": _SD1,
    "sd15/text_encoder": _SD1,
    "sd20-base/text_encoder": _SD2,
    "sd20/text_encoder": _SD2,
    "sd21-base/text_encoder": _SD2,
    "sd21/text_encoder": _SD2,
    "sd15-tiny/text_encoder": _TINY | dict(vocab_size=1000),
    "sd21-tiny/text_encoder": _TINY | dict(vocab_size=1000, hidden_act="gelu"),
    # Of the pipeline that this project trains itself; never a pretrained CLIP.
    "tdr-tiny/text_encoder": dict(
        vocab_size=998,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=64,
        eos_token_id=997,
    ),
}


class TextEmbeddings(nnx.Module):
    """The tables of tokens and of positions, a row of hidden_size numbers for each."""

    def __init__(self, config: ClipTextConfig):
        size = config.hidden_size
        self.token_embedding = layers.Embedding(config.vocab_size, size)
        self.position_embedding = layers.Embedding(config.max_position_embeddings, size)

    def add_positions(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Adds to tokens the embeddings of their positions.

        Args:
            x: embeddings, or pseudo-words in their place; c = hidden_size.

        Returns:
            Of the wider dtype of x and of the table, which is float32.

        Raises:
            InputError: more tokens than positions.
        """
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
        self.encoder = vit.Encoder(config, causal=True)
        self.final_layer_norm = layers.LayerNorm(size, eps=config.layer_norm_eps)
        self.text_projection = (
            layers.Linear(size, config.projection_dim, bias=False)
            if config.with_projection
            else None
        )

    def __call__(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """Runs the tower.

        Args:
            token_ids: in [0, vocab_size), t at most max_position_embeddings.

        Returns:
            The last layer's output, normalised, of the config's dtype; c = hidden_size.

        Raises:
            InputError: more tokens than positions.
        """
        return self.from_embeddings(self.embed(token_ids))

    def embed(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """Looks tokens up.

        Args:
            token_ids: in [0, vocab_size).

        Returns:
            Embeddings of the config's dtype, positions not added; c = hidden_size.
        """
        return self.embeddings.token_embedding.weight[...][token_ids].astype(self.dtype)

    def from_embeddings(self, embeddings: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Runs the tower on tokens that were looked up, or made, elsewhere.

        Args:
            embeddings: positions not added: `embed`'s, some of them replaced by pseudo-words.

        Returns:
            As `__call__`.

        Raises:
            InputError: more tokens than positions.
        """
        return self.final_layer_norm(self.encoder(self._start(embeddings)))

    def hidden_states(self, token_ids: Int[Array, "b t"]) -> Float[Array, "l b t c"]:
        """Runs the tower and keeps what every layer gives.

        Args:
            token_ids: as in `__call__`.

        Returns:
            Tokens with positions, then the output of each layer, the last not normalised either, of
            the config's dtype; l = num_hidden_layers + 1.

        Raises:
            InputError: more tokens than positions.
        """
        return self.encoder.states(self._start(self.embed(token_ids)))

    def pooled(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b c"]:
        """Takes the state at the token that ends the text, which has seen all of it.

        Args:
            token_ids: as in `__call__`. The end is the first `eos_token_id`, or the first token if
                there is none; with an `eos_token_id` of 2, the first of the highest ids.

        Returns:
            Normalised, of the config's dtype; c = hidden_size.

        Raises:
            InputError: more tokens than positions.
        """
        is_end = self.eos_token_id == token_ids
        end = (token_ids if self.eos_token_id == 2 else is_end).argmax(-1)
        return jnp.take_along_axis(self(token_ids), end[:, None, None], axis=1)[:, 0]

    def project(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Carries texts into the space that both towers share.

        Args:
            token_ids: as in `pooled`.

        Returns:
            Of the config's dtype, not scaled to unit length; d = projection_dim.

        Raises:
            InputError: built without projection, or more tokens than positions.
        """
        return vit.projection(self.text_projection)(self.pooled(token_ids))

    def _start(self, embeddings):
        return self.embeddings.add_positions(embeddings).astype(self.dtype)
