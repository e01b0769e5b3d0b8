"""Train a network: `python train.py --config configs/quickstart.py --workdir RUN`."""

import sys

from tdr_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main(script="train.py"))
