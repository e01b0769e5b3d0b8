"""From noise to samples, and from hidden states of text to pictures.

Everything that depends on the schedule alone is a small table made on the host; what runs on the
device is one `lax.scan` over such a table, which fits into one jit together with the network.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64, Key, PRNGKeyArray, PyTree, Shaped

from tdr_jax.diffusion.schedule import SAMPLERS, Schedule, one_of
from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array

LARGE = 1024  # pixels a side, above which pictures are decoded in tiles


def timesteps(
    schedule: Schedule, steps: int, sampler: str = "ddim"
) -> Int64[np.ndarray, " {steps}"]:
    """The timesteps at which a sampler runs the network, as diffusers' `set_timesteps` gives them.

    Args:
        schedule: its timestep_spacing, steps_offset and num_train_timesteps count.
        steps: 1 .. T.
        sampler: "ddim" or "dpm++", which space their steps differently.

    Returns:
        Those of all steps, in [0, T), not rising. One difference: for "trailing" and some numbers
        of steps (61 of 1000) rounding makes diffusers append a timestep -1, which is left out here.

    Raises:
        InputError: for another sampler or number of steps.
    """
    one_of("sampling", "sampler", sampler, SAMPLERS)
    total = schedule.num_train_timesteps
    whole = isinstance(steps, int | np.integer) and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= total:
        raise InputError(f"sampling: steps={steps!r}; ask for a whole number from 1 to {total}")
    if schedule.timestep_spacing == "trailing":
        # arange, not linspace: .5 must round as it does in diffusers.
        return np.round(np.arange(total, 0, -(total / steps)))[:steps].astype(np.int64) - 1
    # DPM++ counts the noiseless end as a step and leaves it out.
    count, kept = (steps, slice(None)) if sampler == "ddim" else (steps + 1, slice(1, None))
    if schedule.timestep_spacing == "linspace":
        rising = np.round(np.linspace(0, total - 1, count)).astype(np.int64)
    else:
        rising = np.arange(count) * (total // count) + schedule.steps_offset
    return rising[kept][::-1].copy()


# One step of either sampler, from x and the network's output at timestep t:
#   x0   = estimate_x * x + estimate_out * out              (then clipped, where DDIM is to clip)
#   next = next_x * x + next_out * out + next_x0 * x0 + next_old * (the x0 of the step before)
#        + next_noise * N(0, 1)
def _ddim_table(schedule: Schedule, steps: int, eta: float) -> dict[str, np.ndarray]:
    """DDIM (arXiv 2010.02502), eq. 12 and 16; columns named as above, float64 (steps,)."""
    t = timesteps(schedule, steps, "ddim")
    total = schedule.num_train_timesteps
    if t[0] >= total:
        raise InputError(
            f"sampling: {steps} steps with steps_offset={schedule.steps_offset} start at timestep "
            f"{t[0]}, past the last one, {total - 1}; ask for fewer steps"
        )
    abars = schedule.alphas_cumprod.astype(np.float64)
    abar, before = abars[t], t - total // steps
    last = 1.0 if schedule.set_alpha_to_one else abars[0]
    then = np.where(before >= 0, abars[np.maximum(before, 0)], last)
    signal, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    variance = (1 - then) / (1 - abar) * (1 - abar / then)
    # Rounding must not push an exact zero under the root.
    spread = eta * np.sqrt(np.maximum(variance, 0))
    direction = np.sqrt(np.maximum(1 - then - spread**2, 0))
    table = dict(next_x0=np.sqrt(then), next_noise=spread)
    if schedule.prediction_type == "v_prediction":
        estimate = dict(estimate_x=signal, estimate_out=-sigma)
        return table | estimate | dict(next_x=direction * sigma, next_out=direction * signal)
    if not signal.all():
        raise InputError(
            "sampling: a step at a timestep without signal (rescale_betas_zero_snr) needs a "
            "network with prediction_type='v_prediction'; this one predicts 'epsilon'"
        )
    estimate = dict(estimate_x=1 / signal, estimate_out=-sigma / signal)
    return table | estimate | dict(next_x=np.zeros(steps), next_out=direction)


def _dpm_table(schedule: Schedule, steps: int) -> dict[str, np.ndarray]:
    """DPM-Solver++ 2M (arXiv 2211.01095, alg. 2), down to a sigma of zero; as `_ddim_table`.

    The paper's `exp(-h)` is written as a ratio of sigmas, so that no infinite log-SNR occurs at
    the end, and a step from a repeated timestep falls back to first order instead of dividing by 0.
    """
    t = timesteps(schedule, steps, "dpm++")
    abars = schedule.alphas_cumprod.astype(np.float64)
    if schedule.rescale_betas_zero_snr:
        # diffusers' stand-in for zero, which would make the first sigma infinite.
        abars[-1] = 2.0**-24
    # Beyond the last timestep, where steps_offset can lead, interp holds the last sigma.
    sigmas = np.interp(t, np.arange(len(abars)), np.sqrt((1 - abars) / abars))
    ratio = np.append(sigmas, 0.0)  # noise over signal, of each step's start and of the end
    signal = 1 / np.sqrt(1 + ratio**2)
    noise = ratio * signal
    here, then = slice(None, -1), slice(1, None)
    x = noise[then] / noise[here]
    first = signal[then] - x * signal[here]
    # Second order: x0 extrapolated along the log-SNR, from the step before to this step's middle.
    slope = np.zeros(steps)
    width = -np.diff(np.log(sigmas))
    inner = slice(1, -1)  # neither the first step nor the last
    previous, following = width[:-1], width[1:]
    safe = np.where(previous > 0, previous, 1.0)
    slope[inner] = np.where(previous > 0, following / safe, 0.0)
    second = 0.5 * first * slope
    table = dict(next_x=x, next_out=np.zeros(steps), next_x0=first + second, next_old=-second)
    if schedule.prediction_type == "v_prediction":
        return table | dict(estimate_x=signal[here], estimate_out=-noise[here])
    return table | dict(estimate_x=1 / signal[here], estimate_out=-ratio[here])


def sample(
    denoise: Callable[[Float32[Array, "b h w c"], Int32[Array, ""]], Float[Array, "b h w c"]],
    schedule: Schedule,
    noise: Float[Array, "b h w c"],
    steps: int,
    *,
    sampler: str = "ddim",
    eta: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> Float32[Array, "b h w c"]:
    """Turns noise into samples by one `lax.scan` over the timesteps.

    Args:
        denoise: `(x, t) -> output`: latents and their timestep; the output, of any float dtype, is
            what the schedule's prediction_type says.
        schedule: of the noise the network was trained with.
        noise: N(0, 1).
        steps: how often the network runs, 1 .. T.
        sampler: "ddim" or "dpm++" (DPM-Solver++ 2M, midpoint; never clips).
        eta: DDIM's share of fresh noise, a Python number in [0, 1]: 0 is deterministic, 1 is DDPM.
        key: for eta > 0; step i draws normal(fold_in(key, i)).

    Returns:
        Latents, the same for the same arguments.

    Raises:
        InputError: for a sampler or a number of steps that cannot be had.
        ValueError: for eta outside [0, 1], or above 0 without a key or with "dpm++".
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} is not within [0, 1]")
    if eta > 0 and key is None:
        raise ValueError(f"eta={eta} draws noise, for which it needs a key")
    if eta > 0 and sampler == "dpm++":
        raise ValueError(f"eta={eta} is DDIM's; sampler='dpm++' draws no noise")
    multistep = sampler == "dpm++"
    clip = schedule.clip_sample_range if schedule.clip_sample and not multistep else None
    t = timesteps(schedule, steps, sampler)
    table = _dpm_table(schedule, steps) if multistep else _ddim_table(schedule, steps, eta)
    rows = {name: jnp.asarray(column, jnp.float32) for name, column in table.items()}
    rows |= dict(t=jnp.asarray(t, jnp.int32), i=jnp.arange(steps, dtype=jnp.int32))

    def step(carry, row):
        x, old = carry
        out = denoise(x, row["t"]).astype(jnp.float32)
        x0 = row["estimate_x"] * x + row["estimate_out"] * out
        if clip is not None:
            x0 = jnp.clip(x0, -clip, clip)
        following = row["next_x"] * x + row["next_out"] * out + row["next_x0"] * x0
        if multistep:
            following += row["next_old"] * old
        if eta > 0:
            fresh = jax.random.normal(jax.random.fold_in(key, row["i"]), x.shape, jnp.float32)
            following += row["next_noise"] * fresh
        return (following, x0 if multistep else None), None

    x = jnp.asarray(noise).astype(jnp.float32)
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x) if multistep else None), rows)
    return x


def guided(
    denoise_batch: Callable[
        [Float32[Array, "b h w c"], Int32[Array, ""], PyTree], Float[Array, "b h w c"]
    ],
    context: PyTree,
    uncond: PyTree,
    scale: float | Float[Array, ""],
) -> Callable[[Float32[Array, "b h w c"], Int32[Array, ""]], Float32[Array, "b h w c"]]:
    """Classifier-free guidance: steers away from what the network does without a prompt.

    Args:
        denoise_batch: `(x, t, context) -> output`; runs once a step, on [uncond; context].
        context: array or tree of arrays, one row a picture, the prompt's.
        uncond: of the same structure, the empty prompt's; one row serves a whole batch. Not looked
            at where scale is 1.
        scale: 1 is no guidance, and as a Python number runs the prompt's half alone.

    Returns:
        `denoise(x, t)` for `sample`: `e_u + scale (e_c - e_u)`.

    Source: arXiv 2207.12598, eq. 6 (scale = 1 + w).
    """
    if isinstance(scale, int | float) and scale == 1:
        return lambda x, t: denoise_batch(x, t, context).astype(jnp.float32)
    both = jax.tree.map(
        lambda c, u: jnp.concatenate([jnp.broadcast_to(u, c.shape), c]), context, uncond
    )

    def denoise(x, t):
        out = denoise_batch(jnp.concatenate([x, x]), t, both).astype(jnp.float32)
        without, prompted = jnp.split(out, 2)
        return without + scale * (prompted - without)

    return denoise


class Sampler:
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
        Schedule.from_config(scheduler, "ddim")  # refused now or never
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

    def check_tokens(self, ids: Int[np.ndarray, "*n t"]) -> Int[np.ndarray, "*n t"]:
        """Returns token ids unchanged.

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

    def noise(self, keys: Key[Array, " n"], size: tuple[int, int]) -> Float32[Array, "n h w c"]:
        """Returns start noise N(0, 1), each picture's from its own key.

        Args:
            keys: one a picture.
            size: height and width of the pictures, in pixels; h = height / `factor`.
        """
        channels = self.networks["unet"].config.in_channels
        shape = (size[0] // self.factor, size[1] // self.factor, channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

    def spread(self, *batches: Shaped[Array, "n ..."]) -> tuple[Shaped[Array, "n2 ..."], ...]:
        """Lays batches over the devices; the last row fills up what these need."""
        if self._mesh is None:
            return batches
        extra = -len(batches[0]) % self._mesh.size
        filled = tuple(jnp.concatenate([x, jnp.repeat(x[-1:], extra, 0)]) for x in batches)
        return jax.device_put(filled, self._sharding("data"))

    def draw(
        self,
        params: dict,
        context: Float[Array, "n t e"],
        uncond: Float[Array, "_ t e"],
        noise: Float[Array, "n h w c"],
        *,
        steps: int,
        scale: float,
        sampler: str,
        kv: dict | None = None,
    ) -> Float32[Array, "n h2 w2 3"]:
        """Draws one picture for each row of the context; to be traced by `jax.jit`.

        Args:
            params: of each part.
            context: hidden states of the text tower.
            uncond: likewise, or one for all, of what to steer away from.
            noise: N(0, 1), to start from.
            steps: how often the UNet runs.
            scale: of classifier-free guidance; 1 for none.
            sampler: "ddim" or "dpm++".
            kv: other weights for the UNet's keys and values, of both contexts.

        Returns:
            In [0, 1]; h2 = h * `factor`.

        Raises:
            InputError: the sampler or number of steps cannot be had.
        """
        if sampler not in SAMPLERS:
            raise InputError(f"no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
        unet, vae = self.networks["unet"], self.networks["vae"]
        schedule = Schedule.from_config(self.scheduler, sampler)
        network = functools.partial(unet.apply, params["unet"], kv=kv)
        denoise = guided(network, context, uncond, scale)
        latents = sample(denoise, schedule, noise, steps, sampler=sampler)
        tiling = max(noise.shape[1:3]) * self.factor > LARGE
        latents /= vae.config.scaling_factor
        pictures = vae.apply(params["vae"], latents, method="decode", tiling=tiling)
        return jnp.clip(pictures.astype(jnp.float32) / 2 + 0.5, 0, 1)

    def _sharding(self, *axes: str):
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))
