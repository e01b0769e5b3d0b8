"""Measuring restoration: the protocol, what training evaluates while it runs, and the tables."""

_HOME = {
    "DEFAULT_SETTINGS": "protocols",
    "Setting": "protocols",
    "evaluate": "evaluators",
    "Restoration": "evaluators",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    # Lazy, so that `tdr --help` need not load JAX to know the arguments of `tdr eval`.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
