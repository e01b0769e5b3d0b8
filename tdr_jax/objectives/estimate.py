"""Degradations told from pictures: how the estimator learns."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks
from tdr_jax.objectives.base import (
    Batch,
    ConfiguredObjective,
    Evaluator,
    Frozen,
    Measured,
    Scalars,
    Shapes,
)
from tdr_jax.objectives.held_out import HeldOut

NOISE = 0  # its place among what is looked for


@dataclasses.dataclass(frozen=True)
class EstimationLoss:
    """Say of each degradation whether it is in the picture, and of noise how strong it is.

    Args:
        network: a `tdr_jax.models.estimator.DegradationEstimator`'s Network.
    """

    network: Any

    def __call__(self, params: models.Params, batch: Batch, rng: PRNGKeyArray) -> Measured:
        """Measure how surprising the truth is.

        Args:
            params: the network's.
            batch: `degraded` float32 (b, h, w, 3) in [0, 1], `present` float32 (b, 4), 0 or 1, and
                `sigma` float32 (b,) on the scale of 0 to 255, 0 without noise.
            rng: a key; unused.

        Returns:
            the loss: the cross-entropies' sum, in nats, and the absolute error of the noise's
            level, in octaves, 0 where there is none; and `cross_entropy`, the former,
            `log2_sigma_error`, the latter, and `accuracy`, the share of pictures about which
            everything is right.
        """
        del rng
        logits, level = self.network.apply(params, batch["degraded"])
        present, sigma = batch["present"], batch["sigma"]
        cross_entropy = optax.sigmoid_binary_cross_entropy(logits, present).sum(-1).mean()
        error = jnp.abs(level - jnp.log2(jnp.maximum(sigma, 1)))
        error = (error * present[:, NOISE]).mean()
        accuracy = right(logits, present).all(-1).mean(dtype=jnp.float32)
        metrics = {"cross_entropy": cross_entropy, "log2_sigma_error": error, "accuracy": accuracy}
        return cross_entropy + error, metrics


def right(logits: Float32[Array, "b 4"], present: Float32[Array, "b 4"]) -> Bool[Array, "b 4"]:
    """Whether each answer is right.

    Args:
        logits: log-odds, in nats.
        present: 0 or 1, whether that degradation is there.
    """
    return (logits > 0) == (present > 0.5)


class EstimateObjective(ConfiguredObjective):
    """A network that tells what is wrong with pictures, see `data.degradation_labels`."""

    no_panel = "an estimate is no picture"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = networks.of_config(config)
        if self.network.kind != "DegradationEstimator":
            raise InputError(
                f"config.objective is 'estimate', but {self.network.name} is no estimator; set "
                "config.network.name to degradation-estimator"
            )
        _check(config.data)
        self.loss = EstimationLoss(self.network)

    def predict(
        self, params: models.Params, batch: Batch, *frozen: Frozen
    ) -> tuple[Float32[Array, "b 4"], Float32[Array, " b"]]:
        """Answers for `degraded` of the batch, see `DegradationEstimator.conclude`."""
        return self.network.apply(params, batch["degraded"])

    def batches(self, step: int) -> Iterator[Batch]:
        """Degraded pictures and what is in them."""
        from tdr_jax.data import places

        make = self._examples(places.from_config(self.config.data), self.config.seed)
        return self.stream(make, step)

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch looks like, examples in the first axis."""
        return {
            "degraded": jax.ShapeDtypeStruct((batch, crop, crop, 3), "float32"),
            "present": jax.ShapeDtypeStruct((batch, len(ESTIMATED)), "float32"),
            "sigma": jax.ShapeDtypeStruct((batch,), "float32"),
        }

    def evaluators(self) -> tuple[Evaluator, ...]:
        """The loss and each degradation's accuracy, on one example of each held-out picture."""
        from tdr_jax.data import places

        given, (*_, (_, crop, _)) = self.config.eval_data, self.config.data.stages
        if not given.path:
            return ()
        pictures = places.of_evaluation(self.config)
        make, count = self._examples(pictures, seed=0), given.limit or len(pictures)
        return (HeldOut(self.measure, make, count, crop),)

    def measure(self, params: models.Params, batch: Batch, rng: PRNGKeyArray) -> Scalars:
        """The loss, its metrics, and the accuracy of each answer alone."""
        logits, _ = self.predict(params, batch)
        shares = right(logits, batch["present"]).mean(0, dtype=jnp.float32)
        each = {f"{name}/accuracy": shares[i] for i, name in enumerate(ESTIMATED)}
        return super().measure(params, batch, rng) | each

    def _examples(self, pictures, seed: int):
        from tdr_jax.data import degradation_labels

        return degradation_labels.LabelledExamples(pictures, self.config.data, seed)


def _check(data) -> None:
    """Refuses pictures that do not fit, with an InputError."""
    if unknown := [task for task in data.tasks if task not in ESTIMATED]:
        raise InputError(
            f"config.data.tasks has {unknown[0]!r}; the estimator looks for {', '.join(ESTIMATED)}"
        )
    if data.pairs:
        raise InputError("config.data.pairs: the estimator learns from clean pictures only")
    if data.channels != 3:
        raise InputError(f"config.data.channels is {data.channels}; the estimator sees colour")
