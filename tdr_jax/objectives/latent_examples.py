"""What the objectives of textual degradation removal share: their examples, drawn or cached."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.objectives import networks
from tdr_jax.objectives.base import Batch, ConfiguredObjective, Evaluator, Shapes
from tdr_jax.objectives.held_out import HeldOut

FeatureShapes = dict[str, tuple[tuple[int, ...], str]]  # of one example: shape and dtype, by name

# What an example has, by what is wanted of it, see `data.latents.LatentExamples`.
VIEWS = ("clip_image", "clip_image_other_crop", "clip_image_other_state")
KEYS = {
    "target": ("kind", "target"),
    "views": ("kind", *VIEWS),
    "caption": ("kind", "target", "ids"),
    "same": ("kind", "target", "clip_image"),
    "pair": ("kind", "target", "clip_image", "clip_image_clean"),
}
# What of `config.data` decides neither the examples nor their features ...
NOT_DATA = (
    *("stages", "workers", "cache_mb", "decoded", "tfds_dir", "on_damaged", "check"),
    *("synthesis", "noise_shares"),
)
BEFORE = (
    ("mixing", "repeats"),
    ("recipes", ()),
)  # fields that came later, as everything was before
# ... and how fields were called when the oldest caches were written, which still serve.
NAMES_THEN = {
    "dihedral": "turns",
    "color_jitter": "recoloured",
    "p_absent": "absent",
    "p_keep_one": "mixed",
    "p_joint": "together",
    "p_partial_strength": "partial",
}


class LatentObjective(ConfiguredObjective):
    """Learns from square pictures, or from what frozen networks make of them.

    Attributes:
        wanted: a key of `KEYS`.
        view: side in pixels of what the vision tower sees; 0 where nothing does.
        length: of a caption, in tokens; 0 where there is none.
        features: what takes the place of pictures where features are cached.
        folder: that the network is exported to, in the run's.
    """

    wanted: str
    view = length = 0
    features = {"target": "moments"}
    folder = ""
    no_panel = "nothing of it is a picture"

    def build(self) -> models.Network:
        """The network that the config names."""
        given = self.config.network
        return networks.build(given.name, "config.network", **given.overrides)

    def examples(self, pictures: Any, seed: int) -> Callable[[int, int], dict]:
        """`make(n, size)`, see `data.latents.LatentExamples`."""
        from tdr_jax.data import latents

        return latents.LatentExamples(
            pictures,
            self.config.data,
            seed,
            wanted=self.wanted,
            view=self.view,
            encode=self.tokenize,
        )

    tokenize = None  # caption -> int32 token ids, where there are captions
    # (parameters of frozen networks, batch) -> the batch with what these make of it, float32, as
    # `feature_shapes` tells; where networks are frozen.
    encode = None

    def batches(self, step: int) -> Iterator[Batch]:
        """Examples of the pictures of `config.data`; of `data.distinct` of them, the features."""
        from tdr_jax.data import feature_cache, places

        config, data = self.config, self.config.data
        make = self.examples(places.from_config(data), config.seed)
        if data.distinct:
            sizes = {crop for _, crop, _ in data.stages}
            if not self.frozen or len(sizes) > 1:
                raise InputError(
                    f"config.data.distinct is {data.distinct}, for objective "
                    f"{config.objective!r} with crops of {sorted(sizes)}; it keeps what "
                    "frozen networks make of pictures of one size"
                )
            (size,) = sizes
            make = feature_cache.CachedFeatures(
                self.workdir / f"features{jax.process_index()}",
                make,
                jax.jit(functools.partial(self.encode, self.frozen[0])),
                data.distinct,
                size,
                config.seed,
                {
                    "data": {
                        NAMES_THEN.get(name, name): value
                        for name, value in data.to_dict().items()
                        if name not in NOT_DATA and (name, value) not in BEFORE
                    },
                    "arrays": sorted(self.feature_shapes(size)),
                    "seed": config.seed,
                    "networks": feature_cache.digest(self.frozen[0]),
                },
            )
        return self.stream(make, step)

    def feature_shapes(self, crop: int) -> FeatureShapes:
        """Of what `encode` makes."""
        return {}

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch looks like, examples in the first axis."""
        picture = (self.view, self.view, 3), "float32"
        made = {
            "target": ((crop, crop, 3), "float32"),
            "kind": ((), "int32"),
            "ids": ((self.length,), "int32"),
            **dict.fromkeys((*VIEWS, "clip_image_clean"), picture),
        }
        names = KEYS[self.wanted]
        if self.config.data.distinct and self.frozen:
            made |= self.feature_shapes(crop)
            names = [self.features.get(name, name) for name in names]
        return {
            name: jax.ShapeDtypeStruct((batch, *shape), dtype)
            for name, (shape, dtype) in made.items()
            if name in names
        }

    def evaluators(self) -> tuple[Evaluator, ...]:
        """The loss of one example of each picture of `config.eval_data`."""
        from tdr_jax.data import places

        given, (*_, (_, crop, _)) = self.config.eval_data, self.config.data.stages
        if not given.path:
            return ()
        pictures = places.of_evaluation(self.config)
        make, count = self.examples(pictures, seed=0), given.limit or len(pictures)
        return (HeldOut(self.measure, make, count, crop, self.frozen),)

    def export(self, params: models.Params, step: int) -> Path:
        """Writes the trained network to a folder of its own in the run's."""
        from tdr_jax import weights

        path = self.workdir / self.folder
        weights.save(path, self.network, jax.device_get(params))
        return path


def moments_shape(config: Any, crop: int) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an example's moments.

    Args:
        config: of an autoencoder.
        crop: side of the picture, in pixels.
    """
    side = crop // config.factor
    return (side, side, 2 * config.latent_channels), "float32"
