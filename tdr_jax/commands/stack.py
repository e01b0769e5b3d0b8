"""`tdr stack check`: whether a stack's folder is complete and consistent, before a run starts."""

from collections.abc import Callable
from pathlib import Path

from tdr_jax.errors import InputError

EPILOG = r"""
examples:
  tdr stack check stable-diffusion-2-1-base/ --for i2t \
    --image-encoder CLIP-ViT-H-14-laion2B-s32B-b79K/
  tdr stack check stack/ --for tr
  tdr stack check stack/                              all that 'tdr guide' needs

Names and shapes of all tensors, the widths at which the parts meet, the noise schedule and the
tokenizer are compared; values are not. Every fault is told in a line; exit status 1 if there
is one.
"""
# What a run needs beside the three networks that draw, a schedule and a tokenizer.
NEEDS = {
    "i2t": ("image_encoder",),
    "tr": ("image_encoder", "image_to_text"),
    "guide": ("image_encoder", "image_to_text", "textual_restoration"),
}


def add_arguments(parser) -> None:
    """Declare the subcommand of `tdr stack` and its arguments."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    line = "tell all that is missing or does not fit"
    check = actions.add_parser("check", help=line, description=line[0].upper() + line[1:] + ".")
    check.add_argument("stack", metavar="DIR", help="a folder of diffusers, or a shipped name")
    for part in NEEDS["guide"]:
        option = f"--{part.replace('_', '-')}"
        check.add_argument(option, metavar="PATH", help=f"{part} from elsewhere, a folder or file")
    check.add_argument(
        "--for",
        dest="stage",
        choices=tuple(NEEDS),
        default="guide",
        help="the run to come: the first stage of training, the second, or 'tdr guide' (default)",
    )


def run(args) -> int:
    """Print a line for every part, then what is wrong.

    Args:
        args: of `add_arguments`.

    Returns:
        0, or 1 where something is missing or does not fit.

    Raises:
        InputError: there is no such folder.
    """
    from tdr_jax import weights

    folder = weights.find(args.stack)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of a stack")
    places = {part: folder / part for part in (*weights.PARTS, *NEEDS[args.stage])}
    places |= {part: Path(given) for part in places if (given := getattr(args, part, None))}
    faults = check(folder, places, print)
    for fault in faults:
        print(f"fault: {fault}")
    if not faults:
        print(f"complete, and all parts fit: ready for {args.stage}")
    return 1 if faults else 0


def check(folder: Path, places: dict[str, Path], say: Callable[[str], None]) -> list[str]:
    """Looks through a stack.

    Args:
        folder: of the stack, with the schedule and the tokenizer.
        places: part -> its folder or file.
        say: is given a line for each part that is sound.

    Returns:
        what is wrong, a line each.
    """
    networks, faults = {}, []

    def attempt(function, *inputs):
        try:
            return function(*inputs)
        except InputError as error:
            faults.append(str(error))

    for part, place in places.items():
        if (network := attempt(_network, part, place)) is not None:
            networks[part] = network
            say(f"{part}: {network.name}, {network.size:,} parameters")
    schedule = attempt(_schedule, folder)
    if schedule is not None:
        config, found = schedule
        say(f"scheduler: {found.prediction_type}, {found.num_train_timesteps} steps")
    tokenizer = attempt(_tokenizer, folder)
    if tokenizer is not None:
        say(f"tokenizer: {len(tokenizer):,} tokens")
    if len(networks) == len(places):
        attempt(_fit, folder, networks, schedule and schedule[0], tokenizer)
    if "text_encoder" in networks and tokenizer is not None:
        faults += _words(networks, tokenizer)
    if {"unet", "vae"} <= networks.keys():
        latents = networks["vae"].config.latent_channels
        if latents != networks["unet"].config.in_channels:
            faults.append(
                f"vae makes latents of {latents} channels, but the unet takes "
                f"{networks['unet'].config.in_channels}; give parts that were trained together"
            )
    return faults


def _network(part: str, place: Path):
    """The network in a place, whose tensors are there and of its shapes."""
    from tdr_jax import models
    from tdr_jax.convert import exchange, hugging_face, io, recognise
    from tdr_jax.diffusion.tdr_pipeline import READERS

    if not place.exists():
        raise InputError(f"{part}: {place} is missing")
    kinds = {"unet": "UNet", "vae": "AutoencoderKL", "text_encoder": "ClipText"} | READERS
    if hugging_face.is_folder(place) and not io.names_network(place):
        network, tensors = hugging_face.read(place)
        exchange.matched(network, tensors)
    else:
        checkpoint = io.read(place)
        if checkpoint.network is None:
            network = recognise.network_of(checkpoint)
        else:
            network = models.build_from(checkpoint.network, checkpoint.config)
        if checkpoint.ours:
            shapes = network.abstract_params()
            models.check(checkpoint.tensors, shapes, f"network {network.name} in {place}")
        else:
            exchange.matched(network, checkpoint.tensors)
    if network.kind != kinds[part]:
        raise InputError(f"{part}: {place} holds a {network.kind}, expected a {kinds[part]}")
    return network


def _schedule(folder: Path):
    """The noise schedule: its file's content, and what is made of it."""
    from tdr_jax import disk
    from tdr_jax.convert.pipeline_folder import SCHEDULER
    from tdr_jax.diffusion.schedule import Schedule

    if not (folder / SCHEDULER).is_file():
        raise InputError(f"scheduler: {folder / SCHEDULER} is missing")
    config = disk.read_json(folder / SCHEDULER)
    return config, Schedule.from_config(config)


def _tokenizer(folder: Path):
    from tdr_jax.diffusion.pipeline import load_tokenizer

    return load_tokenizer(folder / "tokenizer")


def _fit(folder: Path, networks: dict, scheduler, tokenizer) -> None:
    """Compares the widths at which the parts meet."""
    from tdr_jax.diffusion.tdr_pipeline import TDRPipeline

    TDRPipeline(networks, {}, scheduler or {}, tokenizer).check(str(folder))


def _words(networks: dict, tokenizer) -> list[str]:
    """What of the tokenizer does not fit the text tower, or the words the sentence."""
    from tdr_jax.text import templates

    config, faults = networks["text_encoder"].config, []
    if len(tokenizer) > config.vocab_size:
        faults.append(
            f"tokenizer has {len(tokenizer):,} tokens, but the text_encoder embeds "
            f"{config.vocab_size:,}; copy the tokenizer that it was trained with"
        )
    length = config.max_position_embeddings
    if tokenizer.model_max_length != length:
        faults.append(
            f"tokenizer cuts sentences to {tokenizer.model_max_length} tokens, but the "
            f"text_encoder reads {length}; copy the tokenizer that it was trained with"
        )
    elif (mapper := networks.get("image_to_text")) is not None:
        try:
            templates.prepare(tokenizer, num_words=mapper.config.num_words, length=length)
        except InputError as error:
            faults.append(str(error))
    return faults
