"""Noise schedules of latent diffusion, and what a network learns under them.

Values agree with diffusers' schedulers, and `scheduler_config.json` is read and written as theirs.
"""

import dataclasses
import functools
import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array

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


def one_of(where: str, name: str, value: Any, supported: tuple) -> None:
    """Raises InputError unless the value is one of those that are supported.

    Args:
        where: it was given, for the message.
        name: of the field.
        value: any.
        supported: values; equal is enough.
    """
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
            one_of("schedule", name, getattr(self, name), supported)
        fewest = 2 if self.rescale_betas_zero_snr else 1  # one level cannot be without signal
        _in_range("num_train_timesteps", self.num_train_timesteps, fewest, 10**6, int)
        _in_range("steps_offset", self.steps_offset, 0, self.num_train_timesteps, int)
        for name in ("beta_start", "beta_end"):
            _in_range(name, getattr(self, name), 1e-8, 1 - 1e-8, float)
        _in_range("clip_sample_range", self.clip_sample_range, 0, 1e6, (int, float))

    @functools.cached_property
    def alphas_cumprod(self) -> Float32[np.ndarray, " t"]:
        """The share of signal left in the variance at each timestep, falling within [0, 1]."""
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
            one_of("scheduler config", "sampler", sampler, SAMPLERS)
        refused = _ANY_SAMPLER | (_DPM_ONLY if sampler != "ddim" else {})
        for name in refused.keys() & given.keys():
            one_of("scheduler config", name, given[name], refused[name])
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


def q_sample(
    schedule: Schedule,
    x0: Float[Array, " b *n"],
    t: Int[Array, " b"] | Int[Array, ""] | int,
    noise: Float[Array, " b *n"],
) -> Float[Array, " b *n"]:
    """Adds noise: `sqrt(abar_t) x0 + sqrt(1 - abar_t) noise`.

    Args:
        schedule: of the noise.
        x0: any range; latents (b, h, w, c) for one.
        t: 0 .. T - 1, of each example or of all; what lies outside is not noticed.
        noise: like x0, N(0, 1).

    Returns:
        Of x0's dtype, computed in float32.

    Source: DDPM (arXiv 2006.11239), eq. 4.
    """
    signal, sigma = _levels(schedule, t, x0)
    x, z = _float32(x0, noise)
    return (signal * x + sigma * z).astype(x0.dtype)


def target(
    schedule: Schedule,
    x0: Float[Array, " b *n"],
    noise: Float[Array, " b *n"],
    t: Int[Array, " b"] | Int[Array, ""] | int,
) -> Float[Array, " b *n"]:
    """What the network should give for `q_sample(schedule, x0, t, noise)`.

    The noise itself, or `v = sqrt(abar_t) noise - sqrt(1 - abar_t) x0` (arXiv 2202.00512, app. D).
    Arguments are those of `q_sample`; the result has x0's dtype.
    """
    if schedule.prediction_type == "epsilon":
        return noise.astype(x0.dtype)
    signal, sigma = _levels(schedule, t, x0)
    x, z = _float32(x0, noise)
    return (signal * z - sigma * x).astype(x0.dtype)
