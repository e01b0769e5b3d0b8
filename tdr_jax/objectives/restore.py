"""Restoration by a network that reads no words: the objective of the plain restoration papers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax.objectives import pixels


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Restore a degraded picture.

    A network that has a method `training` gives its pictures on several grids, and each counts
    against the clean picture shrunk to its grid.

    Args:
        network: a `tdr_jax.models.Network` whose `apply(params, images)` restores images.
        weights: the loss configuration: `l1`, `charbonnier`, `psnr` and `fft`, see
            `pixels.weighted`, and `mixup`, see `blend`.

    Source: L1 is the loss of Restormer, PromptIR and DRSformer, the PSNR term that of NAFNet; the
    sum over three grids of L1 and 0.1 times the spectra's L1 that of SFNet (ICLR 2023, section 3).
    """

    network: Any
    weights: Any

    def loss(self, params, batch, rng):
        """Measure how far the restored pictures are from the clean ones.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` float32 (B, H, W, C_in) and `clean` (B, H, W, C), clean in [0, 1].
            rng: a key, for `blend`.

        Returns:
            the loss, a float32 scalar, and a dict of float32 scalars of the full-size picture:
            the terms of `pixels.weighted`, and `psnr`. With a network that keeps running
            statistics the dict also holds `running`, their new values by name.
        """
        degraded, clean = batch["degraded"], batch["clean"]
        if self.weights.mixup:
            degraded, clean = blend(rng, self.weights.mixup, degraded, clean)
        running = {}
        if self.network.has("training"):
            outputs, running = self.network.apply(params, degraded, method="training")
        else:
            outputs = (self.network.apply(params, degraded),)
        loss, metrics = pixels.on_every_grid(self.weights, outputs, clean)
        return loss, metrics | ({"running": running} if running else {})

    def predict(self, params, batch):
        """Restore the batch.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` float32 (B, H, W, C_in).

        Returns:
            float32 (B, H, W, C), not clipped.
        """
        return self.network.apply(params, batch["degraded"]).astype(jnp.float32)


def blend(rng, beta: float, *batches):
    """Mix each picture with another one of the batch, in half of the steps.

    Args:
        rng: a key.
        beta: both parameters of the Beta distribution that the share is drawn from.
        *batches: arrays (B, ...); all are mixed alike.

    Returns:
        the batches, as they were or each x_i as s x_i + (1 - s) x_p(i), with one share s and one
        permutation p for the whole batch.

    Source: mixup (arXiv 1710.09412), as Restormer's Gaussian denoising is trained.
    """
    keys = jax.random.split(rng, 3)
    share = jax.random.beta(keys[0], beta, beta)
    share = jnp.where(jax.random.bernoulli(keys[1]), share, 1.0)
    order = jax.random.permutation(keys[2], len(batches[0]))
    return tuple(share * batch + (1 - share) * batch[order] for batch in batches)
