"""Sets fields of training configs to what slips of the keyboard give, and counts how that ends.

    python scripts/wrong_configs.py [--count 300] [--seed 0] [--train]

Each case is one `train.py --config.FIELD=VALUE`, read and planned as `--dry_run` does, or with
`--train` begun for one step where it was not refused. Prints the number of ends of each kind and
every case that ended otherwise than well or in one line with status 2; those give status 1. About
a second a case on two CPU cores.
"""

import argparse
import collections
import contextlib
import io
import random
import sys
import tempfile
from pathlib import Path

BASES = (
    "textpromptir.py:size=tiny,data=examples/photos/train,eval=examples/photos/test",
    "backbone.py:name=nafnet,task=denoise,size=small,data=examples/photos/train",
    "estimator.py:data=examples/photos/train",
    "tdr_guided.py:size=tiny,data=examples/photos/train",
)
VALUES = (
    *("0", "-1", "1", "2", "0.5", "1e9", "nan", "inf", "99999999999999999999"),
    *("''", "abc", "nowhere/x", "None", "True", "False", "[", "(", "{}"),
    *("()", "(1,)", "(1,2)", "(0,)", "('a',)", "(('x',0.1),)", "((('a',),),)"),
    *("((1,2,3),)", "((1,64,2),(0,64,2))", "((5,63,2),)", "(('a','b','rain',1),)"),
    *("noise", "('noise',)", "('rain','haze')", "('noise15','foo')"),
    *("float32", "bfloat16", "full", "cosine_restarts", "paper"),
)


def main(args) -> int:
    from tdr_jax.objectives import schema

    root = Path(__file__).resolve().parents[1]
    draws, ends, strange = random.Random(args.seed), collections.Counter(), []
    for number in range(args.count):
        config, field = draws.choice(BASES), draws.choice(sorted(schema.FIELDS))
        word = f"--config.{field}={draws.choice(VALUES)}"
        with tempfile.TemporaryDirectory() as folder:
            words = ["--config", str(root / "configs" / config), "--workdir", f"{folder}/run", word]
            end, said = _end([*words, "--dry_run"])
            if args.train and end == 0:
                stages = [] if "data.stages" in word else ["--config.data.stages=((1,64,2),)"]
                end, said = _end([*words, *stages])
        ends[end] += 1
        if end not in (0, 2) or (end == 2 and len(said) != 1):
            strange.append(f"{number}: {config} {word}: {end}: {' | '.join(said)}")
    print(", ".join(f"{count} ended with {end}" for end, count in sorted(ends.items(), key=str)))
    print(*strange, sep="\n", end="\n" * bool(strange))
    return 1 if strange else 0


def _end(words: list[str]) -> tuple[object, list[str]]:
    """The exit status of train.py, or the error it should not have raised; and its error lines."""
    from tdr_jax import cli

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            end = cli.main(words, script="train.py")
    except BaseException as error:
        return type(error).__name__, [str(error)[:200]]
    return end, [line for line in said.getvalue().splitlines() if "error" in line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--train", action="store_true", help="begin what was not refused")
    sys.exit(main(parser.parse_args()))
