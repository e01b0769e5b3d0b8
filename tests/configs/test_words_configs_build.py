"""The recipes of textual degradation removal parse, say what was published, and trace whole."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_flags

from configs import common, tdr_i2t, tdr_towers, tdr_tr
from tdr_jax import models, objectives, weights
from tdr_jax.data import latents
from tdr_jax.diffusion import tdr_pipeline
from tdr_jax.diffusion.schedule import Schedule
from tdr_jax.errors import InputError
from tdr_jax.objectives import pretrained, reconstruct
from tdr_jax.objectives.image_to_text import ImageToTextLoss
from tdr_jax.objectives.latent_examples import LatentObjective
from tdr_jax.objectives.textual_restoration import TextualRestorationLoss
from tdr_jax.train import optim, sharding
from tdr_jax.train.state import create, make_step
from tests.support import pipelines
from tests.support.words_arguments import ARGUMENTS, SIZES

FOLDER = Path(common.__file__).parent
CASES = [(name, argument) for name, arguments in ARGUMENTS.items() for argument in arguments]
MODULES = {"tdr_towers": tdr_towers, "tdr_i2t": tdr_i2t, "tdr_tr": tdr_tr}
PUBLISHED = ("sd21", "sd15")
PARTS = {"contrast": "views", "reconstruct": "target", "denoise": "caption", "i2t": "same"}


@pytest.mark.parametrize("name, argument", CASES)
def test_every_config_parses_and_builds_its_network_and_examples(name, argument):
    from absl import flags

    values = flags.FlagValues()
    command = [
        "test",
        f"--config={FOLDER / name}.py" + (f":{argument}" if argument else ""),
        "--config.seed=3",
        "--config.network.overrides.dtype=bfloat16",
        "--config.stack.path=elsewhere",
        "--config.loss.words=0.25",
    ]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=command
    )
    values(command)
    config = holder.value
    assert (config.seed, config.stack.path, config.loss.words) == (3, "elsewhere", 0.25)

    # Only the overrides depend on the network; no other field is missing, and none is new.
    def fields(node, prefix=""):
        for key, value in node.items():
            if key == "overrides":
                continue
            yield prefix + key
            if hasattr(value, "items"):
                yield from fields(value, f"{prefix}{key}.")

    assert set(fields(config)) == set(fields(common.get_config()))
    learnt = objectives.class_of(config.objective)
    assert not learnt.no_panel or not config.panel_every
    config.panel_every = 0
    network = LatentObjective(config, Path("unused")).build()
    assert network.name == config.network.name and network.config.dtype == "bfloat16"
    if config.objective == "denoise":
        text = models.build(config.network.text_encoder).config
        assert text.hidden_size == network.config.cross_attention_dim
    wanted = PARTS.get(config.objective, "pair")
    latents.LatentExamples([], config.data, 0, wanted=wanted)  # refuses what it cannot make
    optim.make(config.optim, sum(steps for steps, _, _ in config.data.stages))
    for _, crop, batch in config.data.stages:
        assert batch % config.accumulate == 0 and batch // config.accumulate <= 64
        assert crop % 8 == 0  # the autoencoder's factor
    assert bool(config.data.distinct) <= (config.objective in ("denoise", "i2t", "tr"))


def test_arguments_say_where_things_lie_and_how_long_to_train():
    argument = "stack=sd,vision=clip,data=photos,rain=r,haze=h,blur=b,steps=7,batch=32"
    for config in (tdr_i2t.get_config(argument), tdr_tr.get_config(argument + ",words=said")):
        assert (config.stack.path, config.stack.image_encoder) == ("sd", "clip")
        assert config.stack.image_to_text == ("said" if config.objective == "tr" else "")
        assert config.data.path == "photos"
        assert config.data.pairs == tuple(
            (f"{folder}/lq", f"{folder}/hq", task, 1)
            for folder, task in (("r", "rain"), ("h", "haze"), ("b", "blur"))
        )
        assert config.data.stages == ((7, 512, 32),) and config.accumulate == 2
    config = tdr_towers.get_config("part=unet,data=photos,vae=towers/vae,steps=9,batch=4")
    assert (config.stack.vae, config.data.path) == ("towers/vae", "photos")
    assert config.data.stages == ((9, 128, 4),)
    losses = [tdr_tr.get_config(x).loss for x in ("size=tiny", "size=tiny,direct=0", "direct=0.5")]
    assert [(loss.denoise, loss.words) for loss in losses] == [(0.0, 1.0), (1.0, 0.0), (1.0, 0.5)]


@pytest.mark.parametrize("size", PUBLISHED)
@pytest.mark.parametrize("module", [tdr_i2t, tdr_tr])
def test_both_stages_are_optimised_as_published(module, size):
    config = module.get_config(f"size={size}")
    options = config.optim
    assert (options.b1, options.b2, options.eps, options.weight_decay) == (0.9, 0.999, 1e-8, 1e-2)
    assert (options.clip, options.no_decay, options.schedule) == (1.0, "", "constant")
    assert options.lr == pytest.approx(1e-6 * 4 * 4 * 4)
    _, schedule = optim.make(options, 200_000)
    assert float(schedule(0)) == float(schedule(199_999)) == pytest.approx(6.4e-5)
    assert config.data.stages == ((200_000, 512, 64),)  # the whole batch, in parts of 16
    assert config.accumulate == 4
    assert config.ema == 0.0 and config.loss.words == 0.0 and not config.data.distinct
    assert config.data.cover == () and config.data.oversample == (1.0, 1.0)  # crops as they are
    assert config.data.dihedral == (0,) and config.data.sigma_range == (0.0, 50.0)
    assert config.stack.template == "a photo of a S"
    clean = ("clean",) if module is tdr_i2t else ()  # the first stage sees both sides
    assert config.data.tasks == (*clean, "noise", "rain", "haze", "blur")
    assert len(set(config.data.weights)) == 1


@pytest.mark.parametrize(
    "module, size, perceptrons, copies",
    [
        (tdr_i2t, "sd21", 249_538_560, 25_559_040),
        (tdr_i2t, "sd15", 223_313_920, 19_169_280),
        (tdr_tr, "sd21", 118_215_680, 0),
        (tdr_tr, "sd15", 105_103_360, 0),
    ],
)
def test_as_many_parameters_are_trained_as_published(module, size, perceptrons, copies):
    params = LatentObjective(module.get_config(f"size={size}"), Path()).build().abstract_params()
    sizes = {name: math.prod(spec.shape) for name, spec in params.items()}
    assert sum(n for name, n in sizes.items() if name.startswith("mapping")) == perceptrons
    assert sum(n for name, n in sizes.items() if name.startswith("kv.")) == copies
    assert sum(sizes.values()) == perceptrons + copies
    assert {spec.dtype for spec in params.values()} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return pipelines.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@functools.cache
def published(size):
    """The frozen networks of a size, as the recipe computes with them, and their parameters."""
    names = dict(pretrained.NAMES[size]) | {"image_to_text": pretrained.MAPPERS[size]}
    networks = {part: models.build(name, dtype="bfloat16") for part, name in names.items()}
    frozen = {
        part: {
            name: jax.ShapeDtypeStruct(spec.shape, "bfloat16")
            for name, spec in network.abstract_params().items()
        }
        for part, network in networks.items()
    }
    return networks, frozen


STEPS = [(tdr_i2t, "sd15")]
MORE = [(tdr_i2t, "sd21"), (tdr_tr, "sd15"), (tdr_tr, "sd21")]


@pytest.mark.parametrize(
    "module, size", [*STEPS, *(pytest.param(*step, marks=pytest.mark.full) for step in MORE)]
)
def test_a_whole_step_at_published_size_has_consistent_shapes(module, size, tokenizer):
    config = module.get_config(f"size={size}")
    networks, frozen = published(size)
    network = LatentObjective(config, Path()).build()
    towers = pretrained.towers(
        networks,
        Schedule().to_config(),
        tokenizer,
        template=config.stack.template,
        words=network.config.num_words,
        remat=config.stack.remat,
    )
    assert towers.unet.config.remat and len(towers.ids) == 77
    if config.objective == "i2t":
        frozen = {part: params for part, params in frozen.items() if part != "image_to_text"}
        loss = ImageToTextLoss(towers, network)
    else:
        mapper = networks["image_to_text"]
        loss = TextualRestorationLoss(towers, mapper, network, config.loss)
    optimiser, schedule = optim.make(config.optim, 200_000)
    step = make_step(
        loss,
        optimiser,
        schedule,
        seed=config.seed,
        ema_decay=config.ema,
        layout=sharding.make(config.mesh),
        accumulate=config.accumulate,
    )
    ((_, crop, batch),) = config.data.stages
    view = networks["image_encoder"].config.image_size
    assert view == 224
    pictures = {
        "clip_image": jax.ShapeDtypeStruct((batch, view, view, 3), "float32"),
        "target": jax.ShapeDtypeStruct((batch, crop, crop, 3), "float32"),
        "kind": jax.ShapeDtypeStruct((batch,), "int32"),
    }
    state = jax.eval_shape(
        lambda params: create(params, optimiser, ema_decay=config.ema, layout=None),
        network.abstract_params(),
    )
    after, metrics = jax.eval_shape(step, state, pictures, frozen)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert metrics.keys() == {"loss", "grad_norm", "lr"}
    assert all(value.shape == () and value.dtype == "float32" for value in metrics.values())
    # What is learnt is float32, twice more in the optimiser, and nothing frozen is with it.
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state) if leaf.shape)
    assert held == 3 * network.size


@pytest.mark.parametrize(
    "module, argument, line",
    [
        (tdr_towers, "parts=vae", "'parts=vae' is unknown; known: part, data, vae, steps, batch"),
        (tdr_towers, "part=text", "part=text is unknown; known: vision, vae, unet"),
        (tdr_towers, "steps=many", "many"),
        (tdr_i2t, "words=here", "'words=here' is unknown; known: size, stack, vision, data, rain"),
        (tdr_i2t, "size=sd14", "size=sd14 is unknown; known: sd21, sd15, tiny"),
        (tdr_tr, "dircet=1", "'dircet=1' is unknown; known: size, .*words, direct"),
        (tdr_tr, "size=huge", "size=huge is unknown; known: sd21, sd15, tiny"),
    ],
)
def test_unknown_arguments_are_told_in_one_line(module, argument, line):
    with pytest.raises(ValueError, match=line) as refused:
        module.get_config(argument)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "module, fields, line",
    [
        (tdr_i2t, {}, "config.stack.path is empty; .*--config.stack.path=FOLDER"),
        (tdr_i2t, {"accumulate": 0}, "config.accumulate is 0; give 1 for whole batches"),
        (tdr_i2t, {"accumulate": 3}, "a batch of 64 .* does not divide into config.accumulate=3"),
        (tdr_i2t, {"objective": "t2i"}, "config.objective is 't2i'; give one of contrast, denoise"),
        (tdr_tr, {"save_every": 0}, "config.save_every is 0"),
        (tdr_tr, {"stack.path": "nowhere"}, "nowhere"),
        (
            tdr_tr,
            {
                "loss.denoise": 0.0,
                "stack.path": "tdr-tiny",
                "network.name": "tdr-tiny/textual_restoration",
            },
            "config.loss.denoise and config.loss.words are both 0",
        ),
        (tdr_towers, {"network.overrides": {"depth": 3}}, "config.network: .*depth"),
    ],
)
def test_fields_that_do_not_fit_are_told_in_one_line(module, fields, line, tmp_path):
    config = module.get_config()
    for name, value in fields.items():
        *outer, last = name.split(".")
        node = functools.reduce(getattr, outer, config)
        if isinstance(value, dict):
            getattr(node, last).update(value)
        else:
            setattr(node, last, value)
    with pytest.raises(InputError, match=line) as refused:
        objectives.make(config, tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", SIZES)
def test_networks_of_a_size_fit_each_other(size):
    networks = {part: models.build(name) for part, name in pretrained.NAMES[size]}
    first = models.build(pretrained.MAPPERS[size])
    assert tdr_i2t.SIZES[size] == pretrained.MAPPERS[size] == first.name
    networks |= {"image_to_text": first, "textual_restoration": models.build(tdr_tr.SIZES[size])}
    tdr_pipeline.TDRPipeline(networks, {}, {}, None).check(size)
    assert first.config.num_words == 20


def test_each_stage_learns_from_examples_of_its_own():
    for name in ("contrast", "reconstruct", "denoise", "i2t", "tr"):
        assert objectives.class_of(name).wanted == PARTS.get(name, "pair")


def test_an_autoencoder_starts_with_eyes_for_colour(tmp_path):
    config = tdr_towers.get_config("part=vae")
    objective = objectives.make(config, tmp_path)
    plain, begun = objective.network.init(config.seed), objective.initial_params()
    name = "encoder.conv_in.kernel"
    changed = {key for key in plain if not np.array_equal(plain[key], begun[key])}
    assert changed == {name, "quant_conv.bias"}
    grey, red_green = np.array([1.0, 1.0, 1.0]), np.array([1.0, -1.0, 0.0])

    def seen(kernel, colour):
        return np.einsum("hwio,i->hwo", kernel, colour)

    for colour, gain in ((grey, 1), (red_green, reconstruct.COLOUR)):
        seen_before, seen_now = (seen(params[name], colour) for params in (plain, begun))
        np.testing.assert_allclose(seen_now, gain * seen_before, atol=1e-5)


def test_a_unet_goes_on_from_a_folder_of_diffusers(tmp_path):
    shipped = weights.ASSETS / "tdr-tiny"
    config = tdr_towers.get_config(f"part=unet,vae={shipped / 'vae'}")
    config.init_from = str(shipped)
    begun = objectives.make(config, tmp_path).initial_params()
    for part in ("unet", "text_encoder"):
        _, params = weights.load(shipped / part)
        assert params
        for name, value in params.items():
            np.testing.assert_array_equal(begun[f"{part}.{name}"], value)
    config.init_from = str(shipped / "vae")
    with pytest.raises(InputError, match="has no text_encoder; give the folder stack/"):
        objectives.make(config, tmp_path).initial_params()
