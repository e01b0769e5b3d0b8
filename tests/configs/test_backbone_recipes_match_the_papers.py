"""Every restoration network has a recipe for every task, with its paper's numbers."""

import math

import jax
import numpy as np
import pytest

from configs import backbone
from tdr_jax import objectives
from tdr_jax.errors import InputError
from tdr_jax.objectives import networks
from tdr_jax.objectives.restore import check
from tdr_jax.train import optim, state

PAIRS = "degraded=a,clean=b"


def config_for(name, task, more=""):
    pictures = PAIRS if task in backbone.PAIRS_ONLY else "data=photos"
    pictures = "data=tfds:cdd11" if task == "cdd11" else pictures
    return backbone.get_config(f"name={name},task={task},{pictures}{more and ','}{more}")


def total(config):
    return sum(steps for steps, _, _ in config.data.stages)


def trace(config):
    """Follows the shapes through a whole training step of the first stage."""
    objective = objectives.make(config, "unused")
    network = objective.network
    optimiser, schedule = optim.make(config.optim, total(config))
    options = {"ema_decay": config.ema, "layout": None}
    params = network.abstract_params()
    before = jax.eval_shape(lambda p: state.create(p, optimiser, **options), params)
    step = state.make_step(objective.loss, optimiser, schedule, seed=0, **options)
    _, crop, count = config.data.stages[0]
    degraded, clean = (
        jax.ShapeDtypeStruct((count, crop, crop, channels), "float32")
        for channels in network.config.channels
    )
    after, metrics = jax.eval_shape(step, before, {"degraded": degraded, "clean": clean})
    return before, after, metrics


@pytest.mark.parametrize("name", backbone.RECIPES)
def test_every_task_has_a_recipe_that_fits_the_network(name):
    for task in backbone.WHAT:
        for more in ("", "size=small", "recipe=tdr"):
            config = config_for(name, task, more)
            assert objectives.make(config, "unused").encoder is None
            assert len(config.data.weights) == len(config.data.tasks)
            _, schedule = optim.make(config.optim, total(config))
            rates = np.asarray(schedule(np.linspace(0, total(config) - 1, 50).astype(int)))
            assert (rates >= 0).all() and 0 < rates.max() < 1.01e-3
            assert rates[-1] < 0.05 * rates.max()


@pytest.mark.parametrize(
    ("name", "task", "more", "count"),
    [
        # Live parameters; with two views three more input channels and a projection of the input;
        # SFNet's with its running statistics.
        ("restormer", "deblur", "", 26_126_644),
        ("restormer", "denoise", "", 26_111_668),
        ("restormer", "defocus", "right=c", 26_126_644 + 3 * 9 * 48 + 48 * 96),
        ("promptir", "all", "", 35_376_967),
        ("nafnet", "deblur", "", 67_888_835),
        ("nafnet", "real-denoise", "", 115_982_915),
        ("sfnet", "dehaze", "", 13_270_313 + 3_276),
        pytest.param("drsformer", "derain", "", 33_655_424, marks=pytest.mark.full),
    ],
)
def test_a_full_size_step_has_consistent_shapes(name, task, more, count):
    before, after, metrics = trace(config_for(name, task, more))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (before, after))
    assert shapes[0] == shapes[1]
    assert {"loss", "l1", "psnr", "grad_norm", "lr"} == set(metrics) - {"fft"}
    assert all(metric.shape == () for metric in metrics.values())
    size = sum(math.prod(leaf.shape) for leaf in before.params.values())
    assert size == count


def test_restormer_follows_its_progressive_recipe():
    config = config_for("restormer", "denoise", "sigma=blind")
    assert config.data.stages == (
        (92_000, 128, 64),
        (64_000, 160, 40),
        (48_000, 192, 32),
        (36_000, 256, 16),
        (36_000, 320, 8),
        (24_000, 384, 8),
    )
    assert config.network.overrides.LayerNorm_type == "BiasFree"
    assert (config.data.sigma_range, config.data.noise_mode) == ((0.0, 50.0), "float")
    assert (config.loss.l1, config.loss.mixup) == (1.0, 1.2)
    numbers = config.optim.lr, config.optim.weight_decay, config.optim.clip, config.optim.b2
    assert numbers == (3e-4, 1e-4, 0.01, 0.999)
    _, schedule = optim.make(config.optim, total(config))
    rates = np.asarray(schedule(np.array([0, 50_000, 92_000, 196_000, 300_000])))
    np.testing.assert_allclose(rates, [3e-4, 3e-4, 3e-4, 1.505e-4, 1e-6], rtol=1e-4)
    derain = config_for("restormer", "derain")
    assert derain.network.overrides.LayerNorm_type is None and derain.loss.mixup == 0


def test_the_other_networks_follow_their_papers():
    nafnet = config_for("nafnet", "deblur")
    assert nafnet.data.stages == ((400_000, 256, 64),)
    assert (nafnet.loss.l1, nafnet.loss.psnr, nafnet.optim.weight_decay) == (0.0, 1.0, 1e-3)
    assert (nafnet.optim.lr, nafnet.optim.b1, nafnet.optim.b2) == (1e-3, 0.9, 0.9)
    real = config_for("nafnet", "real-denoise")
    assert (real.optim.weight_decay, real.data.dihedral) == (0.0, (0,))
    sfnet = config_for("sfnet", "deblur")
    assert sfnet.data.stages == ((3000 * 526, 256, 4),)
    assert (sfnet.loss.l1, sfnet.loss.fft, sfnet.optim.weight_decay) == (1.0, 0.1, 0.0)
    assert config_for("drsformer", "derain").data.stages == ((300_000, 128, 16),)
    promptir = config_for("promptir", "all", "rain=rain100l,haze=ots")
    # 5144 photographs at three sigmas three times, 200 rain pairs, 72,135 haze pairs.
    repeats = [repeats for *_, repeats in promptir.data.pairs]
    assert 9 * 5144 + 200 * repeats[0] + 72_135 * repeats[1] == 142_431
    assert promptir.data.stages == ((150 * 4450, 128, 32),)
    assert (promptir.data.path_task, promptir.data.path_repeats) == ("noise", 9)
    assert (promptir.data.noise_mode, promptir.optim.clip) == ("uint8", 0.0)


def test_the_shared_recipe_rises_in_its_first_cycle_unless_it_is_repaired():
    steps = np.array([0, 153_000, 306_000, 306_001, 653_000, 1_000_000])
    for cycle, first in (("published", [2e-4, 2.5e-4, 3e-4]), ("repaired", [2e-4] * 3)):
        for name in backbone.RECIPES:
            config = config_for(name, "deblur", f"recipe=tdr,cycle={cycle}")
            assert config.data.stages == ((1_000_000, 384, 32),)
            assert (config.loss.l1, config.loss.psnr, config.loss.fft) == (1.0, 0.0, 0.0)
            numbers = config.optim.weight_decay, config.optim.clip, config.optim.b2, config.ema
            assert numbers == (1e-4, 0.01, 0.999, 0.0)
            _, schedule = optim.make(config.optim, total(config))
            expected = [*first, 2e-4, 1.005e-4, 1e-6]
            np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5)


@pytest.mark.parametrize("name", backbone.RECIPES)
def test_a_shortened_run_keeps_the_shape_of_its_schedule(name):
    whole, short = config_for(name, "deblur"), config_for(name, "deblur", "steps=1000")
    assert total(short) == 1000
    assert [stage[1:] for stage in short.data.stages] == [stage[1:] for stage in whole.data.stages]
    rates = [
        # From a twentieth on: a warm-up of a thousandth is not seen in a thousand steps.
        np.asarray(
            optim.make(config.optim, total(config))[1](np.arange(1, 20) * total(config) // 20)
        )
        for config in (whole, short)
    ]
    np.testing.assert_allclose(*rates, atol=0.02 * rates[0].max())
    other = config_for(name, "deblur", "steps=7,batch=2,crop=64")
    assert total(other) == 7 and {stage[1:] for stage in other.data.stages} == {(64, 2)}


def test_grey_and_two_views_reach_the_network_and_the_data():
    for name in ("restormer", "promptir", "nafnet", "drsformer"):
        config = config_for(name, "denoise", "grey=1")
        assert config.data.channels == 1
        assert networks.of_config(config).config.channels == (1, 1)
    config = config_for("restormer", "defocus", "right=c")
    assert config.data.pairs == ((("a", "c"), "b", "blur", 1),)
    assert networks.of_config(config).config.channels == (6, 3)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("name=unet", "name=unet is unknown; known: restormer, promptir"),
        ("task=upscale", "task=upscale is unknown; known: denoise"),
        ("sigma=30", "known: 15, 25, 50, blind"),
        ("task=derain,degraded=a", "pairs need both folders"),
        ("task=defocus,right=c", "pairs need both folders"),
        ("task=defocus,data=photos", "task=defocus cannot be synthesised"),
        ("name=sfnet,grey=1", "grey=1 is for task=denoise and not for sfnet"),
        ("task=derain,grey=1", "grey=1 is for task=denoise"),
        (f"name=nafnet,task=defocus,{PAIRS},right=c", "with name=restormer"),
    ],
)
def test_what_a_network_or_task_has_not_is_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        backbone.get_config(argument)


def test_pictures_and_losses_that_do_not_fit_the_network_are_refused():
    config = config_for("sfnet", "dehaze", "batch=1")
    with pytest.raises(InputError, match="a batch of 1; sfnet normalises by the statistics"):
        check(config, networks.of_config(config))
    config = config_for("restormer", "defocus", "right=c")
    config.network.overrides.inp_channels = 3
    with pytest.raises(InputError, match="takes pictures of 3 channels.*has 6"):
        check(config, networks.of_config(config))
    config = config_for("nafnet", "denoise")
    config.data.channels = 1
    with pytest.raises(InputError, match="takes pictures of 3 channels.*has 1"):
        check(config, networks.of_config(config))
    config.network.name, config.network.overrides = "textpromptir-tiny", {}
    config.loss.mixup = 1.2
    with pytest.raises(InputError, match="loss.mixup is 1.2, but textpromptir-tiny takes a sent"):
        check(config, networks.of_config(config))
