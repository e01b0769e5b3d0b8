"""`tdr convert`: a checkpoint in, the same weights out in another container."""

import ast
import dataclasses
from pathlib import Path

from tdr_jax.errors import InputError

TARGETS = ("tdr", "basicsr", "lightning", "sfnet", "torch", "safetensors")
BY_SUFFIX = {
    "": "tdr",
    ".ckpt": "lightning",
    ".pth": "basicsr",
    ".pt": "basicsr",
    ".pkl": "sfnet",
    ".safetensors": "safetensors",
}

EPILOG = """\
examples:
  tdr convert restormer.pth -o restormer/
  tdr convert restormer/ -o restormer.ckpt
  tdr convert promptir.ckpt -o promptir.safetensors --fill-dead --dtype float16
  tdr convert nafnet.pth -o nafnet/ --set train_size=1,3,256,256

IN is a folder or .safetensors file of ours, shipped weights by name, or a PyTorch checkpoint:
BasicSR, Lightning, a bare state dict, .safetensors. Its network and hyper-parameters are
recognised. PyTorch is needed for every file but .safetensors. No file is allowed to run code.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr convert`."""
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN", help="a checkpoint: file, folder or shipped name")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file, or a folder (made if missing)"
    )
    parser.add_argument(
        "--to",
        choices=TARGETS,
        help="container; by default a folder is ours (tdr), .ckpt lightning, .pth and .pt basicsr, "
        ".pkl sfnet, .safetensors PyTorch's names with metadata",
    )
    parser.add_argument(
        "--network", metavar="NAME", help="what IN must hold (default: what is recognised)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="fields",
        help="a hyper-parameter, for what shapes do not tell; may be given again",
    )
    parser.add_argument(
        "--fill-dead",
        action="store_true",
        help="add zeros for the tensors that the reference's class has and never uses",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of the floats in OUT (default: %(default)s)",
    )


def run(args) -> int:
    """Convert one checkpoint.

    Args:
        args: of add_arguments.

    Returns:
        0.

    Raises:
        InputError: IN is no checkpoint of a network known here, or OUT cannot be written.
    """
    from tdr_jax import weights
    from tdr_jax.convert import exchange, io

    source, output = weights.find(args.input), Path(args.output)
    to = _target(args.to, output, args.fill_dead)
    _spare_the_input(source, output, to)
    checkpoint = io.read(source)
    network, params = weights.adopt(checkpoint, args.network, _fields(args.fields))
    ignored = [] if checkpoint.ours else exchange.ignored(network, checkpoint.tensors)
    print(f"{args.input} ({checkpoint.container}): {_summary(network, ignored)}")

    said = {key: text for key, text in checkpoint.metadata.items() if key not in io.RESERVED}
    if to == "tdr":
        written = weights.save(output, network, params, dtype=args.dtype, metadata=said)
        count = len(params)
    else:
        written, count = _export(output, to, network, params, said, args)
    print(f"wrote {written} ({to}, {count} tensors, {args.dtype}, {_size(written)})")
    return 0


def _target(to: str | None, output: Path, fill_dead: bool) -> str:
    suffix = "" if output.is_dir() else output.suffix
    if to is None and suffix not in BY_SUFFIX:
        raise InputError(
            f"{output}: its suffix names no container; say which with --to ({', '.join(TARGETS)})"
        )
    to = to or BY_SUFFIX[suffix]
    if to != "tdr" and output.is_dir():
        raise InputError(f"{output} is a folder; --to {to} writes a file: give its name")
    if to == "tdr" and suffix not in ("", ".safetensors"):
        raise InputError(f"{output}: --to tdr writes a folder or a .safetensors file")
    if to == "tdr" and suffix == "" and output.is_file():
        raise InputError(f"{output} is a file where the folder is to be; give another place")
    if to == "tdr" and fill_dead:
        raise InputError("--fill-dead is for PyTorch's containers; ours hold live tensors alone")
    return to


def _spare_the_input(source: Path, output: Path, to: str) -> None:
    from tdr_jax.convert import io

    folder = to == "tdr" and output.suffix != ".safetensors"
    targets = [output / io.FILE_NAME, output / io.CONFIG_NAME] if folder else [output]
    for target in targets:
        for file in io.files_of(source):
            if target.exists() and file.exists() and target.samefile(file):
                raise InputError(f"{target} is the input, which is never overwritten")


def _fields(words: list[str]) -> dict:
    """Reads KEY=VALUE: numbers, true and false, lists like 4,6,6,8 or words."""
    fields = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals and text):
            raise InputError(f"--set {word}: write KEY=VALUE, such as --set num_blocks=4,6,6,8")
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            value = tuple(text.split(",")) if "," in text else text
        fields[key] = value
    return fields


def _summary(network, ignored: list[str]) -> str:
    """The network, what differs from its defaults, and how large it is."""
    from tdr_jax import models

    config, default = _said(network.config), _said(models.build(network.name).config)
    differ = [
        f"{name}={_text(value)}"
        for name, value in config.items()
        if name not in default or value != default[name]
    ]
    parts = [" ".join([network.name, *differ]), f"{network.size:,} parameters"]
    if ignored:
        parts.append(f"{len(ignored)} dead tensors ignored")
    return "; ".join(parts)


def _said(config) -> dict:
    """The fields by name, and beside a guided network's own those of its backbone."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return fields | dict(fields.pop("overrides", ()))


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _export(output: Path, to: str, network, params, said, args) -> tuple[Path, int]:
    """Writes PyTorch's names."""
    from tdr_jax import convert, weights
    from tdr_jax.convert import dead, io

    config = dataclasses.asdict(network.config)
    if to != "safetensors":
        state = convert.to_torch(network.name, params, fill_dead=args.fill_dead, **config)
        return io.write_torch(output, state, to, args.dtype), len(state)
    import numpy as np

    arrays = convert.to_arrays(network, params)
    if args.fill_dead:
        arrays |= {key: np.zeros(s, np.float32) for key, s in dead.shapes(network).items()}
    metadata = said | weights.describe(network) | {"names": "pytorch", "format": "pt"}
    return io.write_safetensors(output, arrays, metadata, dtype=args.dtype), len(arrays)


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
