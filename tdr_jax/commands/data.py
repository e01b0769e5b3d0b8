"""`tdr data`: pictures are looked through before a network is trained or measured on them."""

import sys
from pathlib import Path

from tdr_jax.errors import InputError

EPILOG = """\
examples:
  tdr data show photos/ -o sheet.png                  a contact sheet of a folder
"""


def add_arguments(parser) -> None:
    """Declare the subcommands of `tdr data` and their arguments."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, (line, declare, act) in ACTIONS.items():
        action = actions.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", prog=f"tdr data {name}"
        )
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
    parser.add_argument("pictures", metavar="PATH", help="a folder of pictures")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the picture to write, such as a .png"
    )
    parser.add_argument("--count", type=int, default=24, metavar="N", help="default: %(default)s")


def _show(args) -> int:
    from tdr_jax.data import contact_sheet, sources
    from tdr_jax.images.files import check_writable, write_rgb

    if args.count < 1:
        raise InputError(f"--count is {args.count}; give at least 1")
    check_writable(args.output)
    source = sources.open_folder(args.pictures, cache_mb=0)
    write_rgb(Path(args.output), contact_sheet.draw(source, args.count))
    print(f"wrote {args.output}: {min(args.count, len(source))} of {len(source)}", file=sys.stderr)
    return 0


# name -> (one line of help, what declares its arguments, what runs it)
ACTIONS = {
    "show": ("write a contact sheet of pictures", _show_arguments, _show),
}
