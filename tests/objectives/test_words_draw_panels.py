"""Both stages of textual degradation removal show what their words draw while they train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdr_jax import models, objectives, weights
from tests.support import stacks, words_runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("panels")
    stacks.make(root / "stack")
    network = models.build(words_runs.NETWORKS["i2t"])
    weights.save(root / "words", network, network.init(0))
    return root


def made(folders, stage):
    given = dict(words=folders / "words") if stage == "tr" else {}
    config = words_runs.config(stage, folders / "stack", words_runs.photos(folders / "p"), **given)
    config.panel_every = 2
    objective = objectives.make(config, folders / stage)
    batch = {name: jnp.asarray(value) for name, value in next(objective.batches(0)).items()}
    return objective, objective.initial_params(), batch


@pytest.mark.parametrize("stage, columns", [("i2t", 3), ("tr", 4)])
def test_each_stage_shows_input_words_and_what_was_to_be_drawn(folders, stage, columns):
    objective, params, batch = made(folders, stage)
    shapes = jax.eval_shape(objective._columns, params, batch, *objective.frozen)
    assert len(shapes) == columns
    assert len({shape.shape for shape in shapes}) == 1 and shapes[0].shape[0] == 4
    features = objective.encode(*objective.frozen, batch)  # as where they are kept
    shapes = jax.eval_shape(objective._columns, params, features, *objective.frozen)
    assert len(shapes) == columns - 1


@pytest.mark.full
@pytest.mark.parametrize("stage", ["i2t", "tr"])
def test_panels_are_pictures(folders, stage):
    objective, params, batch = made(folders, stage)
    panel = objective.panel(params, batch)
    assert panel.ndim == 3 and panel.shape[-1] == 3 and panel.dtype == np.float32
    assert 0 <= panel.min() and panel.max() <= 1 and panel.std() > 0
