"""`tdr guide`: degraded pictures in, pictures of their restored words out."""

import argparse
import itertools
import math
import os
import time
from pathlib import Path

import numpy as np

from tdr_jax import images
from tdr_jax.commands import file_plan
from tdr_jax.commands.file_plan import say
from tdr_jax.commands.look import Look, report
from tdr_jax.errors import InputError

MODEL = "tdr-tiny"
SEED = 42
NEAREST = 3  # tokens shown for each pseudo-word

EPILOG = """\
examples:
  tdr guide hazy.jpg -o guidance/
  tdr guide rainy/ -o guidance/ --model my_stack/ --batch 8 --fast
  tdr guide RESIDE/hazy/ -o guidance/ --shared scene
  tdr guide photos/ -o guidance/ --degrade noise15,noise50   guidance/noise15/, guidance/noise50/
  tdr guide noisy.png --words-only

A picture is described from its central square, the rest of it is not looked at. The
description is restored as words, and a new picture is drawn from these. It shows what the
input may look like without its degradation, but not aligned with it.

Outputs are PNGs under the inputs' names. OUT/manifest.json says what each was drawn from and
with. A run that was stopped goes on where it was: give the same command again. Finished
pictures are verified and kept, missing, damaged and outdated ones drawn. Only one run at a
time may write to a folder. A damaged input is reported and the rest is drawn (exit status 1).
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr guide`."""
    parser.epilog = EPILOG
    parser.add_argument("inputs", nargs="+", metavar="IN", help="picture files and folders")
    parser.add_argument("-o", "--output", metavar="OUT", help="a folder (made if missing)")
    parser.add_argument(
        "--model",
        default=MODEL,
        metavar="NAME|DIR|ID",
        help="a folder of diffusers with image_encoder/, image_to_text/ and "
        "textual_restoration/ in it, or the name of a shipped one (default: %(default)s)",
    )
    for part, what in (
        ("image-encoder", "vision tower of CLIP: a folder or hub id"),
        ("image-to-text", "mapper of pictures to words: a folder, .safetensors or mapper_*.pt"),
        ("textual-restoration", "mapper of words to restored words, likewise"),
    ):
        parser.add_argument(f"--{part}", metavar="PATH", help=f"another {what}")
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (default: 100)")
    parser.add_argument(
        "--fast", action="store_true", help="sample with DPM-Solver++, 20 steps by default"
    )
    parser.add_argument(
        "--scale", type=float, default=5.0, metavar="S", help="of the guidance (default: 5)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        help="of the noise that every picture starts from (default: %(default)s)",
    )
    parser.add_argument(
        "--own-noise",
        action="store_true",
        help="start each picture from noise of its own, by the seed and the output's name",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="at once (default: 1)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute"
    )
    parser.add_argument(
        "--no-restore", action="store_true", help="draw from the words as they are, unrestored"
    )
    parser.add_argument(
        "--task",
        type=int,
        metavar="N",
        help="number of the degradation, for a textual restoration that tells several apart",
    )
    parser.add_argument(
        "--template",
        default="a photo of a S",
        metavar="TEXT",
        help="the sentence in which the words stand for S (default: %(default)r)",
    )
    parser.add_argument(
        "--word",
        type=int,
        metavar="N",
        help="draw one of the words alone, as --show-words numbers them (default: all of them)",
    )
    parser.add_argument(
        "--shared",
        choices=("none", "scene"),
        default="none",
        help="scene: one picture for each scene, the file's name before its first underscore, "
        "described by the first of its versions (for RESIDE's many hazes; default: none)",
    )
    parser.add_argument(
        "--degrade",
        metavar="LIST",
        help="degrade the pictures first, as 'tdr degrade' and 'tdr eval' do: noise50, rain, or "
        "several, joined by commas; each has its folder in OUT, for 'tdr eval --guidance OUT'",
    )
    parser.add_argument(
        "--degrade-seed", type=int, metavar="N", help="of the damage (default: 0, as of tdr eval)"
    )
    parser.add_argument(
        "--show-words",
        action="store_true",
        help="print the vocabulary's nearest words to each pseudo-word, before and after",
    )
    parser.add_argument("--words-only", action="store_true", help="print them and draw nothing")
    parser.add_argument(
        "--overwrite", action="store_true", help="draw all anew, whatever OUT was drawn with"
    )


def run(args) -> int:
    """Draw a picture for every input.

    Args:
        args: of add_arguments.

    Returns:
        0, or 1 if a picture could not be read.

    Raises:
        InputError: arguments, the model or the output folder are wrong; nothing was drawn.
    """
    _check(args)
    by_scene = args.shared == "scene"
    folders = _folders(args)
    if args.words_only:
        todo = file_plan.pictures(args.inputs, args.output, by_scene=by_scene)
    else:
        within = filter(None, [args.output])
        plans = [
            file_plan.plan_drawn(args.inputs, folder, by_scene=by_scene, within=within)
            for folder in folders
        ]
        todo = [(planned.source, planned.name) for planned in plans[0]]
    places = {path: place for place, (path, _) in enumerate(todo)}

    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    guide, digest = _load(args)
    failed: dict[Path, str] = {}
    for number, (folder, damage) in enumerate(folders.items()):
        look = Look(guide, failed, damage, args.degrade_seed or 0, places)
        if args.words_only or args.show_words:
            _show_words(args, look, todo)
        if not args.words_only:
            _draw(args, look, digest, folder, plans[number])
    return 1 if failed else 0


def _folders(args) -> dict[str, object]:
    """The folders to draw in, and what is done to the pictures first; None for nothing."""
    if args.degrade is None:
        return {args.output: None}
    from tdr_jax.commands import degrade

    damages = degrade.settings_of(args.degrade)
    return {os.path.join(args.output or "", each.degradation): each for each in damages}


def draw_for(
    plan: list[file_plan.PlannedFile], folder: str, *, remedy: str, chatty: bool = True, **settings
) -> dict[Path, str]:
    """Draw a picture for every file that another command planned, as `tdr guide` does.

    Args:
        plan: the pictures, and their targets in the folder.
        folder: as OUT of `tdr guide`, with a manifest, by which a stopped run goes on.
        remedy: what to do where the folder was drawn otherwise, for the error.
        chatty: whether each picture gets a line.
        **settings: arguments of `tdr guide` by name: model, fast, seed.

    Returns:
        what was wrong with each picture that could not be drawn, which was said already.

    Raises:
        InputError: the model or the folder is wrong; nothing was drawn.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["all of the plan", "-o", folder])
    vars(args).update(settings)
    _check(args)
    guide, digest = _load(args)
    look = Look(guide, {})
    _draw(args, look, digest, folder, plan, remedy=remedy, chatty=chatty)
    return look.failed


def _load(args):
    """Returns the guide and the digest of its weights."""
    from tdr_jax import weights
    from tdr_jax.infer.guide import Guide

    parts = weights.load_tdr_pipeline(
        args.model,
        image_encoder=args.image_encoder,
        image_to_text=args.image_to_text,
        textual_restoration=args.textual_restoration,
        dtype=args.dtype,
    )
    word = None if args.word is None else args.word - 1
    return Guide(parts, dtype=args.dtype, template=args.template, word=word), parts.digest()


def _check(args) -> None:
    """Refuses numbers that cannot be, and settles the number of steps."""
    args.steps = args.steps if args.steps is not None else 20 if args.fast else 100
    for name, lowest, limit in (("steps", 1, math.inf), ("batch", 1, math.inf), ("seed", 0, 2**32)):
        if not lowest <= getattr(args, name) < limit:
            top = f" and below {limit}" if limit < math.inf else ""
            raise InputError(f"--{name} {getattr(args, name)}: must be at least {lowest}{top}")
    if not math.isfinite(args.scale):
        raise InputError(f"--scale {args.scale}: must be a number such as 5")
    if not args.words_only and args.output is None:
        raise InputError("-o OUT is missing: name a folder for the pictures, or give --words-only")
    if args.word is not None and args.words_only:
        raise InputError("--word is for what is drawn; leave it or --words-only out")
    if args.no_restore and args.task is not None:
        raise InputError("--task is for the restoration of words; leave it or --no-restore out")
    if args.degrade_seed is not None and args.degrade is None:
        raise InputError("--degrade-seed is for --degrade; leave it out")
    if args.degrade is not None and args.shared != "none":
        raise InputError("--shared is for pictures that are degraded already; leave --degrade out")


def _draw(
    args,
    look: Look,
    digest: str,
    output: str,
    plan: list[file_plan.PlannedFile],
    *,
    chatty: bool = True,
    **remedy: str,
) -> None:
    """Draws what is not there yet, batch by batch."""
    from tdr_jax.commands import manifest as manifests

    options = dict(
        seed=args.seed,
        steps=args.steps,
        scale=args.scale,
        sampler="dpm++" if args.fast else "ddim",
        restore=look.guide.restores and not args.no_restore,
        task=args.task,
    )
    settings = options | look.settings
    settings |= dict(
        batch=args.batch,
        dtype=args.dtype,
        model_sha256=digest,
        own_noise=args.own_noise,
        shared=args.shared,
        template=args.template,
    )
    if args.word is not None:  # whose absence leaves folders of before as they were drawn
        settings["word"] = args.word
    folder = Path(output)
    targets = [planned.target for planned in plan]
    manifest = manifests.take_up(folder, settings, targets, overwrite=args.overwrite, **remedy)
    kept = drawn = 0
    try:
        for batch in _batches(plan, args.batch):
            held, new = _draw_batch(args, look, options, batch, manifest, chatty)
            kept, drawn = kept + held, drawn + new
            manifest.write(final=False)
    finally:  # also where it was interrupted
        manifest.write()
    known = f"; {kept} were there already" if kept else ""
    what = f" after {look.damage.degradation}" if look.damage else ""
    wrong = f"; {len(look.failed)} failed" if look.failed else ""
    say(f"drew {drawn} of {len(plan)}{what}{known}{wrong}")


def _draw_batch(
    args,
    look: Look,
    options: dict,
    batch: list[file_plan.PlannedFile],
    manifest,
    chatty,
) -> tuple[int, int]:
    """Draws what is missing of a batch; returns how many were there and how many were drawn."""
    from tdr_jax.commands.manifest import sha256

    began, failed = time.perf_counter(), look.failed
    names = {planned: planned.target.relative_to(manifest.folder).as_posix() for planned in batch}
    missing: dict[file_plan.PlannedFile, str] = {}
    for planned in batch:
        try:
            source = sha256(planned.source)
        except InputError as error:
            report(failed, planned.source, error)
            continue
        about = look.about(planned.source)
        if not manifest.holds(names[planned], planned.name, source, **about):
            missing[planned] = source
    held = sum(planned.source not in failed for planned in batch if planned not in missing)
    if not missing:
        return held, 0
    # A batch has the same pictures in the same places whatever was finished before: results could
    # else differ in their last bits. What cannot be read, or lacks at the end, another stands for.
    pixels = [look(planned.source) for planned in batch]
    if not any(
        row is not None for planned, row in zip(batch, pixels, strict=True) if planned in missing
    ):
        return held, 0
    stand_in = next(row for row in pixels if row is not None)
    fill = [stand_in if row is None else row for row in pixels]
    fill += (args.batch - len(batch)) * [stand_in]
    labels = None
    if args.own_noise:
        labels = [*names.values(), *(args.batch - len(batch)) * [""]]
    drawn = 0
    pictures = look.guide(fill, names=labels, **options)
    for planned, row, picture in zip(batch, pixels, pictures, strict=False):
        if planned not in missing or row is None:
            continue
        if not np.isfinite(picture).all():
            overflow = f"{planned.source}: its picture came out as NaN; try --dtype float32"
            report(failed, planned.source, overflow)
            continue
        images.write_rgb(planned.target, picture)
        about = look.about(planned.source)
        manifest.add(names[planned], planned.name, missing[planned], args.seed, **about)
        drawn += 1
        if chatty:
            say(f"{planned.source} -> {planned.target} ({time.perf_counter() - began:.1f} s)")
    return held, drawn


def _show_words(args, look: Look, todo: list[tuple[Path, str]]) -> None:
    """Prints what the pseudo-words of each picture are nearest to."""
    guide, restore = look.guide, look.guide.restores and not args.no_restore
    title = f" after {look.damage.degradation}" if look.damage else ""
    title += ": nearest words" + (", before -> after restoration" if restore else "")
    for batch in _batches(todo, args.batch):
        rows = [(name, look(path)) for path, name in batch]
        rows = [(name, row) for name, row in rows if row is not None]
        if not rows:
            continue
        filled = [row for _, row in rows] + (args.batch - len(rows)) * [rows[-1][1]]
        found = guide.words(filled, restore=restore, task=args.task)
        for (name, _), before, after in zip(rows, *found, strict=False):
            print(name + title)
            columns = [
                _nearest(guide, words) for words in ((before, after) if restore else (before,))
            ]
            width = max(map(len, columns[0]))
            for number, line in enumerate(zip(*columns, strict=True), 1):
                print(f"{number:4d}  " + "  ->  ".join([line[0].ljust(width), *line[1:]]).rstrip())


def _nearest(guide, words: np.ndarray) -> list[str]:
    """One line for each pseudo-word."""
    return [
        ", ".join(f"{token} {cosine:.2f}" for token, cosine in tokens)
        for tokens in guide.nearest(words, NEAREST)
    ]


def _batches(items: list, size: int):
    """Lists of `size` items, the last of what is left."""
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some
