"""The twenty published setups of guided restoration parse, fit together, and have its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tdr_guided
from tdr_jax import models, objectives
from tdr_jax.objectives import networks
from tdr_jax.train import optim, state
from tests.support.sizes import SMALLEST

PAIRS = "degraded=lq,clean=gt"
GAUSSIAN = [
    (f"backbone=restormer,task=denoise,sigma={sigma},grey={grey}", "data=photos")
    for grey in (1, 0)
    for sigma in ("blind", "15", "25", "50")
]
PUBLISHED = [
    ("backbone=promptir,task=all", "data=photos,rain=rain100l,haze=ots"),
    ("backbone=nafnet,task=deblur", PAIRS),
    ("backbone=restormer,task=deblur", PAIRS),
    ("backbone=restormer,task=defocus", f"{PAIRS},right=r"),
    ("backbone=restormer,task=defocus", PAIRS),
    *((f"backbone=sfnet,task=dehaze,set={name}", PAIRS) for name in ("indoor", "outdoor")),
    *(
        (f"backbone=drsformer,task=derain,set={name}", PAIRS)
        for name in ("200l", "200h", "did", "ddn")
    ),
    *GAUSSIAN,
    ("backbone=restormer,task=real-denoise", PAIRS),
]
SETUPS = pytest.mark.parametrize("setup, data", PUBLISHED)


def recipe(setup, data, more=""):
    argument = f"{setup},{data},guidance=guidance,base=base,dinov2=dinov2{more and ','}{more}"
    return tdr_guided.get_config(argument)


# One setup for each network: others differ in the data alone.
NETWORKS = {str(recipe(*setup).network): setup for setup in PUBLISHED}


def test_there_are_twenty():
    assert len(PUBLISHED) == len(set(PUBLISHED)) == 20
    assert len(NETWORKS) == 9


@SETUPS
def test_every_setup_has_the_published_numbers(setup, data):
    config = recipe(setup, data)
    assert config.objective == "guided" and config.seed == 100
    assert config.data.stages == ((1_000_000, 384, 32),)
    assert config.data.dihedral == tuple(range(8))
    loss = {name: weight for name, weight in config.loss.items() if weight}
    assert loss == {"l1": 1.0}
    numbers = config.optim.b1, config.optim.b2, config.optim.weight_decay, config.optim.clip
    assert numbers == (0.9, 0.999, 1e-4, 0.01) and config.ema == 0.0
    assert config.optim.lr == 2e-4 and config.optim.lr_of == (("masa", 1e-4),)
    guidance = config.guidance
    assert (guidance.kinds, guidance.path, guidance.size) == (("file",), "guidance", 512)
    assert (guidance.window, guidance.dinov2) == ("crop", "dinov2")
    assert (config.init_base, config.init_from) == ("base", "")
    overrides = config.network.overrides
    assert overrides.get("LayerNorm_type") == ("BiasFree" if "denoise" in setup else None)
    views, grey = "right=" in data, "grey=1" in setup
    channels = overrides.get("inp_channels") or 3
    assert channels == (6 if views else 1 if grey else 3)
    assert bool(overrides.get("dual_pixel_task")) == views
    assert config.data.channels == (1 if grey else 3)
    assert (overrides.backbone == "drsformer-200l") == ("200l" in setup)


def test_both_rates_rise_in_the_first_cycle_as_written_and_stay_when_it_is_repaired():
    steps = np.array([0, 153_000, 306_000, 306_001, 653_000, 1_000_000])
    for cycle, lr, first in (
        ("written", 2e-4, [2e-4, 2.5e-4, 3e-4]),
        ("written", 1e-4, [1e-4, 2e-4, 3e-4]),
        ("repaired", 2e-4, [2e-4] * 3),
        ("repaired", 1e-4, [1e-4] * 3),
    ):
        optimisation = recipe(*PUBLISHED[1], f"cycle={cycle}").optim
        rates = optim.make_schedule(optimisation, 1_000_000, lr)(steps)
        np.testing.assert_allclose(rates, [*first, lr, (lr + 1e-6) / 2, 1e-6], rtol=1e-4)


@pytest.mark.parametrize(
    "setup, count",
    [
        (PUBLISHED[1], 223_790_000),
        (PUBLISHED[2], 60_100_000),
        (PUBLISHED[0], 69_560_000 - 215_000),  # live parameters of PromptIR: 35.38 of 35.59
        (PUBLISHED[9], 72_690_000),
    ],
)
def test_networks_have_the_published_size(setup, count):
    network = networks.of_config(recipe(*setup))
    assert network.size == pytest.approx(count, abs=2e4)


@pytest.mark.parametrize(
    "setup, data",
    [
        pytest.param(*setup, marks=pytest.mark.full if "drsformer" in setup[0] else ())
        for setup in NETWORKS.values()
    ],
)
def test_a_step_of_every_network_has_consistent_shapes(setup, data, tmp_path):
    config = recipe(setup, data, "window=full,batch=2,crop=64")
    networks.of_config(config)  # at full size, without computing anything
    name = config.network.overrides.backbone.removesuffix("-200l")
    config.network.overrides.update(SMALLEST[name])
    levels = networks.of_config(config).config.levels
    config.network.overrides.update(n_blks=(1,) * levels, reffusion_n_blocks=(1,) * levels)
    objective = objectives.make(config, tmp_path)
    optimiser, schedule = optim.make(config.optim, 1_000_000)
    options = {"ema_decay": config.ema, "layout": None}
    params = objective.network.abstract_params()
    before = jax.eval_shape(lambda p: state.create(p, optimiser, **options), params)
    step = state.make_step(objective.loss, optimiser, schedule, seed=0, **options)
    inputs, made = objective.network.config.channels
    batch = {
        key: jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
        for key, side, channels in (
            ("degraded", 64, inputs),
            ("clean", 64, made),
            ("guidance", 96, 3),
        )
    }
    after, metrics = jax.eval_shape(step, before, batch)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (before, after))
    assert shapes[0] == shapes[1]
    assert set(metrics) == {"loss", "l1", "psnr", "grad_norm", "lr"}


def test_all_in_one_draws_each_of_its_five_degradations_as_often():
    config = recipe(*PUBLISHED[0])
    examples = {"rain": 200, "haze": 72_135}
    counts = {task: examples[task] * repeats for *_, task, repeats in config.data.pairs}
    counts["noise"] = 5144 * config.data.path_repeats / 3  # each of three levels
    assert config.data.path_task == "noise" and config.data.sigmas == (15, 25, 50)
    assert max(counts.values()) / min(counts.values()) < 1.01
    assert config.data.noise_mode == "float"


def test_words_and_guidance_go_together_in_one_recipe():
    config = tdr_guided.get_config("backbone=textpromptir,size=tiny,data=photos")
    network = networks.of_config(config)
    assert config.encoder == "minilm" and network.config.text_dim == 384
    assert type(objectives.make(config, "unused").loss).__name__ == "GuidedLoss"
    full = recipe("backbone=textpromptir,task=all", "data=photos", "encoder=sentences")
    assert full.encoder == "sentences" and full.network.overrides.backbone == "textpromptir"


def test_the_tiny_recipe_places_matches_to_two_pixels():
    config = tdr_guided.get_config("size=tiny,data=photos,base=base,steps=7")
    network = networks.of_config(config)
    assert network.config.stride == 2 and config.data.stages == ((7, 64, 8),)
    assert (config.guidance.size, config.guidance.window) == (96, "full")
    assert config.data.sigmas == (50,) and config.data.noise_mode == "float"
    base = tdr_guided.get_config("size=tiny,guided=0,data=photos")
    alone = models.build(base.network.name, **base.network.overrides)
    assert network.config.base.config == alone.config
    again = tdr_guided.get_config("size=tiny,guided=0,data=photos,base=base,steps=7")
    assert again.init_from == "base" and again.data == config.data
    assert again.optim == config.optim


@pytest.mark.parametrize(
    "argument, message",
    [
        ("backbone=unet", "backbone=unet is unknown; known: restormer, promptir, nafnet"),
        ("cycle=published", "cycle=published is unknown; known: written, repaired"),
        ("size=small", "size=small is unknown; known: full, tiny"),
        ("window=half", "window=half is unknown; known: full, crop"),
        ("task=derain,set=indoor", "set=indoor is unknown; known: 200l, 200h, did, ddn"),
        ("set=indoor", "set=indoor is unknown; known: none for task=denoise"),
        ("task=upscale", "task=upscale is unknown; known: denoise"),
        ("task=derain,set=200l", "set=200l is for backbone=drsformer"),
        ("backbone=textpromptir,grey=1", "grey=1 is not for textpromptir"),
        ("guide=x", "'guide=x' is unknown; known: backbone"),
    ],
)
def test_what_a_backbone_or_task_has_not_is_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        tdr_guided.get_config(argument)
