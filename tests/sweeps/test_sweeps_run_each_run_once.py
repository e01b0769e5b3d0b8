"""A sweep of local runs, interrupted and started again, finishes each run once.

The runs are train.py's own processes of the smallest real network.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tdr_jax import cli
from tdr_jax.sweeps import locks
from tests.support import sweep_files
from tests.support.small import records

STEPS = 30
NAMES = ["lr=0.001,seed=0", "lr=0.001,seed=1", "lr=0.01,seed=0", "lr=0.01,seed=1"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(sweep_files.ROOT)


def command(file, folder, *words, steps=STEPS):
    args = ["sweep", file, "--workdir", str(folder), "--launcher", "local", *words]
    return [*args, *sweep_files.smallest(steps)]


def begin(args):
    return subprocess.Popen(
        [sys.executable, "-m", "tdr_jax.cli", *args], stdout=subprocess.PIPE, text=True
    )


def wait_for(what, process):
    deadline = time.monotonic() + 300
    while not what():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid(folder, name):
    return locks.holder(folder / name / locks.RUN)


def log(folder, name):
    path = folder / name / "log.txt"
    return path.read_text() if path.exists() else ""


def saved(folder, name):
    """Whether the run has a whole checkpoint, and steps after it."""
    whole = [path for path in (folder / name / "checkpoints").glob("*") if path.name.isdigit()]
    return bool(whole) and "step 7/" in log(folder, name)


def test_an_interrupted_sweep_finishes_each_run_once_and_names_the_best(tmp_path, capsys):
    file, folder = sweep_files.write(tmp_path), tmp_path / "runs"
    first, second, third, fourth = NAMES
    args = command(file, folder)

    # The sweep is killed; its run goes on, and the next sweep waits for it.
    sweep = begin(args)
    wait_for(lambda: "step 1/" in log(folder, first), sweep)
    os.kill(pid(folder, first), signal.SIGSTOP)  # it would be over before we are back
    sweep.kill()
    sweep.wait()
    assert locks.is_held(folder / first / locks.RUN)
    assert not (folder / first / "result.json").exists()

    # Then all is killed, as by a power cut, while the second run is between two saves.
    sweep = begin(args)
    assert sweep.stdout.readline() == "4 runs\n"
    line = f"[1/4] {first}: still running, started by a sweep that was killed\n"
    assert sweep.stdout.readline() == line
    os.kill(pid(folder, first), signal.SIGCONT)
    wait_for(lambda: saved(folder, second), sweep)
    sweep.kill()
    os.kill(pid(folder, second), signal.SIGKILL)
    out = sweep.communicate()[0]
    assert f"[1/4] {first}: finished, step {STEPS}" in out
    assert not (folder / second / "result.json").exists()

    # Then it is asked to stop: the third run saves.
    sweep = begin(args)
    wait_for(lambda: "step 3/" in log(folder, third), sweep)
    os.kill(pid(folder, third), signal.SIGSTOP)
    sweep.send_signal(signal.SIGTERM)
    out = ""
    while "stopping: waiting for 1 to save" not in out:
        out += sweep.stdout.readline()
    os.kill(pid(folder, third), signal.SIGCONT)
    out += sweep.communicate()[0]
    assert sweep.returncode == 75, out
    assert f"[2/4] {second}: goes on after step" in out and first not in out
    assert f"[3/4] {third}: stopped, step" in out and fourth not in out
    assert "is saved, the same command goes on from there" in log(folder, third)

    sweep = begin(args)
    out = sweep.communicate()[0]
    assert sweep.returncode == 0, out
    assert first not in out and second not in out
    assert "4 of 4 runs are finished" in out

    scores = {}
    for name in NAMES:
        text = log(folder, name)
        assert text.count(f": {STEPS} steps, in ") == 1  # begun at step 0
        assert text.count(f"trained {STEPS} steps") == 1
        assert text.count("goes on after step") == (name in (second, third))
        assert [record["step"] for record in records(folder / name)] == list(range(1, STEPS + 1))
        result = json.loads((folder / name / "result.json").read_text())
        assert result["step"] == STEPS
        assert (folder / name / result["weights"]).stat().st_size > 0
        scores[name] = result["metrics"]["loss"]
        assert scores[name] == records(folder / name)[-1]["loss"]
        settings = json.loads((folder / name / "hparams.json").read_text())
        assert name == f"lr={settings['optim']['lr']},seed={settings['seed']}"

    # Once more: nothing is left to do.
    assert cli.main(args) == 0
    assert "4 runs, 4 finished before" in capsys.readouterr().out
    words = [word for word in args if word not in ("--launcher", "local")]
    assert cli.main([*words, "--report"]) == 0
    assert f"best: {min(scores, key=scores.get)}\n" in capsys.readouterr().out


def test_a_failed_run_does_not_stop_the_others(tmp_path, capsys):
    body = "add({'data.path': 'no/such/folder'})\nadd({'optim.lr': 1e-3, 'seed': 1})"
    body += "\nadd({'init_from': 'no/such/weights'})"  # which no schema knows
    file, folder = sweep_files.write(tmp_path, body), tmp_path / "runs"
    args = command(file, folder, "--parallel", "2", steps=2)
    assert cli.main(args) == 1
    out = capsys.readouterr().out
    failed, good, strange = (
        line
        for line in sorted(out.splitlines())
        if "/3]" in line and ("failed" in line or "finished" in line)
    )
    assert "failed (status 2): train.py: error: no/such/folder" in failed
    assert "finished, step 2" in good
    assert "failed (status 2): train.py: error: " in strange
    assert "1 of 3 runs are finished" in out
    words = [word for word in args if word not in ("--launcher", "local", "--parallel", "2")]
    assert cli.main([*words, "--report"]) == 0
    assert capsys.readouterr().out.count("| failed (status 2) |") == 2


def test_only_one_sweep_works_in_a_folder(tmp_path, capsys):
    file, folder = sweep_files.write(tmp_path), tmp_path / "runs"
    with locks.take_sweep(folder):
        assert cli.main(command(file, folder)) == 2
        error = capsys.readouterr().err
        assert f"another sweep is at work there, process {os.getpid()}" in error
        assert error.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [locks.SWEEP]
    # The lock of a process that was killed is no lock.
    script = f"""
import os, signal, pathlib
from tdr_jax.sweeps import locks
lock = locks.take_sweep(pathlib.Path({str(folder)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    locks.take_sweep(folder).close()
