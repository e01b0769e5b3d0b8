"""`tdr generate`: a sentence in, a picture out."""

import sys
import time
from pathlib import Path

from tdr_jax import images
from tdr_jax.errors import InputError

EPILOG = """\
examples:
  tdr generate --model stable-diffusion-2-1-base/ --prompt "a lighthouse in fog" -o lighthouse.png
  tdr generate --model DIR --prompt "a street" --count 8 -o streets/ --sampler dpm++ --steps 20
  tdr generate --model v1-5.safetensors --tokenizer DIR --prompt "a cat" -o cat.png

--model is a folder of diffusers (model_index.json, unet/, vae/, text_encoder/, tokenizer/,
scheduler/), its id on the Hugging Face hub, or a checkpoint in one .safetensors file.
Picture i depends on the prompt, the seed and i alone.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr generate`."""
    parser.epilog = EPILOG
    parser.add_argument("--model", required=True, metavar="DIR|ID|FILE", help="the pipeline")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to draw")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what to keep away from")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a picture file; with --count, a folder (made if missing) for 0000.png and so on",
    )
    parser.add_argument("--count", type=int, metavar="N", help="draw N pictures")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="at once (default: 1)")
    parser.add_argument(
        "--steps", type=int, default=50, metavar="N", help="of the sampler (default: 50)"
    )
    parser.add_argument(
        "--scale", type=float, default=7.5, metavar="S", help="of the guidance (default: 7.5)"
    )
    parser.add_argument("--sampler", choices=("ddim", "dpm++"), default="ddim")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="height and width in pixels (default: those the pipeline was trained on)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="of CLIP, for a model in one file")
    parser.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help="what the UNet predicts, where the model does not say (one file)",
    )


def run(args) -> int:
    """Draw every picture.

    Args:
        args: of add_arguments.

    Returns:
        0.

    Raises:
        InputError: arguments or the model are wrong, or a picture cannot be written.
    """
    targets = _targets(args)
    size = _size(args.size)

    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    from tdr_jax.infer.generator import Generator

    generator = Generator.from_pretrained(
        args.model, tokenizer=args.tokenizer, dtype=args.dtype, prediction=args.prediction
    )
    if generator.is_cut(args.prompt):
        print("tdr: the prompt has more than 77 tokens; the rest is not read", file=sys.stderr)
    for start in range(0, len(targets), args.batch):
        some = targets[start : start + args.batch]
        begun = time.perf_counter()
        pictures = generator(
            [args.prompt] * len(some),
            negative=args.negative,
            steps=args.steps,
            scale=args.scale,
            sampler=args.sampler,
            seed=args.seed,
            size=size,
            first=start,
        )
        for target, picture in zip(some, pictures, strict=True):
            images.write_rgb(target, picture)
            print(f"{target}  {time.perf_counter() - begun:.1f} s")
    return 0


def _targets(args) -> list[Path]:
    """Where the pictures go."""
    for name, lowest in (("count", 1), ("batch", 1), ("steps", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise InputError(f"--{name} {value}: must be at least {lowest}")
    output = Path(args.output)
    if args.count is None:
        images.check_writable(output)
        if output.is_dir():
            raise InputError(f"{output}: is a folder; one picture needs a file, several --count")
        return [output]
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; several pictures need a folder")
    return [output / f"{i:04d}.png" for i in range(args.count)]


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise InputError(f"--size {text}: write height and width, as in 512x768") from error
    return height, width
