"""Measures how well sentences are understood that no training has seen.

    python scripts/measure_language.py [--encoder minilm-tasks] [--before minilm] [--wrong]

Prints a table of the held-out families of `tdr_jax/assets/wordings`: how many sentences that ask
for one thing get that meaning, with and without the sentences that ask for none of the tasks; of
"none", the precision and recall of the likeliest meaning, and the recall where the precision is
95 % (at the threshold on its share that gives the most); of mixtures, how often the two likeliest
meanings are theirs. "Typos" are the same sentences with one or two mistakes each, three times with
other mistakes. The column "before" is of the encoder as it was, with a head fitted to its vectors
in the same way. Intervals are 95 % (Wilson's; the mistakes of a sentence count as if they were
independent). About a minute on two CPU cores.
"""

import argparse
import sys

import numpy as np

SEEDS = range(3)  # of typing mistakes
PRECISION = 0.95


def main(args) -> None:
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    runtime.enable_compilation_cache()

    from tdr_jax import text
    from tdr_jax.text import intent, phrasings

    encoder = text.TextEncoder.from_pretrained(args.before)
    before = intent.Understanding(encoder, intent.fit(encoder))
    after = intent.Understanding.from_pretrained(args.encoder)
    held_out = phrasings.part(args.part)
    rows = [measure(model, held_out) for model in (before, after)]
    families = len({wording.family for wording in held_out})
    print(f"{len(held_out)} sentences of {families} families\n")
    print(f"| {args.part.replace('_', '-')} sentences | {args.before} | {args.encoder} |")
    print("|---|---|---|")
    for name in rows[0]:
        print(f"| {name} | {rows[0][name]} | {rows[1][name]} |")
    if args.wrong:
        print()
        for wording, shares in zip(held_out, after(_sentences(held_out)), strict=True):
            found, _ = intent.told(shares)
            if found[0][0] not in wording.meanings:
                print(f"{' + '.join(wording.meanings)}: {wording.sentence!r}: {found}")


def measure(model, held_out) -> dict[str, str]:
    """The column of one model.

    Args:
        model: a `tdr_jax.text.intent.Understanding`.
        held_out: of `tdr_jax.text.phrasings.part`.

    Returns:
        name of the row -> what is printed in it.
    """
    from tdr_jax.degradations.vocabulary import MEANINGS
    from tdr_jax.text import phrasings

    single = [wording for wording in held_out if len(wording.meanings) == 1]
    mixed = [wording for wording in held_out if len(wording.meanings) == 2]
    right = np.array([MEANINGS.index(wording.meanings[0]) for wording in single])
    rows = {}

    def describe(shares, right, suffix):
        hit = shares.argmax(-1) == right
        none = MEANINGS.index("none")
        asks, says = right == none, shares.argmax(-1) == none
        rows[f"all six meanings{suffix}"] = part(hit)
        rows[f"the five tasks{suffix}"] = part(hit[~asks])
        for task in MEANINGS[:-1] if not suffix else ():
            rows[task] = part(hit[right == MEANINGS.index(task)])
        rows[f"none, precision{suffix}"] = part(asks[says])
        rows[f"none, recall{suffix}"] = part(says[asks])
        share = recall_at(shares[:, none], asks, PRECISION)
        rows[f"none, recall at {PRECISION:.0%} precision{suffix}"] = f"{share:.1%}"

    describe(model(_sentences(single)), right, "")
    wrong = [phrasings.mistyped(w.sentence, seed) for seed in SEEDS for w in single]
    describe(model(wrong), np.tile(right, len(SEEDS)), ", typos")
    if mixed:
        pairs = np.sort(np.argsort(-model(_sentences(mixed)), -1)[:, :2], -1)
        wanted = [sorted(MEANINGS.index(m) for m in w.meanings) for w in mixed]
        rows["mixtures, both tasks"] = part((pairs == np.array(wanted)).all(-1))
    return rows


def recall_at(scores, asks, precision: float) -> float:
    """The largest recall of any threshold on the scores whose precision is no lower.

    Args:
        scores: (N,).
        asks: bool (N,), what should be found.
        precision: from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(asks[order])
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # a threshold cuts no tie
    good = last & (found / np.arange(1, len(scores) + 1) >= precision)
    return float(found[good].max() / asks.sum()) if good.any() else 0.0


def part(hits) -> str:
    """A share with its count and Wilson's interval."""
    count, n, z = int(np.sum(hits)), len(hits), 1.96
    if not n:
        return "none"
    p = count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{p:.1%} ({count}/{n}) [{middle - spread:.0%}, {middle + spread:.0%}]"


def _sentences(part) -> list[str]:
    return [wording.sentence for wording in part]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="minilm-tasks", help="name, or text_encoder/ of a run")
    parser.add_argument("--before", default="minilm", help="name or folder of the encoder it was")
    parser.add_argument("--part", default="held_out", help="or calibration, to choose settings by")
    parser.add_argument("--wrong", action="store_true", help="print what is misunderstood")
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:  # InputError is one
        sys.exit(f"measure_language: error: {error}")
