"""Sentences that ask for the same brought together, others apart: how text encoders learn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tdr_jax.models import bert

STACK = "encoder.layer.blocks."
PROBE = "meaning.weight"  # name of the linear probe that learns beside the encoder
TEMPERATURE = 0.1  # of the contrastive loss: SupCon's
SHARPNESS = 16.0  # of the probe's answers: vectors of norm 1 have small products


@dataclasses.dataclass(frozen=True)
class LastLayers:
    """The last layers of a BERT as a network of their own, which a training loop can update.

    Args:
        network: the whole BERT.
        layers: how many of its last layers learn; 0 for all of it, embeddings too.
        meanings: how many rows the linear probe has that learns beside it; 0 for no probe.
    """

    network: Any
    layers: int
    meanings: int = 0

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def config(self):
        return self.network.config

    @property
    def size(self) -> int:
        """The number of parameters that learn."""
        return sum(spec.size for spec in self.abstract_params().values())

    def init(self, seed: int = 0):
        return self.cut(self.network.init(seed))

    def abstract_params(self):
        return jax.eval_shape(self.cut, self.network.abstract_params())

    def cut(self, params):
        """The part of a whole BERT's parameters that learns, and the probe as it begins."""
        probe = jnp.zeros((self.meanings, self.config.hidden_size))
        own = {PROBE: probe} if self.meanings else {}
        if not self.layers:
            return dict(params) | own
        return {n: v[-self.layers :] for n, v in params.items() if n.startswith(STACK)} | own

    def join(self, params, own):
        """The whole BERT's parameters, with the part that has learnt in its place."""
        own = {name: value for name, value in own.items() if name != PROBE}
        if not self.layers:
            return own
        below = {n: v[: -self.layers] for n, v in params.items() if n in own}
        return params | {n: jnp.concatenate([v, own[n]]) for n, v in below.items()}

    def pool(self, own, whole, tokens, mask):
        """Means over tokens, as `Bert.mean_pool` gives them; layers below are not differentiated.

        Args:
            own: parameters that learn.
            whole: parameters of the BERT they were cut from.
            tokens, mask: (B, T).

        Returns:
            float32 (B, hidden_size).
        """
        own = {name: value for name, value in own.items() if name != PROBE}
        if not self.layers:
            return self.network.apply(own, tokens, mask, method="mean_pool")
        below = self.config.num_hidden_layers - self.layers
        lower = {n: v[:below] if n.startswith(STACK) else v for n, v in whole.items()}
        states = self.network.replace(num_hidden_layers=below).apply(lower, tokens, mask)
        upper = {n: v for n, v in whole.items() if not n.startswith(STACK)} | own
        network = self.network.replace(num_hidden_layers=self.layers)
        states = jax.lax.stop_gradient(states)
        return bert.mean(network.apply(upper, states, mask, method="onwards"), mask)


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Learn that the cosine of two sentence vectors is how alike their meanings are.

    Args:
        network: a `LastLayers`.
        weights: the loss configuration: `cosine`, of the squared difference between cosine and
            label of each pair; `same`, of the supervised contrastive loss over all sentences of
            the batch; `meaning`, of the cross-entropy of what a linear probe reads; 0 for none.

    Source: the first is the loss that TextPromptIR's encoder is fine-tuned with; the second is
    SupCon (arXiv 2004.11362, eq. 2); the third is ours.
    """

    network: Any
    weights: Any

    def loss(self, params, batch, rng, frozen):
        """Measure how far cosines are from labels.

        Args:
            params: flat dict of what learns.
            batch: `tokens` int and `mask` bool (B, 2, T), `label` float32 (B,) and `meaning`
                float32 (B, 2, M), see `tdr_jax.data.sentence_pairs`.
            rng: a key; unused.
            frozen: parameters of the whole BERT as it was.

        Returns:
            the loss, a float32 scalar, and `told`, the share of pairs whose cosine is on the right
            side of one half, with `cosine`, `same` and `meaning`, the terms.
        """
        del rng
        tokens, mask = (batch[name].reshape(-1, batch[name].shape[-1]) for name in TOKENS)
        vectors = self.network.pool(params, frozen, tokens, mask)
        vectors = vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12)
        pairs = vectors.reshape(*batch["tokens"].shape[:2], -1)
        cosine = (pairs[:, 0] * pairs[:, 1]).sum(-1)
        metrics = {"cosine": jnp.square(cosine - batch["label"]).mean()}
        loss = self.weights.cosine * metrics["cosine"]
        if self.weights.same:
            metrics["same"] = same(vectors, batch["meaning"].reshape(len(vectors), -1))
            loss = loss + self.weights.same * metrics["same"]
        if self.weights.meaning:
            logits = SHARPNESS * vectors @ params[PROBE].T
            meaning = batch["meaning"].reshape(logits.shape)
            metrics["meaning"] = optax.softmax_cross_entropy(logits, meaning).mean()
            loss = loss + self.weights.meaning * metrics["meaning"]
        told = ((cosine > 0.5) == (batch["label"] > 0.5)).mean(dtype=jnp.float32)
        return loss, metrics | {"told": told}


TOKENS = ("tokens", "mask")


def same(vectors, meaning):
    """SupCon: how much likelier another sentence of the same meaning should be than the others.

    Args:
        vectors: float32 (N, D), of norm 1.
        meaning: float32 (N, M); sentences with equal rows mean the same.

    Returns:
        float32 scalar, the mean over sentences that have another of their meaning.
    """
    alone = jnp.eye(len(vectors), dtype=bool)
    logits = jnp.where(alone, -jnp.inf, vectors @ vectors.T / TEMPERATURE)
    likely = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    alike = (jnp.abs(meaning[:, None] - meaning).sum(-1) < 1e-3) & ~alone
    count = alike.sum(-1)
    each = -jnp.where(alike, likely, 0).sum(-1) / jnp.maximum(count, 1)
    return each.sum() / jnp.maximum((count > 0).sum(), 1)
