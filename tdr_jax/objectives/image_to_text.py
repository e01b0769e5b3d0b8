"""Image to text: words for a picture, from which a frozen diffusion model draws it again."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax import diffusion
from tdr_jax.models import clip_vision, mapper
from tdr_jax.objectives.denoise import denoising_loss, draws, latents


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
        """What the vision tower says of `seen`, (B, H, W, 3) in [0, 1]; or `hidden` itself.

        Returns:
            (B, 1 + P, C), the last layer's output, class token first.
        """
        if "hidden" in batch:
            return batch["hidden"]
        pixels = clip_vision.normalise(batch["seen"])
        return self.image_encoder.apply(frozen["image_encoder"], pixels)[0]

    def context(self, frozen, words):
        """(B, N, C) words -> (B, T, C): the text tower's states of the sentence that holds them."""
        text, params = self.text_encoder, frozen["text_encoder"]
        sentence = text.apply(params, jnp.asarray([self.ids], jnp.int32), method="embed")
        embeddings = mapper.inject(sentence, words.astype(sentence.dtype), self.position)
        return text.apply(params, embeddings, method="from_embeddings")

    def errors(self, frozen, batch, rng, words, kv):
        """Denoising errors (B,) of `drawn` (or `moments`), told in words.

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


@dataclasses.dataclass(frozen=True)
class ImageToText:
    """Learn to say a picture, degraded or clean, in words that draw it as it is.

    Args:
        towers: the frozen networks.
        network: an ImageToText mapper, which also holds the copies of keys and values.

    Source: TDR (arXiv 2312.17334), first stage; the same loss as ELITE's without its regulariser.
    """

    towers: Towers
    network: Any

    def loss(self, params, batch, rng, frozen):
        """Measure how well the frozen UNet denoises the picture it is told of.

        Args:
            params: flat dict of the mapper's parameters, copies of keys and values among them.
            batch: `seen` and `drawn` of one picture (or `hidden` and `moments`), `row` int (B,).
            rng: a key.
            frozen: parameters of the towers, by name.

        Returns:
            the loss, a float32 scalar, and an empty dict.
        """
        words = self.network.apply(params, self.towers.hidden(frozen, batch))
        return self.towers.errors(frozen, batch, rng, words, mapper.kv(params)).mean(), {}
