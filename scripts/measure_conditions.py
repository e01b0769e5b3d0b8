"""Measures what several wishes, and wishes for less, do to pictures.

    python scripts/measure_conditions.py PHOTOS [--model textpromptir-compact] [--size 256]

PHOTOS is a folder of clean photographs that training has not seen. Two tables of mean PSNR in dB,
pictures and damage by the protocol of docs/evaluation.md:

- pictures with two degradations, restored with the sentence for one of them, with one sentence for
  both, with two sentences as one condition, and with two passes, the later damage first or last;
- pictures with one degradation, restored at less than full strength by a shorter condition and by
  a blend with the input, against the picture as far between input and clean one.

Several minutes on two CPU cores.
"""

import argparse
import sys

import numpy as np

MIXTURES = ("rain+noise25", "haze+noise25", "haze+rain")
SINGLE = ("noise25", "rain", "haze")
STRENGTHS = (0.25, 0.5, 0.75)
WAYS = ("the first", "the second", "one sentence", "one condition", "in turn", "in wrong turn")


def main(args) -> None:
    from tdr_jax import runtime
    from tdr_jax.evaluate import metrics, protocols
    from tdr_jax.infer import blind
    from tdr_jax.infer.restorer import Restorer
    from tdr_jax.text import mixed_sentences

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()
    restore = Restorer.from_pretrained(args.model)
    source = protocols.open_source(args.photos)

    def examples(name):
        setting = protocols.Setting.parse(name)
        return protocols.examples(source, setting, limit=args.limit, size=args.size)

    print("| mixture | input | " + " | ".join(WAYS) + " |")
    print("|---|---|" + "---|" * len(WAYS))
    for name in MIXTURES:
        tasks = protocols.Setting.parse(name).asked.split("+")  # in the order they came about
        below, above = (blind.PROMPTS[task] for task in tasks)
        sentences = [s for both, s in mixed_sentences() if set(both) == set(tasks)]
        rows = []
        for number, example in enumerate(examples(name)):
            x = example.degraded
            made = [
                x,
                restore(x, below),
                restore(x, above),
                restore(x, sentences[number % len(sentences)]),
                restore(x, [below, above]),
                restore(restore(x, above), below),
                restore(restore(x, below), above),
            ]
            rows.append([metrics.psnr(y, example.clean) for y in made])
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in np.mean(rows, 0)) + " |", flush=True)

    print("\n| setting | strength | input | shorter condition | blend |")
    print("|---|---|---|---|---|")
    for name in SINGLE:
        prompt = blind.PROMPTS[protocols.Setting.parse(name).task]
        rows = {strength: [] for strength in STRENGTHS}
        for example in examples(name):
            x = example.degraded
            whole = restore(x, prompt)
            for strength in STRENGTHS:
                wanted = x + strength * (example.clean - x)
                made = [x, restore(x, prompt, strength=strength), x + strength * (whole - x)]
                rows[strength].append([metrics.psnr(y, wanted) for y in made])
        for strength, found in rows.items():
            means = " | ".join(f"{v:.2f}" for v in np.mean(found, 0))
            print(f"| {name} | {strength} | {means} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", help="folder of clean photographs")
    parser.add_argument("--model", default="textpromptir-compact", help="name or path of weights")
    parser.add_argument("--limit", type=int, help="only the first so many")
    parser.add_argument("--size", type=int, help="centre-crop to so many pixels")
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_conditions: error: {error}")
