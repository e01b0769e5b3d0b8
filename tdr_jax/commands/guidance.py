"""Guidance of `tdr restore`: pictures that are given, or drawn first as `tdr guide` draws them."""

import contextlib
import functools
import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tdr_jax import images
from tdr_jax.commands import file_plan, guide
from tdr_jax.errors import InputError

AUTO = "auto"
ARGUMENTS = ("guidance", "guidance_model", "fast", "seed", "keep_guidance")


def add_arguments(parser) -> None:
    """Declare the arguments about guidance."""
    group = parser.add_argument_group(
        "guidance", "for networks that take hints from a second picture"
    )
    group.add_argument(
        "--guidance",
        metavar="PATH|auto",
        help="a picture that guides all inputs, such as another photograph of the scene; a folder "
        "with one for each, of the same name but for the extension, or named by another rule that "
        "holds for all of them; or auto, which draws them from the inputs (a path of that name: "
        "./auto)",
    )
    group.add_argument(
        "--guidance-model",
        metavar="NAME|DIR|ID",
        help=f"what draws for --guidance auto, see 'tdr guide --help' (default: {guide.MODEL})",
    )
    group.add_argument(
        "--fast",
        action="store_true",
        default=None,
        help="draw with DPM-Solver++ in 20 steps instead of DDIM in 100",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help=f"of what is drawn (default: {guide.SEED})"
    )
    group.add_argument(
        "--keep-guidance",
        metavar="DIR",
        help="keep what is drawn there, with a manifest, for the next run or as --guidance DIR "
        "(default: it is deleted at the end)",
    )


@contextlib.contextmanager
def drawing_folder(args) -> Iterator[str | None]:
    """Give the folder to draw in, which lasts as long as is asked for; None if nothing is drawn.

    Raises:
        InputError: an argument only says how to draw, and nothing is drawn.
    """
    for name in ARGUMENTS[1:] if args.guidance != AUTO else ():
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for --guidance auto; leave it out")
    if args.guidance != AUTO or args.keep_guidance is not None:
        yield args.keep_guidance
        return
    with tempfile.TemporaryDirectory(prefix="tdr-guidance-") as folder:
        yield folder


def draw(args, todo: list[file_plan.PlannedFile], folder: str) -> dict[Path, str]:
    """Draw what guides each picture, from its degraded picture.

    Args:
        args: with those of `add_arguments`.
        todo: the planned files; their `guidance` lies in the folder.
        folder: of `drawing_folder`.

    Returns:
        what was wrong with each source that could not be read or drawn, which was said already.

    Raises:
        InputError: the model or the folder is wrong; nothing was drawn.
    """
    settings = dict(
        model=args.guidance_model or guide.MODEL,
        fast=bool(args.fast),
        seed=guide.SEED if args.seed is None else args.seed,
    )
    sampler = "20 steps of DPM-Solver++" if args.fast else "100 steps of DDIM"
    where = f"kept in {folder}" if args.keep_guidance else "not kept"
    print(
        f"drawing guidance from the words of {len(todo)} degraded pictures: {settings['model']}, "
        f"{sampler}, seed {settings['seed']}, {where}",
        file=sys.stderr,
        flush=True,
    )
    failed = guide.draw_for(
        [
            file_plan.PlannedFile(planned.source, planned.guidance, None, planned.name)
            for planned in todo
        ],
        folder,
        remedy="choose another --keep-guidance",
        chatty=args.keep_guidance is not None,
        **settings,
    )
    gc.collect()  # the guide's programs refer to it; the restoration may need its memory
    return failed


@functools.lru_cache(maxsize=1)  # one picture may guide all
def read(path: Path) -> np.ndarray:
    """Read guidance: uint8 (h, w, 3), not to be changed."""
    return images.read_rgb(path)
