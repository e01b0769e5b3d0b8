"""`tdr train`: what train.py does, as a subcommand."""

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
    parser.usage = f"{parser.prog} --config FILE.py[:ARGS] --workdir DIR [--config.NAME=VALUE ...]"
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
    parser.add_argument(
        "--check_data",
        action="store_true",
        help="decode every picture before step 0; else headers and ends of files are looked at",
    )
    add_processes(parser)


def add_processes(parser) -> None:
    """Declare the arguments that join several processes, for `distributed.initialize`."""
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

    from tdr_jax import distributed, runtime
    from tdr_jax.analysis import plan
    from tdr_jax.train import config as configs
    from tdr_jax.train import loop

    config = configs.read(args.config, args.rest)
    runtime.choose_cpu_kernels()
    runtime.keep_memory()
    runtime.enable_compilation_cache()
    distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    if args.check_data:
        config.data.check = "all"
    if args.dry_run:
        print(plan.make(config, jax.devices()))
        return 0
    state = loop.run(config, args.workdir, profile=args.profile)
    return 0 if loop.finished(config, state) else runtime.STOPPED
