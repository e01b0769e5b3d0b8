"""Set up an environment of its own and run the quickstart or the tests in it.

    python3 scripts/run.py quickstart    # restore examples/, fine-tune for a minute, evaluate
    python3 scripts/run.py test          # style, and every promise at sizes that compile in seconds
    python3 scripts/run.py test --full   # and the published sizes
    python3 scripts/run.py test TEST     # one file or one test, as pytest names it

Needs Python 3.11 or newer and nothing else. The environment is `.venv-NAME` beside this project;
`--environment` puts it elsewhere. Results of the quickstart are in `out/`. The order of the tests
hangs on a seed, which is printed; `--seed` gives it.
"""

import argparse
import os
import random
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def prepare(environment: Path, extras: str) -> Path:
    """Creates the environment, installs the project with pinned versions, returns its programs."""
    if not (environment / "pyvenv.cfg").exists():
        venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    pip = [programs / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    call([*pip, *constraints, "--editable", f"{ROOT}{extras}"])
    return programs


def call(command: list) -> None:
    """Runs a command in the project's folder and stops with its status if it fails."""
    print("$", " ".join(map(str, command)), flush=True)
    status = subprocess.run(list(map(str, command)), cwd=ROOT).returncode
    if status:
        sys.exit(status)


def quickstart(programs: Path) -> None:
    """Restores the example pictures, fine-tunes and evaluates, draws guidance from words."""
    out = ROOT / "out"
    restore = ["examples/damaged", "-o", out / "restored", "--prompts", "examples/prompts.tsv"]
    call([programs / "tdr", "restore", *restore, "--panel"])
    train = ["--config", "configs/quickstart.py", "--workdir", out / "finetune"]
    call([programs / "python", "train.py", *train])
    weights = out / "finetune" / "weights.safetensors"
    evaluate = ["--data", "examples/photos/test", "--tasks", "noise25,rain,haze"]
    call([programs / "tdr", "eval", "--model", weights, *evaluate, "-o", out / "evaluation"])
    words = ["--fast", "--batch", "3", "--show-words"]
    call([programs / "tdr", "guide", "examples/damaged", "-o", out / "guidance", *words])
    print(f"pictures: {out / 'restored'}, {out / 'guidance'}")
    print(f"table: {out / 'evaluation' / 'table.md'}")


def test(programs: Path, arguments: argparse.Namespace) -> None:
    """Checks the style and who imports whom, and runs the tests, or only those that are named."""
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    print(f"order of the tests: --seed {seed}", flush=True)
    pytest = [programs / "python", "-m", "pytest", "-q", f"--randomly-seed={seed}"]
    full = ["--full"] if arguments.full else []
    if arguments.tests:
        call([*pytest, *full, *arguments.tests])
        return
    call([programs / "ruff", "check", "."])
    call([programs / "ruff", "format", "--check", "."])
    call([programs / "lint-imports"])  # the floors of the house, see pyproject.toml
    # A worker that has done its share takes over half of another's: no file holds up the end.
    pytest += ["-n", min(4, os.cpu_count() or 1), "--dist", "worksteal", "--durations=10"]
    call(pytest)
    if full:
        call([*pytest, *full])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("quickstart", "test"))
    parser.add_argument("tests", nargs="*", help="of the tests: files or single tests, not all")
    parser.add_argument("--environment", type=Path, help="folder of the environment")
    parser.add_argument("--full", action="store_true", help="of the tests: published sizes too")
    parser.add_argument("--seed", type=int, help="of the tests: the order to run them in")
    arguments = parser.parse_args()
    given = arguments.tests or arguments.full or arguments.seed is not None
    if arguments.what == "quickstart" and given:
        parser.error("tests, --full and --seed are for the tests")
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is run before anything is installed)
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    environment = arguments.environment or ROOT / f".venv-{arguments.what}"
    programs = prepare(environment, "[dev]" if arguments.what == "test" else "")
    start = time.monotonic()
    if arguments.what == "test":
        test(programs, arguments)
    else:
        quickstart(programs)
    print(f"{arguments.what} took {time.monotonic() - start:.0f} s after installation")


if __name__ == "__main__":
    main()
