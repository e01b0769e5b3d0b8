"""`tdr data`: pictures are looked through before a network is trained or measured on them."""

import json
import sys
from pathlib import Path

from tdr_jax.commands import arguments
from tdr_jax.errors import InputError

EPILOG = """\
examples:
  tdr data prepare rain100l ~/Rain100L -o ~/datasets  shards to read as tfds:rain100l
  tdr data prepare paired ~/mine -o ~/datasets --as mine --task blur
  tdr data show photos/ -o sheet.png                  a contact sheet
  tdr data show tfds:rain100l/test -o sheet.png
  tdr data check photos/ --against CBSD68/            is any picture damaged, twice, or a test's?
  tdr data check rainy/ gt/ --list                    has each its partner, of its size?
  tdr data check rain100l Rain100L/                   and are all of a known set there?

data sets:
{sets}
  paired            any folder of clean pictures, or of pairs in degraded/ and clean/ and the like
"""
PAIRED = "paired"  # the name of what is in no table


def add_arguments(parser) -> None:
    """Declare the subcommands of `tdr data` and their arguments."""
    from tdr_jax.data.benchmarks.table import BENCHMARKS

    sets = "\n".join(
        f"  {name:<18}{one.title}: "
        + ", ".join(f"{split} {part.count}" for split, part in one.splits.items())
        for name, one in BENCHMARKS.items()
    )
    parser.epilog = EPILOG.format(sets=sets)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, (line, declare, act) in ACTIONS.items():
        action = actions.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        declare(action)
        action.set_defaults(act=act)


def run(args) -> int:
    """Run the action that the arguments name.

    Args:
        args: of `add_arguments`.

    Returns:
        the exit status: 0 done, 1 something is wrong with the pictures.

    Raises:
        InputError: arguments or pictures that cannot be used.
    """
    return args.act(args)


def _show_arguments(parser) -> None:
    parser.add_argument(
        "pictures", metavar="PLACE", help="a folder of pictures or of pairs, or tfds:NAME[/SPLIT]"
    )
    arguments.add_data_dir(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the picture to write, such as a .png"
    )
    parser.add_argument("--count", type=int, default=24, metavar="N", help="default: %(default)s")


def _show(args) -> int:
    from tdr_jax.data import contact_sheet, decoded, places
    from tdr_jax.images.files import check_writable, write_rgb

    if args.count < 1:
        raise InputError(f"--count is {args.count}; give at least 1")
    check_writable(args.output)
    place = places.located(args.pictures, args.data_dir)
    source = places.open_any(place, store=decoded.Memory(0))
    write_rgb(Path(args.output), contact_sheet.draw(source, args.count))
    print(f"wrote {args.output}: {min(args.count, len(source))} of {len(source)}", file=sys.stderr)
    return 0


def _prepare_arguments(parser) -> None:
    parser.add_argument("name", metavar="NAME", help="a data set, see tdr data --help, or paired")
    parser.add_argument("path", metavar="PATH", help="the folder where it was unpacked")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder of built data sets; name it in TFDS_DATA_DIR to read tfds:NAME from there",
    )
    parser.add_argument("--split", metavar="NAME", help="the one in PATH, where nothing there says")
    parser.add_argument("--as", dest="called", metavar="NAME", help="name of what is paired")
    parser.add_argument("--task", metavar="TASK", help="what separates its pairs: noise, rain...")


def _prepare(args) -> int:
    from tqdm import tqdm

    from tdr_jax.data import prepare
    from tdr_jax.data.benchmarks import layouts, paired, table

    if (args.name == PAIRED) != (args.called is not None):
        raise InputError("--as goes with paired, and paired with --as: give the new set a name")
    if args.name != PAIRED and args.task is not None:
        raise InputError(f"--task goes with paired; {args.name} has its own")
    if args.name == PAIRED:
        benchmark, found = paired.find(args.path, args.called, args.task, args.split)
    else:
        benchmark = table.find(args.name)
        found = layouts.find(benchmark, args.path, args.split)
    for line in layouts.told(benchmark, found):
        print(line, file=sys.stderr)
    with tqdm(unit="example", desc=benchmark.title, disable=None) as bar:

        def progress(done, total):
            bar.total = total
            bar.update(done - bar.n)

        records = {split: one.records for split, one in found.items()}
        folder = prepare.prepare(benchmark, records, args.output, progress)
    print(f"wrote {folder}; read it as tfds:{benchmark.name}", file=sys.stderr)
    return 0


def _check_arguments(parser) -> None:
    parser.add_argument(
        "what",
        nargs="+",
        metavar="NAME|PATH",
        help="a folder of clean pictures or of pairs; a folder of degraded pictures and that of "
        "the clean ones; or a known data set and its folder, whose counts are compared too",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PATH",
        help="pictures to test on, of which none may be among these; may be given several times",
    )
    parser.add_argument("--split", metavar="NAME", help="the one in PATH, where nothing there says")
    parser.add_argument("--list", action="store_true", help="print what is paired with what")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")


def _check(args) -> int:
    from tqdm import tqdm

    from tdr_jax.data import check, looks
    from tdr_jax.data.benchmarks.table import BENCHMARKS
    from tdr_jax.images.folders import listed

    def progress(items, total):
        return tqdm(items, total=total, unit="file", leave=False, disable=None)

    if len(args.what) > 2 or (len(args.what) == 1 and args.what[0] in BENCHMARKS):
        raise InputError(
            f"{' '.join(args.what)}: give PATH, or DEGRADED CLEAN, or NAME PATH (a folder of a "
            f"known set's name: ./{args.what[0]})"
        )
    tests = [file for folder in args.against for file in listed(folder).values()]
    against, unreadable = looks.look_at(tests, progress)
    for why in unreadable.values():
        raise InputError(f"--against: {why}")
    options = {"against": against, "progress": progress}
    if len(args.what) == 2 and args.what[0] in BENCHMARKS:
        name, path = args.what
        report = check.check_benchmark(BENCHMARKS[name], path, args.split, **options)
    elif args.split is not None:
        raise InputError("--split is for a known data set; leave it out")
    else:
        report = check.check_folder(*args.what, **options)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(check.told(report, whole=args.list))
    return 1 if report.faults else 0


# name -> (one line of help, what declares its arguments, what runs it)
ACTIONS = {
    "check": ("say what is wrong with the pictures of a folder", _check_arguments, _check),
    "prepare": ("write a data set as shards", _prepare_arguments, _prepare),
    "show": ("write a contact sheet of pictures", _show_arguments, _show),
}
