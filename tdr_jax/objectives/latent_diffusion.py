"""Latent diffusion: draws, latents and the denoising error that four objectives share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax import diffusion
from tdr_jax.models import clip_vision, mapper


def draws(rng, rows):
    """A key for each example, so that its draws depend on its row in the batch alone.

    Args:
        rng: a key, the step's.
        rows: int (B,), numbers of the examples within the whole batch.

    Returns:
        (B,) keys.
    """
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows)


def moments(vae, params, pictures):
    """Where the latents of pictures lie, before any is drawn.

    Args:
        vae: an AutoencoderKL and, `params`, its parameters.
        pictures: float32 (B, H, W, 3) in [-1, 1].

    Returns:
        the mean and the logarithm of the variance, side by side, float32 (B, h, w, 2 C).
    """
    mean, logvar = vae.apply(params, pictures, method="encode")
    return jnp.concatenate([mean, logvar], -1).astype(jnp.float32)


def latents(vae, params, batch, keys):
    """Draws latents of the pictures, scaled as the UNet takes them.

    Args:
        vae: an AutoencoderKL and, `params`, its parameters.
        batch: `target`, (B, H, W, 3) in [-1, 1]; or `moments`, (B, h, w, 2 C), mean and logarithm
            of the variance as they were computed before.
        keys: (B,).

    Returns:
        float32 (B, h, w, C).
    """
    if "moments" in batch:
        mean, logvar = jnp.split(batch["moments"].astype(jnp.float32), 2, -1)
    else:
        encoded = vae.apply(params, batch["target"], method="encode")
        mean, logvar = (part.astype(jnp.float32) for part in encoded)
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
class Towers:
    """The frozen networks, and the sentence the words are put into.

    Attributes:
        image_encoder, text_encoder, unet, vae: `tdr_jax.models.Network`s.
        schedule: of the UNet's noise.
        ids: token ids of the sentence, a tuple of integers.
        position: of the token that the words take the place of.
    """

    image_encoder: Any
    text_encoder: Any
    unet: Any
    vae: Any
    schedule: diffusion.Schedule
    ids: tuple[int, ...]
    position: int

    def hidden(self, frozen, batch):
        """What the vision tower says of `clip_image`, (B, H, W, 3) in [0, 1]; or `hidden` itself.

        Returns:
            (B, 1 + P, C), the last layer's output, class token first.
        """
        if "hidden" in batch:
            return batch["hidden"]
        pixels = clip_vision.normalise(batch["clip_image"])
        return self.image_encoder.apply(frozen["image_encoder"], pixels)[0]

    def context(self, frozen, words):
        """(B, N, C) words -> (B, T, C): the text tower's states of the sentence that holds them."""
        text, params = self.text_encoder, frozen["text_encoder"]
        sentence = text.apply(params, jnp.asarray([self.ids], jnp.int32), method="embed")
        embeddings = mapper.inject(sentence, words.astype(sentence.dtype), self.position)
        return text.apply(params, embeddings, method="from_embeddings")

    def errors(self, frozen, batch, rng, words, kv):
        """Denoising errors (B,) of `target` (or `moments`), told in words.

        Args:
            frozen: parameters by network.
            batch: with `row` int (B,).
            rng: a key.
            words: (B, N, C).
            kv: the copies of keys and values, by the UNet's names.
        """
        keys = jax.vmap(jax.random.split)(draws(rng, batch["row"]))
        clean = latents(self.vae, frozen["vae"], batch, keys[:, 0])
        context = self.context(frozen, words)

        def denoise(x, t):
            return self.unet.apply(frozen["unet"], x, t, context, kv=kv)

        return denoising_loss(denoise, self.schedule, clean, keys[:, 1])
