"""Trained networks on real pictures."""

from tdr_jax.infer.restorer import Restorer

__all__ = ["Restorer"]
