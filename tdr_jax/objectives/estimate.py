"""Degradations told from pictures: how the estimator learns."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

NOISE = 0  # its place among what is looked for


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Say of each degradation whether it is in the picture, and of noise how strong it is.

    Args:
        network: a `tdr_jax.models.estimator.DegradationEstimator`'s Network.
    """

    network: Any

    def loss(self, params, batch, rng):
        """Measure how surprising the truth is.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` float32 (B, H, W, 3) in [0, 1], `present` float32 (B, 4), 0 or 1, and
                `sigma` float32 (B,) on the scale of 0 to 255, 0 without noise.
            rng: a key; unused.

        Returns:
            the loss, a float32 scalar: the cross-entropies' sum and the absolute error of the
            noise's level, 0 where there is none; and `surprise`, the former, `octaves`, the latter,
            and `right`, the share of pictures about which everything is right.
        """
        del rng
        logits, level = self.predict(params, batch)
        present, sigma = batch["present"], batch["sigma"]
        surprise = optax.sigmoid_binary_cross_entropy(logits, present).sum(-1).mean()
        octaves = jnp.abs(level - jnp.log2(jnp.maximum(sigma, 1)))
        octaves = (octaves * present[:, NOISE]).mean()
        right = ((logits > 0) == (present > 0.5)).all(-1).mean(dtype=jnp.float32)
        metrics = {"surprise": surprise, "octaves": octaves, "right": right}
        return surprise + octaves, metrics

    def predict(self, params, batch):
        """Answer for `degraded` of the batch, see `DegradationEstimator.conclude`."""
        return self.network.apply(params, batch["degraded"])
