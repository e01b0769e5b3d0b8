"""Sentences that ask for the same brought together, others apart: how text encoders learn."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float32, Int, PRNGKeyArray

from tdr_jax import disk, models, text
from tdr_jax.data.sentence_pairs import SentencePairs
from tdr_jax.degradations.vocabulary import MEANINGS
from tdr_jax.errors import InputError
from tdr_jax.models import bert
from tdr_jax.nn.typing import Array
from tdr_jax.objectives.base import (
    Batch,
    ConfiguredObjective,
    Evaluator,
    Measured,
    Scalars,
    Shapes,
)
from tdr_jax.objectives.held_out import HeldOut
from tdr_jax.text import intent, phrasings

STACK = "encoder.layer.blocks."
PROBE = "meaning.weight"  # name of the linear probe that learns beside the encoder
TEMPERATURE = 0.1  # of the contrastive loss: SupCon's
SHARPNESS = 16.0  # of the probe's answers: vectors of norm 1 have small products
TOKENS = ("tokens", "mask")
PAIRS = 256  # that are measured while a run trains, unless the config says otherwise


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
        """The BERT's."""
        return self.network.name

    @property
    def config(self) -> Any:
        """The BERT's."""
        return self.network.config

    @property
    def size(self) -> int:
        """The number of parameters that learn."""
        return sum(spec.size for spec in self.abstract_params().values())

    def init(self, seed: int = 0) -> models.Params:
        """Draws a whole BERT, and gives the part that learns."""
        return self.cut(self.network.init(seed))

    def abstract_params(self) -> Shapes:
        """The shapes and dtypes of what learns."""
        return jax.eval_shape(self.cut, self.network.abstract_params())

    def cut(self, params: models.Params) -> models.Params:
        """The part of a whole BERT's parameters that learns, and the probe as it begins."""
        probe = jnp.zeros((self.meanings, self.config.hidden_size))
        own = {PROBE: probe} if self.meanings else {}
        if not self.layers:
            return dict(params) | own
        return {n: v[-self.layers :] for n, v in params.items() if n.startswith(STACK)} | own

    def join(self, params: models.Params, own: models.Params) -> models.Params:
        """The whole BERT's parameters, with the part that has learnt in its place."""
        own = {name: value for name, value in own.items() if name != PROBE}
        if not self.layers:
            return own
        below = {n: v[: -self.layers] for n, v in params.items() if n in own}
        return params | {n: jnp.concatenate([v, own[n]]) for n, v in below.items()}

    def pool(
        self,
        own: models.Params,
        whole: models.Params,
        tokens: Int[Array, "n t"],
        mask: Bool[Array, "n t"],
    ) -> Float32[Array, "n c"]:
        """Means over tokens, as `Bert.mean_pool` gives them; layers below are not differentiated.

        Args:
            own: parameters that learn.
            whole: parameters of the BERT they were cut from; none where all of it learns.
            tokens: ids in [0, vocab_size).
            mask: False marks padding.

        Returns:
            c = hidden_size.
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
class SentencePairLoss:
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

    def __call__(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray, frozen: models.Params
    ) -> Measured:
        """Measure how far cosines are from labels.

        Args:
            params: what learns.
            batch: `tokens` int and `mask` bool (b, 2, t), `label` float32 (b,) and `meaning`
                float32 (b, 2, m), see `tdr_jax.data.sentence_pairs`.
            rng: a key; unused.
            frozen: parameters of the whole BERT as it was; none where all of it learns.

        Returns:
            the loss, and `accuracy`, the share of pairs whose cosine is on the
            right side of one half, with `cosine`, `same` and `meaning`, the terms.
        """
        del rng
        vectors = sentence_vectors(self.network, params, batch, frozen)
        pairs = vectors.reshape(*batch["tokens"].shape[:2], -1)
        cosine = (pairs[:, 0] * pairs[:, 1]).sum(-1)
        metrics = {"cosine": jnp.square(cosine - batch["label"]).mean()}
        loss = self.weights.cosine * metrics["cosine"]
        if self.weights.same:
            metrics["same"] = same(vectors, batch["meaning"].reshape(len(vectors), -1))
            loss = loss + self.weights.same * metrics["same"]
        if self.weights.meaning:
            logits = probed(params, vectors)
            meaning = batch["meaning"].reshape(logits.shape)
            metrics["meaning"] = optax.softmax_cross_entropy(logits, meaning).mean()
            loss = loss + self.weights.meaning * metrics["meaning"]
        accuracy = ((cosine > 0.5) == (batch["label"] > 0.5)).mean(dtype=jnp.float32)
        return loss, metrics | {"accuracy": accuracy}


def sentence_vectors(
    network: LastLayers, params: models.Params, batch: Batch, frozen: models.Params
) -> Float32[Array, "2*b d"]:
    """The vectors of a batch's sentences, one after another, of norm 1; args as for the loss."""
    tokens, mask = (batch[name].reshape(-1, batch[name].shape[-1]) for name in TOKENS)
    vectors = network.pool(params, frozen, tokens, mask)
    return vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12)


def probed(params: models.Params, vectors: Float32[Array, "n d"]) -> Float32[Array, "n m"]:
    """The linear probe's logits of the meanings.

    Args:
        params: what learns, the probe among it.
        vectors: of norm 1.
    """
    return SHARPNESS * vectors @ params[PROBE].T


def same(vectors: Float32[Array, "n d"], meaning: Float32[Array, "n m"]) -> Float32[Array, ""]:
    """SupCon: how much likelier another sentence of the same meaning should be than the others.

    Args:
        vectors: of norm 1.
        meaning: sentences with equal rows mean the same.

    Returns:
        The mean over sentences that have another of their meaning, in nats.

    Source: arXiv 2004.11362, eq. 2.
    """
    alone = jnp.eye(len(vectors), dtype=bool)
    logits = jnp.where(alone, -jnp.inf, vectors @ vectors.T / TEMPERATURE)
    likely = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    alike = (jnp.abs(meaning[:, None] - meaning).sum(-1) < 1e-3) & ~alone
    count = alike.sum(-1)
    each = -jnp.where(alike, likely, 0).sum(-1) / jnp.maximum(count, 1)
    return each.sum() / jnp.maximum((count > 0).sum(), 1)


class TextEncoderObjective(ConfiguredObjective):
    """A BERT, all of it or its last layers, on pairs of sentences.

    Of the config: `encoder`, where it starts; `network.layers`, how many of its last layers learn;
    `network.overrides`; `data.stages`, ((steps, tokens, batch), ...); `data.typos`.
    """

    no_panel = "sentences are none"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        _check(config)
        self.encoder = text.TextEncoder.from_pretrained(config.encoder)
        whole, layers = self.encoder.network, config.network.layers
        _check_sizes(config, self.encoder)
        try:
            given = config.network.overrides.items()
            whole = whole.replace(**{key: value for key, value in given if value is not None})
        except (TypeError, ValueError) as error:
            raise InputError(f"config.network.overrides: {error}") from None
        meanings = len(MEANINGS) if config.loss.meaning else 0
        self.network = LastLayers(whole, layers, meanings)
        self.loss = SentencePairLoss(self.network, config.loss)
        self.frozen = (self.encoder.params if layers else {},)

    def initial_params(self) -> models.Params:
        """What learns of the encoder that the config names."""
        return self.network.cut(self.encoder.params)

    def predict(
        self, params: models.Params, batch: Batch, frozen: models.Params
    ) -> Float32[Array, "n d"]:
        """The vectors of the sentences, see `sentence_vectors`."""
        return sentence_vectors(self.network, params, batch, frozen)

    def batches(self, step: int) -> Iterator[Batch]:
        """Pairs of training sentences, see `data.sentence_pairs`."""
        config = self.config
        return self.stream(self._pairs("training", config.seed, config.data.typos), step)

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch looks like, examples in the first axis; `crop` counts tokens."""
        meanings = len(MEANINGS)
        return {
            "tokens": jax.ShapeDtypeStruct((batch, 2, crop), "int32"),
            "mask": jax.ShapeDtypeStruct((batch, 2, crop), "bool"),
            "meaning": jax.ShapeDtypeStruct((batch, 2, meanings), "float32"),
            "label": jax.ShapeDtypeStruct((batch,), "float32"),
        }

    def evaluators(self) -> tuple[Evaluator, ...]:
        """Pairs of sentences in phrasings that training does not see, and that settings may."""
        tokens = max(tokens for _, tokens, _ in self.config.data.stages)
        make, count = self._pairs("calibration", 0, 0.0), self.config.eval_data.limit or PAIRS
        return (HeldOut(self.measure, make, count, tokens, self.frozen),)

    def measure(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray, frozen: models.Params
    ) -> Scalars:
        """The loss, its metrics, and how often the probe, if any, finds what is asked for."""
        found = super().measure(params, batch, rng, frozen)
        if PROBE in params:
            logits = probed(params, self.predict(params, batch, frozen))
            meaning = batch["meaning"].reshape(logits.shape)
            told = jnp.take_along_axis(meaning, logits.argmax(-1)[:, None], -1) > 0
            found["meaning_accuracy"] = told.mean(dtype=jnp.float32)
        return found

    def export(self, params: models.Params, step: int) -> Path:
        """Writes the encoder, and the head that reads its vectors, to `text_encoder/`."""
        whole = self.network.join(self.encoder.params, jax.device_get(params))
        encoder = self.encoder.with_params(whole)
        # The probe reads vectors of norm 1. It tells "none" better than a head fitted afterwards,
        # to sentences that the encoder has learnt by then.
        probe = params.get(PROBE) if encoder.normalise else None
        kernel = None if probe is None else SHARPNESS * np.asarray(probe).T
        head = intent.fit(encoder, kernel=kernel, seed=self.config.seed)
        target = self.workdir / "text_encoder"
        with disk.replacing_folder(target) as folder:
            encoder.save(folder)
            head.save(folder)
        return target

    def _pairs(self, part: str, seed: int, typos: float):
        encoder = self.encoder
        return SentencePairs(
            phrasings.part(part), encoder.tokenizer, seed, typos=typos, lower=encoder.lower
        )


def _check(config) -> None:
    """Refuses fields that mean nothing here, or that change what is learnt, with an InputError."""
    for field, found, why in (
        ("init_from", config.init_from, "config.encoder says where it starts"),
        ("eval_data.path", config.eval_data.path, "held-out sentences come with the package"),
    ):
        if found:
            raise InputError(
                f"config.{field} is {found!r} for objective 'text_encoder'; set it to '': {why}"
            )
    if not config.encoder:
        raise InputError(
            "config.encoder is empty; give minilm or the folder of a BERT: --config.encoder=FOLDER"
        )
    if not 0 <= config.data.typos <= 1:
        raise InputError(f"config.data.typos is {config.data.typos}; give a share from 0 to 1")
    if not (config.loss.cosine or config.loss.same or config.loss.meaning):
        raise InputError(
            "config.loss.cosine, same and meaning are 0; there is nothing to learn: set one"
        )
    if config.loss.same and config.accumulate > 1:
        raise InputError(
            f"config.accumulate is {config.accumulate}, but config.loss.same compares all "
            "sentences of a batch; set one of them to 1 or 0"
        )


def _check_sizes(config, encoder) -> None:
    """Refuses layers and lengths that the encoder has not, with an InputError."""
    layers, depth = config.network.layers, encoder.network.config.num_hidden_layers
    if not 0 <= layers < depth:
        raise InputError(
            f"config.network.layers is {layers}, but {config.encoder} has {depth} layers; give "
            f"1 to {depth - 1} for the last of them, or 0 for everything"
        )
    for _, tokens, _ in config.data.stages:
        if not 3 <= tokens <= encoder.max_length:
            raise InputError(
                f"config.data.stages has sentences of {tokens} tokens; give 3 to "
                f"{encoder.max_length}, as {config.encoder} takes"
            )
