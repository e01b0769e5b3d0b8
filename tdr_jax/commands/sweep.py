"""`tdr sweep`: one config trained in many ways, and which of them is best."""

from pathlib import Path

from tdr_jax.errors import InputError

EPILOG = """\
examples:
  tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr
  tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --launcher local --parallel 2
  tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --report
  tdr sweep configs/sweeps/compact_loss.py --workdir runs/loss --set data.path=PHOTOS \\
    --launcher slurm --slurm partition=gpu --slurm gres=gpu:1

Each run is a plain command line of train.py in a folder of its own, DIR/RUN, named after what
differs; call this from the folder of train.py. A sweep that was stopped or killed goes on when
the same command is given again: finished runs are left alone, the others go on where they were
saved. Ctrl-C and SIGTERM have the runs save first; a second one kills them.

exit status: 0 all runs finished, 1 some failed, 2 wrong arguments or sweep file, 75 stopped
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr sweep`."""
    parser.epilog = EPILOG
    parser.add_argument("file", metavar="FILE", help="a sweep file, see configs/sweeps/")
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="folder of the sweep; each run has its own in it",
    )
    parser.add_argument(
        "--launcher",
        choices=("print", "local", "slurm"),
        default="print",
        help="print the command lines, run them here, or as an array job (default: %(default)s)",
    )
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="local: runs at once (default: 1)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the config that all runs share; may be repeated",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION",
        help="slurm: an option of sbatch without its dashes, partition=gpu; may be repeated",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="start nothing; rank the finished runs in DIR/report.md and report.png",
    )


def run(args) -> int:
    """Print, start or rank the runs of a sweep.

    Args:
        args: of add_arguments.

    Returns:
        0; 1 if runs failed; 75 if the sweep was stopped before its end.

    Raises:
        InputError: the sweep file, a field, a value or the folder does not fit; nothing
            was started.
    """
    from tdr_jax.sweeps import plan

    launcher = "report" if args.report else args.launcher
    if args.parallel is not None and launcher != "local":
        raise InputError("--parallel is for --launcher local; leave it out")
    if args.slurm and launcher != "slurm":
        raise InputError("--slurm is for --launcher slurm; leave it out")
    folder = Path(args.workdir)
    sweep = plan.read(args.file, args.workdir, args.set)
    if launcher == "print":
        for one in sweep.runs:
            print(plan.shown(one.command()))
        return 0
    if launcher == "report":
        from tdr_jax.sweeps import report

        print(report.write(sweep, folder), end="")
        return 0
    if launcher == "slurm":
        from tdr_jax.sweeps import slurm

        return slurm.submit(sweep.runs, folder, Path(args.file).stem, args.slurm)
    from tdr_jax.sweeps import local

    return local.launch(sweep.runs, folder, 1 if args.parallel is None else args.parallel)
