"""Several processes train as one, whoever of them dies, and however many go on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from safetensors.numpy import load_file

from tdr_jax import distributed, runtime
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb
from tests.support.small import records

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 16, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photographs: no number that two or four processes share evenly."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        write_rgb(folder / f"{name}.png", getattr(skimage.data, name)()[:64, :80])
    return folder


class Run:
    """A run of train.py in so many processes."""

    def __init__(self, workdir, photos, count: int, steps: int = STEPS):
        self.workdir, self.logs = Path(workdir), []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        argument = "configs/backbone.py:name=nafnet,task=denoise,size=small"
        argument += f",data={photos},eval={photos}"
        fields = {
            "network.overrides.enc_blk_nums": (1,),
            "network.overrides.dec_blk_nums": (1,),
            "network.overrides.middle_blk_num": 1,
            "data.stages": f"(({steps},16,4),)",
            "optim.warmup": 0,
            "optim.schedule": "constant",
            "optim.eps": 1e-6,  # what is rounding alone must not become a step
            "save_every": EVERY,
            "log_every": 1,
            "eval_every": EVERY,
            "panel_every": 0,
            "eval_data.settings": "('noise25',)",
            "mesh.fsdp": 0,
            "mesh.min_size": 64,
        }
        command = [sys.executable, "train.py", "--config", argument, "--workdir", self.workdir]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        own = {
            "PYTHONPATH": str(ROOT),
        }
        self.processes = []
        for number in range(count):
            given = []
            if count > 1:
                given = [f"--coordinator={address}", f"--num_processes={count}"]
                given.append(f"--process_id={number}")
            log = self.workdir.with_name(f"{self.workdir.name}.{count}.{number}.log")
            self.logs.append(log)
            with log.open("w") as out:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *given],
                        cwd=ROOT,
                        env=os.environ | own,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait_for(self, step: int, checkpoint: int = 0) -> None:
        """Waits until that step is done and a checkpoint whole, the run still under way."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            done = re.findall(r"^step (\d+)/", self.logs[0].read_text(), re.MULTILINE)
            if done and int(done[-1]) >= step and saved(self.workdir) >= checkpoint:
                return
            if any(process.poll() is not None for process in self.processes):
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError(self.tail())

    def statuses(self) -> set[int]:
        """How the processes ended."""
        try:
            return {process.wait(timeout=300) for process in self.processes}
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends all processes at once, whatever they are at."""
        for process in self.processes:
            process.kill()
            process.wait()

    def tail(self) -> str:
        return "\n".join(log.read_text()[-2000:] for log in self.logs)


def saved(workdir) -> int:
    """The newest whole checkpoint; one that is being written has another name."""
    names = [entry.name for entry in (workdir / "checkpoints").iterdir()]
    return max((int(name) for name in names if name.isdigit()), default=0)


def straight_run(photos, folder, steps: int = STEPS):
    """What one process learns without a stop."""
    run = Run(folder / "run", photos, 1, steps)
    assert run.statuses() == {0}, run.tail()
    return folder / "run"


@pytest.fixture(scope="module")
def straight(photos, tmp_path_factory):
    return straight_run(photos, tmp_path_factory.mktemp("straight"))


def assert_same(workdir, straight, steps: int = STEPS):
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (workdir, straight))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        error = np.abs(ours[name] - value).max()
        assert error <= 1e-5 * max(1.0, np.abs(value).max()), f"{name} is {error} off"
    ours, theirs = (
        {r["step"]: r["eval/noise25/psnr"] for r in records(folder) if "eval/noise25/psnr" in r}
        for folder in (workdir, straight)
    )
    assert ours.keys() == theirs.keys() == {*range(EVERY, steps + 1, EVERY)}
    for step, psnr in theirs.items():
        assert ours[step] == pytest.approx(psnr, abs=1e-3)


def killed(workdir, photos, steps: int = STEPS) -> Run:
    """Two processes, one of which dies in the middle of a step after the first checkpoint."""
    run = Run(workdir, photos, 2, steps)
    run.wait_for(EVERY + 1, checkpoint=EVERY)
    run.processes[1].kill()
    run.kill()
    # What is lost is an interval, and what was done while the next checkpoint was being written.
    assert EVERY <= saved(workdir) < steps
    assert records(workdir)[-1]["step"] - saved(workdir) < 2 * EVERY
    return run


def test_when_one_of_two_dies_another_number_goes_on_and_learns_the_same(
    photos, straight, tmp_path
):
    run = killed(tmp_path / "run", photos)
    assert "the state sharded over 2" in run.logs[0].read_text()
    run = Run(tmp_path / "run", photos, 1)
    assert run.statuses() == {0}, run.tail()
    assert_same(tmp_path / "run", straight)


@pytest.mark.full
def test_killed_told_to_stop_and_gone_on_in_other_numbers_it_learns_the_same(photos, tmp_path):
    steps, workdir = 32, tmp_path / "run"
    killed(workdir, photos, steps)
    # Four go on; one of them hears that its machine is to be taken away.
    run = Run(workdir, photos, 4, steps)
    run.wait_for(saved(workdir) + 1)
    run.processes[2].send_signal(signal.SIGTERM)
    assert run.statuses() == {runtime.STOPPED}, run.tail()
    assert "is saved" in run.logs[0].read_text()
    assert EVERY < saved(workdir) < steps
    # One ends it.
    run = Run(workdir, photos, 1, steps)
    assert run.statuses() == {0}, run.tail()
    (tmp_path / "straight").mkdir()
    assert_same(workdir, straight_run(photos, tmp_path / "straight", steps), steps)


@pytest.mark.full
def test_two_processes_learn_and_measure_what_one_does(photos, straight, tmp_path):
    run = Run(tmp_path / "run", photos, 2)
    assert run.statuses() == {0}, run.tail()
    assert_same(tmp_path / "run", straight)
    assert "the state sharded over 2" in run.logs[0].read_text()
    assert "weights are in" not in run.logs[1].read_text()


@pytest.mark.parametrize(
    "given",
    [("host:1", None, None), ("host:1", 2, 2), ("host", 2, 0), (None, 2, 0)],
)
def test_half_an_address_is_refused(given):
    with pytest.raises(InputError, match="--coordinator, --num_processes, --process_id are .*give"):
        distributed.initialize(*given)


def test_the_environment_is_read_and_checked(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES.* are host:1, nothing, nothing"):
        distributed.initialize()


def test_a_single_process_needs_nobody_to_agree_with():
    assert distributed.lead_says(True) and not distributed.all_agree(False)
    assert distributed.gather(b"alone") == [b"alone"] and distributed.is_lead()
