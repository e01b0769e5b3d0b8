"""Measures on photographs that were not trained on what guidance is worth to a denoiser.

    python scripts/measure_guided.py --data PHOTOS --base runs/base \
--unguided runs/unguided0 runs/unguided1 --guided runs/guided0 runs/guided1

Runs are folders that train.py wrote by configs/tdr_guided.py, those of several seeds in the same
order. Prints the PSNR of one noisy crop of each photograph with a second view of the scene,
shifted, recoloured and clean; with a clean part of the photograph that does not show the crop; and
with a view of another photograph, which is wrong guidance. How far it is above that of the network
without guidance tells what a guided network is worth, how far above that with wrong guidance what
the second picture is. Intervals are 95 %, by bootstrap over photographs, whose values are means
over the runs.

With --dinov2, the folder of a DINOv2 or random:NAME, there are rows for the window that it chooses.
"""

import argparse
import sys

import numpy as np

WRONG = "shuffled"


def main(args) -> None:
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    import measures_of_guidance as guided
    from measures_of_words import estimate

    from tdr_jax.data import sources
    from tdr_jax.errors import InputError
    from tdr_jax.objectives import pretrained

    if len(args.guided) != len(args.unguided):
        raise InputError(
            f"{len(args.guided)} guided runs and {len(args.unguided)} unguided ones; give as many "
            "of both, seed by seed"
        )
    folder = sources.Folder(args.data)
    options = dict(side=args.side, size=args.size, sigma=args.sigma, seed=args.seed)
    pictures = guided.held_out(folder, **options)
    noisy = 10 * np.log10(255**2 / args.sigma**2)
    print(
        f"{len(folder)} photographs, crops of {args.side} pixels, guidance of {args.size}, "
        f"sigma {args.sigma:g} ({noisy:.2f} dB), {len(args.guided)} runs\n"
    )
    print("| network | guidance | PSNR (dB) | against unguided | against shuffled | run by run |")
    print("|---|---|---|---|---|---|")

    def row(network, given, values, *against):
        gains = [_decibels(estimate((values - other).mean(0)), "+") for other in against]
        gains += [""] * (2 - len(gains))
        runs = ", ".join(f"{run.mean():.2f}" for run in values)
        psnr = _decibels(estimate(values.mean(0)))
        print(f"| {network} | {given} | {psnr} | {' | '.join(gains)} | {runs} |", flush=True)

    def rows(note="", **how):
        found = {kind: measure(args.guided, kind=kind, **how) for kind in guided.KINDS}
        for kind, values in found.items():
            wrong = [] if kind == WRONG else [found[WRONG]]
            row("guided", kind + note, values, unguided, *wrong)

    def measure(runs, **how):
        return np.stack([guided.psnr(*guided.load(run), pictures, **how) for run in runs])

    unguided = measure(args.unguided)
    if args.base:
        row("base", "", measure([args.base]))
    row("unguided", "", unguided)
    rows()
    if args.dinov2:
        rows(", chosen window", selector=pretrained.load_selector(args.dinov2, args.seed))


def _decibels(found, sign="") -> str:
    return f"{found.mean:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of photographs")
    parser.add_argument("--base", help="run that all of them started from")
    parser.add_argument("--unguided", nargs="+", required=True, help="runs, one a seed")
    parser.add_argument("--guided", nargs="+", required=True, help="runs, one a seed")
    parser.add_argument("--dinov2", help="what chooses windows")
    parser.add_argument("--side", type=int, default=256, help="of crops (default: %(default)s)")
    parser.add_argument("--size", type=int, default=384, help="of guidance (default: %(default)s)")
    parser.add_argument("--sigma", type=float, default=50, help="of noise (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of crops, noise and guidance")
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_guided: error: {error}")
