"""Guided training lowers the loss, resumes bit for bit, and moves each part at its own rate."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from configs import tdr_guided
from tdr_jax import models, objectives, weights
from tdr_jax.data.guidance import KINDS
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb, write_rgb
from tdr_jax.objectives import pretrained, restore
from tdr_jax.train import loop, optim
from tests.support.sizes import GUIDED, SMALLEST
from tests.support.small import assert_bit_identical, records
from tests.support.stops import PowerCut, stop_once

STEPS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photographs, and a base that is not what a network is drawn as."""
    root = tmp_path_factory.mktemp("guided")
    (root / "photos").mkdir()
    for name in ("astronaut", "chelsea", "coffee"):
        write_rgb(root / "photos" / f"{name}.png", getattr(skimage.data, name)()[:120, :160])
    base = models.build("nafnet", **SMALLEST["nafnet"])
    weights.save(root / "base.safetensors", base, base.init(7))
    return root


def recipe(folders, more="", steps=STEPS):
    """The tiny recipe in a size that compiles in seconds."""
    argument = f"size=tiny,data={folders / 'photos'},base={folders / 'base.safetensors'}"
    config = tdr_guided.get_config(f"{argument},steps={steps},crop=32,batch=2{more and ','}{more}")
    config.network.overrides.update(GUIDED if config.objective == "guided" else SMALLEST["nafnet"])
    config.guidance.size = 48
    config.optim.lr, config.optim.lr_of = 2e-3, (("masa", 4e-3),)
    config.optim.warmup = 0
    config.log_every, config.save_every, config.panel_every = 1, 4, STEPS
    return config


@pytest.fixture(scope="module")
def straight(folders):
    """A run that was not stopped."""
    config = recipe(folders)
    began = objectives.make(config, folders / "straight").initial_params()
    state = jax.device_get(loop.run(config, folders / "straight"))
    return types.SimpleNamespace(
        config=config, began=began, state=state, workdir=folders / "straight"
    )


def test_it_starts_from_the_base(folders, straight):
    _, base = weights.load(folders / "base.safetensors")
    for name, value in base.items():
        np.testing.assert_array_equal(straight.began[f"base.{name}"], value)
    assert len(straight.began) > len(base)


def test_the_loss_falls_and_what_is_written_is_what_was_learnt(straight):
    found = records(straight.workdir)
    losses = [record["loss"] for record in found]
    assert len(losses) == STEPS and np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    still = [
        name
        for name, value in straight.state.params.items()
        if np.array_equal(value, straight.began[name])
    ]
    assert not still
    network, params = weights.load(straight.workdir / "weights.safetensors")
    assert network.name == "guided" and network.config.backbone == "nafnet"
    for name, value in params.items():
        np.testing.assert_array_equal(value, straight.state.ema[name])
    # Guidance, degraded, restored and clean, side by side.
    panel = read_rgb(straight.workdir / "panels" / f"panel_{STEPS:07d}.png")
    assert panel.shape == (2 * 32, 4 * 32, 3)


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(folders, straight, monkeypatch):
    stop_once(monkeypatch, restore.RestoreObjective, 6, "exception")
    with pytest.raises(PowerCut):
        loop.run(recipe(folders), folders / "stopped")
    state = loop.run(recipe(folders), folders / "stopped")
    assert_bit_identical(state, straight.state)
    losses = [[r["loss"] for r in records(folders / run)] for run in ("stopped", "straight")]
    assert losses[0] == losses[1]


def test_the_unguided_run_sees_the_same_pictures_from_the_same_base(folders):
    guided, alone = (
        objectives.make(recipe(folders, more), folders / "unused") for more in ("", "guided=0")
    )
    ours, theirs = next(guided.batches(3)), next(alone.batches(3))
    assert ours.keys() - theirs.keys() == {"guidance", "kind"}
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    assert {KINDS[kind] for kind in ours["kind"]} <= set(tdr_guided.SYNTHESISED)
    assert alone.network.name == "nafnet" and alone.frozen == guided.frozen == ()
    base = weights.load(folders / "base.safetensors")[1]
    for name, value in alone.initial_params().items():
        np.testing.assert_array_equal(value, base[name])


def test_rates_go_by_name_and_what_has_none_stays():
    config = tdr_guided.get_config("backbone=restormer,task=deblur,data=photos").optim
    config.schedule = "constant"
    names = ("base.patch_embed.proj.kernel", "masa_enc.conv_L1.kernel", "masa_blk.middle.beta")
    params = {name: jnp.full(3, 2.0) for name in names}
    # The first step of Adam is the rate, whatever the gradient is; decay comes on top.
    gradients = {name: jnp.array([1.0, -5.0, 0.1]) for name in names}

    def moved(config):
        optimiser, schedule = optim.make(config, 100)
        state = optimiser.init(params)
        updates, state = optimiser.update(gradients, state, params)
        return {name: np.asarray(value) for name, value in updates.items()}, state, schedule

    updates, _, schedule = moved(config)
    assert float(schedule(0)) == pytest.approx(2e-4)
    for name, rate in zip(names, (2e-4, 1e-4, 1e-4), strict=True):
        expected = -rate * (np.array([1, -1, 1]) + 1e-4 * 2.0)
        np.testing.assert_allclose(updates[name], expected, rtol=1e-3)

    config.lr_of = (*config.lr_of, (r"^base\.", 0.0))
    frozen, state, _ = moved(config)
    assert not frozen[names[0]].any()
    np.testing.assert_allclose(frozen[names[1]], updates[names[1]], rtol=1e-3)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,)]
    assert len(moments) == 2 * 2  # none for what stays
    config.lr_of = ((r"^base\.", -1e-4),)
    with pytest.raises(InputError, match="lr_of is .*give rates of at least 0"):
        optim.make(config, 100)


def test_what_stays_has_no_part_in_the_norm_of_the_gradient():
    config = tdr_guided.get_config("task=deblur,data=photos,freeze=1").optim
    config.update({"clip": 1.0, "schedule": "constant", "eps": 1.0, "weight_decay": 0.0})
    params = {"base.a": jnp.zeros(1), "masa_enc.b": jnp.zeros(1)}
    gradients = {"base.a": jnp.array([1e6]), "masa_enc.b": jnp.array([0.5])}
    optimiser, _ = optim.make(config, 100)
    updates, _ = optimiser.update(gradients, optimiser.init(params), params)
    # With an eps of 1 a step tells how large the gradient was: not cut.
    assert float(updates["masa_enc.b"][0]) == pytest.approx(-1e-4 * 0.5 / 1.5, rel=1e-4)
    assert float(updates["base.a"][0]) == 0


def test_windows_are_chosen_by_a_frozen_dinov2(folders):
    config = recipe(folders, "window=crop,dinov2=random:dinov2-tiny")
    objective = objectives.make(config, folders / "unused")
    assert objective.loss.selector.kind == "Dinov2" and len(objective.frozen) == 1
    batch = next(objective.batches(0))
    assert batch["guidance"].shape == (2, 48, 48, 3)
    loss, metrics = jax.eval_shape(
        objective.loss,
        objective.network.abstract_params(),
        batch,
        jax.random.key(0),
        *objective.frozen,
    )
    assert loss.shape == () and set(metrics) == {"l1", "psnr", "align"}
    assert not any("embeddings" in name for name in objective.network.abstract_params())
    # From a folder of transformers, as published weights lie on disk.
    network = models.build("dinov2-tiny")
    weights.save(folders / "dinov2", network, network.init(3))
    config.guidance.dinov2 = str(folders / "dinov2")
    loaded, params = pretrained.selector(config)
    assert loaded.config.hidden_size == 32
    np.testing.assert_array_equal(params["layernorm.weight"], network.init(3)["layernorm.weight"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"guidance.window": "half"}, "window is 'half'; give 'full' or 'crop'"),
        ({"guidance.window": "crop"}, "dinov2 is empty; give the folder of a DINOv2"),
        (
            {"guidance.window": "crop", "guidance.size": 24},
            "size is 24, but config.data.stages has crops of 32 pixels",
        ),
        (
            {"guidance.window": "crop", "guidance.dinov2": "random:nafnet"},
            "dinov2=random:nafnet is no DINOv2",
        ),
        (
            {"guidance.window": "crop", "guidance.dinov2": "random:dino"},
            "config.guidance.dinov2: no network 'dino'",
        ),
        ({"objective": "restore"}, "'restore', but guided takes guidance; set it to 'guided'"),
        ({"loss.mixup": 1.2}, "mixup is 1.2, but guided takes guidance, which two blended"),
        ({"data.channels": 1}, "takes pictures of 3 channels.*has 1"),
    ],
)
def test_configs_that_do_not_fit_are_refused_in_one_line(folders, change, message):
    config = recipe(folders)
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        objectives.make(config, folders / "unused")


def test_bases_that_do_not_fit_and_plain_networks_are_refused(folders):
    config = recipe(folders)
    config.network.overrides.width = 16
    with pytest.raises(InputError, match=r"init_base=.*base.safetensors: .*ending.kernel is \("):
        objectives.make(config, folders / "unused").initial_params()
    config = recipe(folders)
    config.init_from = "elsewhere"
    with pytest.raises(InputError, match="no weights at elsewhere"):
        objectives.make(config, folders / "unused").initial_params()
    config = recipe(folders, "guided=0")
    config.objective = "guided"
    with pytest.raises(InputError, match="nafnet takes no guidance; set it to 'restore'"):
        objectives.make(config, folders / "unused")
