"""Textual restoration: the words of a degraded picture turned into those of the clean one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.diffusion import tdr_pipeline
from tdr_jax.errors import InputError
from tdr_jax.models import mapper
from tdr_jax.nn.typing import Array
from tdr_jax.objectives.base import Batch, Measured, Scalars
from tdr_jax.objectives.image_to_text import WordsObjective
from tdr_jax.objectives.latent_diffusion import Towers, moments
from tdr_jax.objectives.latent_examples import FeatureShapes, moments_shape


@dataclasses.dataclass(frozen=True)
class TextualRestorationLoss:
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

    def __call__(
        self,
        params: models.Params,
        batch: Batch,
        rng: PRNGKeyArray,
        frozen: dict[str, models.Params],
    ) -> Measured:
        """Measure how well the frozen UNet denoises the clean picture, told in restored words.

        Args:
            params: the restoration's.
            batch: `clip_image`, degraded, and `target`, clean (or `words` and `moments`), `kind`
                and `row` int (b,); with `weights.words` also `clip_image_clean` (or `words_clean`).
            rng: a key.
            frozen: parameters of the towers and of `image_to_text`, by name.

        Returns:
            the loss, and the distances to the clean picture's words,
            `words` and `words_before`, with `weights.words` or where these words are known.
        """
        predicted = self.words(frozen, batch)
        words = self.restored(params, predicted, batch)
        loss = jnp.zeros(())
        if self.weights.denoise:
            copies = mapper.kv(frozen["image_to_text"])
            loss = self.towers.errors(frozen, batch, rng, words, copies).mean()
            loss = self.weights.denoise * loss
        # The vision tower looks at the clean picture only where that is asked for.
        if not self.weights.words and "words_clean" not in batch:
            return loss, {}
        wanted = self.words(frozen, batch, "_clean").astype(jnp.float32)
        metrics = {
            name: _distance(wanted, given.astype(jnp.float32)).mean()
            for name, given in (("words", words), ("words_before", predicted))
        }
        return loss + self.weights.words * metrics["words"], metrics

    def restored(
        self, params: models.Params, words: Float[Array, "b n c"], batch: Batch
    ) -> Float[Array, "b n c"]:
        """The words of a degraded picture, restored; `kind` of the batch may be told."""
        task = (batch["kind"],) if self.network.config.tasks else ()
        return self.network.apply(params, words, *task)

    def words(
        self, frozen: dict[str, models.Params], batch: Batch, which: str = ""
    ) -> Float[Array, "b n c"]:
        """Returns the words of `clip_image`, or those that `words` of the batch holds.

        Args:
            frozen: parameters by network.
            batch: as for the loss.
            which: "_clean" for those of the clean picture.
        """
        if f"words{which}" in batch:
            return batch[f"words{which}"]
        hidden = self.towers.hidden(frozen, {"clip_image": batch[f"clip_image{which}"]})
        return jax.lax.stop_gradient(self.mapper.apply(frozen["image_to_text"], hidden))


def _distance(
    words: Float32[Array, "b n c"], others: Float32[Array, "b n c"]
) -> Float32[Array, " b"]:
    """Root of the mean squared difference, for each example."""
    # 1e-8 keeps the gradient finite where nothing is wrong.
    return jnp.sqrt(jnp.square(words - others).mean((-2, -1)) + 1e-8)


class TextualRestorationObjective(WordsObjective):
    """The second stage: the restoration of words."""

    wanted, folder = "pair", "textual_restoration"
    features = {"target": "moments", "clip_image": "words", "clip_image_clean": "words_clean"}

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        from tdr_jax.data.latents import KINDS

        if tdr_pipeline.IMAGE_TO_TEXT not in self.networks:
            raise InputError(
                f"{config.stack.path} has no image_to_text/, which the second stage needs; give "
                "the first stage's: --config.stack.image_to_text=FOLDER"
            )
        self.frozen = (
            {k: v for k, v in self.stack.params.items() if k != tdr_pipeline.RESTORATION},
        )
        tasks = self.network.config.tasks
        if 0 < tasks < len(KINDS):
            raise InputError(
                f"config.network.overrides.tasks is {tasks}; give 0, or {len(KINDS)} for "
                f"{', '.join(KINDS)}"
            )
        if not (config.loss.denoise or config.loss.words):
            raise InputError(
                "config.loss.denoise and config.loss.words are both 0, so that there is nothing to "
                "learn; set one of them"
            )
        first = self.networks[tdr_pipeline.IMAGE_TO_TEXT]
        self.loss = TextualRestorationLoss(self.towers, first, self.network, config.loss)

    def predict(
        self, params: models.Params, batch: Batch, frozen: dict[str, models.Params]
    ) -> Float[Array, "b n c"]:
        """The restored words of `clip_image`."""
        return self.loss.restored(params, self.loss.words(frozen, batch), batch)

    def told(
        self, params: models.Params, batch: Batch, frozen: dict[str, models.Params]
    ) -> tuple[list[Float[Array, "b n c"]], models.Params]:
        """The words that a panel draws, before and after, and the keys and values for them."""
        before = self.loss.words(frozen, batch)
        after = self.loss.restored(params, before, batch)
        return [before, after], mapper.kv(frozen["image_to_text"])

    def measure(
        self,
        params: models.Params,
        batch: Batch,
        rng: PRNGKeyArray,
        frozen: dict[str, models.Params],
    ) -> Scalars:
        """The loss, and how far words are from the clean picture's, restored and before."""
        features = self.encode(frozen, batch)
        return super().measure(params, features | {"row": batch["row"]}, rng, frozen)

    def feature_shapes(self, crop: int) -> FeatureShapes:
        """Of the words of both pictures and, where they are needed, latents."""
        config = self.network.config
        words = (config.num_words, config.input_dim), "float32"
        found = {"words": words, "words_clean": words}
        if self.config.loss.denoise:
            found["moments"] = moments_shape(self.networks["vae"].config, crop)
        return found

    def encode(self, frozen: dict[str, models.Params], batch: Batch) -> Batch:
        """Words of both pictures and, where they are needed, latents, in place of pictures."""
        found = {
            f"words{which}": self.loss.words(frozen, batch, which).astype(jnp.float32)
            for which in ("", "_clean")
        }
        if self.config.loss.denoise:
            found["moments"] = moments(self.networks["vae"], frozen["vae"], batch["target"])
        return {"kind": batch["kind"], **found}
