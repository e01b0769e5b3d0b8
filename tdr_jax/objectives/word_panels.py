"""Sample pictures while the stages of textual degradation removal train: what words draw."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from tdr_jax import models
from tdr_jax.diffusion.samplers import Sampler
from tdr_jax.diffusion.tdr_pipeline import TDRPipeline
from tdr_jax.nn.typing import Array
from tdr_jax.objectives.base import Batch
from tdr_jax.objectives.latent_diffusion import Towers
from tdr_jax.text import templates

STEPS, SCALE = 20, 5.0  # of DPM-Solver++, as `tdr guide --fast` draws


@dataclasses.dataclass(frozen=True)
class WordPanel:
    """Draws a few rows of a batch, every time from the same noise.

    Args:
        towers: the frozen networks.
        stack: whose schedule and tokenizer are used.
        networks: by the names of their folders.
        dtype: that they compute in.
    """

    towers: Towers
    stack: TDRPipeline
    networks: dict[str, Any]
    dtype: str

    def columns(
        self,
        rows: Batch,
        words: list[Float[Array, "n w c"]],
        kv: models.Params,
        frozen: dict[str, models.Params],
    ) -> list[Float32[Array, "n h w3 3"]]:
        """What is seen, what each words draw, and what was to be drawn; to be traced.

        Args:
            rows: of a batch, or of kept features, which hold no pictures that could be seen.
            words: one after the other.
            kv: the copies of keys and values.
            frozen: parameters by network.

        Returns:
            In [0, 1], all of the size that the pipeline draws.
        """
        sampler = Sampler(self.networks, {}, self.stack.scheduler, self.stack.tokenizer, self.dtype)
        empty = templates.empty(self.stack.tokenizer, sampler.length)[None]
        uncond = self.towers.text_encoder.apply(frozen["text_encoder"], jnp.asarray(empty))
        count = len(words[0])
        noise = sampler.noise(jnp.stack(count * [jax.random.key(0)]), sampler.size)
        drawn = [
            sampler.draw(
                frozen,
                self.towers.context(frozen, each),
                uncond,
                noise,
                steps=STEPS,
                scale=SCALE,
                sampler="dpm++",
                kv=kv,
            )
            for each in words
        ]
        seen, wanted = self._pictures(rows, frozen)
        shape = (count, *sampler.size, 3)
        return [jax.image.resize(x, shape, "linear") for x in (*seen, *drawn, *wanted)]

    def _pictures(self, rows: Batch, frozen) -> Iterator[list[Float32[Array, "n _ _ 3"]]]:
        """Lists of the picture that is described and of the one to be drawn, where they are."""
        yield [rows["clip_image"]] if "clip_image" in rows else []
        if "target" in rows:
            yield [0.5 * rows["target"] + 0.5]
        elif "moments" in rows:
            mean = jnp.split(rows["moments"], 2, -1)[0]
            picture = self.towers.vae.apply(frozen["vae"], mean, method="decode")
            yield [jnp.clip(0.5 * picture.astype(jnp.float32) + 0.5, 0, 1)]
        else:
            yield []
