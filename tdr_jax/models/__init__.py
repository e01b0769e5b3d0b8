"""The networks: `build(name, **overrides)` gives one ready to initialise and apply."""

from tdr_jax.models.network import RUNNING, Capabilities, EncoderRecord, Network, Params, check
from tdr_jax.models.registry import build, build_from, config_class, names

__all__ = [
    "RUNNING",
    "Capabilities",
    "EncoderRecord",
    "Network",
    "Params",
    "build",
    "build_from",
    "check",
    "config_class",
    "names",
]
