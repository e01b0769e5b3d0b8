"""Textual restoration: the words of a degraded picture turned into those of the clean one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax.models import mapper
from tdr_jax.objectives.image_to_text import Towers


@dataclasses.dataclass(frozen=True)
class TextualRestoration:
    """Learn to change the words of a degraded picture so that they draw the clean one.

    Args:
        towers: the frozen networks.
        mapper: the frozen ImageToText, copies of keys and values included.
        network: a TextualRestoration.
        weights: `denoise`, of the denoising error, the paper's whole loss; and `words`, of the
            distance between restored words and those of the clean picture, the root of the mean
            square for each example: squares would leave slight damage to chance beside heavy.
            0 leaves one out.

    Source: TDR (arXiv 2312.17334), second stage.
    """

    towers: Towers
    mapper: Any
    network: Any
    weights: Any

    def loss(self, params, batch, rng, frozen):
        """Measure how well the frozen UNet denoises the clean picture, told in restored words.

        Args:
            params: flat dict of the restoration's parameters.
            batch: `seen`, degraded, and `drawn`, clean (or `words` and `moments`), `kind` and
                `row` int (B,); with `weights.words` also `seen_clean` (or `words_clean`).
            rng: a key.
            frozen: parameters of the towers and of `image_to_text`, by name.

        Returns:
            the loss, a float32 scalar, and the distances to the clean picture's words,
            `words` and `words_before`, with `weights.words` or where these words are known.
        """
        said = self.said(frozen, batch)
        task = (batch["kind"],) if self.network.config.tasks else ()
        words = self.network.apply(params, said, *task)
        loss = jnp.zeros(())
        if self.weights.denoise:
            copies = mapper.kv(frozen["image_to_text"])
            loss = self.towers.errors(frozen, batch, rng, words, copies).mean()
            loss = self.weights.denoise * loss
        # The vision tower looks at the clean picture only where that is asked for.
        if not self.weights.words and "words_clean" not in batch:
            return loss, {}
        wanted = self.said(frozen, batch, "_clean").astype(jnp.float32)
        metrics = {
            name: _distance(wanted, given.astype(jnp.float32)).mean()
            for name, given in (("words", words), ("words_before", said))
        }
        return loss + self.weights.words * metrics["words"], metrics

    def said(self, frozen, batch, which: str = ""):
        """Returns the words (B, N, C) of `seen`, or those that `words` of the batch holds.

        Args:
            frozen: parameters by network.
            batch: as for the loss.
            which: "_clean" for those of the clean picture.
        """
        if f"words{which}" in batch:
            return batch[f"words{which}"]
        hidden = self.towers.hidden(frozen, {"seen": batch[f"seen{which}"]})
        return jax.lax.stop_gradient(self.mapper.apply(frozen["image_to_text"], hidden))


def _distance(words, others):
    """Root of the mean squared difference, for each example: (B, N, C) -> (B,)."""
    # 1e-8 keeps the gradient finite where nothing is wrong.
    return jnp.sqrt(jnp.square(words - others).mean((-2, -1)) + 1e-8)
