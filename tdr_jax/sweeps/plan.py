"""From a sweep file to named runs, each a plain command line of train.py.

A sweep file has `CONFIG`, a config with its argument as train.py takes it, `METRIC`, a scalar of
metrics.jsonl that ranks the runs, `BETTER`, "higher" or "lower", and `sweep(add)`, which calls
`add({"optim.lr": 1e-3, "seed": 0})` once for each run.
"""

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tdr_jax.errors import InputError
from tdr_jax.train import config as configs

LONGEST = 100  # characters of a run's name: folders have limits


@dataclass(frozen=True)
class Run:
    """One run: its name and folder, what it changes, and the config that comes out."""

    name: str
    workdir: Path
    words: tuple[str, ...]  # of the command line, after train.py
    differs: dict  # the name of a field, as short as is clear -> its value
    config: object  # a locked ml_collections.ConfigDict

    @property
    def steps(self) -> int:
        """The step at which the run is finished."""
        return configs.length(self.config)

    def command(self, python: str = "python") -> list[str]:
        """The words of the command line that starts the run, or goes on with it."""
        return [python, "train.py", *self.words]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep file, in its order, and how they are ranked."""

    runs: tuple[Run, ...]
    metric: str
    better: str  # "higher" or "lower"


def read(file: str, workdir: str, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and check every run of it against the config.

    Args:
        file: the path of a sweep file.
        workdir: the folder in which each run gets one of its own, under its name.
        settings: "NAME=VALUE", fields of the config that all runs share.

    Returns:
        the sweep; nothing was written or started.

    Raises:
        InputError: the file lacks something or fails, a field or value does not fit the config, or
            two runs are equal.
    """
    module = _load(file)
    given: list[dict] = []
    try:
        module.sweep(given.append)
    except Exception as error:
        raise InputError(f"{file}: sweep(add) fails: {type(error).__name__}: {error}") from error
    if not given:
        raise InputError(f"{file}: sweep(add) adds no run; call add({{'optim.lr': 1e-3}})")
    shared = [_shared_word(setting) for setting in settings]
    fields, configs = [], []
    for changes in given:
        if not isinstance(changes, dict) or not all(isinstance(name, str) for name in changes):
            raise InputError(
                f"{file}: add({changes!r}): give a dict of fields, {{'optim.lr': 1e-3}}"
            )
        fields.append({name: _plain(value) for name, value in changes.items()})
        configs.append(_checked(file, module.CONFIG, shared, fields[-1]))
    names, differs = _names(fields, configs)
    _refuse_twins(file, names, configs)
    runs = []
    for name, change, differ, config in zip(names, fields, differs, configs, strict=True):
        folder = Path(workdir) / name
        words = [f"--config={module.CONFIG}", f"--workdir={folder}", *shared, *_words(change)]
        runs.append(Run(name, folder, tuple(words), differ, config))
    return Sweep(tuple(runs), module.METRIC, module.BETTER)


def shown(command: Sequence[str]) -> str:
    """One line that a shell takes apart into the same words."""
    return shlex.join(command)


def _load(file: str) -> ModuleType:
    path = Path(file)
    module = ModuleType("sweep")
    module.__file__ = str(path)
    try:
        exec(compile(path.read_text(encoding="utf-8"), file, "exec"), module.__dict__)
    except OSError as error:
        raise InputError(f"{file}: no such sweep file; give the path of a .py file") from error
    except Exception as error:
        raise InputError(f"{file}: {type(error).__name__}: {error}") from error
    if not isinstance(getattr(module, "CONFIG", None), str):
        raise InputError(f"{file}: has no CONFIG; write CONFIG = 'configs/quickstart.py'")
    if not callable(getattr(module, "sweep", None)):
        raise InputError(f"{file}: has no function sweep(add)")
    if not hasattr(module, "METRIC"):
        module.METRIC, module.BETTER = "loss", "lower"
    if getattr(module, "BETTER", None) not in ("higher", "lower"):
        raise InputError(f"{file}: BETTER, of {module.METRIC}, must be 'higher' or 'lower'")
    return module


def _shared_word(setting: str) -> str:
    name, equals, _ = setting.partition("=")
    if not name or not equals:
        raise InputError(f"--set {setting}: give NAME=VALUE, as in --set data.path=PHOTOS")
    return f"--config.{setting}"


def _plain(value):
    """A Python value: a grid may be made by NumPy, whose numbers print in another way."""
    return value.item() if hasattr(value, "item") else value


def _words(fields: dict) -> list[str]:
    return [
        f"--config.{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in fields.items()
    ]


def _checked(file: str, config: str, shared: list[str], fields: dict):
    """The config that train.py will make of these words, whose values must be those given."""
    taken = {word.partition("=")[0] for word in shared}
    for word in _words(fields):
        name = word.partition("=")[0]
        if name in taken:
            field = name.removeprefix("--config.")
            raise InputError(f"{file}: sets {field} itself; leave --set {field}=... out")
        if "\n" in word or "\r" in word:
            raise InputError(f"{file}: {word!r}: a value cannot have line breaks")
    try:
        made = configs.read(config, [*shared, *_words(fields)])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    for name, value in fields.items():
        found = _get(made, name)
        if found != (tuple(value) if isinstance(value, list) else value):
            raise InputError(
                f"{file}: {name} is {value!r} in the sweep, but train.py reads {found!r}; give a "
                "number, a string or a tuple of them"
            )
    return made


def _get(config, name: str):
    for part in name.split("."):
        config = config[part]
    return config


def _names(fields: list[dict], configs: list) -> tuple[list[str], list[dict]]:
    """Names for the runs, of the fields in which they differ, and these fields themselves."""
    every = list(dict.fromkeys(name for change in fields for name in change))
    differing = [
        name for name in every if any(_get(c, name) != _get(configs[0], name) for c in configs)
    ]
    # A single run, or equal ones, which are refused under this name.
    differing = differing or every
    last = Counter(name.rpartition(".")[2] for name in differing)
    labels = {
        name: tail if last[tail := name.rpartition(".")[2]] == 1 else name for name in differing
    }
    differs = [{labels[name]: _get(config, name) for name in differing} for config in configs]
    long = [",".join(f"{key}={_safe(value)}" for key, value in d.items()) or "run" for d in differs]
    # Some file systems do not tell capitals from small letters.
    often = Counter(name.lower() for name in long)
    names = []
    for name, values in zip(long, differs, strict=True):
        if often[name.lower()] > 1 or len(name) > LONGEST:
            digest = hashlib.sha256(repr(values).encode()).hexdigest()[:8]
            name = f"{name[:LONGEST]}~{digest}"
        names.append(name)
    return names, differs


def _safe(value) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, bool | int | float | None):
        return repr(value)
    return re.sub(r"[^\w.+-]+", "-", str(value), flags=re.ASCII).strip("-")


def _refuse_twins(file: str, names: list[str], configs: list) -> None:
    seen = {}
    for name, config in zip(names, configs, strict=True):
        key = repr(sorted(config.to_dict().items()))
        if key in seen:
            raise InputError(f"{file}: adds the same run twice: {seen[key]}")
        seen[key] = name.partition("~")[0]
