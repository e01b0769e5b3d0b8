"""Set up an environment of its own and run the quickstart or the tests in it.

    python3 scripts/run.py quickstart    # restore examples/, fine-tune for a minute, evaluate
    python3 scripts/run.py test          # the whole test suite

Needs Python 3.11 or newer and nothing else. The environment is `.venv-NAME` beside this project;
`--environment` puts it elsewhere. Results of the quickstart are in `out/`.
"""

import argparse
import os
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


def test(programs: Path) -> None:
    """Checks the style and runs the whole test suite."""
    call([programs / "ruff", "check", "."])
    call([programs / "ruff", "format", "--check", "."])
    workers = ["-n", min(4, os.cpu_count() or 1), "--dist", "loadfile"]
    call([programs / "python", "-m", "pytest", "-q", "--durations=10", *workers])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("quickstart", "test"))
    parser.add_argument("--environment", type=Path, help="folder of the environment")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is run before anything is installed)
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    environment = arguments.environment or ROOT / f".venv-{arguments.what}"
    programs = prepare(environment, "[dev]" if arguments.what == "test" else "")
    start = time.monotonic()
    {"quickstart": quickstart, "test": test}[arguments.what](programs)
    print(f"{arguments.what} took {time.monotonic() - start:.0f} s after installation")


if __name__ == "__main__":
    main()
