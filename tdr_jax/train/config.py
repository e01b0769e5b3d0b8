"""From the path of a config file and the words of a command line to a config."""

import difflib
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tdr_jax.errors import InputError

# Fields that had another name before; README, docs and configs know the new ones alone.
RENAMED = {
    "data.absent": "data.p_absent",
    "data.mixed": "data.p_keep_one",
    "data.partial": "data.p_partial_strength",
    "data.recoloured": "data.color_jitter",
    "data.together": "data.p_joint",
    "data.turns": "data.dihedral",
    "mesh.least": "mesh.min_size",
    "network.overrides.parts": "network.overrides.microbatches",
}


def read(file: str, overrides: Sequence[str]):
    """Load a config as the command line gives it.

    Args:
        file: the path of a config file, with its argument after a colon.
        overrides: words "--config.NAME=VALUE".

    Returns:
        a locked `ml_collections.ConfigDict`.

    Raises:
        InputError: there is no such file, or its argument, a field or a value does not fit.
    """
    from absl import flags
    from ml_collections import config_flags

    path = file.partition(":")[0]
    if not Path(path).is_file():
        raise InputError(f"{path}: no such config file; give the path of a .py file")
    # Flags of our own: those of the process belong to whoever called main().
    values = flags.FlagValues()
    overrides = _read_flagfiles(values, overrides)
    for word in overrides:
        if not word.startswith("--config."):
            raise InputError(f"unknown argument {word!r}; settings are --config.NAME=VALUE")
    refuse_renamed_words(overrides)
    words = ["tdr train", f"--config={file}", *overrides]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=words
    )
    # Config files import their neighbours as `configs.NAME`, from wherever the command is called.
    sys.path.append(str(Path(path).resolve().parents[1]))
    try:
        values(words)
    except Exception as error:  # a config file is a program and may fail in every way
        raise InputError(f"{file}: {_reason(error, file, overrides)}") from error
    finally:
        sys.path.pop()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads its own flags when it starts workers
    check(holder.value)
    return holder.value


def check(config) -> None:
    """Hold a config against what its fields may be.

    Args:
        config: an `ml_collections.ConfigDict`.

    Raises:
        InputError: a field is unknown, missing, by a name of before, or of a value that does not
            fit.
    """
    from tdr_jax.objectives import schema

    if not hasattr(config, "items"):
        raise InputError("the config is empty; get_config() must return a ConfigDict")
    refuse_renamed(config)
    schema.check(config)


def _read_flagfiles(values, words: Sequence[str]) -> list[str]:
    """The words with those of every --flagfile in their place."""
    from absl import flags

    try:
        return values.read_flags_from_files(list(words))
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        reason = str(error).rpartition("] ")[2]
        raise InputError(f"--flagfile: {reason}; give a text file with a flag a line") from error


def _reason(error: Exception, file: str, overrides: Sequence[str]) -> str:
    """What went wrong while a config was made, in one line that says what would be right."""
    from tdr_jax.objectives import schema

    lines = str(error).strip().splitlines() or [type(error).__name__]
    given = dict(word.removeprefix("--config.").partition("=")[::2] for word in overrides)
    if flag := re.match(r"flag --config\.([\w.]+)=", str(error)):
        name = flag[1]
        if name in schema.FIELDS:
            return f"config.{name} is {given.get(name)!r}; give {schema.FIELDS[name].says}"
    if isinstance(error, AttributeError | KeyError):
        unknown = re.split(r"\\n|\n", lines[0])[0].strip("\\'\"")
        if name := next((name for name in given if unknown in name.split(".")), None):
            in_network = name.startswith(f"{schema.OPEN}.")
            return _unknown_of_network(file, name) if in_network else schema.unknown(name)
    # A config's own error comes as a traceback, whose last line tells.
    return re.sub(r"^\w+Error: ", "", lines[-1].strip())


def length(config) -> int:
    """The number of steps of a whole run."""
    return sum(steps for steps, _, _ in config.data.stages)


def refuse_renamed_words(words: Sequence[str]) -> None:
    """Say of a setting by a name of before what it is called now.

    Args:
        words: of a command line; those that are no "--config.NAME..." are passed over.

    Raises:
        InputError: names the old field and the new one.
    """
    for word in words:
        name = word.lstrip("-").partition("=")[0].removeprefix("config.")
        if word.startswith(("--config.", "-config.")) and name in RENAMED:
            _refuse(name)


def refuse_renamed(config) -> None:
    """Say of a field that a config file sets by a name of before what it is called now.

    Args:
        config: an `ml_collections.ConfigDict`.

    Raises:
        InputError: names the old field and the new one.
    """
    for old in RENAMED:
        *groups, last = old.split(".")
        group = config
        for name in groups:
            group = group.get(name, {})
        if last in group:
            _refuse(old)


def refuse_unmatched(field: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Refuse a regular expression that finds no parameter: it is a slip, and nothing else tells.

    Args:
        field: of the config that holds it, such as "mesh.rules".
        patterns: regular expressions.
        names: dotted names of parameters.

    Raises:
        InputError: names the expression, the field and some parameters.
    """
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            some = ", ".join(list(names)[:: max(1, len(names) // 3)][:3])
            raise InputError(
                f"config.{field} has {pattern!r}, which matches none of {len(names)} parameters, "
                f"such as {some}; correct it or leave it out"
            )


def _unknown_of_network(file: str, name: str) -> str:
    """What is to be said of a field that the config's network has not, by its dotted name."""
    network = read(file, []).network
    *place, last = name.split(".")
    near = difflib.get_close_matches(last, list(network.overrides), 1, 0)[0]
    nearest = ".".join([*place, near])
    return (
        f"config.{name} is no field of a training config with {network.name}; did you mean "
        f"config.{nearest}?"
    )


def _refuse(old: str) -> None:
    raise InputError(f"config.{old} is config.{RENAMED[old]} now; use the new name")
