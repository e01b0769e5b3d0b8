"""Pictures through the latents of an autoencoder and back."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks, pixels
from tdr_jax.objectives.base import Batch, Frozen, Measured, Scalars, first_rows, side_by_side
from tdr_jax.objectives.latent_diffusion import draws
from tdr_jax.objectives.latent_examples import LatentObjective

LOGVAR = -6.0  # of latents, where an autoencoder starts
COLOUR = 6.0  # how much more its first filters see of colours than of light and dark


@dataclasses.dataclass(frozen=True)
class ReconstructionLoss:
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

    def __call__(self, params: models.Params, batch: Batch, rng: PRNGKeyArray) -> Measured:
        """Measure what is lost.

        Args:
            params: the autoencoder's.
            batch: `target` float32 (b, h, w, 3) in [-1, 1], `row` int (b,).
            rng: a key.

        Returns:
            the loss; and the terms of `pixels.weighted` of pictures in [0, 1], `coarse`, `kl`,
            `latent_std` and `psnr`.
        """
        mean, logvar = self.network.apply(params, batch["target"], method="encode")
        mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
        keys = draws(rng, batch["row"])
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        latent = mean + jnp.exp(0.5 * logvar) * noise
        output = self.network.apply(params, latent, method="decode").astype(jnp.float32)
        restored, clean = 0.5 * output + 0.5, 0.5 * batch["target"] + 0.5
        loss, metrics = pixels.weighted(self.weights, restored, clean)
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
        coarse = jnp.abs(self._cells(restored) - self._cells(clean)).mean()
        metrics |= {
            "kl": kl,
            "coarse": coarse,
            "latent_std": latent.std(),
            "psnr": pixels.psnr(restored, clean),
        }
        return loss + self.weights.kl * kl + self.weights.coarse * coarse, metrics

    def _cells(self, pictures: Float32[Array, "b h w 3"]) -> Float32[Array, "b h2 w2 3"]:
        """Mean colours under each latent, as brightness and two differences."""
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


class ReconstructObjective(LatentObjective):
    """An autoencoder."""

    wanted, folder, no_panel = "target", "vae", ""

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = self.build()
        networks.check_crops(config, self.network.config.factor, self.network.name)
        self.loss = ReconstructionLoss(self.network, config.loss)
        self._predict = jax.jit(self.predict)

    def initial_params(self) -> models.Params:
        """From scratch, with filters that see colours and latents of little noise."""
        params = super().initial_params()
        if self.config.init_from:
            return params
        # Colours differ less than light and dark do, and would drown: in brightness, if the first
        # filters saw both alike, and in noise, if latents were drawn with much of it.
        filters = params["encoder.conv_in.kernel"]
        grey = filters.mean(2, keepdims=True)
        params |= {"encoder.conv_in.kernel": grey + COLOUR * (filters - grey)}
        if "quant_conv.bias" in params:
            bias = params["quant_conv.bias"]
            params["quant_conv.bias"] = bias.at[len(bias) // 2 :].set(LOGVAR)
        return params

    def predict(
        self, params: models.Params, batch: Batch, *frozen: Frozen
    ) -> Float32[Array, "b h w c"]:
        """Gives the pictures back, from the means of their latents.

        Args:
            params: the autoencoder's.
            batch: `target` float32 (b, h, w, c) in [-1, 1].

        Returns:
            About [-1, 1], not clipped.
        """
        mean, _ = self.network.apply(params, batch["target"], method="encode")
        return self.network.apply(params, mean, method="decode").astype(jnp.float32)

    def measure(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray, *frozen: Frozen
    ) -> Scalars:
        """The loss and its metrics, the PSNR of what is given back without a draw among them."""
        given = self.predict(params, batch)
        exact = pixels.psnr(0.5 * given + 0.5, 0.5 * batch["target"] + 0.5)
        return super().measure(params, batch, rng) | {"psnr": exact}

    def panel(self, params: models.Params, batch: Batch) -> Float32[np.ndarray, "h w 3"]:
        """Pictures and what the autoencoder makes of them, side by side."""
        pictures = first_rows(batch, "target")
        given = self._predict(params, {"target": pictures})
        return side_by_side([0.5 * pictures + 0.5, 0.5 * np.asarray(given) + 0.5])

    def export(self, params: models.Params, step: int) -> Path:
        """Writes the autoencoder, its scaling factor set so that latents have a deviation of 1."""
        from tdr_jax import weights

        params, path = jax.device_get(params), self.workdir / self.folder
        batch = next(self.batches(step))
        mean, _ = self.network.apply(params, batch["target"], method="encode")
        network = self.network.replace(scaling_factor=round(float(1 / mean.std()), 5))
        weights.save(path, network, params)
        return path
