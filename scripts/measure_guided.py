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
import functools
import sys
from pathlib import Path

import jax
import numpy as np

from tdr_jax import weights
from tdr_jax.data import guidance
from tdr_jax.data.pipeline import as_float, grown
from tdr_jax.degradations.draws import (
    CHOICES,
    DEGRADATION,
    GUIDANCE,
    Place,
    draw,
    example_rng,
    pick,
)
from tdr_jax.degradations.synthesis import gaussian_noise
from tdr_jax.errors import InputError
from tdr_jax.evaluate import metrics
from tdr_jax.models.dinov2 import most_alike

# Right guidance, a second view or another part of the same photograph; and wrong guidance, the view
# that belongs to the next photograph.
KINDS = ("view", "part", "shuffled")
EXPORTED = "weights.safetensors"  # of a run, see `objectives.base`
WRONG = "shuffled"


def main(args) -> None:
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    from measure_words import estimate

    from tdr_jax.data import sources
    from tdr_jax.objectives import pretrained

    if len(args.guided) != len(args.unguided):
        raise InputError(
            f"{len(args.guided)} guided runs and {len(args.unguided)} unguided ones; give as many "
            "of both, seed by seed"
        )
    folder = sources.Folder(args.data)
    options = dict(side=args.side, size=args.size, sigma=args.sigma, seed=args.seed)
    pictures = held_out(folder, **options)
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
        found = {kind: measure(args.guided, kind=kind, **how) for kind in KINDS}
        for kind, values in found.items():
            wrong = [] if kind == WRONG else [found[WRONG]]
            row("guided", kind + note, values, unguided, *wrong)

    def measure(runs, **how):
        return np.stack([psnr(*load(run), pictures, **how) for run in runs])

    unguided = measure(args.unguided)
    if args.base:
        row("base", "", measure([args.base]))
    row("unguided", "", unguided)
    rows()
    if args.dinov2:
        rows(", chosen window", selector=pretrained.load_selector(args.dinov2, args.seed))


def _decibels(found, sign="") -> str:
    return f"{found.mean:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]"


def load(run):
    """Loads what a run has learnt: its folder, or whatever else `weights.load` takes."""
    path = Path(run) / EXPORTED
    return weights.load(path if path.is_file() else run)


def held_out(source, *, side=256, size=384, sigma=50, seed=0):
    """Makes one noisy crop of each photograph, and guidance for it.

    Args:
        source: of at least two photographs, see `tdr_jax.data.sources`.
        side: of the crops, at a random place.
        size: side of the guidance.
        sigma: of the noise, of 255; it is neither clipped nor rounded.
        seed: of places, noise and guidance.

    Returns:
        dict of float32 arrays, all with a first axis of N photographs: `clean` and `degraded`
        (N, side, side, 3), and by kind the guidance (N, size, size, 3).

    Raises:
        InputError: there are fewer than two photographs.
    """
    if len(source) < 2:
        raise InputError("one photograph has no wrong guidance; give at least two")
    rows = []
    for i in range(len(source)):
        picture = grown(source[i]["image"], side)
        drawn = draw(Place, example_rng(seed, i, CHOICES))
        y = pick(range(picture.shape[0] - side + 1), drawn.row)
        x = pick(range(picture.shape[1] - side + 1), drawn.column)
        window = (y, x, side, side)
        clean = as_float(picture[y : y + side, x : x + side])
        rng = example_rng(seed, i, GUIDANCE)
        row = {
            "clean": clean,
            "degraded": gaussian_noise(clean, sigma, example_rng(seed, i, DEGRADATION), "float"),
            "view": guidance.view(picture, size, window, rng),
            "part": as_float(guidance.part(picture, size, window, rng)),
        }
        rows.append(row)
    found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return found | {"shuffled": np.roll(found["view"], -1, 0)}


def psnr(network, params, pictures, kind=None, selector=None):
    """Restores crops and compares them with the clean ones.

    Args:
        network: guided, or without a `kind` not; `params`, its parameters.
        pictures: from `held_out`.
        kind: of the guidance.
        selector: a Dinov2 network and its parameters, to show the network only the window of the
            guidance that this finds the most like the crop; None shows all of it.

    Returns:
        (N,) decibels.
    """
    restore = _program(network, selector and selector[0])
    frozen = selector[1] if selector else None
    found = []
    for i, (degraded, clean) in enumerate(
        zip(pictures["degraded"], pictures["clean"], strict=True)
    ):
        given = pictures[kind][i : i + 1] if kind else None
        restored = np.asarray(restore(params, frozen, degraded[None], given))
        found.append(metrics.psnr(np.clip(restored, 0, 1), clean[None])[0])
    return np.array(found)


@functools.lru_cache(maxsize=8)
def _program(network, selector):
    @jax.jit
    def restore(params, frozen, degraded, given):
        if given is None:
            return network.apply(params, degraded)
        if selector is not None:
            given = most_alike(selector, frozen, degraded, given)
        return network.apply(params, degraded, given)

    return restore


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
