"""Pictures through the latents of an autoencoder and back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax.objectives import pixels
from tdr_jax.objectives.denoise import draws


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Learn to give pictures back from latents that are few and near a normal distribution.

    Args:
        network: an AutoencoderKL.
        weights: the loss configuration, see `pixels.weighted`; `coarse`, of the L1 distance of the
            mean colours under each latent, which texture would else leave no room for; and `kl`,
            of the divergence of a latent from N(0, 1), in nats.

    Source: latent diffusion (arXiv 2112.10752), section 3.1, without its discriminator.
    """

    network: Any
    weights: Any

    def loss(self, params, batch, rng):
        """Measure what is lost.

        Args:
            params: flat dict of the autoencoder's parameters.
            batch: `drawn` float32 (B, H, W, 3) in [-1, 1], `row` int (B,).
            rng: a key.

        Returns:
            the loss, a float32 scalar, and a dict of float32 scalars: the terms of
            `pixels.weighted` of pictures in [0, 1], `coarse`, `kl`, `latent_std` and `psnr`.
        """
        mean, logvar = self.network.apply(params, batch["drawn"], method="encode")
        mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
        keys = draws(rng, batch["row"])
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        drawn = mean + jnp.exp(0.5 * logvar) * noise
        output = self.network.apply(params, drawn, method="decode").astype(jnp.float32)
        restored, clean = 0.5 * output + 0.5, 0.5 * batch["drawn"] + 0.5
        loss, metrics = pixels.weighted(self.weights, restored, clean)
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
        coarse = jnp.abs(self._cells(restored) - self._cells(clean)).mean()
        metrics |= {
            "kl": kl,
            "coarse": coarse,
            "latent_std": drawn.std(),
            "psnr": pixels.psnr(restored, clean),
        }
        return loss + self.weights.kl * kl + self.weights.coarse * coarse, metrics

    def _cells(self, pictures):
        """Mean colours under each latent, as brightness and two differences: -> (B, h, w, 3)."""
        b, h, w, c = pictures.shape
        f = self.network.config.factor
        red, green, blue = jnp.moveaxis(
            pictures.reshape(b, h // f, f, w // f, f, c).mean((2, 4)), -1, 0
        )
        # In L1 of the colours themselves errors of brightness decide every sign, and no gradient
        # is left for the differences between them. Red and green differ little in photographs, so
        # that they would be the last to be learnt.
        bright = (red + green + blue) / 3
        return jnp.stack([bright, 4 * (red - green), 2 * blue - (red + green)], -1)

    def predict(self, params, batch):
        """Give the pictures back, from the means of their latents.

        Args:
            params: flat dict of the autoencoder's parameters.
            batch: `drawn` float32 (B, H, W, 3) in [-1, 1].

        Returns:
            float32 (B, H, W, 3), about [-1, 1], not clipped.
        """
        mean, _ = self.network.apply(params, batch["drawn"], method="encode")
        return self.network.apply(params, mean, method="decode").astype(jnp.float32)
