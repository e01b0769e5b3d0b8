"""`tdr restore`: photographs in, restored photographs out."""

import contextlib
import textwrap
import time
from pathlib import Path

import numpy as np

from tdr_jax import images
from tdr_jax.commands import file_plan, guidance
from tdr_jax.commands.file_plan import say
from tdr_jax.errors import InputError
from tdr_jax.infer import conditioning
from tdr_jax.infer import restorer as infer

PANEL_WIDTH = 3200  # of all pictures of a panel; none is higher than it is wide at most

EPILOG = """\
examples:
  tdr restore noisy.jpg -o clean.jpg --prompt "please remove the noise"
  tdr restore photos/ -o restored/                   what is wrong is told from each picture
  tdr restore wet.jpg -o dry.jpg --prompt "remove the rain" --prompt "and the noise"
  tdr restore holiday/ more.png -o restored/ --prompt "take the haze away" --panel
  tdr restore photos/ -o restored/ --prompts prompts.tsv
  tdr restore blurred/ -o sharp/ --model restormer_deblurring.pth
  tdr restore left/ -o sharp/ --model dual_pixel.safetensors --right right/
  tdr restore noisy.jpg -o clean.jpg --guidance another_shot.jpg --panel
  tdr restore noisy/ -o clean/ --guidance auto --fast --keep-guidance guidance/ --panel panels/

A network that takes a sentence looks for noise, rain, haze and blur itself unless --prompt or
--prompts says what to do; other networks refuse them. Networks with guidance need --guidance:
it helps as far as it shows what the restored picture should look like.
The output's suffix chooses its format. Grey, transparency, 16 bits (PNG, TIFF), the colour
profile and EXIF are kept where that format can; the picture is turned upright. A damaged
file is reported and the rest is restored (exit status 1). An input is never overwritten;
an earlier output is.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr restore`."""
    parser.epilog = EPILOG
    parser.add_argument("inputs", nargs="+", metavar="IN", help="picture files and folders")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a file for one picture, else a folder (made if missing)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help='what to do, in English: "remove the noise"; for networks that take a sentence; '
        'several times for several wishes; "auto" for whatever each picture shows (default: auto)',
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="a prompt for each picture: lines of file<TAB>prompt"
    )
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="shipped weights, a folder, a .safetensors file or a PyTorch checkpoint "
        f"(default: {infer.MODEL}; with --guidance {infer.GUIDED_MODEL}, which is for noise)",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME|PATH",
        help="use this text encoder, whichever a network that takes a sentence was trained with "
        "(default: the one that the weights name, or minilm)",
    )
    parser.add_argument(
        "--right",
        metavar="RIGHT",
        help="for networks that restore the left view from both: the right view of one picture, "
        "or a folder of them under the names of the left ones",
    )
    parser.add_argument(
        "--panel",
        nargs="?",
        const="",
        metavar="DIR",
        help="write NAME_panel.png too, beside the output or in DIR: before and after; with "
        "guidance: input, guidance, confidence of the match and output",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="from 0, the input, to 1, fully restored (default: 1)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=None,
        metavar="N",
        help="larger pictures are restored in overlapping tiles of at most N pixels "
        "(default: what the network can do with 3 GiB, at most about 2 million)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="cut each picture's rows over N devices; on a CPU also set "
        "XLA_FLAGS=--xla_force_host_platform_device_count=N (default: one device)",
    )
    guidance.add_arguments(parser)


def run(args) -> int:
    """Restore every input.

    Args:
        args: of add_arguments.

    Returns:
        0, or 1 if a picture could not be read, guided, restored or written.

    Raises:
        InputError: arguments, weights or the output folder are wrong; nothing was restored.
    """
    conditioning.check_strength(args.strength)
    if args.max_pixels is not None:
        infer.check_max_pixels(args.max_pixels, max(args.rows, 1))
    if args.rows:
        from tdr_jax.infer import rows

        rows.make_mesh(args.rows)  # so that what is wrong with it is said before weights are read
    prompts = file_plan.read_prompts(args.prompts) if args.prompts else {}
    guided = any(getattr(args, name) is not None for name in guidance.ARGUMENTS)
    with guidance.drawing_folder(args) if guided else contextlib.nullcontext() as folder:
        given = args.guidance if folder is None else None
        todo = file_plan.plan(args.inputs, args.output, args.panel, args.right, given, folder)
        if given is not None and not Path(given).is_dir():
            guidance.read(todo[0].guidance)  # it guides all: if it is damaged, nothing is done
        return _restore_all(args, todo, prompts, folder)


def _restore_all(
    args, todo: list[file_plan.PlannedFile], prompts: dict[str, str], folder: str | None
) -> int:
    """Restore what was planned, with guidance that is drawn in the folder if there is one."""
    from tdr_jax.runtime import choose_cpu_kernels, enable_compilation_cache

    if folder is not None:
        choose_cpu_kernels()  # so that the same is drawn as by `tdr guide`
    enable_compilation_cache()
    usual = infer.MODEL if args.guidance is None else infer.GUIDED_MODEL
    restorer = infer.Restorer.from_pretrained(
        args.model or usual, args.encoder, insist=True, rows=args.rows
    )
    sentences = _sentences(args, restorer, todo, prompts)
    asked = [one for each in sentences for one in each or () if one != conditioning.AUTO]
    if asked:
        from tdr_jax.commands.prompts import tell

        tell(asked, restorer.network)
    undrawn = {} if folder is None else guidance.draw(args, todo, folder)
    say("a picture size met for the first time also compiles, which takes some seconds")
    tally = file_plan.Tally(len(todo), "restored")
    for number, (planned, sentence) in enumerate(zip(todo, sentences, strict=True), 1):
        if planned.source in undrawn:  # which was said
            tally.failed += 1
            continue
        with tally.one(planned.source):
            label = f"[{number}/{len(todo)}] {planned.source}"
            _restore(restorer, planned, sentence, args, label)
    return tally.close()


def _sentences(
    args, restorer, todo: list[file_plan.PlannedFile], prompts: dict[str, str]
) -> list[tuple[str, ...] | None]:
    """Return the sentences of each picture, after a look at whether the network fits the arguments.

    Where neither --prompt nor --prompts says what to do, a network that takes a sentence is asked
    for whatever each picture shows.
    """
    default = tuple(args.prompt or ()) or None
    if default is None and args.prompts is None and restorer.network.takes_sentence:
        default = (conditioning.AUTO,)
    restorer.check(default or args.prompts, args.guidance, args.right)
    if not restorer.network.takes_sentence:
        return [None] * len(todo)
    sentences = [file_plan.prompts_of(planned, prompts, default) for planned in todo]
    for sentence in sentences:
        conditioning.check_prompt(restorer.network, sentence)
    return sentences


def _restore(
    restorer, planned: file_plan.PlannedFile, prompts: tuple[str, ...] | None, args, label: str
) -> None:
    began = time.perf_counter()
    picture = images.read_picture(planned.source)
    options = {"max_pixels": args.max_pixels}
    if planned.right:
        options["right"] = images.read_picture(planned.right)
    if planned.guidance:
        options["guidance"] = guidance.read(planned.guidance)
    try:
        if prompts == (conditioning.AUTO,):
            prompts = _look(restorer.network, picture, label)
        asked = " ".join(prompts or ())
        shown = [picture.pixels]
        captions = ["before", asked or "after"]
        with _tile_bar(label) as progress:
            restored = restorer(
                picture, prompts, strength=args.strength, progress=progress, **options
            )
        if planned.panel and planned.guidance:
            with _tile_bar(f"{label}: confidence") as progress:
                confidence = restorer.confidence(picture, progress=progress, **options)
            shown += [options["guidance"], confidence]
            drawn = ", drawn" if args.guidance == guidance.AUTO else ""
            sure = f"confidence {confidence.mean():.2f}"
            captions = ["input", f"guidance{drawn}", sure, asked or "output"]
    except InputError as error:
        raise InputError(f"{planned.source}: {error}") from error
    notes = restored.extras.notes + images.write_picture(planned.target, restored)
    if planned.panel:
        images.write_rgb(planned.panel, _panel([*shown, restored.pixels], captions))
    height, width, _ = restored.pixels.shape
    say(f"{label} -> {planned.target} ({width}x{height}, {time.perf_counter() - began:.1f} s)")
    if notes:
        say(f"{label}: {'; '.join(notes)}")


def _look(network, picture: images.Picture, label: str) -> tuple[str, ...]:
    """Tell what the picture shows, and return what to ask for."""
    from tdr_jax.infer import blind

    estimate = blind.shipped()(picture)
    prompts = blind.prompts(estimate, network)
    say(f"{label}: found {estimate}" + ("" if prompts else "; left as it is"))
    return prompts


@contextlib.contextmanager
def _tile_bar(label: str):
    """Yield progress(done, total), which draws a bar for pictures of several tiles."""
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        bars: list[tqdm] = []

        def progress(done: int, total: int) -> None:
            if total > 1 and not bars:
                bar = tqdm(total=total, desc=label, unit="tile", leave=False, disable=None)
                bars.append(stack.enter_context(bar))
            for bar in bars:
                bar.update(done - bar.n)

        yield progress


def _panel(pictures: list[np.ndarray], captions: list[str]) -> np.ndarray:
    """Set pictures side by side under their captions, each as large as the first is shown.

    Args:
        pictures: uint8 or float in [0, 1] (H, W, 3), or a map of values in [0, 1], (H, W).
        captions: shortened to a line.

    Returns:
        uint8 (h, w, 3).
    """
    from PIL import Image, ImageOps

    from tdr_jax.evaluate import report

    height, width = pictures[0].shape[:2]
    scale = min(PANEL_WIDTH / len(pictures) / max(height, width), 1)
    height, width = (max(round(side * scale), 1) for side in (height, width))
    shown = []
    for pixels in pictures:
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(pixels)
        if picture.size != (width, height):
            picture = ImageOps.contain(picture, (width, height))
        if picture.mode == "L":
            picture = Image.fromarray(report.heat(np.asarray(picture) / 255))
        # Room for a caption over tiny pictures.
        size = (max(width, 160), height)
        sheet = Image.new("RGB", size, "white")
        sheet.paste(picture)
        shown.append(np.asarray(sheet))
    return report.panel(shown, [textwrap.shorten(c, 36, placeholder="...") for c in captions])
