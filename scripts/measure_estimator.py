"""Measures how often the degradation estimator finds what is wrong with pictures, and no more.

    python scripts/measure_estimator.py PHOTOS [--model degradation-estimator] [--size 512]

PHOTOS is a folder of clean photographs that training has not seen; they are damaged by the protocol
of docs/evaluation.md, and rounded to whole levels as files are. Prints for each kind of damage how
often each degradation was found, how often exactly those that are there, and the mean of sigma.
About two minutes on two CPU cores.
"""

import argparse
import sys

import numpy as np

DAMAGE = ("noise15", "noise25", "noise50", "rain", "haze", "blur", "rain+noise25", "haze+noise25")


def main(args) -> None:
    from tdr_jax import runtime
    from tdr_jax.degradations.vocabulary import ESTIMATED
    from tdr_jax.evaluate import protocols
    from tdr_jax.infer import blind

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()
    look = blind.Estimator.from_pretrained(args.model)
    source = protocols.open_source(args.photos)

    print(f"| damage | pictures | {' | '.join(ESTIMATED)} | exactly that | sigma |")
    print("|---|---|" + "---|" * (len(ESTIMATED) + 2))
    for name in ("clean@noise", *DAMAGE):
        setting = protocols.Setting.parse(name)
        clean = setting.task == "clean"
        there = set() if clean else set(setting.asked.split("+"))
        examples = protocols.examples(source, setting, limit=args.limit, size=args.size)
        estimates = [look(np.rint(255 * e.degraded.clip(0, 1)).astype(np.uint8)) for e in examples]
        found = [set(estimate.found()) for estimate in estimates]
        cells = [f"{np.mean([task in each for each in found]):.0%}" for task in ESTIMATED]
        cells.append(f"{np.mean([each == there for each in found]):.0%}")
        sigma = np.mean([estimate.sigma for estimate in estimates])
        cells.append(f"{sigma:.1f}" if "noise" in there else "")
        shown = "none" if clean else setting.degradation
        print(f"| {shown} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", help="folder of clean photographs")
    parser.add_argument("--model", default="degradation-estimator", help="name or path of weights")
    parser.add_argument("--limit", type=int, help="only the first so many")
    parser.add_argument("--size", type=int, help="centre-crop to so many pixels")
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_estimator: error: {error}")
