"""Image to text: words for a picture, from which a frozen diffusion model draws it again."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from tdr_jax import models
from tdr_jax.models import mapper
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks, pretrained
from tdr_jax.objectives.base import Batch, Measured
from tdr_jax.objectives.latent_diffusion import Towers, moments
from tdr_jax.objectives.latent_examples import FeatureShapes, LatentObjective, moments_shape


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
    """What the two stages with frozen towers share."""

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
