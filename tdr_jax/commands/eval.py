"""`tdr eval` and what eval.py runs: load, measure, print the table, write it."""

import sys
from pathlib import Path

from tdr_jax.errors import InputError

EPILOG = """\
examples:
  tdr eval --data photos/                             noise, rain and haze made from clean pictures
  tdr eval --data photos/ --tasks noise25 --wrong-prompt haze
  tdr eval --data photos/ --tasks rain,rain@auto,rain+noise25,clean@auto
  tdr eval --data Rain100L/ --task rain               a folder with degraded/ and clean/
  tdr eval --data tfds:kodak24+tfds:cbsd68 --tasks noise25
  tdr eval --degraded hazy/ --clean clear/ --task haze -o results/
  tdr eval --model restormer_denoising.pth --data CBSD68/ --tasks noise25 --noise float
  tdr eval --model dual.pth --degraded left/ --right right/ --clean sharp/ --task blur
  tdr eval --model guided-compact --data photos/ --tasks noise50 --guidance guidance/

Pictures are cropped to multiples of 16 and restored whole; scores are RGB, on floats. The
numbers depend on --seed and on the names of the files, on nothing else.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr eval`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--model",
        default="textpromptir-compact",
        metavar="NAME|PATH",
        help="shipped weights, a folder, a .safetensors file or a PyTorch checkpoint "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME|PATH",
        help="use this text encoder, whichever a model that takes a sentence was trained with "
        "(default: the one that the weights name, or minilm)",
    )
    parser.add_argument(
        "--data",
        metavar="PLACE",
        help="a folder of clean pictures, one with degraded/ and clean/ (or input/ and target/ and "
        "the like), or with left/, right/ and clean/; or tfds:NAME, a data set that tdr data "
        "prepare has built; or several with + between them",
    )
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="folder of built data sets (default: TFDS_DATA_DIR of the environment)",
    )
    parser.add_argument("--degraded", metavar="DIR", help="degraded pictures; needs --clean")
    parser.add_argument(
        "--right", metavar="DIR", help="right views, where --degraded holds the left ones"
    )
    parser.add_argument("--clean", metavar="DIR", help="their clean pictures, matched by name")
    parser.add_argument(
        "--list-pairs", action="store_true", help="print what is paired with what, and leave"
    )
    parser.add_argument("--task", metavar="TASK", help="what separates pairs: noise, rain, haze...")
    parser.add_argument(
        "--tasks",
        metavar="LIST",
        help="rows for clean pictures (default: noise15,noise25,noise50,rain,haze); "
        "noise25@haze restores noise with the words for haze, @auto what each picture shows; "
        "rain+noise25 has both",
    )
    parser.add_argument(
        "--noise",
        choices=("uint8", "float"),
        default="uint8",
        help="clipped and in whole levels, as in the all-in-one papers, or exact, as in the "
        "denoising papers (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help='one sentence for all pictures; "auto": what each shows (default: one drawn each)',
    )
    parser.add_argument(
        "--wrong-prompt", metavar="TASK", help="add rows with the words of this task instead"
    )
    parser.add_argument(
        "--guidance",
        metavar="DIR",
        help="for guided networks: a picture for each degraded one, of the same name but for the "
        "extension, or named by another rule that holds for all of them; or a folder of them for "
        "each row (DIR/noise25/), as 'tdr guide --degrade' draws them",
    )
    parser.add_argument(
        "--panels", metavar="DIR", help="write pictures: input, restored and clean side by side"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="folder for table.md and table.json")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="cut each picture's rows over N devices; on a CPU also set "
        "XLA_FLAGS=--xla_force_host_platform_device_count=N (default: one device)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def run(args) -> int:
    """Measure a model and print the table.

    Args:
        args: of `add_arguments`.

    Returns:
        0.

    Raises:
        InputError: weights, pictures or arguments that cannot be used.
    """
    if args.list_pairs:
        return _list_pairs(args)
    source, settings = _what(args)
    _measure(
        args.model,
        args.encoder,
        source,
        settings,
        args.output,
        seed=args.seed,
        prompt=args.prompt,
        wrong_prompt=args.wrong_prompt,
        noise=args.noise,
        guidance=args.guidance,
        panels=args.panels,
        limit=args.limit,
        over_rows=args.rows,
        insist=True,
    )
    return 0


def run_config(config, workdir, *, weights=None, data=None, output=None, guidance=None):
    """Measure the run of a config by the whole protocol, whatever was cut short during training.

    Args:
        config: with the fields of configs/common.py; `encoder`, `eval_data` and `seed` are used.
        workdir: the run's folder; holds `weights.safetensors` unless `weights` says otherwise.
        weights: shipped name, folder or file.
        data: place of pictures in place of `config.eval_data.path`.
        output: folder for the tables; None for `workdir/eval`.
        guidance: folder of guidance, for a guided network.

    Where there are several processes, each measures its share of the pictures and the first writes.

    Returns:
        the rows, see `evaluate`.

    Raises:
        InputError: weights or pictures that cannot be used, or `config.encoder` is another text
            encoder than the weights were trained with.
    """
    import jax

    from tdr_jax.data import places

    workdir = Path(workdir)
    data = places.located(data or config.eval_data.path, config.data.tfds_dir)
    if not data:
        raise InputError("no pictures to measure on; give --data or --config.eval_data.path")
    weights = weights or workdir / "weights.safetensors"
    output = output or workdir / "eval"
    settings = tuple(config.eval_data.settings)
    share = jax.process_index(), jax.process_count()
    options = dict(seed=config.seed, guidance=guidance, share=share)
    return _measure(weights, config.encoder, data, settings, output, **options)


def _what(args):
    """The source and the settings that the arguments ask for."""
    from tdr_jax.evaluate import protocols

    source = _source(args)
    if protocols.is_paired(source):
        task = args.task or getattr(source, "task", None)  # a built data set says it
        if task is None or args.tasks is not None:
            raise InputError("these pictures come in pairs; name what separates them: --task rain")
        return source, task
    if args.task is not None:
        raise InputError(
            f"{args.data} holds clean pictures only; name the rows: --tasks {args.task}"
        )
    return source, protocols.DEFAULT_SETTINGS if args.tasks is None else args.tasks


def _list_pairs(args) -> int:
    """Print the rule by which pictures are paired, and each pair."""
    source = _source(args)
    parts = getattr(source, "sources", [source])
    if not all(hasattr(part, "matching") for part in parts):
        raise InputError(
            f"{args.data}: there are no pairs to list, of clean pictures or of a built data set, "
            "which was paired when it was built; give a folder that holds both sides"
        )
    for part in parts:
        print(f"# {len(part)} pairs by the rule: {part.matching.rule}")
        for degraded, clean in part.paths:
            print(f"{degraded}\t{clean}")
    return 0


def _source(args):
    """The pictures that the arguments name."""
    from tdr_jax.data import places
    from tdr_jax.evaluate import protocols

    folders = args.degraded is not None and args.clean is not None
    if folders == (args.data is not None) or (args.degraded is None) != (args.clean is None):
        raise InputError("give either --data FOLDER, or both --degraded DIR and --clean DIR")
    if args.right is not None and not folders:
        raise InputError("--right goes with the left views: --degraded DIR --clean DIR")
    views = (args.degraded,) if args.right is None else (args.degraded, args.right)
    if folders:
        return protocols.open_source((*views, args.clean))
    return protocols.open_source(places.located(args.data, args.data_dir))


def _measure(model, encoder, source, settings, output, insist=False, **options):
    from tdr_jax import distributed, weights
    from tdr_jax.evaluate import evaluators, protocols, report
    from tdr_jax.infer.rows import check_network, make_mesh
    from tdr_jax.runtime import enable_compilation_cache

    # What can be wrong is found before anything takes time.
    noise = options.get("noise", "uint8")
    rows = protocols.settings_of(settings, options.get("wrong_prompt"), noise)
    for folder in (output, options.get("panels")):
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise InputError(f"{folder} is a file; give a folder to write to")
    source = protocols.open_source(source)
    if options.get("over_rows"):
        make_mesh(options["over_rows"])
    network, params = weights.load(model)
    if options.get("over_rows", 0) > 1:
        check_network(network)
    enable_compilation_cache()
    network, text_encoder = weights.with_encoder(network, encoder, insist=insist)
    guidance = options.get("guidance")
    evaluators.check(network, text_encoder, rows, options.get("prompt"), guidance)
    rows = evaluators.evaluate(
        network, params, text_encoder, source, settings, progress=_progress, **options
    )
    if not distributed.is_lead():
        return rows
    print(report.markdown(rows), end="")
    if output is not None:
        colour = "grey" if network.config.channels[1] == 1 else "RGB"
        about = {
            "network": network.name,
            "weights": str(model),
            "encoder": str(encoder or text_encoder.name) if text_encoder else None,
            "protocol": f"{colour}, floats, centre crop to multiples of 16, 7x7 uniform SSIM",
            **{
                name: options.get(name)
                for name in ("seed", "prompt", "limit", "guidance", "over_rows")
            },
        }
        for path in report.write(rows, output, about):
            print(f"wrote {path}", file=sys.stderr)
    return rows


def _progress(setting: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{setting}: {done}/{total} pictures", end=end, file=sys.stderr, flush=True)
