"""Train a network: `python train.py --config configs/quickstart.py --workdir RUN`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an argument after a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; a run that stopped there goes on."
)
PROFILE = flags.DEFINE_string("profile", "", "Steps to trace: 100:110.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, shardings and batch, and leave.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, of several.")
PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
PROCESS = flags.DEFINE_integer("process_id", None, "This one's number, from 0 on.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are --config.NAME=VALUE")

    import jax

    from tdr_jax import distributed, runtime
    from tdr_jax.analysis import plan
    from tdr_jax.errors import InputError
    from tdr_jax.train import config, loop

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it touches at INFO
    runtime.choose_cpu_kernels()
    runtime.keep_memory()
    runtime.enable_compilation_cache()
    try:
        config.refuse_renamed(CONFIG.value)
        distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        if DRY_RUN.value:
            print(plan.make(CONFIG.value, jax.devices()))
            return
        state = loop.run(CONFIG.value, WORKDIR.value, profile=PROFILE.value)
    except InputError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        sys.exit(1)
    if not loop.finished(CONFIG.value, state):
        sys.exit(runtime.STOPPED)


if __name__ == "__main__":
    from tdr_jax.train import config

    app.run(main, flags_parser=config.parse_flags)
