"""From hidden states of text to pictures: what all ways of drawing have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax import diffusion
from tdr_jax.errors import InputError

LARGE = 1024  # pixels a side, above which pictures are decoded in tiles


class Painter:
    """Samples latents and decodes them, on one device or spread over several.

    Args:
        networks: "unet", "vae", "text_encoder", and others that are used beside them.
        params: flat parameters of each; with several devices all of them get all.
        scheduler: the contents of `scheduler_config.json`.
        tokenizer: transformers' CLIPTokenizer.
        dtype: the networks compute in, "float32", "bfloat16" or "float16".

    Attributes:
        networks, params: to be computed with.

    Raises:
        InputError: the schedule is not known here.
    """

    def __init__(self, networks: dict, params: dict, scheduler: dict, tokenizer, dtype: str):
        self.networks = {name: net.replace(dtype=dtype) for name, net in networks.items()}
        self.scheduler, self.tokenizer = scheduler, tokenizer
        diffusion.Schedule.from_config(scheduler, "ddim")  # refused now or never
        self._mesh = None
        if jax.device_count() > 1:
            auto = (jax.sharding.AxisType.Auto,)
            self._mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)
            params = jax.device_put(params, self._sharding())
        self.params = params

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures the pipeline was trained on."""
        side = self.networks["unet"].config.sample_size * self.factor
        return side, side

    @property
    def factor(self) -> int:
        """Pixels a side for each latent: sizes are multiples of it."""
        return self.networks["vae"].config.factor

    @property
    def length(self) -> int:
        """The number of tokens the text tower reads."""
        return self.networks["text_encoder"].config.max_position_embeddings

    def check_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Returns token ids (..., T) unchanged.

        Raises:
            InputError: one is beyond the text tower's vocabulary.
        """
        vocabulary = self.networks["text_encoder"].config.vocab_size
        if ids.max(initial=0) >= vocabulary:
            raise InputError(
                f"the tokenizer gives id {ids.max()}, but the text tower has {vocabulary} tokens; "
                "use the tokenizer it was trained with"
            )
        return ids

    def noise(self, keys: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Returns start noise float32 (N, h, w, C), each picture's from its own key of (N,)."""
        channels = self.networks["unet"].config.in_channels
        shape = (size[0] // self.factor, size[1] // self.factor, channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

    def spread(self, *batches) -> tuple:
        """Lays batches (N, ...) over the devices; the last row fills up what these need."""
        if self._mesh is None:
            return batches
        extra = -len(batches[0]) % self._mesh.size
        filled = tuple(jnp.concatenate([x, jnp.repeat(x[-1:], extra, 0)]) for x in batches)
        return jax.device_put(filled, self._sharding("data"))

    def paint(
        self,
        params: dict,
        context: jax.Array,
        uncond: jax.Array,
        noise: jax.Array,
        *,
        steps: int,
        scale: float,
        sampler: str,
        kv: dict | None = None,
    ) -> jax.Array:
        """Draws one picture for each row of the context; to be traced by `jax.jit`.

        Args:
            params: of each part.
            context: (N, T, C) hidden states of the text tower.
            uncond: likewise, or (1, T, C), of what to steer away from.
            noise: (N, h, w, C) to start from.
            steps: how often the UNet runs.
            scale: of classifier-free guidance; 1 for none.
            sampler: "ddim" or "dpm++".
            kv: other weights for the UNet's keys and values, of both contexts.

        Returns:
            float32 (N, H, W, 3) in [0, 1].

        Raises:
            InputError: the sampler or number of steps cannot be had.
        """
        if sampler not in diffusion.SAMPLERS:
            raise InputError(f"no sampler {sampler!r}; there are {', '.join(diffusion.SAMPLERS)}")
        unet, vae = self.networks["unet"], self.networks["vae"]
        schedule = diffusion.Schedule.from_config(self.scheduler, sampler)
        network = functools.partial(unet.apply, params["unet"], kv=kv)
        denoise = diffusion.guided(network, context, uncond, scale)
        latents = diffusion.sample(denoise, schedule, noise, steps, sampler=sampler)
        tiling = max(noise.shape[1:3]) * self.factor > LARGE
        latents /= vae.config.scaling_factor
        pictures = vae.apply(params["vae"], latents, method="decode", tiling=tiling)
        return jnp.clip(pictures.astype(jnp.float32) / 2 + 0.5, 0, 1)

    def _sharding(self, *axes: str):
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))
