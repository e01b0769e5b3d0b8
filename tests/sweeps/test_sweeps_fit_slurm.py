"""`--launcher slurm` writes one array job, whose script passes shellcheck and does what it says.

Slurm itself is played by the test: it sets the index and reads what the script asks of scontrol.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tdr_jax import cli
from tests.support import sweep_files

SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def make(folder, monkeypatch, *words):
    """Writes the script of four runs from the project's folder, with no Slurm around."""
    monkeypatch.chdir(sweep_files.ROOT)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    file = sweep_files.write(folder)
    sweep = folder / "my sweep"
    args = ["sweep", file, "--workdir", str(sweep), "--launcher", "slurm", *words]
    return cli.main([*args, *sweep_files.smallest(2, save_every=2)]), sweep


def directives(sweep):
    lines = (sweep / "sweep.sbatch").read_text().splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]


def task(sweep, index, wait=True):
    """What Slurm does for one index; a command `scontrol` beside it notes what it is asked."""
    tools = sweep / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tools))}/asked\n')
    (tools / "scontrol").chmod(0o755)
    environment = os.environ | {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_JOB_ID": "77",
        "PATH": f"{tools}:/usr/bin:/bin",
    }
    process = subprocess.Popen(["bash", sweep / "sweep.sbatch"], env=environment, cwd="/")
    return process.wait() if wait else process


def asked(sweep):
    path = sweep / "tools" / "asked"
    return path.read_text() if path.exists() else ""


def test_the_script_passes_shellcheck_and_has_the_options(tmp_path, monkeypatch, capsys):
    status, sweep = make(
        tmp_path, monkeypatch, "--slurm", "partition=gpu", "--slurm=--time=4:00:00"
    )
    assert status == 0
    out, error = capsys.readouterr()
    assert shlex.split(out)[0] == "sbatch" and shlex.split(out)[-1] == str(sweep / "sweep.sbatch")
    assert "no sbatch here" in error
    check = subprocess.run([SHELLCHECK, sweep / "sweep.sbatch"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    wanted = {"--array=1,2,3,4", "--requeue", "--partition=gpu", "--time=4:00:00"}
    assert wanted <= set(directives(sweep))
    assert len((sweep / "runs.txt").read_text().splitlines()) == 4


def test_the_index_picks_the_run_and_finished_ones_are_left_out(tmp_path, monkeypatch, capsys):
    _, sweep = make(tmp_path, monkeypatch)
    assert task(sweep, 3) == 0
    run = sweep / "lr=0.01,seed=0"
    assert [path.name for path in sweep.glob("lr=*")] == [run.name]
    assert (run / "result.json").exists()
    assert (run / "status.txt").read_text() == "0\n"
    assert "trained 2 steps" in (run / "log.txt").read_text()
    assert asked(sweep) == ""
    make(tmp_path, monkeypatch)
    assert "--array=1,2,4" in directives(sweep)
    # Other settings under the same name are another run.
    file = sweep_files.write(tmp_path)
    args = ["sweep", file, "--workdir", str(sweep), "--launcher", "slurm", "--set", "ema=0.5"]
    assert cli.main([*args, *sweep_files.smallest(2)]) == 2
    assert "holds a run with ema=0.99, but the sweep asks for 0.5" in capsys.readouterr().err
    assert "--array=1,2,4" in directives(sweep)


# What a run does when it is asked to stop: it takes its time and ends with 75.
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_run_that_was_stopped_is_queued_again(tmp_path, monkeypatch):
    _, sweep = make(tmp_path, monkeypatch)
    (tmp_path / "saves.py").write_text(SAVES)
    command = shlex.join([sys.executable, str(tmp_path / "saves.py")])
    lines = [
        f"a\t{command}",
        "b\tsh -c 'exit 3'",
        f"c\t{shlex.join(['printf', '%s', 'it is $HOME'])}",
    ]
    (sweep / "runs.txt").write_text("\n".join(lines) + "\n")

    process = task(sweep, 1, wait=False)
    log = sweep / "a" / "log.txt"
    deadline = time.monotonic() + 60
    while not log.exists() or "ready" not in log.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # Slurm may send another one
    assert process.wait() == 0
    assert log.read_text() == "ready\nsaved\n"
    assert (sweep / "a" / "status.txt").read_text() == "75\n"
    assert asked(sweep) == "requeue 77\n"

    assert task(sweep, 2) == 3
    assert (sweep / "b" / "status.txt").read_text() == "3\n"
    assert task(sweep, 3) == 0
    assert (sweep / "c" / "log.txt").read_text() == "it is $HOME"
    assert asked(sweep) == "requeue 77\n"


@pytest.mark.parametrize("option", ["", "gpu partition", "time=1\nrm -rf x", "-"])
def test_options_that_are_none_are_refused(tmp_path, monkeypatch, capsys, option):
    status, sweep = make(tmp_path, monkeypatch, f"--slurm={option}")
    assert status == 2 and "give an option of sbatch" in capsys.readouterr().err
    assert not sweep.exists()
