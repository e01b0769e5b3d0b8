"""Image to text: words for a picture, from which a frozen diffusion model draws it again."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.models import mapper
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks, pretrained
from tdr_jax.objectives.base import Batch, Measured, first_rows, side_by_side
from tdr_jax.objectives.latent_diffusion import Towers, moments
from tdr_jax.objectives.latent_examples import FeatureShapes, LatentObjective, moments_shape
from tdr_jax.objectives.word_panels import WordPanel


@dataclasses.dataclass(frozen=True)
class ImageToTextLoss:
    """Learn to say a picture, degraded or clean, in words that draw it as it is.

    Args:
        towers: the frozen networks.
        network: an ImageToText mapper, which also holds the copies of keys and values.

    Source: TDR (arXiv 2312.17334), first stage; the same loss as ELITE's without its regulariser.
    """

    towers: Towers
    network: Any

    def __call__(
        self,
        params: models.Params,
        batch: Batch,
        rng: PRNGKeyArray,
        frozen: dict[str, models.Params],
    ) -> Measured:
        """Measure how well the frozen UNet denoises the picture it is told of.

        Args:
            params: the mapper's, copies of keys and values among them.
            batch: `clip_image` and `target` of one picture (or `hidden` and `moments`), `row` int
                (b,); see `latents` and `Towers.hidden`.
            rng: a key.
            frozen: parameters of the towers, by name.

        Returns:
            the loss, see `denoising_loss`, and an empty dict.
        """
        words = self.network.apply(params, self.towers.hidden(frozen, batch))
        return self.towers.errors(frozen, batch, rng, words, mapper.kv(params)).mean(), {}


class WordsObjective(LatentObjective):
    """What the two stages with frozen towers share; each has `told`, the words that it draws."""

    no_panel = ""

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        stack, dtype = pretrained.stack(config, weights=weights), config.stack.dtype
        self.stack = stack
        self.networks = {name: of.replace(dtype=dtype) for name, of in stack.networks.items()}
        self.view = self.networks["image_encoder"].config.image_size
        vae = self.networks["vae"]
        networks.check_crops(config, vae.config.factor, vae.name)
        self.network = self.build()
        self.towers = pretrained.towers(
            self.networks,
            stack.scheduler,
            stack.tokenizer,
            template=config.stack.template,
            words=self.network.config.num_words,
            remat=config.stack.remat,
        )

    def panel(self, params: models.Params, batch: Batch) -> Float32[np.ndarray, "h w 3"]:
        """Pictures, what is drawn of their words and what was to be drawn, side by side.

        Where features are kept there is no picture to be seen at first.
        """
        rows = {name: first_rows(batch, name) for name in batch}
        return side_by_side([np.asarray(x) for x in self._columns(params, rows, *self.frozen)])

    @functools.cached_property
    def _columns(self) -> Callable:
        panel = WordPanel(self.towers, self.stack, self.networks, self.config.stack.dtype)

        def columns(params, rows, frozen):
            return panel.columns(rows, *self.told(params, rows, frozen), frozen)

        return jax.jit(columns)


class ImageToTextObjective(WordsObjective):
    """The first stage: the mapper and its copies of keys and values."""

    wanted, folder = "same", "image_to_text"
    features = {"target": "moments", "clip_image": "hidden"}

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        names = ("unet", "vae", "text_encoder", "image_encoder")
        self.frozen = ({name: self.stack.params[name] for name in names},)
        self.loss = ImageToTextLoss(self.towers, self.network)

    def initial_params(self) -> models.Params:
        """From scratch, with the UNet's own keys and values as copies."""
        params = super().initial_params()
        if self.config.init_from:
            return params
        own = self.frozen[0]["unet"]
        return mapper.with_kv(params, {k: own[k].astype(jnp.float32) for k in own})

    def predict(
        self, params: models.Params, batch: Batch, frozen: dict[str, models.Params]
    ) -> Float[Array, "b n c"]:
        """The words of `clip_image`."""
        return self.network.apply(params, self.towers.hidden(frozen, batch))

    def told(
        self, params: models.Params, batch: Batch, frozen: dict[str, models.Params]
    ) -> tuple[list[Float[Array, "b n c"]], models.Params]:
        """The words that a panel draws, and the keys and values that read them."""
        return [self.predict(params, batch, frozen)], mapper.kv(params)

    def feature_shapes(self, crop: int) -> FeatureShapes:
        """Of latents and hidden states."""
        vision = self.networks["image_encoder"].config
        tokens = 1 + (vision.image_size // vision.patch_size) ** 2
        latent = moments_shape(self.networks["vae"].config, crop)
        return {"moments": latent, "hidden": ((tokens, vision.hidden_size), "float32")}

    def encode(self, frozen: dict[str, models.Params], batch: Batch) -> Batch:
        """Hidden states and latents in place of pictures."""
        return {
            "kind": batch["kind"],
            "moments": moments(self.networks["vae"], frozen["vae"], batch["target"]),
            "hidden": self.towers.hidden(frozen, batch).astype(jnp.float32),
        }
