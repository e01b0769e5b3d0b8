"""From sentences to pictures, with a diffusion pipeline."""

import dataclasses
import functools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Float32, Int32

from tdr_jax.diffusion.pipeline import PARTS, Pipeline
from tdr_jax.diffusion.samplers import Sampler
from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array


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
        networks = {name: getattr(pipeline, name) for name in PARTS}
        scheduler = pipeline.scheduler
        if prediction is not None:
            scheduler = scheduler | {"prediction_type": prediction}
        self._sampler = Sampler(networks, params, scheduler, pipeline.tokenizer, dtype)

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
        from tdr_jax import weights
        from tdr_jax.diffusion import pipeline

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
    def params(self) -> dict:
        """Flat parameters of each part, where they were placed."""
        return self._sampler.params

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures the pipeline was trained on."""
        return self._sampler.size

    @property
    def factor(self) -> int:
        """Pixels a side for each latent: sizes are multiples of it."""
        return self._sampler.factor

    def tokens(self, prompts: Sequence[str]) -> Int32[np.ndarray, "n t"]:
        """Returns token ids, as many as the text tower reads: padded, or cut off."""
        options = dict(padding="max_length", max_length=self._sampler.length, truncation=True)
        ids = self._sampler.tokenizer(list(prompts), **options)["input_ids"]
        return self._sampler.check_tokens(np.asarray(ids, np.int32))

    def is_cut(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than the text tower reads."""
        return len(self._sampler.tokenizer(prompt)["input_ids"]) > self._sampler.length

    def noise(
        self, seed: int, indices: Sequence[int], size: tuple[int, int]
    ) -> Float32[jax.Array, "n h w c"]:
        """Returns start noise N(0, 1); each picture's hangs on seed and its index alone.

        Args:
            seed: in [0, 2^32).
            indices: one for each picture.
            size: height and width of the pictures, in pixels; h = height / `factor`.
        """
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(np.array(indices))
        return self._sampler.noise(keys, size)

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
        noise: Float[Array, "n h w c"] | None = None,
        first: int = 0,
    ) -> Float32[np.ndarray, "n h2 w2 3"]:
        """Draws one picture for each prompt.

        Args:
            prompts: n sentences, or one.
            negative: what to steer away from.
            steps: how often the UNet runs.
            scale: of classifier-free guidance; 1 for none.
            sampler: "ddim" or "dpm++" (DPM-Solver++ 2M, good from 20 steps).
            seed: picture i is a function of its prompt, the seed and `first` + i, whatever else is
                drawn beside it.
            size: height and width in pixels, multiples of `factor`; `self.size` by default.
            noise: N(0, 1) to start from, instead of the seed's.
            first: index of the first picture.

        Returns:
            In [0, 1], of `size`.

        Raises:
            InputError: the size, sampler or number of steps cannot be had.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        size = size or self.size
        if min(size) < self.factor or any(side % self.factor for side in size):
            raise InputError(
                f"size {size[0]}x{size[1]}: both sides must be positive multiples of {self.factor}"
            )
        count = len(prompts)
        if noise is None:
            noise = self.noise(seed, range(first, first + count), size)
        empty = self.tokens([negative])
        ids, noise = self._sampler.spread(self.tokens(prompts), noise)
        draw = self._draw(steps, float(scale), sampler)
        return np.asarray(draw(self.params, ids, empty, noise))[:count]

    @functools.lru_cache(maxsize=8)  # noqa: B019 (programs live as long as their generator)
    def _draw(self, steps: int, scale: float, sampler: str):
        """Compiles prompt to picture for these settings."""
        text = self._sampler.networks["text_encoder"]

        def draw(params, ids, empty, noise):
            context = text.apply(params["text_encoder"], ids)
            uncond = text.apply(params["text_encoder"], empty)
            return self._sampler.draw(
                params, context, uncond, noise, steps=steps, scale=scale, sampler=sampler
            )

        return jax.jit(draw)
