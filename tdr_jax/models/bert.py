"""BERT encoder: token ids in, hidden states or a mean-pooled sentence vector out.

Parameters carry the Hugging Face names with the layer index stacked away: HF's
`encoder.layer.3.attention.self.query.weight` is `encoder.layer.blocks.attention.self.query.kernel`
at index 3. The pooler is not part of it: sentence vectors are means over tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Float32, Int, Shaped

from tdr_jax.errors import InputError
from tdr_jax.nn import layers
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes under their Hugging Face names (defaults: BERT-base uncased), then how to compute."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; correct one of them"
            )
        if self.hidden_act not in layers.ACTIVATIONS:
            raise InputError(
                f"hidden_act {self.hidden_act!r} is not known; use one of "
                f"{', '.join(layers.ACTIVATIONS)}"
            )


SIZES = {"bert": {}}


class Embeddings(nnx.Module):
    """Sum of word, position and (first) segment embeddings, normalised."""

    def __init__(self, config: BertConfig):
        size = config.hidden_size
        self.word_embeddings = layers.Embedding(config.vocab_size, size)
        self.position_embeddings = layers.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = layers.Embedding(config.type_vocab_size, size)
        self.LayerNorm = layers.LayerNorm(size, eps=config.layer_norm_eps)

    def __call__(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b t c"]:
        """Looks tokens up, in their places.

        Raises:
            InputError: more tokens than positions.
        """
        length, limit = token_ids.shape[-1], self.position_embeddings.weight.shape[0]
        if length > limit:
            raise InputError(f"{length} tokens, but this BERT has {limit} positions; truncate")
        x = self.word_embeddings.weight[...][token_ids]
        x = x + self.position_embeddings.weight[...][:length]
        return self.LayerNorm(x + self.token_type_embeddings.weight[...][0])


class SelfAttention(nnx.Module):
    """Multi-head attention over the tokens that the mask keeps; logits and softmax in float32."""

    def __init__(self, config: BertConfig):
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = layers.Linear(size, size)
        self.key = layers.Linear(size, size)
        self.value = layers.Linear(size, size)

    def __call__(self, x: Float[Array, "b t c"], mask: Bool[Array, "b t"]) -> Float[Array, "b t c"]:
        """Maps hidden states to what each token sees, of the same dtype."""
        q, k, v = (
            f(x).reshape(*x.shape[:-1], self.heads, -1) for f in (self.query, self.key, self.value)
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = logits / np.sqrt(q.shape[-1])
        # The lowest finite number, not -inf: a row without any token stays finite.
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)


class Residual(nnx.Module):
    """LayerNorm(dense(x) + shortcut): BERT normalises after the sum."""

    def __init__(self, features: int, config: BertConfig):
        self.dense = layers.Linear(features, config.hidden_size)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(
        self, x: Float[Array, "b t d"], shortcut: Float[Array, "b t c"]
    ) -> Float[Array, "b t c"]:
        """Joins both, in x's dtype."""
        return self.LayerNorm(self.dense(x) + shortcut)


class Attention(nnx.Module):
    """Self-attention and its residual, under HF's names `attention.self` and `attention.output`."""

    def __init__(self, config: BertConfig):
        self.self = SelfAttention(config)
        self.output = Residual(config.hidden_size, config)

    def __call__(self, x: Float[Array, "b t c"], mask: Bool[Array, "b t"]) -> Float[Array, "b t c"]:
        """Maps hidden states to hidden states of the same dtype."""
        return self.output(self.self(x, mask), x)


class Intermediate(nnx.Module):
    """First half of the feed-forward network: dense and activation."""

    def __init__(self, config: BertConfig):
        self.dense = layers.Linear(config.hidden_size, config.intermediate_size)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        """Maps hidden states to wider ones of the same dtype."""
        return layers.ACTIVATIONS[self.activation](self.dense(x))


class Layer(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: BertConfig):
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config.intermediate_size, config)

    def __call__(self, x: Float[Array, "b t c"], mask: Bool[Array, "b t"]) -> Float[Array, "b t c"]:
        """Maps hidden states to hidden states of the same dtype."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nnx.Module):
    """All layers in a row, their parameters stacked."""

    def __init__(self, config: BertConfig):
        self.layer = layers.Stage(
            functools.partial(Layer, config),
            config.num_hidden_layers,
            remat=config.remat,
            unroll=config.scan_unroll,
        )

    def __call__(self, x: Float[Array, "b t c"], mask: Bool[Array, "b t"]) -> Float[Array, "b t c"]:
        """Maps hidden states to hidden states of the same dtype."""
        return self.layer(x, mask)


class Bert(nnx.Module):
    """The encoder of Devlin et al. 2018 (arXiv 1810.04805, section 3), without the pooler."""

    def __init__(self, config: BertConfig):
        self.dtype = config.dtype
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def __call__(
        self, token_ids: Int[Array, "b t"], attention_mask: Shaped[Array, "b t"]
    ) -> Float[Array, "b t c"]:
        """Runs the encoder.

        Args:
            token_ids: in [0, vocab_size), t at most max_position_embeddings.
            attention_mask: bool or 0/1; 0 marks padding.

        Returns:
            Hidden states of the config's dtype, c = hidden_size; rows of padding hold no meaning.
        """
        x = self.embeddings(token_ids).astype(self.dtype)
        return self.encoder(x, attention_mask.astype(bool))

    def mean_pool(
        self, token_ids: Int[Array, "b t"], attention_mask: Shaped[Array, "b t"]
    ) -> Float32[Array, "b c"]:
        """Averages the hidden states of the tokens that are not padding.

        Args:
            token_ids, attention_mask: as in `__call__`.

        Returns:
            Means, not of unit length; c = hidden_size.
        """
        return mean(self(token_ids, attention_mask), attention_mask)

    def onwards(
        self, states: Float[Array, "b t c"], attention_mask: Shaped[Array, "b t"]
    ) -> Float[Array, "b t c"]:
        """Runs the layers on hidden states, of layers before these; mask as in `__call__`."""
        return self.encoder(states, attention_mask.astype(bool))


def mean(
    states: Float[Array, "b t c"], attention_mask: Shaped[Array, "b t"]
) -> Float32[Array, "b c"]:
    """Averages hidden states over the tokens that are not padding.

    Args:
        states: of any range.
        attention_mask: bool or 0/1; 0 marks padding.
    """
    weight = attention_mask.astype(jnp.float32)[..., None]
    return (states.astype(jnp.float32) * weight).sum(-2) / jnp.maximum(weight.sum(-2), 1)
