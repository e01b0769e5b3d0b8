"""Each objective measures itself on held-out data while it trains, and is found by its file."""

import json
import sys
import types

import jax
import numpy as np
import pytest

from configs import backbone, estimator, tdr_guided, tdr_towers
from tdr_jax import objectives
from tdr_jax.errors import InputError
from tdr_jax.evaluate import tally
from tdr_jax.objectives import held_out
from tests.support import stacks, tiny_bert, words_runs
from tests.support.sizes import GUIDED, SMALLEST

# What each tells, among others.
TOLD = {
    "restore": {"noise25/psnr"},
    "guided": {"noise25/psnr"},
    "contrast": {"loss", "top1"},
    "reconstruct": {"loss", "psnr"},
    "denoise": {"loss"},
    "i2t": {"loss"},
    "tr": {"loss", "words", "words_before"},
    "text_encoder": {"loss", "accuracy", "meaning_accuracy"},
    "estimate": {"loss", "accuracy", "noise/accuracy", "haze/accuracy"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("objectives")
    stacks.make(root / "stack")
    return root / "stack", words_runs.photos(root / "photos"), root


def restore(stack, photos, root):
    config = backbone.get_config(f"name=nafnet,task=denoise,size=small,data={photos}")
    config.network.overrides.update(SMALLEST["nafnet"])
    return config


def guided(stack, photos, root):
    config = tdr_guided.get_config(f"size=tiny,data={photos},crop=16,batch=2,base=x")
    config.init_base = ""
    config.network.overrides.update(GUIDED)
    return config


def contrast(stack, photos, root):
    config = tdr_towers.get_config(f"part=vision,data={photos}")
    config.network.name = "clip-vit-tiny"
    config.network.overrides.with_projection = True
    return config


def reconstruct(stack, photos, root):
    config = tdr_towers.get_config(f"part=vae,data={photos}")
    sizes = dict(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1)
    config.network.name = "vae"
    config.network.overrides.update(sizes)
    return config


def denoise(stack, photos, root):
    config = tdr_towers.get_config(f"part=unet,data={photos},vae={stack / 'vae'}")
    config.data.distinct = 0
    return config


def i2t(stack, photos, root):
    return words_runs.config("i2t", stack, photos)


def tr(stack, photos, root):
    return words_runs.config("tr", stack, photos)


def text_encoder(stack, photos, root):
    config = tiny_bert.config(tiny_bert.make(root / "bert"), layers=1)
    config.loss.meaning = 1.0
    return config


def estimate(stack, photos, root):
    config = estimator.get_config(f"data={photos}")
    config.network.overrides.widths = (8, 8)
    return config


@pytest.mark.parametrize("name", TOLD)
def test_what_is_held_out_is_measured_alike_at_every_visit(folders, name, tmp_path):
    config = globals()[name](*folders)
    if name != "text_encoder":
        config.data.stages = ((3, 16, 2),)
        config.eval_data.path = str(folders[1])
    config.eval_data.settings, config.eval_data.size = ("noise25",), 32
    config.eval_data.limit, config.panel_every = 2, 0
    objective = objectives.make(config, tmp_path)
    (evaluator,) = objective.evaluators()
    params = jax.device_get(objective.initial_params())
    scores, again = (dict(evaluator.run(params)) for _ in range(2))
    assert scores == again and scores.keys() >= TOLD[name]
    assert all(isinstance(score, float) and np.isfinite(score) for score in scores.values())
    moved = {key: np.asarray(value) + 0.05 for key, value in params.items()}
    assert dict(evaluator.run(moved)) != scores


def test_every_objective_is_tried_here():
    assert set(objectives.names()) == set(TOLD)


def test_a_new_objective_is_a_file_with_its_class(monkeypatch, tmp_path, folders):
    module = types.ModuleType("tdr_jax.objectives.count_pictures")

    class CountPicturesObjective:
        def __init__(self, config, workdir, *, weights):
            self.workdir = workdir

    module.CountPicturesObjective = CountPicturesObjective
    module.__spec__ = types.SimpleNamespace(name=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = restore(*folders)
    config.objective = "count_pictures"
    assert isinstance(objectives.make(config, tmp_path), CountPicturesObjective)
    for wrong in ("count", "networks", "no name", "../estimate"):
        config.objective = wrong
        with pytest.raises(InputError, match="give one of contrast, denoise, estimate, guided"):
            objectives.make(config, tmp_path)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_means_are_over_examples_and_do_not_depend_on_who_measures_what(count, monkeypatch):
    def measure(params, batch, rng):
        return {"n": batch["n"].mean() + params["a"], "drawn": jax.random.normal(rng)}

    evaluator = held_out.HeldOut(measure, lambda n, size: {"n": np.float32(n)}, count, 8)
    params = {"a": np.array(0.5, np.float32)}
    alone = dict(evaluator.run(params))
    assert alone["n"] == pytest.approx((count - 1) / 2 + 0.5)

    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(tally.distributed, "gather", lambda data: parts.append(data) or parts)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shared = dict(evaluator.run(params))
    assert len(parts) == 2 and shared == alone
    measured = json.loads(parts[1]).get("number", [])
    assert len(measured) == count // 32 + (count % 32 > 16)
