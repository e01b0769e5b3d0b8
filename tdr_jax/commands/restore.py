"""`tdr restore`: photographs in, restored photographs out."""

import contextlib
import dataclasses
import functools
import itertools
import json
import time
from pathlib import Path

from tdr_jax import images
from tdr_jax.commands import arguments, file_plan, guidance, sizes, together
from tdr_jax.commands.file_plan import say
from tdr_jax.errors import InputError
from tdr_jax.infer import conditioning, core
from tdr_jax.infer import restorer as infer

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
  tdr restore archive/ -o clean/ --skip-existing     go on where an earlier run was stopped
  tdr restore noisy/ -o clean/ --guidance auto --fast --keep-guidance guidance/ --panel panels/

A network that takes a sentence looks for noise, rain, haze and blur itself unless --prompt or
--prompts says what to do; other networks refuse them. Networks with guidance need --guidance:
it helps as far as it shows what the restored picture should look like.
The output's suffix chooses its format. Grey, transparency, 16 bits (PNG, TIFF), floats (TIFF,
OpenEXR), the colour profile, EXIF, XMP, IPTC, resolution and file times are kept where that
format can, and what it cannot is told; the picture is turned upright. A damaged file is
reported and the rest is restored (exit status 1). An input is never overwritten; an earlier
output is, unless --skip-existing leaves it alone.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr restore`."""
    parser.epilog = EPILOG
    arguments.add_pictures(parser)
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
        "(default: as --memory says)",
    )
    parser.add_argument(
        "--memory",
        default=None,
        metavar="SIZE",
        help="for the network's intermediate results, such as 4GB: pictures go through it whole "
        "where there is room, else strip by strip, which gives the same, else in overlapping tiles "
        "(default: 3GiB, and about 2 million pixels whole at most)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="pictures of about one size go through the network together, N at a time (default: 1)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="cut each picture's rows over N devices; on a CPU also set "
        "XLA_FLAGS=--xla_force_host_platform_device_count=N (default: one device)",
    )
    _add_file_arguments(parser)
    guidance.add_arguments(parser)


def _add_file_arguments(parser) -> None:
    """Declare what is about the files that are written."""
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave outputs alone that exist, so that a run that was stopped goes on",
    )
    parser.add_argument(
        "--suffix",
        default="",
        metavar="TEXT",
        help='put behind each output\'s name in a folder: "_clean" makes cat.jpg cat_clean.jpg',
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="of each output in a folder: jpg, png, webp, avif, tif, bmp or exr (default: the "
        "input's; png for what is only read)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help="of JPEG, WebP and AVIF, 1 to 100 (default: 95, 95 and 90)",
    )
    parser.add_argument(
        "--strip-metadata",
        action="store_true",
        help="keep no EXIF, XMP, IPTC, texts, resolution and file times; colours stay right",
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="restore animations and TIFFs of several pages picture by picture; what is found in "
        "the first picture is asked for in all",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="write a line of JSON about each picture to standard output",
    )


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
    _check_room(args)
    if args.max_pixels is not None:
        core.check_max_pixels(args.max_pixels, max(args.rows, 1))
    if args.rows:
        from tdr_jax.infer import rows

        rows.make_mesh(args.rows)  # so that what is wrong with it is said before weights are read
    if args.frames and args.right:
        raise InputError("--frames is for pictures of one view; leave out --right")
    prompts = file_plan.read_prompts(args.prompts) if args.prompts else {}
    guided = any(getattr(args, name) is not None for name in guidance.ARGUMENTS)
    with guidance.drawing_folder(args) if guided else contextlib.nullcontext() as folder:
        given = args.guidance if folder is None else None
        todo = file_plan.plan(
            args.inputs,
            args.output,
            args.panel,
            args.right,
            given,
            folder,
            ending=args.suffix,
            form=args.format,
            keep=args.skip_existing,
        )
        _check_quality(args, todo)
        if args.skip_existing:
            todo = _without_existing(args, todo)
            if not todo:
                return 0
        if given is not None and not Path(given).is_dir():
            guidance.read(todo[0].guidance)  # it guides all: if it is damaged, nothing is done
        return _restore_all(args, todo, prompts, folder)


def _check_room(args) -> None:
    """Read --memory; raise InputError if it or --batch is wrong, or does not go with the others."""
    if args.memory is not None:
        from tdr_jax.infer import amounts

        if args.max_pixels is not None:
            raise InputError("--memory and --max-pixels both say how large tiles are; give one")
        args.memory = amounts.parse(args.memory)
    if args.batch < 1:
        raise InputError(f"--batch is {args.batch}; give 1 or more")
    if args.batch > 1:
        others = ("guidance", "right", "rows", "max_pixels")
        for name in (name for name in others if getattr(args, name)):
            raise InputError(f"--batch does not go with --{name.replace('_', '-')}; leave one out")


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
    jobs = []
    for number, (planned, sentence) in enumerate(zip(todo, sentences, strict=True), 1):
        label = f"[{number}/{len(todo)}] {planned.source}"
        jobs.append(functools.partial(_restore, planned, sentence, args, label))
    for some in _batches(restorer, todo, args):
        drawn = [index for index in some if todo[index].source not in undrawn]
        for index in set(some) - set(drawn):  # which was said
            tally.failed += 1
            _tell(args, todo[index], "failed", error="its guidance could not be drawn")
        results = [functools.partial(jobs[index], restorer) for index in drawn]
        if len(drawn) > 1:
            results = together.outcomes(restorer, [jobs[index] for index in drawn])
        for index, result in zip(drawn, results, strict=True):
            planned = todo[index]
            with tally.one(planned.source):
                try:
                    record = result()
                except (InputError, MemoryError) as error:
                    _tell(args, planned, "failed", error=str(error) or "not enough memory")
                    raise
                _tell(args, planned, "restored", **record)
    return tally.close()


def _batches(restorer, todo: list[file_plan.PlannedFile], args) -> list[list[int]]:
    """Choose the programs for all pictures, and which pictures go through them together."""
    if len(todo) == 1 or args.max_pixels is not None:
        return [[index] for index in range(len(todo))]
    known = [sizes.of(planned.source) for planned in todo]
    restorer.prepare([size for size in known if size], memory=args.memory)
    return sizes.in_batches([size and restorer.bucket(*size) for size in known], args.batch)


def _check_quality(args, todo: list[file_plan.PlannedFile]) -> None:
    if args.quality is None:
        return
    if not 1 <= args.quality <= 100:
        raise InputError(f"--quality is {args.quality}; it must be from 1 to 100")
    forms = {images.WRITABLE[planned.target.suffix.lower()] for planned in todo}
    if not forms & images.LOSSY:
        raise InputError(f"--quality is for JPEG, WebP and AVIF; written are {' '.join(forms)}")


def _without_existing(args, todo: list[file_plan.PlannedFile]) -> list[file_plan.PlannedFile]:
    """Return what is not there yet. A panel is written first, so a picture has its own."""
    left = [planned for planned in todo if not planned.target.exists()]
    for planned in todo:
        if planned.target.exists():
            _tell(args, planned, "skipped")
    if len(left) < len(todo):
        say(f"skipped {len(todo) - len(left)} of {len(todo)}, which exist")
    return left


def _tell(args, planned: file_plan.PlannedFile, status: str, **more) -> None:
    """Write the record of a picture, if asked, as soon as it is known."""
    if args.json:
        record = {"source": str(planned.source), "target": str(planned.target), "status": status}
        print(json.dumps(record | more), flush=True)


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
    planned: file_plan.PlannedFile, prompts: tuple[str, ...] | None, args, label: str, restorer
) -> dict:
    """Restore what a file shows, and return what is to be told of it."""
    began = time.perf_counter()
    frames = _read(planned.source, args.frames)
    options = {"max_pixels": args.max_pixels}
    if planned.right:
        options["right"] = images.read_picture(planned.right)
    if planned.guidance:
        options["guidance"] = guidance.read(planned.guidance)
    record: dict = {"found": None, "asked": list(prompts or ()), "strength": args.strength}

    def restored(number: int, picture: images.Picture) -> images.Picture:
        name = f"{label} {number + 1}/{frames.count}" if frames.count > 1 else label
        try:
            if prompts == (conditioning.AUTO,) and number == 0:
                record.update(_look(restorer.network, picture, label))
            asked = tuple(record["asked"]) if prompts is not None else None
            with _tile_bar(name) as progress:
                result = restorer(
                    picture,
                    asked,
                    strength=args.strength,
                    memory=args.memory,
                    progress=progress,
                    **options,
                )
            if planned.panel and number == 0:
                from tdr_jax.commands import panels

                between = []
                if planned.guidance:
                    with _tile_bar(f"{name}: confidence") as progress:
                        sure = restorer.confidence(picture, progress=progress, **options)
                    between = [options["guidance"], sure]
                captions = panels.captions(asked, between, args.guidance == guidance.AUTO)
                shown = [picture, *between, result]
                images.write_rgb(planned.panel, panels.panel(shown, captions))
        except InputError as error:
            raise InputError(f"{planned.source}: {error}") from error
        height, width, _ = result.pixels.shape
        record.update(width=width, height=height, notes=list(result.extras.notes))
        return images.without_metadata(result) if args.strip_metadata else result

    pictures = itertools.starmap(restored, enumerate(frames.pictures))
    frames = dataclasses.replace(frames, pictures=pictures)
    lost = images.write_frames(planned.target, frames, args.quality)
    if not args.strip_metadata:
        images.keep_times(planned.source, planned.target)
    record["notes"] += lost
    record |= {"frames": frames.count, "seconds": round(time.perf_counter() - began, 3)}
    size = f"{record['width']}x{record['height']}"
    several = f" in {frames.count} pictures" if frames.count > 1 else ""
    say(f"{label} -> {planned.target} ({size}{several}, {record['seconds']:.1f} s)")
    if record["notes"]:
        say(f"{label}: {'; '.join(record['notes'])}")
    return record


def _read(path: Path, several: bool) -> images.Frames:
    """Read the pictures of a file, or the one that it may hold."""
    return images.read_frames(path) if several else images.single(images.read_picture(path))


def _look(network, picture: images.Picture, label: str) -> dict:
    """Tell what the picture shows, and return it and what to ask for."""
    from tdr_jax.infer import blind

    estimate = blind.shipped()(picture)
    prompts = blind.prompts(estimate, network)
    say(f"{label}: found {estimate}" + ("" if prompts else "; left as it is"))
    return {"found": {**estimate.shares, "sigma": estimate.sigma}, "asked": list(prompts)}


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
