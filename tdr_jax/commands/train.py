"""`tdr train`: what train.py does, as a subcommand."""

import sys
from pathlib import Path

EPILOG = """\
Any field of the config is changed by --config.NAME=VALUE. A run that was stopped goes on
where its last checkpoint is when the same command is given again. Exit status: 0 at
the end of the run, 75 when it was asked to stop (SIGTERM, Ctrl-C) and is saved.

example:
  tdr train --config configs/quickstart.py --workdir runs/first --config.seed=1
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr train`."""
    parser.epilog = EPILOG
    parser.usage = "tdr train --config FILE.py[:ARGS] --workdir DIR [--config.NAME=VALUE ...]"
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARGS]", help="config, and what to ask it for"
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of the run: checkpoints, scalars"
    )
    parser.add_argument(
        "--profile", default="", metavar="A:B", help="trace the steps after A up to B"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print parameters, shardings and batch, then leave"
    )
    processes = parser.add_argument_group(
        "several processes", "found from Slurm, Open MPI, Kubernetes or TPU hosts unless given"
    )
    processes.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    processes.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    processes.add_argument("--process_id", type=int, metavar="I", help="this one's, from 0 on")


def run(args) -> int:
    """Train until the config's last step.

    Args:
        args: of add_arguments; args.rest holds the --config.NAME=VALUE.

    Returns:
        0; 75 if the run was asked to stop and is saved.

    Raises:
        InputError: the config cannot be read, or a field does not fit.
        FloatingPointError: a loss was not finite.
    """
    import jax

    from tdr_jax import distributed
    from tdr_jax.analysis import plan
    from tdr_jax.runtime import choose_cpu_kernels, enable_compilation_cache
    from tdr_jax.train import loop

    config = read_config(args.config, args.rest)
    if config.objective != "restore":
        choose_cpu_kernels()
    enable_compilation_cache()
    distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    if args.dry_run:
        print(plan.make(config, jax.devices()))
        return 0
    state = loop.run(config, args.workdir, profile=args.profile)
    return 0 if loop.finished(config, state) else distributed.STOPPED


def read_config(file: str, overrides: list[str]):
    """Load a config as train.py does.

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

    from tdr_jax.errors import InputError

    path = file.partition(":")[0]
    if not Path(path).is_file():
        raise InputError(f"{path}: no such config file; give the path of a .py file")
    for word in overrides:
        if not word.startswith("--config."):
            raise InputError(f"unknown argument {word!r}; settings are --config.NAME=VALUE")
    # Flags of our own: those of the process belong to whoever called main().
    values, words = flags.FlagValues(), ["tdr train", f"--config={file}", *overrides]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=words
    )
    # Config files import their neighbours as `configs.NAME`, from wherever the command is called.
    sys.path.append(str(Path(path).resolve().parents[1]))
    try:
        values(words)
    except (AttributeError, KeyError) as error:
        field = str(error.args[0]).partition("\n")[0].strip("'\"")
        raise InputError(f"{file}: its config has no field {field}") from error
    except (flags.Error, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]  # a config's own error comes as a traceback
        raise InputError(f"{file}: {reason}") from error
    finally:
        sys.path.pop()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads its own flags when it starts workers
    return holder.value
