"""Measure a trained network: `python eval.py --config FILE --workdir RUN --data PICTURES`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file of the run, with an argument after a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
WEIGHTS = flags.DEFINE_string("weights", None, "Name, folder or file; default: the run's own.")
DATA = flags.DEFINE_string("data", None, "Folder of pictures; default: the config's.")
GUIDANCE = flags.DEFINE_string("guidance", None, "Folder of guidance, for a guided network.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for the tables; default: WORKDIR/eval.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, of several.")
PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
PROCESS = flags.DEFINE_integer("process_id", None, "This one's number, from 0 on.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are --config.NAME=VALUE")

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # jax tells at INFO which devices it did not find
    from tdr_jax import distributed
    from tdr_jax.commands.eval import run_config
    from tdr_jax.errors import InputError
    from tdr_jax.train import config

    try:
        config.refuse_renamed(CONFIG.value)
        distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        run_config(
            CONFIG.value,
            WORKDIR.value,
            weights=WEIGHTS.value,
            data=DATA.value,
            output=OUTPUT.value,
            guidance=GUIDANCE.value,
        )
    except InputError as error:
        print(f"eval.py: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    from tdr_jax.train import config

    app.run(main, flags_parser=config.parse_flags)
