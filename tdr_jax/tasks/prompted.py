"""Restoration told in words what to remove: the objective of TextPromptIR."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from tdr_jax import losses


@dataclasses.dataclass(frozen=True)
class Prompted:
    """Restore a degraded picture, given one sentence vector that names the degradation.

    Args:
        network: a `tdr_jax.models.Network` whose `apply(params, images, vectors)` restores images.
        weights: the loss configuration: `l1`, weight of the mean absolute error, and `fft`, weight
            of the same error between the two pictures' spectra; 0 leaves a term out.

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
            the loss, a float32 scalar, and a dict of float32 scalars: `l1`, `fft` where its weight
            is not 0, and `psnr`, the mean over the batch of the clipped output's PSNR in dB.
        """
        del rng
        restored = self.predict(params, batch)
        clean = batch["clean"]
        metrics = {"l1": losses.l1(restored, clean)}
        loss = self.weights.l1 * metrics["l1"]
        if self.weights.fft:
            metrics["fft"] = losses.fft_l1(restored, clean)
            loss = loss + self.weights.fft * metrics["fft"]
        # 1e-10 keeps a perfectly restored picture finite, at 100 dB.
        error = jnp.square(jnp.clip(restored, 0, 1) - clean).mean((-3, -2, -1))
        metrics["psnr"] = (-10 * jnp.log10(error + 1e-10)).mean()
        return loss, metrics

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
