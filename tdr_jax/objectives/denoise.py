"""Latent diffusion: the loss that all stages of textual degradation removal share, and that a UNet
and its text tower learn from captions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax import diffusion


def draws(rng, rows):
    """A key for each example, so that its draws depend on its row in the batch alone.

    Args:
        rng: a key, the step's.
        rows: int (B,), numbers of the examples within the whole batch.

    Returns:
        (B,) keys.
    """
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows)


def latents(vae, params, batch, keys):
    """Draws latents of the pictures, scaled as the UNet takes them.

    Args:
        vae: an AutoencoderKL and, `params`, its parameters.
        batch: `drawn`, (B, H, W, 3) in [-1, 1]; or `moments`, (B, h, w, 2 C), mean and logarithm
            of the variance as they were computed before.
        keys: (B,).

    Returns:
        float32 (B, h, w, C).
    """
    if "moments" in batch:
        mean, logvar = jnp.split(batch["moments"].astype(jnp.float32), 2, -1)
    else:
        moments = vae.apply(params, batch["drawn"], method="encode")
        mean, logvar = (part.astype(jnp.float32) for part in moments)
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return vae.config.scaling_factor * (mean + jnp.exp(0.5 * logvar) * noise)


def denoising_loss(denoise, schedule: diffusion.Schedule, clean, keys):
    """Mean squared error of what the network says of noisy latents at random timesteps.

    Args:
        denoise: `(x, t) -> output`, x (B, h, w, C), t int32 (B,).
        schedule: of the noise; its prediction_type says what the output should be.
        clean: float32 (B, h, w, C) scaled latents.
        keys: (B,).

    Returns:
        float32 (B,), an error for each example.

    Source: DDPM (arXiv 2006.11239), eq. 14.
    """
    t, noise = timesteps_and_noise(schedule, clean.shape[1:], keys)
    output = denoise(diffusion.q_sample(schedule, clean, t, noise), t).astype(jnp.float32)
    wanted = diffusion.target(schedule, clean, noise, t)
    return jnp.square(output - wanted).mean((-3, -2, -1))


def timesteps_and_noise(schedule: diffusion.Schedule, shape: tuple[int, ...], keys):
    """Draws a timestep, int32 (B,), and standard normal noise, (B, *shape), for each key."""
    pairs = jax.vmap(jax.random.split)(keys)
    total = schedule.num_train_timesteps
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, total))(pairs[:, 0])
    return t, jax.vmap(lambda key: jax.random.normal(key, shape))(pairs[:, 1])


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Learn to denoise latents whose caption is known: the UNet and the text tower together.

    Args:
        unet, text_encoder, vae: `tdr_jax.models.Network`s.
        schedule: of the noise.
        empty: token ids of the empty prompt, a tuple of integers.
        dropout: share of captions that are replaced by it, for guidance without a classifier.

    Source: latent diffusion (arXiv 2112.10752); dropout: arXiv 2207.12598, algorithm 1.
    """

    unet: Any
    text_encoder: Any
    vae: Any
    schedule: diffusion.Schedule
    empty: tuple[int, ...]
    dropout: float = 0.1

    def loss(self, params, batch, rng, frozen):
        """Measure how well noise is told from pictures.

        Args:
            params: flat dict of the parameters, those of the networks after "unet." and
                "text_encoder.".
            batch: `ids` int32 (B, T), `row` int (B,), and pictures or moments, see `latents`.
            rng: a key.
            frozen: dict with the autoencoder's parameters, `vae`.

        Returns:
            the loss, a float32 scalar, and an empty dict.
        """
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(draws(rng, batch["row"]))
        clean = latents(self.vae, frozen["vae"], batch, keys[:, 0])
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, self.dropout))(keys[:, 1])
        ids = jnp.where(dropped[:, None], jnp.asarray(self.empty, jnp.int32), batch["ids"])
        context = self.text_encoder.apply(part(params, "text_encoder"), ids)
        unet = part(params, "unet")
        errors = denoising_loss(
            lambda x, t: self.unet.apply(unet, x, t, context), self.schedule, clean, keys[:, 2]
        )
        return errors.mean(), {}


def part(params, name: str) -> dict:
    """The entries of one network in a dict of several, under its own names."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
