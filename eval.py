"""Measure a trained network: `python eval.py --config FILE --workdir RUN --data PICTURES`."""

from tdr_jax import cli

if __name__ == "__main__":
    cli.run("eval.py")
