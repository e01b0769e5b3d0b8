"""Train a network: `python train.py --config configs/quickstart.py --workdir RUN`."""

from tdr_jax import cli

if __name__ == "__main__":
    cli.run("train.py")
