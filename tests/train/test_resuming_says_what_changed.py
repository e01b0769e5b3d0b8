"""A run goes on as it began, or says what differs and stops before it touches anything."""

import json
import shutil

import numpy as np
import pytest

from tdr_jax import cli
from tdr_jax.errors import InputError
from tdr_jax.images import write_rgb
from tdr_jax.train import changes, loop
from tdr_jax.train.workdir import Workdir
from tests.support.small import photo_batches, small_config, small_network  # noqa: F401

STEPS = 10


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        picture = rng.integers(0, 256, (20, 24 + i, 3), np.uint8)
        write_rgb(tmp_path / "photos" / "deeper" / f"{i}.png", picture)
    return tmp_path / "photos"


def config(photos, **fields):
    found = small_config(STEPS)
    found.data.path = str(photos)
    for name, value in fields.items():
        found.update_from_flattened_dict({name.replace("__", "."): value})
    return found


@pytest.fixture
def run(tmp_path, photos):
    """What a run leaves that was stopped after step 4."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "4").mkdir(parents=True)
    began = config(photos)
    (folder / "hparams.json").write_text(json.dumps(began.to_dict()))
    changes.remember(began, folder)
    return folder


def told(run, config):
    return changes.check(config, Workdir(run))


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_same_config_goes_on_in_silence(run, photos):
    assert told(run, config(photos)) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(optim__lr=0.002), "config.optim.lr 0.001 -> 0.002"),
        (dict(optim__schedule="constant"), 'config.optim.schedule "cosine" -> "constant"'),
        (dict(data__stages=((STEPS, 16, 4),)), "config.data.stages [[10, 16, 2]] -> [[10, 16, 4]]"),
        (dict(data__stages=((8, 16, 2),)), "config.data.stages [[10, 16, 2]] -> [[8, 16, 2]]"),
        (dict(data__stages=((4, 16, 2), (9, 16, 2))), "config.data.stages"),
        (dict(data__sigmas=(25,)), "config.data.sigmas [15, 25, 50] -> [25]"),
        (dict(data__path=""), "config.data.path"),
        (dict(seed=1, ema=0.99), "config.ema 0.9 -> 0.99"),
    ],
)
def test_what_matters_is_listed_and_refused_unless_allowed(run, photos, fields, said):
    before = contents(run)
    with pytest.raises(InputError) as refused:
        loop.run(config(photos, **fields), run, batches=photo_batches)
    assert said in str(refused.value) and "--config.allow_changes=true" in str(refused.value)
    assert contents(run) == before
    lines = told(run, config(photos, **fields, allow_changes=True))
    assert any(line.startswith(f"changed: {said}") for line in lines)
    assert len(lines) == len(fields)


def test_what_changes_nothing_of_what_is_learnt_is_free(run, photos, tmp_path):
    free = dict(log_every=3, save_every=7, keep=1, panel_every=5, eval_every=2, accumulate=2)
    free |= dict(data__workers=2, data__cache_mb=1, eval_data__path=str(tmp_path), mesh__fsdp=0)
    free |= dict(network__overrides__remat="full", peak_tflops=3.0)
    assert told(run, config(photos, **free)) == []


def test_longer_stages_alone_go_on_and_say_what_becomes_of_the_schedule(run, photos):
    for stages in (((20, 16, 2),), ((STEPS, 16, 2), (10, 32, 4))):
        (line,) = told(run, config(photos, data__stages=stages))
        assert "the schedule is recomputed for 20 steps" in line
    with pytest.raises(InputError, match="optim.lr"):
        told(run, config(photos, data__stages=((20, 16, 2),), optim__lr=1.0))
    # Stages that end before the step that is saved are the loop's to refuse.
    assert told(run, config(photos, data__stages=((3, 16, 2),))) == []


def test_lengths_of_a_schedule_grow_with_the_stages(run, photos):
    began = config(photos, optim__schedule="cosine_restarts", optim__periods=(4, 6))
    (run / "hparams.json").write_text(json.dumps(began.to_dict()))
    began.data.stages, began.optim.periods = ((20, 16, 2),), (8, 12)
    (line,) = told(run, began)
    assert "the run ends at step 20; schedule 'cosine_restarts'" in line
    began.data.stages = ((STEPS, 16, 2),)
    with pytest.raises(InputError, match="optim.periods"):
        told(run, began)


def test_a_moved_folder_is_the_same_and_a_changed_one_is_not(run, photos, tmp_path):
    moved = tmp_path / "elsewhere" / "pictures"
    moved.parent.mkdir()
    photos.rename(moved)
    (line,) = told(run, config(moved))
    assert line.endswith('elsewhere/pictures": moved, the same files')
    (moved / "notes.txt").write_text("no picture")
    assert len(told(run, config(moved))) == 1
    shutil.copytree(moved, photos)
    write_rgb(photos / "3.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"photos changed \(3 -> 4\)"):
        told(run, config(photos))
    (photos / "deeper" / "0.png").unlink()
    with pytest.raises(InputError, match="other names or sizes"):
        told(run, config(photos))


def test_of_several_places_each_is_compared(run, photos, tmp_path):
    began = config(f"{photos}+package:skimage")
    changes.remember(began, run)
    (run / "hparams.json").write_text(json.dumps(began.to_dict()))
    assert told(run, began) == []
    photos.rename(tmp_path / "moved")
    (line,) = told(run, config(f"{tmp_path / 'moved'}+package:skimage"))
    assert line.endswith("moved, the same files")
    with pytest.raises(InputError, match="config.data.path"):
        told(run, config(tmp_path / "moved"))


def test_runs_of_earlier_versions_go_on(run, photos, tmp_path):
    (run / "inputs.json").unlink()
    old = json.loads((run / "hparams.json").read_text())
    del old["data"]["noise_shares"], old["optim"]["lr_of"]
    old["data"]["turns"] = old["data"].pop("dihedral")
    old["data"]["forgotten"] = 1
    (run / "hparams.json").write_text(json.dumps(old))
    new, gone = told(run, config(photos))
    assert new.startswith("fields that the run began without: data.noise_shares=[0.5, 0.4, 0.1]")
    assert gone == "fields that are gone since it began: data.forgotten"
    # Without a record, a folder that was copied is compared with the old one; a lost one cannot be.
    shutil.copytree(photos, tmp_path / "copy")
    assert len(told(run, config(tmp_path / "copy"))) == 3
    photos.rename(tmp_path / "gone")
    with pytest.raises(InputError, match="config.data.path"):
        told(run, config(tmp_path / "copy"))
    (run / "hparams.json").write_text("{")
    (line,) = told(run, config(photos))
    assert "cannot be read" in line


def test_nothing_is_compared_where_nothing_is_saved(run, photos):
    shutil.rmtree(run / "checkpoints")
    assert told(run, config(photos, optim__lr=1.0)) == []


def test_a_run_remembers_what_it_goes_on_with(tmp_path, photos):
    """From end to end: refused with status 2, gone on with where it is allowed."""
    loop.run(config(photos, data__stages=((4, 16, 2),)), tmp_path / "run", batches=photo_batches)
    other = dict(data__stages=((5, 16, 2),), data__sigmas=(25,))
    with pytest.raises(InputError, match="sigmas"):
        loop.run(config(photos, **other), tmp_path / "run", batches=photo_batches)
    allowed = config(photos, **other, allow_changes=True)
    assert int(loop.run(allowed, tmp_path / "run", batches=photo_batches).step) == 5
    assert told(tmp_path / "run", config(photos, **other)) == []


def test_the_command_ends_with_status_2(run, photos, capsys):
    words = ["--config", "configs/common.py", "--workdir", str(run), f"--config.data.path={photos}"]
    assert cli.main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tdr: error: ") and said.count("\n") == 1
    assert 'config.network.name "small" -> "textpromptir"' in said
