"""Stopping a run at any step and starting it again changes nothing in what comes out."""

import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from safetensors.numpy import load_file

from tdr_jax import weights
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb
from tdr_jax.objectives.restore import RestoreObjective
from tdr_jax.train import loop
from tdr_jax.train.checkpoint import Checkpoints
from tdr_jax.train.state import State
from tests.support.small import (
    assert_bit_identical,
    photo_batches,
    records,
    small_config,
    small_network,  # noqa: F401
    tiny_config,
)
from tests.support.stops import PowerCut, stop_once, stopping

STEPS = 10


def interrupted(at, how):
    """Batches that, before batch `at` is given, stop the run by an exception or a signal."""
    return stopping(photo_batches, at, how)


def kept(record):
    speed = ("images_per_second", "step_seconds", "mfu")
    return {name: value for name, value in record.items() if name not in speed}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that was not stopped, what it wrote, and where."""
    workdir = tmp_path_factory.mktemp("straight")
    state = loop.run(small_config(STEPS), workdir, batches=photo_batches)
    return state, [kept(record) for record in records(workdir)], workdir


def steps(*default, full):
    """Where a run is stopped: at these steps, and with --full at those too."""
    more = (pytest.param(at, marks=pytest.mark.full) for at in full)
    return pytest.mark.parametrize("at", [*default, *more])


# 2: nothing saved yet. 4: right after a save. 7: between two. 9: before the last step.
@steps(2, 7, full=(4, 9))
def test_a_crash_at_any_step_changes_nothing(straight, tmp_path, at):
    with pytest.raises(PowerCut):
        loop.run(small_config(STEPS), tmp_path, batches=interrupted(at, "exception"))
    state = loop.run(small_config(STEPS), tmp_path, batches=photo_batches)
    assert_bit_identical(state, straight[0])
    assert [kept(record) for record in records(tmp_path)] == straight[1]


@steps(5, full=(0, 3))
def test_sigterm_saves_and_ends_cleanly(straight, tmp_path, capsys, at):
    before = signal.getsignal(signal.SIGTERM)
    state = loop.run(small_config(STEPS), tmp_path, batches=interrupted(at, "signal"))
    # The step in hand is finished, then saved, wherever it is between two regular saves.
    assert int(state.step) == at + 1
    assert f"step {at + 1} of {STEPS} is saved" in capsys.readouterr().out
    assert not (tmp_path / "weights.safetensors").exists()
    assert [record["step"] for record in records(tmp_path)] == list(range(1, at + 2))
    state = loop.run(small_config(STEPS), tmp_path, batches=photo_batches)
    assert_bit_identical(state, straight[0])
    assert [kept(record) for record in records(tmp_path)] == straight[1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_several_stops_in_one_run_change_nothing(straight, tmp_path):
    with pytest.raises(PowerCut):
        loop.run(small_config(STEPS), tmp_path / "run", batches=interrupted(6, "exception"))
    loop.run(small_config(STEPS), tmp_path / "run", batches=interrupted(6, "signal"))
    with pytest.raises(PowerCut):
        loop.run(small_config(STEPS), tmp_path / "run", batches=interrupted(9, "exception"))
    state = loop.run(small_config(STEPS), tmp_path / "run", batches=photo_batches)
    assert_bit_identical(state, straight[0])
    assert [kept(record) for record in records(tmp_path / "run")] == straight[1]


def test_a_finished_run_is_left_as_it_is(straight, tmp_path):
    def none(step):
        yield from ()

    shutil.copytree(straight[2], tmp_path / "run")
    state = loop.run(small_config(STEPS), tmp_path / "run", batches=none)
    assert_bit_identical(state, straight[0])
    assert [kept(record) for record in records(tmp_path / "run")] == straight[1]


def test_a_run_that_is_already_longer_is_refused(straight):
    with pytest.raises(InputError, match="holds step 10, but config.data.stages end at step 6"):
        loop.run(small_config(6), straight[2], batches=photo_batches)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        write_rgb(folder / f"{name}.png", getattr(skimage.data, name)()[:160, :200])
    return folder


def test_data_stages_and_evaluation_resume_where_they_were(
    photos,
    tmp_path,
    monkeypatch,
):
    def config():
        config = small_config(STEPS)
        config.network.overrides.text_dim = 384
        config.data.path = str(photos)
        config.data.stages = ((5, 16, 2), (5, 24, 3))
        config.data.p_absent = config.data.p_keep_one = 0.25
        config.eval_every = 4
        config.eval_data.path = str(photos)
        config.eval_data.settings = ("noise25", "rain")
        config.eval_data.limit = 1
        config.eval_data.size = 32
        return config

    straight = loop.run(config(), tmp_path / "straight")
    # Step 4 is saved, its evaluation left for later.
    stop_once(monkeypatch, RestoreObjective, 3, "signal")
    loop.run(config(), tmp_path / "run")
    assert not any("eval/noise25/psnr" in record for record in records(tmp_path / "run"))
    # In the second stage: back to step 4, evaluated by now.
    stop_once(monkeypatch, RestoreObjective, 6, "exception")
    with pytest.raises(PowerCut):
        loop.run(config(), tmp_path / "run")
    resumed = loop.run(config(), tmp_path / "run")

    assert_bit_identical(resumed, straight)
    ours = [kept(record) for record in records(tmp_path / "run")]
    assert ours == [kept(record) for record in records(tmp_path / "straight")]
    evaluated = [record["step"] for record in ours if "eval/rain/psnr" in record]
    assert evaluated == [4, 8, 10]
    ours, theirs = (
        load_file(tmp_path / run / "weights.safetensors") for run in ("run", "straight")
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    network, _ = weights.load(tmp_path / "run" / "weights.safetensors")
    assert network.encoder.name == "minilm"  # whoever uses the weights is told


@pytest.mark.full
def test_the_real_network_resumes_bit_exactly(photos, tmp_path, monkeypatch):
    config = tiny_config()
    config.data.path = str(photos)
    straight = loop.run(config, tmp_path / "straight")
    stop_once(monkeypatch, RestoreObjective, 13, "signal")
    stopped = loop.run(config, tmp_path / "run")
    assert int(stopped.step) == 14
    assert_bit_identical(loop.run(config, tmp_path / "run"), straight)


def test_an_interrupted_save_leaves_the_earlier_one_usable(tmp_path):
    script = f"""
import jax.numpy as jnp
from tdr_jax.train.checkpoint import Checkpoints
from tdr_jax.train.state import State
checkpoints = Checkpoints({str(tmp_path)!r}, every=1, keep=2)
for step in (4, 8):
    big = jnp.full((64, 2**20), step, jnp.float32)
    checkpoints.save(step, State(jnp.int32(step), {{"w": big}}, (), {{}}))
    checkpoints.wait()
    print("saved", step, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "saved 4\n"
    folder = tmp_path / "checkpoints"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if any(entry.name != "4" for entry in folder.iterdir()):
            break
    child.kill()
    assert child.communicate()[0] == "", "the save was over before it could be interrupted"
    assert len(list(folder.iterdir())) > 1

    checkpoints = Checkpoints(tmp_path, every=1, keep=2)
    fresh = State(jnp.int32(0), {"w": jnp.zeros((64, 2**20))}, (), {})
    state = checkpoints.restore(fresh)
    checkpoints.close()
    assert checkpoints.latest == 4
    assert int(state.step) == 4
    assert np.all(np.asarray(state.params["w"]) == 4)
    assert [entry.name for entry in folder.iterdir()] == ["4"]


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=1, keep=2)
    saved = State(jnp.int32(1), {"a.w": jnp.zeros(3), "b": jnp.zeros(2)}, (), {})
    checkpoints.save(1, saved)
    other = State(jnp.int32(0), {"a.w": jnp.zeros(4), "c": jnp.zeros(2)}, (), {})
    with pytest.raises(InputError, match=r"c is missing.*b is unknown.*a\.w is \(3,\) instead of"):
        checkpoints.restore(other)
    checkpoints.close()


def damaged(how, folder):
    """Damages a checkpoint as disks and people do."""
    if how == "a file missing":
        (folder / "state" / "_METADATA").unlink()
    for path in folder.glob("state/**/d/*"):  # the arrays
        data = bytearray(path.read_bytes())
        if how == "cut off":
            path.write_bytes(data[: len(data) // 2])
        elif how == "one byte changed":
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut off", "one byte changed", "a file missing"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_is_used(
    straight, tmp_path, capsys, how
):
    with pytest.raises(PowerCut):
        loop.run(small_config(STEPS), tmp_path / "run", batches=interrupted(9, "exception"))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {entry.name for entry in checkpoints.iterdir()} == {"4", "8"}
    damaged(how, checkpoints / "8")
    state = loop.run(small_config(STEPS), tmp_path / "run", batches=photo_batches)
    said = capsys.readouterr().out
    assert f"{checkpoints / '8'} is damaged; it is now in damaged/" in said
    assert f"goes on after step 4 of {STEPS}" in said
    assert [entry.name for entry in (tmp_path / "run" / "damaged").iterdir()] == ["8"]
    assert_bit_identical(state, straight[0])
    assert [kept(record) for record in records(tmp_path / "run")] == straight[1]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path):
    loop.run(small_config(4), tmp_path, batches=photo_batches)
    damaged("cut off", tmp_path / "checkpoints" / "4")
    with pytest.raises(InputError, match="4 is damaged, and no other checkpoint is left"):
        loop.run(small_config(4), tmp_path, batches=photo_batches)
    assert (tmp_path / "checkpoints" / "4").exists()


def test_what_is_saved_is_the_state_at_that_step_though_training_goes_on(tmp_path):
    config = small_config(6)
    config.save_every, config.keep = 1, 6
    loop.run(config, tmp_path / "run", batches=photo_batches)
    for steps in (2, 3, 5):
        straight = loop.run(small_config(6), tmp_path / f"{steps}", batches=stopped_after(steps))
        checkpoints = Checkpoints(tmp_path / "run", every=1, keep=6)
        fresh = State(
            *(getattr(straight, field) for field in ("step", "params", "opt_state", "ema"))
        )
        assert_bit_identical(checkpoints._load(steps, fresh), straight)
        checkpoints.close()


def stopped_after(steps):
    """Batches that stop the run once so many steps are finished."""
    return interrupted(steps - 1, "signal")
