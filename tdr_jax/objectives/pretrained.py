"""The jobs of textual degradation removal: towers of one's own, image to text, words restored."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax import diffusion, models, weights
from tdr_jax.data import feature_cache, latents
from tdr_jax.data import pipeline as data_pipeline
from tdr_jax.diffusion import pipeline, tdr_pipeline
from tdr_jax.errors import InputError
from tdr_jax.models import mapper
from tdr_jax.objectives import contrast, denoise, image_to_text, reconstruct, textual_restoration
from tdr_jax.text import captions, templates
from tdr_jax.train import assemble
from tdr_jax.weights import load_tdr_pipeline

PANEL_ROWS = 4
LOGVAR = -6.0  # of latents, where an autoencoder starts
COLOUR = 6.0  # how much more its first filters see of colours than of light and dark
# The frozen networks of each size of the configs, and the first stage's.
NAMES = {
    size: tuple((part, f"{stack}/{part}") for part in pipeline.PARTS) + (("image_encoder", vision),)
    for size, stack, vision in (
        ("sd21", "sd21-base", "clip-vit-h-14-laion"),
        ("sd15", "sd15", "clip-vit-l-14-openai"),
        ("tiny", "tdr-tiny", "tdr-tiny/image_encoder"),
    )
}
AUTOENCODER = "tdr-tiny/vae"
MAPPERS = {
    "sd21": "image-to-text",
    "sd15": "image-to-text-sd15",
    "tiny": "tdr-tiny/image_to_text",
}


class Job:
    """What these jobs have in common; see `tdr_jax.train.jobs` for what a job is."""

    wanted: str  # of latents.LatentExamples
    view = 0
    part = ""  # the folder that is exported
    instead = {"drawn": "moments"}  # what takes the place of pictures where features are kept
    frozen: tuple = ()
    panels = False

    def __init__(self, config, workdir: Path, *, weights: bool = True):
        self.config, self.workdir, self.weights = config, workdir, weights
        assemble.check_lengths(config)
        if config.panel_every and not self.panels:
            raise InputError(
                f"config.panel_every is {config.panel_every}, but objective {config.objective!r} "
                "has no pictures to show; set it to 0"
            )
        if config.eval_data.path:
            raise InputError(
                f"config.eval_data.path is {config.eval_data.path}, but objective "
                f"{config.objective!r} is not evaluated in training; set it to ''"
            )

    def check_sizes(self, factor: int) -> None:
        """Refuses pictures that do not shrink to whole latents, with an InputError."""
        for _, crop, _ in self.config.data.stages:
            if crop % factor:
                raise InputError(
                    f"config.data.stages has pictures of {crop} pixels; give multiples of {factor}"
                )

    def build(self):
        """The network that the config names."""
        try:
            return models.build(self.config.network.name, **self.config.network.overrides)
        except ValueError as error:
            raise InputError(f"config.network: {error}") from None

    def initial_params(self):
        return assemble.initial_params(self.config, self.network)

    def examples(self, **options):
        """`make(n, size)`."""
        return latents.LatentExamples(
            assemble.source(self.config.data),
            self.config.data,
            self.config.seed,
            wanted=self.wanted,
            view=self.view,
            **options,
        )

    def batches(self, step: int):
        make, data = self.examples(), self.config.data
        if data.distinct:
            sizes = {crop for _, crop, _ in data.stages}
            if not self.frozen or len(sizes) > 1:
                raise InputError(
                    f"config.data.distinct is {data.distinct}, for objective "
                    f"{self.config.objective!r} with crops of {sorted(sizes)}; it keeps what "
                    "frozen networks make of pictures of one size"
                )
            (size,) = sizes
            make = feature_cache.CachedFeatures(
                self.workdir / f"features{jax.process_index()}",
                make,
                jax.jit(self.encode),  # of the jobs that have frozen networks
                data.distinct,
                size,
                self.config.seed,
                {
                    "data": {k: v for k, v in data.to_dict().items() if k not in NOT_DATA},
                    "arrays": sorted(self.kept(size)),
                    "seed": self.config.seed,
                    "networks": feature_cache.digest(self.frozen[0]),
                },
            )
        return data_pipeline.stream(
            make,
            data,
            step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def shapes(self, batch: int, crop: int):
        """What a whole batch looks like, examples in the first axis."""
        made = {
            "drawn": ((crop, crop, 3), "float32"),
            "kind": ((), "int32"),
            "ids": ((getattr(self, "length", 0),), "int32"),
        }
        made |= dict.fromkeys(SEEN, ((self.view, self.view, 3), "float32"))
        names = PARTS[self.wanted]
        if self.config.data.distinct and self.frozen:  # what `encode` makes of these
            made |= self.kept(crop)
            names = [self.instead.get(name, name) for name in names]
        return {
            name: jax.ShapeDtypeStruct((batch, *shape), dtype)
            for name, (shape, dtype) in made.items()
            if name in names
        }

    def evaluator(self):
        return None

    def export(self, params, step: int) -> Path:
        """Writes the trained network to a folder of its own in the run's."""
        path = self.workdir / self.part
        weights.save(path, self.network, jax.device_get(params))
        return path


# What an example has, see `latents.LatentExamples`.
SEEN = ("seen", "seen_too", "seen_other", "seen_clean")
PARTS = {
    "drawn": ("kind", "drawn"),
    "views": ("kind", *SEEN[:3]),
    "caption": ("kind", "drawn", "ids"),
    "same": ("kind", "drawn", "seen"),
    "pair": ("kind", "drawn", "seen", "seen_clean"),
}
# What decides neither the examples nor their features.
NOT_DATA = ("stages", "workers", "cache_mb")


class Contrast(Job):
    """A vision tower, from pairs of crops."""

    wanted, part = "views", "image_encoder"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = self.build()
        self.view = self.network.config.image_size
        self.task = contrast.Contrast(self.network)


class Reconstruct(Job):
    """An autoencoder."""

    wanted, part, panels = "drawn", "vae", True

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = self.build()
        self.check_sizes(self.network.config.factor)
        self.task = reconstruct.Reconstruct(self.network, config.loss)
        self._predict = jax.jit(self.task.predict)

    def initial_params(self):
        params = super().initial_params()
        if self.config.init_from:
            return params
        # Colours differ less than light and dark do, and would drown: in brightness, if the first
        # filters saw both alike, and in noise, if latents were drawn with much of it.
        filters = params["encoder.conv_in.kernel"]
        grey = filters.mean(2, keepdims=True)
        params |= {"encoder.conv_in.kernel": grey + COLOUR * (filters - grey)}
        if "quant_conv.bias" in params:
            bias = params["quant_conv.bias"]
            params["quant_conv.bias"] = bias.at[len(bias) // 2 :].set(LOGVAR)
        return params

    def panel(self, params, batch):
        """Pictures and what the autoencoder makes of them, side by side."""
        drawn = np.asarray(batch["drawn"].addressable_shards[0].data)[:PANEL_ROWS]
        given = self._predict(params, {"drawn": drawn})
        rows = np.concatenate([drawn, given], 2) / 2 + 0.5
        return np.clip(rows.reshape(-1, *rows.shape[2:]), 0, 1)

    def export(self, params, step: int) -> Path:
        """Writes the autoencoder, its scaling factor set so that latents have a deviation of 1."""
        params = jax.device_get(params)
        batch = next(self.batches(step))
        mean, _ = self.network.apply(params, batch["drawn"], method="encode")
        network = self.network.replace(scaling_factor=round(float(1 / mean.std()), 5))
        weights.save(self.workdir / self.part, network, params)
        return self.workdir / self.part


class Denoise(Job):
    """A UNet and its text tower, from pictures with captions."""

    wanted = "caption"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        if weights and not config.stack.vae:
            raise InputError(
                "config.stack.vae is empty; give the folder of an autoencoder: "
                "--config.stack.vae=FOLDER"
            )
        self.vae, params = self._autoencoder(config.stack)
        self.check_sizes(self.vae.config.factor)
        self.frozen = ({"vae": params},)
        captions.write_tokenizer(workdir / "captions")
        self.tokenizer = pipeline.load_tokenizer(workdir / "captions")
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
        self.task = denoise.Captioned(unet, text, self.vae, self.schedule, empty)

    def initial_params(self):
        """From scratch, or those of the folder of diffusers that config.init_from names."""
        if not self.config.init_from:
            return self.network.init(self.config.seed)
        where = f"config.init_from={self.config.init_from}"
        _, params = weights.load(self.config.init_from)
        if absent := self.network.parts.keys() - params.keys():
            raise InputError(f"{where} has no {min(absent)}; give the folder stack/ of such a run")
        try:
            params = self.network.joined(lambda part, _: params[part])
            models.check(params, self.network.abstract_params(), f"network {self.network.name}")
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        return params

    def examples(self):
        return super().examples(encode=self._ids)

    def _ids(self, caption: str) -> np.ndarray:
        options = dict(padding="max_length", max_length=self.length, truncation=True)
        return np.asarray(self.tokenizer(caption, **options)["input_ids"], np.int32)

    def _autoencoder(self, settings):
        if self.weights or Path(settings.vae or "-").is_dir():
            return weights.load(settings.vae, dtype=settings.dtype)
        built = models.build(AUTOENCODER, dtype=settings.dtype)
        return built, _shapes(built, settings.dtype)

    def kept(self, crop: int):
        """Shapes and dtypes of what `encode` makes of one example."""
        return {"moments": _kept_moments(self.vae.config, crop)}

    def encode(self, batch):
        """Latents in place of pictures."""
        return {"moments": _moments(self.vae, self.frozen[0], batch), "ids": batch["ids"]}

    def export(self, params, step: int) -> Path:
        """Writes a folder of diffusers that draws what captions say."""
        params = jax.device_get(params)
        whole = pipeline.Pipeline(
            unet=self.network.parts["unet"],
            vae=self.vae,
            text_encoder=self.network.parts["text_encoder"],
            scheduler=self.schedule.to_config(),
            tokenizer=self.tokenizer,
        )
        parts = {name: denoise.part(params, name) for name in self.network.parts}
        return weights.save(self.workdir / "stack", whole, parts | {"vae": self.frozen[0]["vae"]})


class Words(Job):
    """What the two stages with frozen towers share."""

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        settings = config.stack
        if not weights and not Path(settings.path or "-").is_dir():
            self.stack = published(config.network.name, settings.dtype)
        elif not settings.path:
            raise InputError(
                "config.stack.path is empty; give a folder of diffusers: --config.stack.path=FOLDER"
            )
        else:
            self.stack = load_tdr_pipeline(
                settings.path,
                image_encoder=settings.image_encoder or None,
                image_to_text=settings.image_to_text or None,
                dtype=settings.dtype,
            )
        self.networks = {
            name: network.replace(dtype=settings.dtype)
            for name, network in self.stack.networks.items()
        }
        self.view = self.networks["image_encoder"].config.image_size
        self.check_sizes(self.networks["vae"].config.factor)
        self.network = self.build()

    def towers(self) -> image_to_text.Towers:
        """The frozen networks and the sentence."""
        return towers(
            self.networks,
            self.stack.scheduler,
            self.stack.tokenizer,
            template=self.config.stack.template,
            words=self.network.config.num_words,
            remat=self.config.stack.remat,
        )


def published(name: str, dtype: str) -> tdr_pipeline.TDRPipeline:
    """The frozen networks that a network goes with, and shapes in place of their parameters.

    Args:
        name: of the network to train.
        dtype: of the parameters.

    Raises:
        InputError: it goes with none of the published ones.
    """
    size = "tiny" if name.startswith("tdr-tiny/") else "sd15" if name.endswith("-sd15") else "sd21"
    parts = (*NAMES[size], (tdr_pipeline.IMAGE_TO_TEXT, MAPPERS[size]))
    networks = {part: models.build(of, dtype=dtype) for part, of in parts}
    with tempfile.TemporaryDirectory() as folder:
        captions.write_tokenizer(Path(folder))
        tokenizer = pipeline.load_tokenizer(Path(folder))
    params = {part: _shapes(network, dtype) for part, network in networks.items()}
    found = tdr_pipeline.TDRPipeline(networks, params, diffusion.Schedule().to_config(), tokenizer)
    found.check(name)
    return found


def _shapes(network, dtype: str):
    shapes = network.abstract_params().items()
    return {name: jax.ShapeDtypeStruct(spec.shape, dtype) for name, spec in shapes}


def towers(networks, scheduler, tokenizer, *, template: str, words: int, remat: bool | str):
    """Puts the frozen networks together.

    Args:
        networks: by name, "image_encoder", "text_encoder", "unet" and "vae".
        scheduler: the contents of `scheduler_config.json`.
        tokenizer: of the text tower.
        template: the sentence, S where the words go.
        words: their number.
        remat: what the backward pass finds kept of the UNet's blocks, see `models.policies`.

    Raises:
        InputError: the sentence does not hold the words.
    """
    text = networks["text_encoder"]
    ids, position = templates.prepare(
        tokenizer, template, num_words=words, length=text.config.max_position_embeddings
    )
    return image_to_text.Towers(
        networks["image_encoder"],
        text,
        networks["unet"].replace(remat=remat),
        networks["vae"],
        diffusion.Schedule.from_config(scheduler),
        tuple(int(i) for i in ids),
        int(position),
    )


class ImageToText(Words):
    """The first stage: the mapper and its copies of keys and values."""

    wanted, part = "same", "image_to_text"
    instead = {"drawn": "moments", "seen": "hidden"}

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        names = ("unet", "vae", "text_encoder", "image_encoder")
        self.frozen = ({name: self.stack.params[name] for name in names},)
        self.task = image_to_text.ImageToText(self.towers(), self.network)

    def initial_params(self):
        params = super().initial_params()
        if self.config.init_from:
            return params
        own = self.frozen[0]["unet"]
        return mapper.with_kv(params, {k: own[k].astype(jnp.float32) for k in own})

    def kept(self, crop: int):
        """Shapes and dtypes of what `encode` makes of one example."""
        vision = self.networks["image_encoder"].config
        tokens = 1 + (vision.image_size // vision.patch_size) ** 2
        moments = _kept_moments(self.networks["vae"].config, crop)
        return {"moments": moments, "hidden": ((tokens, vision.hidden_size), "float32")}

    def encode(self, batch):
        """Hidden states and latents in place of pictures."""
        frozen = self.frozen[0]
        return {
            "kind": batch["kind"],
            "moments": _moments(self.networks["vae"], frozen, batch),
            "hidden": self.task.towers.hidden(frozen, batch).astype(jnp.float32),
        }


class TextualRestoration(Words):
    """The second stage: the restoration of words."""

    wanted, part = "pair", "textual_restoration"
    instead = {"drawn": "moments", "seen": "words", "seen_clean": "words_clean"}

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        if tdr_pipeline.IMAGE_TO_TEXT not in self.networks:
            raise InputError(
                f"{config.stack.path} has no image_to_text/, which the second stage needs; give "
                "the first stage's: --config.stack.image_to_text=FOLDER"
            )
        self.frozen = (
            {k: v for k, v in self.stack.params.items() if k != tdr_pipeline.RESTORATION},
        )
        tasks = self.network.config.tasks
        if 0 < tasks < len(latents.KINDS):
            raise InputError(
                f"config.network.overrides.tasks is {tasks}; give 0, or {len(latents.KINDS)} for "
                f"{', '.join(latents.KINDS)}"
            )
        if not (config.loss.denoise or config.loss.words):
            raise InputError(
                "config.loss.denoise and config.loss.words are both 0, so that there is nothing to "
                "learn; set one of them"
            )
        first = self.networks[tdr_pipeline.IMAGE_TO_TEXT]
        self.task = textual_restoration.TextualRestoration(
            self.towers(), first, self.network, config.loss
        )

    def kept(self, crop: int):
        """Shapes and dtypes of what `encode` makes of one example."""
        config = self.network.config
        words = (config.num_words, config.input_dim), "float32"
        found = {"words": words, "words_clean": words}
        if self.config.loss.denoise:
            found["moments"] = _kept_moments(self.networks["vae"].config, crop)
        return found

    def encode(self, batch):
        """Words of both pictures and, where they are needed, latents, in place of pictures."""
        frozen = self.frozen[0]
        found = {
            f"words{which}": self.task.said(frozen, batch, which).astype(jnp.float32)
            for which in ("", "_clean")
        }
        if self.config.loss.denoise:
            found["moments"] = _moments(self.networks["vae"], frozen, batch)
        return {"kind": batch["kind"], **found}


class Several:
    """Networks that are trained together, their parameters in one flat dict."""

    def __init__(self, parts: dict[str, models.Network]):
        self.parts = parts

    @property
    def name(self) -> str:
        return " and ".join(network.name for network in self.parts.values())

    @functools.cached_property
    def size(self) -> int:
        return sum(network.size for network in self.parts.values())

    def init(self, seed: int = 0):
        return self.joined(lambda _, network: network.init(seed))

    def abstract_params(self):
        return self.joined(lambda _, network: network.abstract_params())

    def joined(self, of) -> dict:
        """One dict of `of(part, network)`, the parameters of each."""
        return {
            f"{part}.{name}": value
            for part, network in self.parts.items()
            for name, value in of(part, network).items()
        }


def _kept_moments(config, crop: int):
    side = crop // config.factor
    return (side, side, 2 * config.latent_channels), "float32"


def _moments(vae, frozen, batch):
    mean, logvar = vae.apply(frozen["vae"], batch["drawn"], method="encode")
    return jnp.concatenate([mean, logvar], -1).astype(jnp.float32)


JOBS = {
    "contrast": Contrast,
    "reconstruct": Reconstruct,
    "denoise": Denoise,
    "i2t": ImageToText,
    "tr": TextualRestoration,
}
