"""Runs of a sweep as one array job of Slurm."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tdr_jax import disk
from tdr_jax.errors import InputError
from tdr_jax.runtime import STOPPED
from tdr_jax.sweeps import locks, outcome, plan

SCRIPT = r"""#!/bin/bash
#SBATCH --job-name={job}
#SBATCH --array={array}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
{options}
# One run a task: line SLURM_ARRAY_TASK_ID of runs.txt has its name, a tab and its command.
set -u
cd {root} || exit 2
sweep={sweep}
IFS=$'\t' read -r name command < <(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "$sweep/runs.txt")
run=$sweep/$name
mkdir -p "$run"
rm -f "$run/{status}"

eval "exec $command" >> "$run/{log}" 2>&1 &
child=$!
# Slurm sends SIGTERM two minutes before the time is up. The run saves then and ends with {stopped}.
told=1
trap 'told=1; kill -TERM "$child" 2> /dev/null' TERM
while [ "$told" -eq 1 ]; do # a trap ends `wait` before the run has ended
    told=0
    wait "$child"
    status=$?
done
echo "$status" > "$run/{status}"
if [ "$status" -eq {stopped} ]; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$status"
"""


def submit(runs: Sequence[plan.Run], folder: Path, name: str, options: Sequence[str]) -> int:
    """Write the array job of what is not finished, print how it is submitted, and submit it.

    Args:
        runs: of the sweep.
        folder: of the sweep; gets `runs.txt` and `sweep.sbatch`.
        name: of the job.
        options: of sbatch, with or without their dashes, such as "partition=gpu".

    Returns:
        0, or the status of sbatch.

    Raises:
        InputError: an option is none, another sweep is at work in the folder, or it holds runs with
            other settings; nothing was written.
    """
    lines = [_option(option) for option in options]
    with locks.take_sweep(folder):
        outcome.refuse_others(runs)
        left = [number for number, run in enumerate(runs, 1) if not outcome.result(run)]
        if not left:
            print(f"all {len(runs)} runs are finished")
            return 0
        disk.write_text(folder / "runs.txt", "".join(map(_line, runs)))
        script = folder / "sweep.sbatch"
        disk.write_text(script, _script(folder, name, left, lines))
    command = ["sbatch", f"--output={folder / 'slurm-%a.txt'}", str(script)]
    print(plan.shown(command))
    if shutil.which("sbatch"):
        return subprocess.run(command, check=False).returncode
    print("no sbatch here: call this where there is one", file=sys.stderr)
    return 0


def _line(run: plan.Run) -> str:
    return f"{run.name}\t{plan.shown(run.command(sys.executable))}\n"


def _option(option: str) -> str:
    dashed = option if option.startswith("-") else f"--{option}"
    if not re.fullmatch(r"--[a-z][a-z-]+(=.+)?|-[a-zA-Z]( .+)?", dashed):
        raise InputError(f"--slurm {option}: give an option of sbatch, as in --slurm partition=gpu")
    return f"#SBATCH {dashed}"


def _script(folder: Path, name: str, left: list[int], options: list[str]) -> str:
    return SCRIPT.format(
        job=re.sub(r"[^\w.-]+", "-", name),
        array=",".join(map(str, left)),
        options="\n".join(options),
        root=shlex.quote(str(Path.cwd())),
        sweep=shlex.quote(str(folder)),
        status=outcome.STATUS,
        log=outcome.LOG,
        stopped=STOPPED,
    )
