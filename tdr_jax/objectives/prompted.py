"""Restoration told in words what to remove: the objective of TextPromptIR."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from tdr_jax.objectives import pixels


@dataclasses.dataclass(frozen=True)
class Prompted:
    """Restore a degraded picture, given one sentence vector that names the degradation.

    Args:
        network: a `tdr_jax.models.Network` whose `apply(params, images, vectors)` restores images.
        weights: the loss configuration, see `pixels.weighted`.

    Source: the L1 term on the unclipped output is TextPromptIR's whole loss; the spectral term is
    MIMO-UNet's (arXiv 2108.05054, equation 9). It grows with the crop, so keep its weight small.
    """

    network: Any
    weights: Any

    def loss(self, params, batch, rng):
        """Measure how far the restored pictures are from the clean ones.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` and `clean` float32 (B, H, W, 3) in [0, 1], `vector` float32 (B, D).
            rng: a key; unused, since this network draws nothing.

        Returns:
            the loss, a float32 scalar, and a dict of float32 scalars: the terms of
            `pixels.weighted`, and `psnr`.
        """
        del rng
        restored = self.predict(params, batch)
        loss, metrics = pixels.weighted(self.weights, restored, batch["clean"])
        return loss, metrics | {"psnr": pixels.psnr(restored, batch["clean"])}

    def predict(self, params, batch):
        """Restore the batch.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` float32 (B, H, W, 3) in [0, 1] and `vector` float32 (B, D).

        Returns:
            float32 (B, H, W, 3), not clipped.
        """
        restored = self.network.apply(params, batch["degraded"], batch["vector"])
        return restored.astype(jnp.float32)
