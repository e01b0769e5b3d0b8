"""Training words changes what is to learn, all of it, and leaves the frozen networks alone."""

import hashlib
import types

import jax
import numpy as np
import pytest
import skimage.data

from tdr_jax import objectives, weights
from tdr_jax.data import latents
from tdr_jax.errors import InputError
from tdr_jax.infer.guide import Guide
from tdr_jax.models import mapper, unet
from tdr_jax.objectives.latent_examples import LatentObjective
from tdr_jax.train import loop
from tests.support import stacks, words_runs
from tests.support.small import assert_bit_identical, records
from tests.support.stops import stop_once

STAGES = pytest.mark.parametrize("stage", ["i2t", "tr"])
STEPS = 3


def hashes(folder):
    """What each file of a folder holds."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    stacks.make(root / "stack")
    return root, words_runs.photos(root / "photos")


@pytest.fixture(scope="module")
def recipe(folders):
    """`recipe(stage)`: a config. The second stage reads what the first wrote."""
    root, photos = folders

    def recipe(stage):
        given = dict(words=root / "i2t" / "image_to_text", direct=0) if stage == "tr" else {}
        config = words_runs.config(stage, root / "stack", photos, steps=STEPS, **given)
        config.optim.eps = 1e-3  # steps stay in proportion to gradients, however small these are
        return config

    return recipe


@pytest.fixture(scope="module")
def runs(folders, recipe):
    """Of each stage: config, parameters before and state after, and the files before it."""
    root, _ = folders
    found = {}
    for stage in ("i2t", "tr"):
        config, files = recipe(stage), hashes(root)
        began = objectives.make(config, root / stage).initial_params()
        state = loop.run(config, root / stage)
        found[stage] = types.SimpleNamespace(
            config=config, files=files, began=began, state=jax.device_get(state)
        )
    return found


def losses(workdir):
    return [record["loss"] for record in records(workdir)]


def test_the_first_stage_starts_with_the_unets_own_keys_and_values(folders, runs):
    parts = weights.load_tdr_pipeline(folders[0] / "stack")
    own, copies = parts.params["unet"], mapper.kv(runs["i2t"].began)
    assert set(copies) == set(unet.kv_names(own)) and len(copies) == 8
    for name, copy in copies.items():
        assert copy.dtype == "float32"
        np.testing.assert_array_equal(copy, own[name])


@STAGES
def test_what_is_trained_is_the_stages_own_network_and_all_of_it_moves(folders, runs, stage):
    run = runs[stage]
    names = set(run.state.params)
    groups = {"i2t": {"mapping", "mapping_patch", "kv"}, "tr": {"mapping"}}[stage]
    assert {name.split(".")[0] for name in names} == groups
    assert names == set(run.began) == set(run.state.ema)
    still = [n for n in names if np.array_equal(run.state.params[n], run.began[n])]
    assert not still
    for name, array in run.state.params.items():
        if name.startswith("mapping"):  # the perceptron of every word, not of one
            moved = (array != run.began[name]).reshape(len(array), -1).any(-1)
            assert len(array) == 4 and moved.all(), name


@STAGES
def test_the_state_holds_nothing_that_is_frozen(runs, stage):
    state = runs[stage].state
    assert int(state.step) == STEPS
    learnt = sum(array.size for array in state.params.values())
    held = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert held == 4 * learnt  # themselves, two moments, their average


@STAGES
def test_files_of_frozen_networks_are_left_as_they_were(folders, runs, stage):
    after = hashes(folders[0])
    assert any(path.parts[:2] == ("stack", "unet") for path in runs[stage].files)
    changed = [path for path, digest in runs[stage].files.items() if after[path] != digest]
    assert not changed


@STAGES
def test_what_is_written_loads_beside_the_stack_and_guides(folders, runs, stage):
    root, _ = folders
    parts = {"image_to_text": root / "i2t" / "image_to_text"}
    if stage == "tr":
        parts["textual_restoration"] = root / "tr" / "textual_restoration"
    name = list(parts)[-1]
    loaded = weights.load_tdr_pipeline(root / "stack", **parts)
    assert loaded.params[name].keys() == runs[stage].state.ema.keys()
    for key, array in runs[stage].state.ema.items():
        np.testing.assert_array_equal(loaded.params[name][key], array)
    picture = skimage.data.rocket()[::8, ::8]
    predicted, restored = Guide(loaded).words([picture])
    assert predicted.shape == restored.shape == (1, 4, 32) and np.isfinite(restored).all()
    before, after = Guide(weights.load_tdr_pipeline(root / "stack")).words([picture])
    assert not np.array_equal(predicted, before) and not np.array_equal(restored, after)


# The first stage's batch in parts learns the same in test_every_mesh_trains_alike too.
@pytest.mark.parametrize("stage", [pytest.param("i2t", marks=pytest.mark.full), "tr"])
def test_a_batch_in_parts_teaches_what_the_whole_batch_does(folders, recipe, runs, stage):
    config = recipe(stage)
    config.accumulate = 4
    workdir = folders[0] / f"{stage}-parts"
    state = jax.device_get(loop.run(config, workdir))
    whole = losses(folders[0] / stage)
    assert len(set(whole)) == len(whole) == STEPS
    np.testing.assert_allclose(losses(workdir), whole, rtol=1e-5)
    run = runs[stage]
    moved = max(np.abs(run.state.params[n] - run.began[n]).max() for n in run.began)
    apart = max(np.abs(state.params[n] - run.state.params[n]).max() for n in run.began)
    assert moved > 1e-4 and apart < 1e-5


@STAGES
def test_a_run_taken_up_again_ends_bit_for_bit_the_same(
    folders, recipe, runs, stage, monkeypatch, capsys
):
    stop_once(monkeypatch, LatentObjective, 1, "signal")
    workdir = folders[0] / f"{stage}-stopped"
    stopped = loop.run(recipe(stage), workdir)
    assert int(stopped.step) == 2 and f"step 2 of {STEPS} is saved" in capsys.readouterr().out
    part = f"{'image_to_text' if stage == 'i2t' else 'textual_restoration'}"
    assert not (workdir / part).exists()
    resumed = loop.run(recipe(stage), workdir)
    assert_bit_identical(resumed, runs[stage].state)
    assert losses(workdir) == losses(folders[0] / stage)
    _, ours = weights.load(workdir / part)
    _, theirs = weights.load(folders[0] / stage / part)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_restoration_that_is_told_tasks_must_know_all_of_them(runs, recipe, tmp_path):
    config = recipe("tr")
    config.network.overrides.tasks = len(latents.KINDS) - 1
    with pytest.raises(InputError, match="tasks is 5; give 0, or 6 for clean, noise"):
        objectives.make(config, tmp_path)
