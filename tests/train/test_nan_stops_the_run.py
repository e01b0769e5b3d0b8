"""A loss that is not a number ends the run, names its step, and never reaches a checkpoint."""

import numpy as np
import pytest

from tdr_jax import cli
from tdr_jax.train import config as configs
from tdr_jax.train import loop
from tests.support.small import (
    assert_bit_identical,
    photo_batches,
    records,
    small_config,
    small_network,  # noqa: F401 (a fixture)
)


def poisoned(step_number, value):
    """Batches of which the one for step `step_number` (counted from 1) holds a bad pixel."""

    def batches(step):
        for number, batch in enumerate(photo_batches(step), start=step + 1):
            if number == step_number:
                batch["clean"][0, 3, 5, 1] = value
            yield batch

    return batches


# 4 and 8 are saved steps: the check must come before the save. 5 comes right after one.
# 10 is the last step, after which nothing else would notice.
@pytest.mark.parametrize("bad", [1, 3, 4, 5, 7, 8, 10])
def test_nan_stops_the_run_at_its_own_step(tmp_path, bad):
    with pytest.raises(FloatingPointError, match=rf"loss is nan at step {bad};") as error:
        loop.run(small_config(10), tmp_path, batches=poisoned(bad, np.nan))
    saved = [step for step in (4, 8) if step < bad]
    expected = f"the last good one is step {saved[-1]}" if saved else "nothing was saved before"
    assert expected in str(error.value)
    folder = tmp_path / "checkpoints"
    assert sorted(int(entry.name) for entry in folder.iterdir()) == saved
    assert [record["step"] for record in records(tmp_path)] == list(range(1, bad))
    assert not (tmp_path / "weights.safetensors").exists()


def test_infinity_stops_the_run_too(tmp_path):
    with pytest.raises(FloatingPointError, match="loss is inf at step 6"):
        loop.run(small_config(10), tmp_path, batches=poisoned(6, np.inf))


def test_the_checkpoint_before_nan_is_good(tmp_path):
    with pytest.raises(FloatingPointError, match="at step 6"):
        loop.run(small_config(10), tmp_path / "bad", batches=poisoned(6, np.nan))
    # With the bad pixel gone the same command goes on to the end a healthy run has.
    resumed = loop.run(small_config(10), tmp_path / "bad", batches=photo_batches)
    healthy = loop.run(small_config(10), tmp_path / "good", batches=photo_batches)
    assert_bit_identical(resumed, healthy)


def test_the_command_tells_it_in_one_line(tmp_path, capsys, monkeypatch):
    run = loop.run
    monkeypatch.setattr(configs, "read", lambda file, words: small_config(10))
    monkeypatch.setattr(loop, "run", lambda c, w, **_: run(c, w, batches=poisoned(2, np.nan)))
    assert cli.main(["--config=small", f"--workdir={tmp_path}"], script="train.py") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("train.py: error: loss is nan at step 2; ")
