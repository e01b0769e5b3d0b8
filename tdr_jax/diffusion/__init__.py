"""Latent diffusion: schedules, samplers, and the networks that draw pictures from words."""

from tdr_jax.diffusion.samplers import guided, sample, timesteps
from tdr_jax.diffusion.schedule import SAMPLERS, Schedule, q_sample, target

__all__ = ["SAMPLERS", "Schedule", "guided", "q_sample", "sample", "target", "timesteps"]
