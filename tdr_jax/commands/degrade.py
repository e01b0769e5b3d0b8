"""`tdr degrade`: clean pictures in, the damaged ones out that evaluation makes of them."""

import dataclasses
import io
import os
import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tdr_jax import disk, images
from tdr_jax.commands import arguments, file_plan
from tdr_jax.commands.file_plan import say
from tdr_jax.errors import InputError

SUFFIXES = {"png": ".png", "tiff": ".tif", "npy": ".npy"}  # of the formats to choose from
FLOATS = (".tif", ".tiff", ".npy")  # where nothing is rounded or clipped
LOSSLESS = (".png", ".bmp", *FLOATS)

EPILOG = """\
examples:
  tdr degrade photos/ -o noisy/ --task noise --sigma 50
  tdr degrade photos/ -o levels/ --task noise15,noise25,noise50    levels/noise15/, ...
  tdr degrade photo.jpg -o bad.png --task blur+noise25+jpeg30      in this order
  tdr degrade photos/ -o hazy/ --task realistic_haze --clean clear/
  tdr degrade photos/ -o exact/ --task noise25float --format tiff

tasks:
  {kinds}
A number says how strong, after {levels}.

What is written is what 'tdr eval --data IN --tasks TASK' makes with the same seed: of the middle,
cropped to multiples of 16, with draws by each picture's place in the sorted list. Noise, JPEG and
low light are in whole levels; other damage is rounded to 8 bits unless --format keeps floats.
Outputs bear the names of the inputs. A damaged file is reported and the rest is done (exit
status 1). An input is never overwritten; an earlier output is.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr degrade`."""
    from tdr_jax.degradations import recipes
    from tdr_jax.degradations.vocabulary import KINDS

    kinds = textwrap.fill(", ".join(KINDS), 96).replace("\n", "\n  ")
    parser.epilog = EPILOG.format(kinds=kinds, levels=", ".join(recipes.LEVELS))
    arguments.add_pictures(parser)
    parser.add_argument(
        "--task",
        required=True,
        metavar="LIST",
        help="what to do: noise50, rain, blur+noise25+jpeg30; of several, joined by commas, each "
        "has its folder in OUT",
    )
    parser.add_argument(
        "--sigma", type=float, metavar="S", help="of noise without a number, on the scale of 255"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="the place of the first picture in the list that evaluation sees (default: 0)",
    )
    parser.add_argument(
        "--clean", metavar="DIR", help="write the clean pictures too, cropped alike"
    )
    parser.add_argument(
        "--whole", action="store_true", help="do not crop: other draws than those of evaluation"
    )
    parser.add_argument(
        "--format",
        choices=SUFFIXES,
        help="png: 8 bits; tiff, npy: 32-bit floats, nothing rounded or clipped (default: png, or "
        "what the suffix of a single OUT says)",
    )


def run(args) -> int:
    """Degrade every input.

    Args:
        args: of add_arguments.

    Returns:
        0, or 1 if a picture could not be read, degraded or written.

    Raises:
        InputError: arguments or the output folder are wrong; nothing was written.
    """
    if args.first < 0:
        raise InputError(f"--first {args.first}: is a place in a list, from 0 on")
    settings = settings_of(args.task, args.sigma)
    plans, cleans = _plan(args, settings)
    for setting, plan in zip(settings, plans, strict=True):
        _check_format(setting, plan[0].target, args.format)

    tally = file_plan.Tally(len(plans[0]), "degraded")
    for number, planned in enumerate(plans[0]):
        with tally.one(planned.source):
            place = args.first + number
            picture = images.read_picture(planned.source)
            for setting, plan in zip(settings, plans, strict=True):
                example = make(planned.source, place, setting, args.seed, whole=args.whole)
                _write(plan[number].target, example.degraded, picture)
            if cleans:
                _write(cleans[number].target, example.clean, picture)
            height, width, _ = example.clean.shape
            where = planned.target if len(plans) == 1 else args.output
            what = ", ".join(setting.degradation for setting in settings)
            label = f"[{number + 1}/{len(plans[0])}] {planned.source}"
            say(f"{label} -> {where} ({width}x{height}, {what})")
    return tally.close()


def settings_of(tasks: str, sigma: float | None = None) -> list:
    """Read what is to be done to each picture.

    Args:
        tasks: recipes of `degradations.recipes`, joined by commas.
        sigma: of noise without a number.

    Returns:
        a `protocols.Setting` for each recipe.

    Raises:
        InputError: a recipe is unknown or given twice, or noise has no sigma, or two.
    """
    from tdr_jax.degradations import recipes
    from tdr_jax.evaluate import protocols

    names = []
    used = False
    for text in filter(str.strip, tasks.split(",")):
        layers = recipes.parse(text)
        bare = [layer.kind == recipes.NOISE and layer.level is None for layer in layers]
        used |= any(bare)
        if sigma is not None:
            layers = tuple(
                layer._replace(level=sigma) if one else layer
                for layer, one in zip(layers, bare, strict=True)
            )
        recipes.check(layers)
        names.append(recipes.spell(layers))
    if sigma is not None and not used:
        raise InputError(f"--sigma {sigma:g} is for noise without a number; leave one of them out")
    return protocols.settings_of(names)


def make(path: Path, place: int, setting, seed: int, *, whole: bool = False):
    """Degrade a picture as evaluation does.

    Args:
        path: of the clean picture.
        place: in the sorted list.
        setting: a `protocols.Setting`.
        seed: of the evaluation.
        whole: leave the picture as large as it is.

    Returns:
        a `protocols.Example`.

    Raises:
        InputError: the picture cannot be read, or is too small.
    """
    from tdr_jax.evaluate import protocols

    item = {"image": images.read_rgb(path), "name": str(path)}
    return protocols.example({place: item}, place, setting, seed, whole=whole)


def as_saved(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Return floats in [0, 1] as a PNG of 8 bits holds them."""
    return np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)


def _plan(args, settings: list) -> tuple[list[list[file_plan.PlannedFile]], list]:
    """Where everything goes: a list of files for each setting, and those of the clean pictures."""
    options = dict(within=tuple(filter(None, (args.output, args.clean))))
    suffix = SUFFIXES[args.format or "png"]
    if len(settings) == 1:
        single = (suffix,) if args.format else LOSSLESS
        plans = [file_plan.plan_made(args.inputs, args.output, suffix, single, **options)]
    else:
        folders = [os.path.join(args.output, setting.degradation) for setting in settings]
        plans = [
            file_plan.plan_drawn(args.inputs, folder, suffix=suffix, **options)
            for folder in folders
        ]
    cleans = []
    if args.clean:
        cleans = file_plan.plan_drawn(args.inputs, args.clean, **options)
        taken = {os.path.realpath(planned.target) for plan in plans for planned in plan}
        if both := [one.target for one in cleans if os.path.realpath(one.target) in taken]:
            raise InputError(f"{both[0]}: is what is degraded too; choose another --clean")
    return plans, cleans


def _check_format(setting, target: Path, asked: str | None) -> None:
    """Refuses 8 bits for what they cannot hold, and says where they round."""
    last = setting.layers[-1]
    if target.suffix.lower() in FLOATS:
        return
    if last.exact:
        raise InputError(
            f"{setting.degradation} is neither clipped nor in whole levels, which 8 bits cannot "
            "hold; give --format tiff or npy"
        )
    if not last.in_whole_levels:
        say(f"{setting.degradation}: rounded to 8 bits; tdr eval does not round (--format tiff)")


def _write(path: Path, pixels: np.ndarray, source: images.Picture) -> None:
    """Writes a picture with the colour profile of another, whole or not at all."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        content = io.BytesIO()
        np.save(content, pixels)
        disk.write_bytes(path, content.getvalue())
        return
    picture = dataclasses.replace(
        source,
        pixels=pixels,
        alpha=None,
        depth=32 if suffix in FLOATS else 8,
        grey=False,
        linear=False,
        extras=dataclasses.replace(source.extras, exif=None),
    )
    images.write_picture(path, picture)
