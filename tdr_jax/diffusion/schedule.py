"""Noise schedules and samplers of latent diffusion, as pure functions of arrays.

Everything that depends on the schedule alone is a small table made on the host; what runs on the
device is one `lax.scan` over such a table, which fits into one jit together with the network.
Values agree with diffusers' schedulers, and `scheduler_config.json` is read and written as theirs.
"""

import dataclasses
import functools
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax.errors import InputError

SAMPLERS = ("ddim", "dpm++")

_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}

# What diffusers 0.42 assumes where a config is silent: for all of its schedulers, then by class.
_DEFAULTS = dict(
    num_train_timesteps=1000,
    beta_start=0.0001,
    beta_end=0.02,
    beta_schedule="linear",
    prediction_type="epsilon",
    steps_offset=0,
    set_alpha_to_one=True,
    clip_sample=False,
    clip_sample_range=1.0,
    timestep_spacing="linspace",
    rescale_betas_zero_snr=False,
)
_CLASS_DEFAULTS = {
    "DDIMScheduler": dict(timestep_spacing="leading", clip_sample=True),
    "DDPMScheduler": dict(timestep_spacing="leading", clip_sample=True),
    "PNDMScheduler": dict(timestep_spacing="leading", set_alpha_to_one=False),
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
}
_CLASS_OF = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}

# Fields that would change the results, with the values that are computed here. Fields that are in
# neither table do nothing in DDIM and DPM-Solver++ 2M: `lower_order_final` and `euler_at_final`
# too, since with a final sigma of zero the last step is of first order whatever they say.
_ANY_SAMPLER = {
    "thresholding": (False, None),
    "trained_betas": (None,),
    "variance_type": (
        None,
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
    ),
}
_DPM_ONLY = {
    "algorithm_type": ("dpmsolver++", "deis"),
    "solver_order": (2,),
    # diffusers reads the names of other solvers' types as midpoint.
    "solver_type": ("midpoint", "bh1", "bh2", "logrho"),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (-float("inf"),),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
}


def _in_range(field: str, value: Any, low: float, high: float, kind: type | tuple) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise InputError(f"schedule: {field}={value!r} is not a number from {low} to {high}")


def _one_of(where: str, name: str, value: Any, supported: tuple) -> None:
    if np.ndim(value) or not any(value is s or value == s for s in supported):
        listed = ", ".join(repr(s) for s in supported)
        raise InputError(
            f"{where}: {name}={reprlib.repr(value)} is not supported; use one of {listed}"
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How much noise a picture holds at each of the timesteps 0 .. num_train_timesteps - 1.

    Fields carry diffusers' names; the defaults are Stable Diffusion's. Instances are hashable, so
    a schedule may be a static argument of a jitted function.

    Fields:
      num_train_timesteps: T, at least 1.
      beta_start, beta_end: the first and last variance, in (0, 1).
      beta_schedule: "linear" in beta or, "scaled_linear", in its square root.
      prediction_type: what the network gives, the noise ("epsilon") or "v_prediction".
      steps_offset: added to the timesteps of "leading" spacing.
      set_alpha_to_one: whether DDIM's last step ends without noise, or at the level of timestep 0.
      clip_sample, clip_sample_range: DDIM clips its estimate of x0 to +-range (DPM++ never does).
      timestep_spacing: "leading", "trailing" or "linspace" (arXiv 2305.08891, table 2).
      rescale_betas_zero_snr: no signal is left at the last timestep (arXiv 2305.08891, alg. 1).

    Raises:
        InputError: for a name or a number that is not supported.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self):
        for name, supported in _CHOICES.items():
            _one_of("schedule", name, getattr(self, name), supported)
        fewest = 2 if self.rescale_betas_zero_snr else 1  # one level cannot be without signal
        _in_range("num_train_timesteps", self.num_train_timesteps, fewest, 10**6, int)
        _in_range("steps_offset", self.steps_offset, 0, self.num_train_timesteps, int)
        for name in ("beta_start", "beta_end"):
            _in_range(name, getattr(self, name), 1e-8, 1 - 1e-8, float)
        _in_range("clip_sample_range", self.clip_sample_range, 0, 1e6, (int, float))

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """The share of signal left in the variance: float32 numpy (T,), falling within [0, 1]."""
        ends = np.float32([self.beta_start, self.beta_end])
        if self.beta_schedule == "scaled_linear":
            ends = np.float32([self.beta_start**0.5, self.beta_end**0.5])
        betas = _torch_linspace(*ends, self.num_train_timesteps)
        if self.beta_schedule == "scaled_linear":
            betas = betas**2
        alphas = 1 - betas
        if self.rescale_betas_zero_snr:
            root = np.sqrt(_cumprod(alphas))
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
            kept = root**2
            # Through the betas and back, as in diffusers, for the same rounding.
            betas = 1 - np.concatenate([kept[:1], kept[1:] / kept[:-1]])
            alphas = 1 - betas
        result = _cumprod(alphas)
        result.flags.writeable = False
        return result

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sampler: str | None = None) -> "Schedule":
        """Reads the contents of a diffusers `scheduler_config.json`.

        Args:
            config: the mapping; fields that concern neither the noise nor our samplers are ignored.
            sampler: "ddim" or "dpm++": whose defaults stand for missing fields, as in diffusers'
                `DDIMScheduler.from_config` and `DPMSolverMultistepScheduler.from_config`. None
                takes the defaults of the class that the config names.

        Raises:
            InputError: for an unknown class, and for a field that would change the results in a way
                that is not computed here (by `sampler`, or by either of the two if that is None).
        """
        named = config.get("_class_name", _CLASS_OF.get(sampler))
        if not isinstance(named, str) or named not in _CLASS_DEFAULTS:
            raise InputError(
                f"scheduler config: _class_name={named!r} is not supported; "
                f"use one of {', '.join(_CLASS_DEFAULTS)}"
            )
        # A live diffusers config lists here what it holds only as a default of its own class.
        silent = config.get("_use_default_values", ())
        given = {name: value for name, value in config.items() if name not in silent}
        if sampler is not None:
            _one_of("scheduler config", "sampler", sampler, SAMPLERS)
        refused = _ANY_SAMPLER | (_DPM_ONLY if sampler != "ddim" else {})
        for name in refused.keys() & given.keys():
            _one_of("scheduler config", name, given[name], refused[name])
        fields = _DEFAULTS | _CLASS_DEFAULTS[_CLASS_OF.get(sampler, named)]
        return cls(**{name: given.get(name, default) for name, default in fields.items()})

    def to_config(self) -> dict[str, Any]:
        """A JSON-able `scheduler_config.json` of a `DDIMScheduler` with this schedule."""
        return {"_class_name": _CLASS_OF["ddim"], **dataclasses.asdict(self)}


def _torch_linspace(start: np.float32, end: np.float32, count: int) -> np.ndarray:
    """Rounds as torch.linspace in float32 does: one float32 step, counted from the nearer end."""
    if count == 1:
        return np.full(1, start)
    i = np.arange(count)
    step = np.float64((end - start) / np.float32(count - 1))
    rising, falling = np.float64(start) + step * i, np.float64(end) - step * (count - 1 - i)
    return np.where(i < count // 2, rising, falling).astype(np.float32)


def _cumprod(x: np.ndarray) -> np.ndarray:
    return np.cumprod(x, dtype=np.float64).astype(np.float32)


def _levels(schedule: Schedule, t: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Float32 sqrt(abar) and sqrt(1 - abar) at t, shaped to multiply a batch."""
    abar = schedule.alphas_cumprod
    t = jnp.asarray(t)
    shape = t.shape + (1,) * (like.ndim - t.ndim)
    signal, noise = jnp.asarray(np.sqrt(abar)), jnp.asarray(np.sqrt(1 - abar))
    return signal[t].reshape(shape), noise[t].reshape(shape)


def _float32(*arrays: jax.Array) -> list[jax.Array]:
    return [jnp.asarray(x).astype(jnp.float32) for x in arrays]


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Adds noise: `sqrt(abar_t) x0 + sqrt(1 - abar_t) noise`.

    Args:
        schedule: of the noise.
        x0: (B, H, W, C), any float dtype.
        t: (B,) or scalar int, 0 .. T - 1; what lies outside is not noticed.
        noise: like x0, N(0, 1).

    Returns:
        Like x0, computed in float32.

    Source: DDPM (arXiv 2006.11239), eq. 4.
    """
    signal, sigma = _levels(schedule, t, x0)
    x, z = _float32(x0, noise)
    return (signal * x + sigma * z).astype(x0.dtype)


def target(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """What the network should give for `q_sample(schedule, x0, t, noise)`.

    The noise itself, or `v = sqrt(abar_t) noise - sqrt(1 - abar_t) x0` (arXiv 2202.00512, app. D).
    Shapes and dtypes are those of `q_sample`.
    """
    if schedule.prediction_type == "epsilon":
        return noise.astype(x0.dtype)
    signal, sigma = _levels(schedule, t, x0)
    x, z = _float32(x0, noise)
    return (signal * z - sigma * x).astype(x0.dtype)


def to_x0_and_noise(
    schedule: Schedule, output: jax.Array, x_t: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Splits a noisy picture into signal and noise by what the network says of it.

    Args:
        schedule: of the noise; its prediction_type says what `output` is.
        output: (B, H, W, C), the network's.
        x_t: like output, the noisy picture.
        t: (B,) or scalar int, 0 .. T - 1. Noise says nothing of x0 where no signal is left: with
            prediction_type "epsilon" and rescale_betas_zero_snr, x0 is not finite at T - 1.

    Returns:
        (x0, noise), each like x_t, computed in float32; x0 is not clipped.
    """
    signal, sigma = _levels(schedule, t, x_t)
    x, out = _float32(x_t, output)
    if schedule.prediction_type == "epsilon":
        x0, noise = (x - sigma * out) / signal, out
    else:
        x0, noise = signal * x - sigma * out, signal * out + sigma * x
    return x0.astype(x_t.dtype), noise.astype(x_t.dtype)


def timesteps(schedule: Schedule, steps: int, sampler: str = "ddim") -> np.ndarray:
    """The timesteps at which a sampler runs the network, as diffusers' `set_timesteps` gives them.

    Args:
        schedule: its timestep_spacing, steps_offset and num_train_timesteps count.
        steps: 1 .. T.
        sampler: "ddim" or "dpm++", which space their steps differently.

    Returns:
        int64 numpy (steps,), not rising. One difference: for "trailing" and some numbers of steps
        (61 of 1000) rounding makes diffusers append a timestep -1, which is left out here.

    Raises:
        InputError: for another sampler or number of steps.
    """
    _one_of("sampling", "sampler", sampler, SAMPLERS)
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
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    noise: jax.Array,
    steps: int,
    *,
    sampler: str = "ddim",
    eta: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Turns noise into samples by one `lax.scan` over the timesteps.

    Args:
        denoise: `(x, t) -> output`: x float32 (B, h, w, C), t int32 scalar; the output, of x's
            shape and any float dtype, is what the schedule's prediction_type says.
        schedule: of the noise the network was trained with.
        noise: (B, h, w, C), N(0, 1).
        steps: how often the network runs, 1 .. T.
        sampler: "ddim" or "dpm++" (DPM-Solver++ 2M, midpoint; never clips).
        eta: DDIM's share of fresh noise, a Python number in [0, 1]: 0 is deterministic, 1 is DDPM.
        key: for eta > 0; step i draws normal(fold_in(key, i)).

    Returns:
        float32 (B, h, w, C), the same for the same arguments.

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
    denoise_batch: Callable[[jax.Array, jax.Array, Any], jax.Array],
    context: Any,
    uncond: Any,
    scale: float | jax.Array,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Classifier-free guidance: steers away from what the network does without a prompt.

    Args:
        denoise_batch: `(x, t, context) -> output`; runs once a step, on [uncond; context].
        context: array or tree of arrays (B, ...), the prompt's.
        uncond: of the same structure, the empty prompt's; (1, ...) serves a whole batch. Not looked
            at where scale is 1.
        scale: 1 is no guidance, and as a Python number runs the prompt's half alone.

    Returns:
        `denoise(x, t)` for `sample`: `e_u + scale (e_c - e_u)`, float32.

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
