"""A guided network starts as its backbone, reads its guidance, and equals the reference's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tdr_jax import convert, models, weights
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer
from tdr_jax.models import fusion, guided
from tests.support import parity
from tests.support.torch_guided import (
    GuidedDRSformer,
    GuidedNAFNet,
    GuidedPromptIR,
    GuidedRestormer,
)

LEVELS = dict(dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2))
FOUR = dict(n_blks=(1, 1, 1, 1), reffusion_n_blocks=(1, 1, 1, 1))
THREE = dict(n_blks=(1, 1, 1), reffusion_n_blocks=(1, 1, 1))
PROMPTS = dict(prompt_dim=(4, 6, 8), prompt_len=3, prompt_size=(4, 3, 2))
BACKBONES = {
    "nafnet": dict(width=8, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1), **THREE),
    "restormer": dict(**LEVELS, num_refinement_blocks=1, **FOUR),
    "promptir": dict(**LEVELS, num_refinement_blocks=1, **PROMPTS, **FOUR),
    "drsformer": dict(**LEVELS, mefc=False, **FOUR),
    "sfnet": dict(base_channel=16, num_res=2, **THREE),
    "textpromptir": dict(
        **LEVELS,
        num_refinement_blocks=1,
        text_dim=6,
        text_hidden=(5, 4),
        input_shuffle=2,
        **FOUR,
    ),
}
STARTS = ("alpha", "beta", "gamma")  # what is zero at the start


def small(name):
    """A guided network and parameters with a trained backbone, whatever that learnt."""
    network = models.build("guided", backbone=name, **BACKBONES[name])
    generator = np.random.default_rng(0)
    trained = {
        key: np.asarray(value) + 0.05 * generator.uniform(-1, 1, value.shape).astype(np.float32)
        for key, value in network.config.base.init(1).items()
    }
    return network, guided.with_base(network.init(0), trained), trained


def moved(params, prefix="masa_blk"):
    """Off the start, where every fusion is an identity."""
    return {
        key: np.asarray(value) + 0.3 if key.startswith(prefix) and key.endswith(STARTS) else value
        for key, value in params.items()
    }


def pictures(network, batch=1, size=(21, 18), guidance=(33, 50)):
    """A degraded picture, guidance of another size, and what else the network reads."""
    generator = np.random.default_rng(1)
    inputs = [
        generator.uniform(size=(batch, *size, network.config.channels[0])),
        generator.uniform(size=(batch, *guidance, 3)),
    ]
    if hasattr(network.config, "text_dim"):
        inputs.append(generator.standard_normal((batch, network.config.text_dim)))
    return [value.astype(np.float32) for value in inputs]


def random(generator, *shape):
    return generator.standard_normal(shape).astype(np.float32)


def some(*names):
    """These backbones, and the others with --full."""
    rest = [pytest.param(name, marks=pytest.mark.full) for name in BACKBONES if name not in names]
    return pytest.mark.parametrize("name", [*names, *rest])


STARTED = ("nafnet", "sfnet")


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in STARTED])
def test_fusion_gives_back_what_enters_each_level_to_the_bit_at_the_start(name):
    config = models.build("guided", backbone=name, **BACKBONES[name]).config
    network = models.Network("fusion", config, fusion.Fusion)
    drawn, generator = network.init(0), np.random.default_rng(0)
    # The last of the trunk that reads the sentence is as wide as this.
    sentence = [random(generator, 1, config.base.config.text_hidden[-1])] if "text" in name else []

    @jax.jit
    def levels(params, entering, warped):
        return [
            network.apply(params, level, *pair, *sentence, training=False)[0]
            for level, pair in enumerate(zip(entering, warped, strict=True))
        ]

    entering, warped = (
        [random(generator, 1, 6, 5, width * 2**level) for level in range(config.levels)]
        for width in (config.width, config.nf)
    )
    for before, after in zip(entering, levels(drawn, entering, warped), strict=True):
        np.testing.assert_array_equal(after, before)
    for before, after in zip(entering, levels(moved(drawn, ""), entering, warped), strict=True):
        assert np.abs(after - before).max() > 1e-3


@some(*STARTED)
def test_the_start_is_the_backbone_to_the_bit_and_then_guidance_matters(name):
    network, params, trained = small(name)
    degraded, guidance, *sentence = pictures(network)
    # Two programs round alike only where XLA's optimisations do not join other operations in each.
    plainly = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 0}
    compiled = functools.partial(jax.jit, compiler_options=plainly)
    apply = compiled(network.apply)
    plain = compiled(network.config.base.apply)(trained, degraded, *sentence)
    np.testing.assert_array_equal(apply(params, degraded, guidance, *sentence), plain)
    params = moved(params)
    one, other = (apply(params, degraded, g, *sentence) for g in (guidance, guidance[:, ::-1]))
    assert np.isfinite(one).all() and one.shape == plain.shape
    assert np.abs(one - plain).max() > 1e-3 and np.abs(one - other).max() > 1e-5


@some("nafnet")
def test_every_parameter_learns_once_the_start_is_left(name):
    network, params, _ = small(name)
    # SFNet's gains of frequencies start at zero too, and what stands before them learns nothing.
    gains = ("fscale_d", "fscale_h", "localap.h", "localap.l")
    params = {key: value + 0.1 if key.endswith(gains) else value for key, value in params.items()}
    # Large enough for a quadrant of SFNet's deepest level to hold more than one position.
    inputs = pictures(network, batch=2, size=(32, 32))

    def loss(params):
        outputs, running = network.apply(params, *inputs, method="training")
        return sum(jnp.square(output).sum() for output in outputs), (outputs, running)

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (outputs, running) = step(moved(params))
    learnt = {key for key in params if not key.endswith(models.RUNNING)}
    assert not {key for key in learnt if not np.any(gradients[key])}
    assert all(np.isfinite(value).all() for value in gradients.values())
    assert outputs[0].shape == inputs[0].shape
    assert running.keys() == params.keys() - learnt
    assert bool(running) == (name == "sfnet")
    if running:
        assert {key.partition(".")[0] for key in running} == {"base", "masa_blk"}


def test_saved_networks_come_back_with_every_bit(tmp_path):
    network, params, _ = small("nafnet")
    network = network.replace(ref_down_block_size=2.0, dtype="bfloat16")
    assert network.config.base.config.dtype == "bfloat16"
    weights.save(tmp_path / "mine", network, params)
    loaded, values = weights.load(tmp_path / "mine")
    assert loaded.config == network.config and hash(loaded.config) == hash(network.config)
    assert values.keys() == params.keys()
    assert all(np.array_equal(values[key], params[key]) for key in params)
    inputs = pictures(network, size=(30, 40))
    out = jax.jit(loaded.apply)(moved(values), *inputs)
    assert out.dtype == jnp.float32 and np.isfinite(out).all()  # of a computation in bfloat16
    sure = jax.jit(functools.partial(loaded.apply, method="confidence"))(values, *inputs)
    assert sure.shape == (1, 30, 40) and sure.dtype == jnp.float32
    assert np.abs(sure).max() <= 1.01


@pytest.mark.parametrize(
    "name, form, count",
    [
        ("nafnet", {}, 223_791_683),
        ("restormer", {}, 60_096_138),
        # The reference's class also holds 215,296 dead parameters of PromptIR: 69.56 million.
        ("promptir", {}, 69_346_461),
        ("drsformer", {}, 72_693_798),
        ("sfnet", {}, 18_191_244),
        ("textpromptir", {}, 82_314_974),
        ("restormer", dict(inp_channels=6, dual_pixel_task=True), 60_102_042),
        ("restormer", dict(inp_channels=1, out_channels=1, LayerNorm_type="BiasFree"), None),
    ],
)
def test_published_networks_have_their_size_and_read_their_crops(name, form, count):
    network = models.build("guided", backbone=name, dtype="bfloat16", **form)
    assert count is None or network.size == count
    config = network.config
    inputs = [jax.ShapeDtypeStruct((2, 384, 384, n), "float32") for n in (config.channels[0], 3)]
    if hasattr(config, "text_dim"):
        inputs.append(jax.ShapeDtypeStruct((2, config.text_dim), "float32"))
    out = jax.eval_shape(network.apply, network.abstract_params(), *inputs)
    assert out.shape == (2, 384, 384, config.channels[1]) and out.dtype == jnp.float32


# By the name of the backbone.
TWINS = {"restormer": GuidedRestormer, "nafnet": GuidedNAFNet}
# Of the degraded picture and of the guidance, and what continues the first: whole blocks or not, as
# large as each other or not.
SIZES = [
    ("restormer", (117, 180), (139, 102), "reflect"),
    ("restormer", (125, 181), (192, 128), "zeros"),
    pytest.param("restormer", (128, 128), (128, 128), "reflect", marks=pytest.mark.full),
    ("nafnet", (64, 64), (64, 64), "reflect"),
    ("nafnet", (57, 90), (75, 61), "reflect"),
]


@pytest.mark.parametrize("name, size, other, padding", SIZES)
def test_networks_equal_their_torch_twins(name, size, other, padding):
    torch.manual_seed(0)
    form = BACKBONES[name] | dict(padding=padding)
    module = parity.shaken(TWINS[name](**BACKBONES[name]))
    module.zeros = padding == "zeros"
    images, guidance = (torch.rand(1, 3, *size) for size in (size, other))
    with torch.no_grad():
        y = module.guided_by(images, guidance)(images)
    network = models.build("guided", backbone=name, **form)
    state = module.state_dict()
    params = convert.from_torch("guided", state, backbone=name, **form)
    inputs = parity.nhwc(images), parity.nhwc(guidance)
    out = jax.jit(network.apply)(params, *inputs)
    assert parity.relative(out - inputs[0], (y - images).permute(0, 2, 3, 1)) < 1e-5
    back = convert.to_torch("guided", params, backbone=name, **form)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


TRANSFORMERS = {
    "restormer": GuidedRestormer,
    "promptir": GuidedPromptIR,
    "drsformer": GuidedDRSformer,
}


def reference(name, folder, **more):
    """A twin that pads with zeros, and what is read of its checkpoint."""
    torch.manual_seed(0)
    module = parity.shaken(TRANSFORMERS[name](**BACKBONES[name] | more))
    module.zeros = True
    torch.save(module.state_dict(), folder / "reference.pth")
    return module, *weights.load(folder / "reference.pth")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_padding_with_zeros_is_recognised_by_the_checkpoint_and_recorded(name, tmp_path):
    _, network, params = reference(name, tmp_path)
    assert network.config.backbone == name and network.padding == "zeros"
    weights.save(tmp_path / "ours", network, params)
    assert weights.load(tmp_path / "ours")[0].config == network.config
    assert models.build("guided", backbone=name).padding == "reflect"


@pytest.mark.parametrize("alpha, lines", [(0.25, 1), (0.0, 0)])
def test_what_the_reference_leaves_out_is_told_where_it_counts(alpha, lines, tmp_path, caplog):
    module = GuidedDRSformer(**BACKBONES["drsformer"])
    with torch.no_grad():
        module.masa_blk_enc_level1[0].alpha.fill_(alpha)
    torch.save(module.state_dict(), tmp_path / "200l.pth")
    weights.load(tmp_path / "200l.pth")
    told = [record.getMessage() for record in caplog.records if "level 1" in record.getMessage()]
    assert len(told) == lines and all("alpha 0.25" in line for line in told)


@pytest.mark.full
@pytest.mark.parametrize(
    "name, more", [*((name, {}) for name in TRANSFORMERS), ("drsformer", dict(mefc=True))]
)
def test_checkpoints_give_what_the_reference_gives_at_any_size(name, more, tmp_path):
    module, network, params = reference(name, tmp_path, **more)
    # Whole blocks, as TDR's 512x512: places of blank margins are alike up to rounding, which then
    # chooses among them.
    restorer, guidance = Restorer(network, params), torch.rand(1, 3, 192, 128)
    for height, width in ((120, 184), (125, 181)):  # both become 128x192, which compiles once
        images = torch.rand(1, 3, height, width)
        with torch.no_grad():
            residual = module.guided_by(images, guidance)(images) - images
        degraded, theirs = (np.asarray(parity.nhwc(picture)[0]) for picture in (images, guidance))
        out = restorer.whole(degraded, theirs) - degraded
        assert parity.relative(out, residual[0].permute(1, 2, 0)) < 1e-5


@pytest.mark.parametrize("count", [1, 6])
def test_encoders_of_other_channels_are_recognised_and_see_them(count, tmp_path):
    form = BACKBONES["restormer"] | dict(inp_channels=count, out_channels=min(count, 3))
    form |= dict(encoder_channels=count, dual_pixel_task=count == 6)
    network = models.build("guided", backbone="restormer", **form)
    params = network.init(0)
    state = convert.to_torch("guided", params, backbone="restormer", **form)
    assert state["masa_enc.conv_L1.weight"].shape[1] == count
    torch.save(state, tmp_path / "reference.pth")
    loaded, _ = weights.load(tmp_path / "reference.pth")
    assert loaded.config.encoder_channels == count
    assert loaded.config.base.config == network.config.base.config
    colour = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    seen = guided._with_channels(jnp.asarray(colour), count)
    luma = (colour @ np.float32([0.299, 0.587, 0.114]))[..., None]
    expected = luma if count == 1 else np.concatenate([colour, colour], -1)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    own = np.repeat(colour[..., :1], count, -1)
    assert guided._with_channels(own, count) is own
    shapes = [jax.ShapeDtypeStruct((1, 64, 64, n), "float32") for n in (count, 3)]
    out = jax.eval_shape(loaded.apply, loaded.abstract_params(), *shapes)
    assert out.shape == (1, 64, 64, min(count, 3))


def test_padding_tells_what_sides_are_multiples_of():
    published = {"restormer": 64, "promptir": 64, "drsformer": 64, "nafnet": 128, "sfnet": 32}
    for name, multiple in published.items():
        reflected, zeros = (
            models.build("guided", backbone=name, padding=padding).config
            for padding in ("reflect", "zeros")
        )
        assert zeros.multiple == zeros.blocks == multiple
        assert reflected.multiple == reflected.base.config.multiple
    with pytest.raises(InputError, match="padding is 'none'; give one of reflect, zeros"):
        models.build("guided", padding="none")


def test_nafnet_and_its_restorer_pad_as_they_are_told():
    sizes = dict(width=2, enc_blk_nums=(1,), dec_blk_nums=(1,))
    picture = np.random.default_rng(0).random((7, 6, 3), np.float32)
    for padding, mode in (("zeros", "constant"), ("reflect", "reflect")):
        network = models.build("nafnet", padding=padding, **sizes)
        params = {key: np.asarray(value) + 0.1 for key, value in network.init(0).items()}
        whole = np.pad(picture, ((0, 1), (0, 0), (0, 0)), mode=mode)
        restorer = Restorer(network, params)
        expected = restorer.whole(whole)[:7]
        np.testing.assert_array_equal(restorer.whole(picture), expected)
        out = network.apply(params, picture[None])[0]
        np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(InputError, match="backbone bert cannot be guided; .*NAFNet"):
        models.build("guided", backbone="bert")
    with pytest.raises(InputError, match=r"n_blks is \(4,\); restormer has 4 levels"):
        models.build("guided", backbone="restormer", n_blks=(4,))
    with pytest.raises(InputError, match="lr_block_size is 4; .* 7 or more"):
        models.build("guided", lr_block_size=4)
    with pytest.raises(ValueError, match="nafnet has no field depth"):
        models.build("guided", depth=3)
    network = models.build("guided", **BACKBONES["nafnet"])
    params, picture = network.abstract_params(), np.zeros((2, 16, 16, 3), np.float32)
    for given, said in (
        ((picture, picture[:1]), "for 2 degraded pictures it must be"),
        ((picture, picture[..., :1]), r"guidance is \(2, 16, 16, 1\)"),
        ((picture[..., :1], picture), "degraded is .* nafnet restores pictures"),
    ):
        with pytest.raises(InputError, match=said):
            jax.eval_shape(network.apply, params, *given)
    with pytest.raises(InputError, match="missing base.intro.bias"):
        guided.with_base(params, {})
    with pytest.raises(InputError, match="guided sfnet cannot be exchanged with PyTorch; .*NAFNet"):
        convert.torch_names(models.build("guided", backbone="sfnet", **BACKBONES["sfnet"]))


def test_sizes_of_dead_tensors_are_those_of_the_backbone():
    network = models.build("guided", backbone="promptir")
    shapes = convert.dead.shapes(network)
    dead = sum(math.prod(shape) for shape in shapes.values())
    assert network.size + dead == 69_561_757  # all that the reference's class holds
