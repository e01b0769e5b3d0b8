"""Textual restoration: the words of a degraded picture turned into those of the clean one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax.models import mapper
from tdr_jax.tasks.i2t import Towers


@dataclasses.dataclass(frozen=True)
class TextualRestoration:
    """Learn to change the words of a degraded picture so that they draw the clean one.

    Args:
        towers: the frozen networks.
        mapper: the frozen ImageToText, copies of keys and values included.
        network: a TextualRestoration.
        weights: `words`, of the distance between restored words and those of the clean picture,
            the root of the mean square for each example: squares would leave slight damage to
            chance beside heavy. 0 leaves it out, as the paper does.

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
            batch: `seen`, degraded, and `drawn`, clean (or `hidden` and `moments`), `kind` and
                `row` int (B,); with `weights.words` also `seen_clean` (or `hidden_clean`).
            rng: a key.
            frozen: parameters of the towers and of `image_to_text`, by name.

        Returns:
            the loss, a float32 scalar, and the distances to the clean picture's words,
            `words` and `words_before`, with `weights.words` or where its states are known.
        """
        copies = frozen["image_to_text"]
        said = self.mapper.apply(copies, self.towers.hidden(frozen, batch))
        said = jax.lax.stop_gradient(said)
        task = (batch["kind"],) if self.network.config.tasks else ()
        words = self.network.apply(params, said, *task)
        loss = self.towers.errors(frozen, batch, rng, words, mapper.kv(copies)).mean()
        # The vision tower looks at the clean picture only where that is asked for.
        known = "hidden_clean" if "hidden_clean" in batch else "seen_clean"
        if known not in batch or (known == "seen_clean" and not self.weights.words):
            return loss, {}
        clean = {known.removesuffix("_clean"): batch[known]}
        wanted = self.mapper.apply(copies, self.towers.hidden(frozen, clean)).astype(jnp.float32)
        metrics = {
            name: _distance(wanted, given.astype(jnp.float32)).mean()
            for name, given in (("words", words), ("words_before", said))
        }
        return loss + self.weights.words * metrics["words"], metrics


def _distance(words, others):
    """Root of the mean squared difference, for each example: (B, N, C) -> (B,)."""
    # 1e-8 keeps the gradient finite where nothing is wrong.
    return jnp.sqrt(jnp.square(words - others).mean((-2, -1)) + 1e-8)
