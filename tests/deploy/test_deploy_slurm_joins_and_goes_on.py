"""The batch file for Slurm starts one run on all nodes; saved, it goes back into the queue."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.programs import RECORD, SMALL_RUN, Programs, lint

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"

# What srun does on two nodes, on one machine: a process for each node, with the variables that jax
# reads; ends with the highest status.
SRUN = """
import os, subprocess, sys
arguments = sys.argv[1:]
while arguments[0].startswith("--"):
    arguments.pop(0)
step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
tasks = [
    subprocess.Popen(arguments, env={**os.environ, **step, "SLURM_PROCID": str(task)})
    for task in range(2)
]
sys.exit(max(task.wait() for task in tasks))
"""

# A training process that takes a moment to save.
SLOW = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
ready = pathlib.Path(os.environ["READY"] + os.environ["SLURM_PROCID"])
ready.with_suffix(".tmp").write_text(str(os.getpid()))
ready.with_suffix(".tmp").rename(ready)
time.sleep(60)
"""
STATE = """
if sys.argv[1] == "show":
    print("JobId=7 JobName=tdr\\n   JobState=" + os.environ["STATE"], "Reason=None")
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Puts srun and scontrol on PATH; scontrol records."""
    (tmp_path / "programs").mkdir()
    programs = Programs(tmp_path / "programs", monkeypatch)
    programs.put("srun", SRUN)
    programs.put("scontrol", RECORD + STATE)
    monkeypatch.setenv("STATE", "RUNNING")
    return programs


def submit(*arguments, cwd=ROOT, job="7", **variables):
    environment = {**os.environ, "SLURM_JOB_ID": job, **variables}
    command = ["bash", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def requeued(cluster):
    calls = [record["arguments"] for record in cluster.told()]
    return [job for word, job, *_ in calls if word == "requeue"]


def test_shellcheck_finds_nothing():
    assert lint("shellcheck", "--shell=bash", SCRIPT) == ""


def test_two_nodes_train_one_network(cluster, tmp_path):
    cluster.put("python", f"import os, sys\nos.execv({PYTHON!r}, [{PYTHON!r}, *sys.argv[1:]])")
    # jax derives the port from the job's number; one that is free.
    for job in range(1, 2**12):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", 65535 - 2**12 + 1 + job)):
                break
    run = tmp_path / "run"
    ended = submit(
        *SMALL_RUN,
        "--workdir",
        run,
        job=str(job),
        PYTHONPATH=str(ROOT),
        TDR_CACHE=str(tmp_path / "cache"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 cpu devices" in ended.stdout + ended.stderr
    assert (ended.stdout + ended.stderr).count("the weights are in") == 1
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert [path.name for path in run.rglob("*.safetensors")] == ["weights.safetensors"]
    assert cluster.told() == []


@pytest.mark.parametrize("status", [0, 1, 2, 75, 137])
def test_only_a_saved_run_goes_back_into_the_queue(cluster, status):
    cluster.put("python", f"import sys\nsys.exit({status})")
    assert submit("--workdir", "run").returncode == status
    assert requeued(cluster) == (["7"] if status == 75 else [])


def test_a_cancelled_job_stays_out_of_the_queue(cluster):
    cluster.put("python", "raise SystemExit(75)")
    assert submit("--workdir", "run", STATE="COMPLETING").returncode == 75
    assert requeued(cluster) == []


def test_a_job_that_is_told_to_stop_waits_for_its_processes(cluster, tmp_path):
    # Slow to save; the script hears the signal as well.
    cluster.put("python", SLOW)
    environment = {**os.environ, "SLURM_JOB_ID": "7", "READY": str(tmp_path / "ready")}
    job = subprocess.Popen(["bash", SCRIPT], cwd=ROOT, env=environment)
    while len(list(tmp_path.glob("ready?"))) < 2:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    for ready in tmp_path.glob("ready?"):
        os.kill(int(ready.read_text()), signal.SIGTERM)
    assert job.wait() == 75
    assert requeued(cluster) == ["7"]


def test_arguments_arrive_as_they_were_given_and_a_process_sees_every_gpu(cluster):
    cluster.put("python", RECORD)
    given = ["--config", "a b.py:data=my photos", "--config.data.stages=((1, 16, 2),)"]
    assert submit(*given, SLURM_GPUS_ON_NODE="8").returncode == 0
    tasks = cluster.told()
    assert [task["arguments"] for task in tasks] == [["train.py", *given]] * 2
    for task in tasks:
        assert task["environment"]["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3,4,5,6,7"


def test_outside_the_clone_it_says_where_to_call_it(cluster, tmp_path):
    ended = submit(cwd=tmp_path)
    assert ended.returncode == 2
    assert "holds no train.py; call sbatch in the root of the clone" in ended.stderr
