"""Exchange with PyTorch: `from_torch` and `to_torch` carry parameters across by name."""

from tdr_jax.convert.exchange import from_torch, to_arrays, to_torch, torch_names

__all__ = ["from_torch", "to_arrays", "to_torch", "torch_names"]
