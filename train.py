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
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are --config.NAME=VALUE")

    from tdr_jax.errors import InputError
    from tdr_jax.runtime import choose_cpu_kernels, enable_compilation_cache
    from tdr_jax.train import distributed, loop

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file it touches at INFO
    if CONFIG.value.objective != "restore":
        choose_cpu_kernels()
    enable_compilation_cache()
    distributed.initialize()
    try:
        loop.run(CONFIG.value, WORKDIR.value)
    except InputError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
