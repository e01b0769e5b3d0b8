"""Training objectives, one a file: what `base.Objective` asks for, found by the file's name.

The file `some_thing.py` holds the class `SomeThingObjective`, and a config asks for it with
`config.objective = "some_thing"`.
"""

import importlib
import importlib.util
import pkgutil
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from tdr_jax.errors import InputError
from tdr_jax.objectives.base import Objective

# Configs have shorter names for the two stages of textual degradation removal.
FILES = {"i2t": "image_to_text", "tr": "textual_restoration"}


def make(
    config: Any, workdir: str | PathLike, *, weights: bool = True, devices: int | None = None
) -> Objective:
    """Builds the objective of a config.

    Args:
        config: with the fields of `configs/common.py`.
        workdir: folder of the run, for what is exported and what is cached.
        weights: False for one to be compiled or looked at only: frozen networks that are not
            there have their published architectures, and shapes instead of parameters.
        devices: that the batch is cut over; by default all of all processes.

    Raises:
        InputError: a field does not fit.
    """
    if config.accumulate < 1:
        raise InputError(f"config.accumulate is {config.accumulate}; give 1 for whole batches")
    devices = devices or jax.device_count()
    for _, _, batch in config.data.stages if config.accumulate > 1 else ():
        if batch % (config.accumulate * devices):
            raise InputError(
                f"a batch of {batch} in config.data.stages does not divide into "
                f"config.accumulate={config.accumulate} parts for {devices} devices"
            )
    found = class_of(config.objective)
    if found is None:
        raise InputError(
            f"config.objective is {config.objective!r}; give one of {', '.join(names())}"
        )
    return found(config, Path(workdir), weights=weights)


def names() -> tuple[str, ...]:
    """What `config.objective` can be."""
    short = {file: name for name, file in FILES.items()}
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return tuple(short.get(file, file) for file in files if class_of(file))


def class_of(name: str) -> type | None:
    """The class of that objective; None if there is none."""
    name = FILES.get(name, name)
    if not name.isidentifier() or not importlib.util.find_spec(f"{__name__}.{name}"):
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    camel = "".join(part.capitalize() for part in name.split("_"))
    return getattr(module, f"{camel}Objective", None)
