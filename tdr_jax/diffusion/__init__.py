"""Latent diffusion: schedules, samplers, and the networks that draw pictures from words."""

from tdr_jax.diffusion.schedule import (
    SAMPLERS,
    Schedule,
    guided,
    q_sample,
    sample,
    target,
    timesteps,
)

__all__ = ["SAMPLERS", "Schedule", "guided", "q_sample", "sample", "target", "timesteps"]
