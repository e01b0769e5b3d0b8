"""`tdr restore`: photographs in, restored photographs out."""

import contextlib
import dataclasses
import sys
import textwrap
import time

import numpy as np

from tdr_jax import images
from tdr_jax.commands import jobs
from tdr_jax.errors import InputError
from tdr_jax.infer import restorer as infer
from tdr_jax.infer import takes

PANEL_SIDE = 1600  # a panel's halves are shown at most this wide and high

EPILOG = """\
examples:
  tdr restore noisy.jpg -o clean.jpg --prompt "please remove the noise"
  tdr restore holiday/ more.png -o restored/ --prompt "take the haze away" --panel
  tdr restore photos/ -o restored/ --prompts prompts.tsv
  tdr restore blurred/ -o sharp/ --model restormer_deblurring.pth
  tdr restore left/ -o sharp/ --model dual_pixel.safetensors --right right/

A network that takes a sentence needs --prompt or --prompts, the others refuse them.
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
        metavar="TEXT",
        help='what to do, in English: "remove the noise"; for networks that take a sentence',
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="a prompt for each picture: lines of file<TAB>prompt"
    )
    parser.add_argument(
        "--model",
        default="textpromptir-compact",
        metavar="NAME|PATH",
        help="shipped weights, a folder, a .safetensors file or a PyTorch checkpoint "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--encoder",
        default="minilm",
        metavar="NAME|PATH",
        help="the text encoder a network that takes a sentence was trained with "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--right",
        metavar="RIGHT",
        help="for networks that restore the left view from both: the right view of one picture, "
        "or a folder of them under the names of the left ones",
    )
    parser.add_argument(
        "--panel", action="store_true", help="write NAME_panel.png too: before and after"
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


def run(args) -> int:
    """Restore every input.

    Args:
        args: of add_arguments.

    Returns:
        0, or 1 if a picture could not be read, restored or written.

    Raises:
        InputError: arguments, weights or the output folder are wrong; nothing was restored.
    """
    infer.check_strength(args.strength)
    if args.max_pixels is not None:
        infer.check_max_pixels(args.max_pixels)
    prompts = jobs.read_prompts(args.prompts) if args.prompts else {}
    todo = jobs.plan(args.inputs, args.output, args.panel, args.right)

    from tdr_jax.runtime import enable_compilation_cache

    enable_compilation_cache()
    restorer = infer.Restorer.from_pretrained(args.model, args.encoder)
    sentences = _sentences(args, restorer, todo, prompts)
    _say("a picture size met for the first time also compiles, which takes some seconds")
    failed = 0
    for number, (job, sentence) in enumerate(zip(todo, sentences, strict=True), 1):
        label = f"[{number}/{len(todo)}] {job.source}"
        try:
            _restore(restorer, job, sentence, args.strength, args.max_pixels, label)
        except InputError as error:
            failed += 1
            print(f"tdr: error: {error}", file=sys.stderr)
        except MemoryError:
            failed += 1
            print(f"tdr: error: {job.source}: not enough memory for it", file=sys.stderr)
    _say(f"restored {len(todo) - failed} of {len(todo)}" + (f"; {failed} failed" if failed else ""))
    return 1 if failed else 0


def _sentences(args, restorer, todo: list[jobs.Job], prompts: dict[str, str]) -> list[str | None]:
    """Return the sentence of each job, after a look at whether the network fits the arguments."""
    network = restorer.network
    if takes.two_views(network) and args.right is None:
        raise InputError(f"network {network.name} restores from two views; give --right RIGHT")
    if args.right is not None and not takes.two_views(network):
        raise InputError(f"network {network.name} restores from one picture; leave out --right")
    asked = args.prompt is not None or args.prompts is not None
    if not takes.sentence(network):
        if asked:
            raise InputError(f"network {network.name} takes no sentence; leave out --prompt")
        return [None] * len(todo)
    if not asked:
        example = '--prompt "remove the noise"'
        raise InputError(f"network {network.name} needs a prompt; say what to do: {example}")
    sentences = [jobs.prompt_of(job, prompts, args.prompt) for job in todo]
    for sentence in sentences:
        restorer.check_prompt(sentence)
    return sentences


def _restore(restorer, job: jobs.Job, prompt, strength, max_pixels, label: str) -> None:
    began = time.perf_counter()
    picture = images.read_picture(job.source)
    right = images.read_picture(job.right).pixels if job.right else None
    with _tile_bar(label) as progress:
        try:
            pixels = restorer(
                picture.pixels,
                prompt,
                right=right,
                strength=strength,
                max_pixels=max_pixels,
                progress=progress,
            )
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
    restored = dataclasses.replace(picture, pixels=pixels)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{job.target.parent}: cannot be made ({error.strerror})") from error
    images.write_picture(job.target, restored)
    if job.panel:
        images.write_rgb(job.panel, _panel(picture.pixels, pixels, prompt))
    height, width, _ = pixels.shape
    _say(f"{label} -> {job.target} ({width}x{height}, {time.perf_counter() - began:.1f} s)")


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


def _panel(before: np.ndarray, after: np.ndarray, prompt: str | None) -> np.ndarray:
    """Set two pictures side by side under their captions: uint8 (h, w, 3)."""
    from PIL import Image, ImageOps

    from tdr_jax.evaluate import report

    halves = []
    for pixels in (before, after):
        half = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        half.thumbnail((PANEL_SIDE, PANEL_SIDE))  # keeps the proportions, never enlarges
        # Room for a caption over tiny pictures.
        size = (max(half.width, 160), half.height)
        halves.append(np.asarray(ImageOps.pad(half, size, color="white", centering=(0, 0))))
    caption = textwrap.shorten(prompt or "after", 36, placeholder="...")
    return report.panel(halves, ["before", caption])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
