"""Measure a trained network: `python eval.py --config FILE --workdir RUN --data PICTURES`."""

import sys

from tdr_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main(script="eval.py"))
