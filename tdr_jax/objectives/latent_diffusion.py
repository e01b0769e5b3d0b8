"""Latent diffusion: draws, latents and the denoising error that four objectives share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int, Int32, Key, PRNGKeyArray

from tdr_jax import diffusion, models
from tdr_jax.models import clip_vision, mapper
from tdr_jax.nn.typing import Array
from tdr_jax.objectives.base import Batch


def draws(rng: PRNGKeyArray, rows: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example, so that its draws depend on its row in the batch alone.

    Args:
        rng: a key, the step's.
        rows: numbers of the examples within the whole batch.
    """
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows)


def moments(
    vae: models.Network, params: models.Params, pictures: Float32[Array, "b h w c"]
) -> Float32[Array, "b h2 w2 d"]:
    """Where the latents of pictures lie, before any is drawn.

    Args:
        vae: an AutoencoderKL and, `params`, its parameters.
        pictures: in [-1, 1].

    Returns:
        the mean and the logarithm of the variance, not scaled, side by side: d is twice the
        latents' channels.
    """
    mean, logvar = vae.apply(params, pictures, method="encode")
    return jnp.concatenate([mean, logvar], -1).astype(jnp.float32)


def latents(
    vae: models.Network, params: models.Params, batch: Batch, keys: Key[Array, " b"]
) -> Float32[Array, "b h w c"]:
    """Draws latents of the pictures, scaled as the UNet takes them.

    Args:
        vae: an AutoencoderKL and, `params`, its parameters.
        batch: `target`, pictures in [-1, 1]; or their `moments` as they were computed before.
        keys: of the examples, one draw each.

    Returns:
        Of a deviation of about 1.

    Source: latent diffusion (arXiv 2112.10752), section 3.1.
    """
    if "moments" in batch:
        mean, logvar = jnp.split(batch["moments"].astype(jnp.float32), 2, -1)
    else:
        encoded = vae.apply(params, batch["target"], method="encode")
        mean, logvar = (part.astype(jnp.float32) for part in encoded)
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return vae.config.scaling_factor * (mean + jnp.exp(0.5 * logvar) * noise)


def denoising_loss(
    denoise: Callable,
    schedule: diffusion.Schedule,
    clean: Float32[Array, "b h w c"],
    keys: Key[Array, " b"],
) -> Float32[Array, " b"]:
    """Mean squared error of what the network says of noisy latents at random timesteps.

    Args:
        denoise: `(x, t) -> output`, x and output (b, h, w, c), t int32 (b,).
        schedule: of the noise; its prediction_type says what the output should be.
        clean: scaled latents.
        keys: of the examples, one draw each.

    Returns:
        An error for each example, about 1 where the network answers 0.

    Source: DDPM (arXiv 2006.11239), eq. 14.
    """
    t, noise = timesteps_and_noise(schedule, clean.shape[1:], keys)
    output = denoise(diffusion.q_sample(schedule, clean, t, noise), t).astype(jnp.float32)
    wanted = diffusion.target(schedule, clean, noise, t)
    return jnp.square(output - wanted).mean((-3, -2, -1))


def timesteps_and_noise(
    schedule: diffusion.Schedule, shape: tuple[int, ...], keys: Key[Array, " b"]
) -> tuple[Int32[Array, " b"], Float32[Array, " b *n"]]:
    """Draws a timestep, in [0, num_train_timesteps), and noise N(0, 1) for each key.

    Args:
        schedule: of the noise.
        shape: of one example, `n`.
        keys: of the examples.
    """
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

    def hidden(self, frozen: dict[str, models.Params], batch: Batch) -> Float[Array, "b t c"]:
        """What the vision tower says of `clip_image`, (b, h, w, 3) in [0, 1]; or `hidden` itself.

        Returns:
            The last layer's output, class token first, then patches.
        """
        if "hidden" in batch:
            return batch["hidden"]
        pixels = clip_vision.normalise(batch["clip_image"])
        return self.image_encoder.apply(frozen["image_encoder"], pixels)[0]

    def context(
        self, frozen: dict[str, models.Params], words: Float[Array, "b n c"]
    ) -> Float[Array, "b t c"]:
        """The text tower's states of the sentence that holds the words."""
        text, params = self.text_encoder, frozen["text_encoder"]
        sentence = text.apply(params, jnp.asarray([self.ids], jnp.int32), method="embed")
        embeddings = mapper.inject(sentence, words.astype(sentence.dtype), self.position)
        return text.apply(params, embeddings, method="from_embeddings")

    def errors(
        self,
        frozen: dict[str, models.Params],
        batch: Batch,
        rng: PRNGKeyArray,
        words: Float[Array, "b n c"],
        kv: models.Params,
    ) -> Float32[Array, " b"]:
        """Denoising errors of `target` (or `moments`), told in words, see `denoising_loss`.

        Args:
            frozen: parameters by network.
            batch: with `row` int (b,).
            rng: a key, the step's.
            words: as many as the sentence has places for.
            kv: the copies of keys and values, by the UNet's names.
        """
        keys = jax.vmap(jax.random.split)(draws(rng, batch["row"]))
        clean = latents(self.vae, frozen["vae"], batch, keys[:, 0])
        context = self.context(frozen, words)

        def denoise(x, t):
            return self.unet.apply(frozen["unet"], x, t, context, kv=kv)

        return denoising_loss(denoise, self.schedule, clean, keys[:, 1])
