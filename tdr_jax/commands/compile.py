"""`tdr compile`: what a training step will need of TPUs that are not here."""

from pathlib import Path

EPILOG = """\
Compiles the training step that the config describes for a slice of TPUs, on any machine with Linux,
and tells what it needs of each chip. Nothing is downloaded or trained; frozen networks that are not
there stand in by their published shapes. Needs the extra "tpu". Large networks take minutes.

examples:
  tdr compile --config configs/textpromptir.py:device=tpu --topology v5e:16x16 --per_chip 32
  tdr compile --config configs/tdr_i2t.py --topology v6e:16x16 --config.mesh.fsdp=0 --dry_run

exit status: 0 it fits, 2 it does not or the input is wrong
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr compile`."""
    parser.epilog = EPILOG
    parser.usage = "tdr compile --config FILE.py[:ARGS] --topology KIND:SHAPE [...]"
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGS]", help="as of tdr train")
    parser.add_argument(
        "--topology", required=True, metavar="KIND:SHAPE", help="of the slice: v5e:16x16"
    )
    parser.add_argument(
        "--per_chip",
        type=int,
        default=0,
        metavar="N",
        help="examples of each chip in a step; by default the config's batch, shared",
    )
    parser.add_argument("--hlo", metavar="FILE", help="write the text of the compiled program here")
    parser.add_argument(
        "--dry_run", action="store_true", help="parameters, shardings and batch; compiles nothing"
    )


def run(args) -> int:
    """Print the layout, and unless `--dry_run` compile and print what a step needs.

    Args:
        args: of add_arguments; args.rest holds the --config.NAME=VALUE.

    Returns:
        0.

    Raises:
        InputError: the config or the slice is not as it should be, or the step does not fit.
    """
    from tdr_jax.analysis import hardware

    hardware.prepare()
    from tdr_jax.analysis import aot, plan
    from tdr_jax.errors import InputError
    from tdr_jax.nn import backend
    from tdr_jax.train import config as configs

    if args.hlo and not Path(args.hlo).absolute().parent.is_dir():
        raise InputError(f"--hlo={args.hlo}: there is no such folder; make it first")
    config = configs.read(args.config, args.rest)
    chip, devices = hardware.slice_of(args.topology)
    with backend.compiling_for("tpu"):
        found = plan.make(config, devices, per_device=args.per_chip, rounded=True)
    if args.dry_run:
        print(found)
        return 0
    print("\n".join([found.title, *found.notes]), flush=True)
    report = aot.compiled(found, chip)
    if args.hlo:
        Path(args.hlo).write_text(report.text)
    print(report)
    return 0
