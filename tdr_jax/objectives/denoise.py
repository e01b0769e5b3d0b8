"""A UNet and its text tower, which learn to draw what captions say."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, PRNGKeyArray

from tdr_jax import diffusion, models
from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks, pretrained
from tdr_jax.objectives.base import Batch, Frozen, Measured, Shapes
from tdr_jax.objectives.latent_diffusion import denoising_loss, draws, latents, moments
from tdr_jax.objectives.latent_examples import FeatureShapes, LatentObjective, moments_shape
from tdr_jax.text import templates


@dataclasses.dataclass(frozen=True)
class CaptionedDenoisingLoss:
    """Denoise latents whose caption is known: the UNet and the text tower together.

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

    def __call__(
        self,
        params: models.Params,
        batch: Batch,
        rng: PRNGKeyArray,
        frozen: dict[str, models.Params],
    ) -> Measured:
        """Measure how well noise is told from pictures.

        Args:
            params: those of the networks after "unet." and "text_encoder.".
            batch: `ids` int32 (b, t), `row` int (b,), and pictures or moments, see `latents`.
            rng: a key.
            frozen: the autoencoder's parameters, `vae`.

        Returns:
            the loss, see `denoising_loss`, and an empty dict.
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


def part(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of one network in a dict of several, under its own names."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


class Several:
    """Networks that are trained together, their parameters in one flat dict."""

    def __init__(self, parts: dict[str, models.Network]):
        self.parts = parts

    @property
    def name(self) -> str:
        """The names of all."""
        return " and ".join(network.name for network in self.parts.values())

    @functools.cached_property
    def size(self) -> int:
        """The number of learnt parameters."""
        return sum(network.size for network in self.parts.values())

    def init(self, seed: int = 0) -> models.Params:
        """Draws float32 parameters, as each of the networks does."""
        return self.joined(lambda _, network: network.init(seed))

    def abstract_params(self) -> Shapes:
        """The shapes and dtypes of the parameters."""
        return self.joined(lambda _, network: network.abstract_params())

    def joined(self, of: Callable[[str, models.Network], Mapping]) -> dict[str, Any]:
        """One dict of `of(part, network)`, the parameters of each."""
        return {
            f"{part}.{name}": value
            for part, network in self.parts.items()
            for name, value in of(part, network).items()
        }


class DenoiseObjective(LatentObjective):
    """A UNet and its text tower, from pictures with captions."""

    wanted = "caption"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.vae, params = pretrained.autoencoder(config.stack, weights=weights)
        networks.check_crops(config, self.vae.config.factor, self.vae.name)
        self.frozen = ({"vae": params},)
        self.tokenizer = pretrained.caption_tokenizer(workdir / "captions")
        unet, text = self.build(), models.build(config.network.text_encoder)
        if text.config.vocab_size != len(self.tokenizer):
            raise InputError(
                f"{text.name} has {text.config.vocab_size} tokens, captions have "
                f"{len(self.tokenizer)}; set vocab_size"
            )
        self.network = Several({"unet": unet, "text_encoder": text})
        self.schedule = diffusion.Schedule(prediction_type=config.network.prediction_type)
        self.length = text.config.max_position_embeddings
        empty = tuple(int(i) for i in templates.empty(self.tokenizer, self.length))
        self.loss = CaptionedDenoisingLoss(unet, text, self.vae, self.schedule, empty)

    def initial_params(self) -> models.Params:
        """From scratch, or those of the folder of diffusers that config.init_from names."""
        if not self.config.init_from:
            return self.network.init(self.config.seed)
        from tdr_jax import weights

        where = f"config.init_from={self.config.init_from}"
        _, params = weights.load(self.config.init_from)
        if absent := self.network.parts.keys() - params.keys():
            raise InputError(f"{where} has no {min(absent)}; give the folder stack/ of such a run")
        params = self.network.joined(lambda part, _: params[part])
        return networks.checked(params, self.network, where)

    def predict(
        self, params: models.Params, batch: Batch, *frozen: Frozen
    ) -> Float[Array, "b h w c"]:
        """What the UNet says of noisy latents, told in captions.

        Args:
            params: as for the loss.
            batch: `noisy` float32 (b, h, w, c), `t` int32 (b,) timesteps, and `ids`.

        Returns:
            The noise or what else the schedule's prediction_type says.
        """
        unet, text = self.network.parts.values()
        context = text.apply(part(params, "text_encoder"), batch["ids"])
        return unet.apply(part(params, "unet"), batch["noisy"], batch["t"], context)

    def tokenize(self, caption: str) -> Int32[np.ndarray, " t"]:
        """A caption's token ids, padded or cut to `length`."""
        options = dict(padding="max_length", max_length=self.length, truncation=True)
        return np.asarray(self.tokenizer(caption, **options)["input_ids"], np.int32)

    def feature_shapes(self, crop: int) -> FeatureShapes:
        """Of the latents."""
        return {"moments": moments_shape(self.vae.config, crop)}

    def encode(self, frozen: dict[str, models.Params], batch: Batch) -> Batch:
        """Latents in place of pictures."""
        return {
            "moments": moments(self.vae, frozen["vae"], batch["target"]),
            "ids": batch["ids"],
        }

    def export(self, params: models.Params, step: int) -> Path:
        """Writes a folder of diffusers that draws what captions say."""
        from tdr_jax import weights
        from tdr_jax.diffusion import pipeline

        params = jax.device_get(params)
        whole = pipeline.Pipeline(
            unet=self.network.parts["unet"],
            vae=self.vae,
            text_encoder=self.network.parts["text_encoder"],
            scheduler=self.schedule.to_config(),
            tokenizer=self.tokenizer,
        )
        parts = {name: part(params, name) for name in self.network.parts}
        return weights.save(self.workdir / "stack", whole, parts | {"vae": self.frozen[0]["vae"]})
