"""What eval.py runs: the whole protocol on the weights of a training run."""

EPILOG = """\
Any field of the config is changed by --config.NAME=VALUE.

example:
  python eval.py --config configs/quickstart.py --workdir runs/first --data photos/
"""


def add_arguments(parser) -> None:
    """Declare the arguments of eval.py."""
    from tdr_jax.commands.train import add_processes

    parser.epilog = EPILOG
    parser.usage = f"{parser.prog} --config FILE.py[:ARGS] --workdir DIR [--config.NAME=VALUE ...]"
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARGS]", help="config of the run"
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--weights", metavar="NAME|PATH", help="name, folder or file (default: the run's own)"
    )
    parser.add_argument("--data", metavar="DIR", help="pictures (default: the config's)")
    parser.add_argument("--guidance", metavar="DIR", help="for a guided network")
    parser.add_argument(
        "--output", metavar="DIR", help="folder for the tables (default: WORKDIR/eval)"
    )
    add_processes(parser)


def run(args) -> int:
    """Measure the run and print the table.

    Args:
        args: of `add_arguments`; args.rest holds the --config.NAME=VALUE.

    Returns:
        0.

    Raises:
        InputError: config, weights or pictures that cannot be used.
    """
    from tdr_jax import distributed
    from tdr_jax.commands.eval import run_config
    from tdr_jax.train import config as configs

    config = configs.read(args.config, args.rest)
    distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    given = {name: getattr(args, name) for name in ("weights", "data", "output", "guidance")}
    run_config(config, args.workdir, **given)
    return 0
