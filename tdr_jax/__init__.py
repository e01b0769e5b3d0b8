"""Image restoration steered by words, in JAX.

    import tdr_jax
    restorer = tdr_jax.Restorer.from_pretrained("textpromptir-compact")
    clean = restorer(noisy, prompt="please remove the noise")

Everything is imported on first use, so that `import tdr_jax` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_WHERE = {
    "Restorer": "tdr_jax.infer.restorer",
    "Generator": "tdr_jax.infer.generator",
    "Guide": "tdr_jax.infer.guide",
    "load": "tdr_jax.weights",
    "save": "tdr_jax.weights",
}
_MODULES = {name: name for name in ("convert", "data", "diffusion", "models", "text")} | {
    "degrade": "degradations.synthesis",
    "losses": "objectives.losses",
    "metrics": "evaluate.metrics",
}
__all__ = [*_WHERE, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
