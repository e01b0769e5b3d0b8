"""From sentences to pictures, with a diffusion pipeline."""

import dataclasses
import functools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax import diffusion
from tdr_jax.errors import InputError
from tdr_jax.pipeline import PARTS, Pipeline

LARGE = 1024  # pixels a side, above which pictures are decoded in tiles


class Generator:
    """Draws pictures that sentences describe.

    Prompt, sampling and decoding are one compiled program for each batch size and picture size.
    With several devices the pictures of a batch are spread over them.

    Args:
        pipeline: networks, schedule and tokenizer, as `tdr_jax.load` returns them.
        params: flat parameters of each part.
        dtype: the networks compute in, "float32", "bfloat16" or "float16".
        prediction: "epsilon" or "v_prediction", where the pipeline says it wrongly or, read from a
            single file, not at all.

    Raises:
        InputError: the pipeline has no tokenizer, or its schedule is not known here.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        params: dict,
        *,
        dtype: str = "float32",
        prediction: str | None = None,
    ):
        if pipeline.tokenizer is None:
            raise InputError("the pipeline has no tokenizer: give the folder of one")
        self.networks = {name: getattr(pipeline, name).replace(dtype=dtype) for name in PARTS}
        self.scheduler = pipeline.scheduler
        if prediction is not None:
            self.scheduler = self.scheduler | {"prediction_type": prediction}
        diffusion.Schedule.from_config(self.scheduler, "ddim")  # refused now or never
        self.tokenizer = pipeline.tokenizer
        self._mesh = None
        if jax.device_count() > 1:
            auto = (jax.sharding.AxisType.Auto,)
            self._mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)
            params = jax.device_put(params, self._sharding())
        self.params = params

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike,
        *,
        tokenizer: str | PathLike | None = None,
        dtype: str = "float32",
        prediction: str | None = None,
    ) -> "Generator":
        """Loads a pipeline.

        Args:
            path: a diffusers folder, a hub id, or a checkpoint in one file.
            tokenizer: the folder of a CLIP tokenizer, needed with a single file.
            dtype: of parameters and computation.
            prediction: as for the class.

        Raises:
            InputError: there is no pipeline, or it is damaged or lacks something.
        """
        from tdr_jax import pipeline, weights

        loaded, params = weights.load(path, dtype=dtype)
        if not isinstance(loaded, Pipeline):
            raise InputError(
                f"{path} holds {loaded.name} alone; give a folder with model_index.json, unet/, "
                "vae/, text_encoder/, tokenizer/ and scheduler/"
            )
        if tokenizer is not None:
            loaded = dataclasses.replace(loaded, tokenizer=pipeline.load_tokenizer(Path(tokenizer)))
        return cls(loaded, params, dtype=dtype, prediction=prediction)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures the pipeline was trained on."""
        side = self.networks["unet"].config.sample_size * self.factor
        return side, side

    @property
    def factor(self) -> int:
        """Pixels a side for each latent: sizes are multiples of it."""
        return self.networks["vae"].config.factor

    def tokens(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns int32 token ids (N, 77), padded; what is longer is cut off."""
        length = self.networks["text_encoder"].config.max_position_embeddings
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True
        )["input_ids"]
        ids = np.asarray(ids, np.int32)
        vocabulary = self.networks["text_encoder"].config.vocab_size
        if ids.max(initial=0) >= vocabulary:
            raise InputError(
                f"the tokenizer gives id {ids.max()}, but the text tower has {vocabulary} tokens; "
                "use the tokenizer it was trained with"
            )
        return ids

    def is_cut(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than the text tower reads."""
        length = self.networks["text_encoder"].config.max_position_embeddings
        return len(self.tokenizer(prompt)["input_ids"]) > length

    def noise(self, seed: int, indices: Sequence[int], size: tuple[int, int]) -> jax.Array:
        """Returns start noise (N, h, w, C); each picture's hangs on seed and its index alone."""
        channels = self.networks["unet"].config.in_channels
        shape = (size[0] // self.factor, size[1] // self.factor, channels)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(np.array(indices))
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str = "",
        steps: int = 50,
        scale: float = 7.5,
        sampler: str = "ddim",
        seed: int = 0,
        size: tuple[int, int] | None = None,
        noise=None,
        first: int = 0,
    ) -> np.ndarray:
        """Draws one picture for each prompt.

        Args:
            prompts: N sentences, or one.
            negative: what to steer away from.
            steps: how often the UNet runs.
            scale: of classifier-free guidance; 1 for none.
            sampler: "ddim" or "dpm++" (DPM-Solver++ 2M, good from 20 steps).
            seed: picture i is a function of its prompt, the seed and `first` + i, whatever else is
                drawn beside it.
            size: height and width in pixels, multiples of `factor`; `self.size` by default.
            noise: (N, h, w, C) to start from, instead of the seed's.
            first: index of the first picture.

        Returns:
            float32 (N, H, W, 3) in [0, 1].

        Raises:
            InputError: the size, sampler or number of steps cannot be had.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        size = size or self.size
        if min(size) < self.factor or any(side % self.factor for side in size):
            raise InputError(
                f"size {size[0]}x{size[1]}: both sides must be positive multiples of {self.factor}"
            )
        if sampler not in diffusion.SAMPLERS:
            raise InputError(f"no sampler {sampler!r}; there are {', '.join(diffusion.SAMPLERS)}")
        count = len(prompts)
        if noise is None:
            noise = self.noise(seed, range(first, first + count), size)
        ids, empty = self.tokens(prompts), self.tokens([negative])
        if self._mesh is not None:  # the batch becomes a multiple of the devices
            extra = -count % self._mesh.size
            ids, noise = (jnp.concatenate([x, jnp.repeat(x[-1:], extra, 0)]) for x in (ids, noise))
            ids, noise = jax.device_put((ids, noise), self._sharding("data"))
        draw = self._draw(steps, float(scale), sampler, max(size) > LARGE)
        return np.asarray(draw(self.params, ids, empty, noise))[:count]

    def _sharding(self, *axes: str):
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))

    @functools.lru_cache(maxsize=8)  # noqa: B019 (programs live as long as their generator)
    def _draw(self, steps: int, scale: float, sampler: str, tiling: bool):
        """Compiles prompt to picture for these settings."""
        unet, vae, text = (self.networks[name] for name in PARTS)
        schedule = diffusion.Schedule.from_config(self.scheduler, sampler)

        def draw(params, ids, empty, noise):
            context = text.apply(params["text_encoder"], ids)
            uncond = text.apply(params["text_encoder"], empty)
            denoise = diffusion.guided(
                functools.partial(unet.apply, params["unet"]), context, uncond, scale
            )
            latents = diffusion.sample(denoise, schedule, noise, steps, sampler=sampler)
            latents /= vae.config.scaling_factor
            pictures = vae.apply(params["vae"], latents, method="decode", tiling=tiling)
            return jnp.clip(pictures.astype(jnp.float32) / 2 + 0.5, 0, 1)

        return jax.jit(draw)
