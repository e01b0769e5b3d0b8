"""DRSformer, with and without its experts, computes what its torch twin computes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tdr_jax import convert, models
from tdr_jax.convert import tables
from tdr_jax.models import drsformer
from tests.support import parity
from tests.support import torch_drsformer as twin

# Hidden widths 21, 42, 85, 170 and 42: odd ones pair a 3x3 with a 5x5 channel.
SMALL = dict(dim=8, num_blocks=(1, 2, 1, 1), heads=(1, 2, 2, 4))


@pytest.mark.parametrize(
    "name, shape, form",
    [
        ("drsformer", (2, 3, 21, 18), {}),
        ("drsformer-200l", (2, 3, 16, 24), dict(LayerNorm_type="BiasFree", bias=True)),
    ],
)
def test_networks_equal_the_twin(name, shape, form):
    torch.manual_seed(0)
    sizes = SMALL | form
    made = sizes | dict(mefc=name == "drsformer")
    module = parity.shaken(twin.DRSformer(**made))
    parity.assert_outputs_equal(name, module, shape, **sizes)
    parity.assert_round_trip(name, module, twin.DRSformer(**made), **sizes)


@pytest.mark.full
def test_published_network_equals_the_twin():
    torch.manual_seed(0)
    module = parity.shaken(twin.DRSformer())
    parity.assert_round_trip("drsformer", module, twin.DRSformer())
    images = torch.rand(4, 3, 24, 27)
    with torch.no_grad():
        y = parity.padded(module, images).permute(0, 2, 3, 1)
    params = convert.from_torch("drsformer", module.state_dict())
    run = jax.jit(models.build("drsformer").apply)
    out = run(params, parity.nhwc(images))
    errors = [parity.relative(out[i], y[i]) for i in range(4)]
    # Of some thirty thousand cuts a picture, one may lie between logits that only rounding tells
    # apart; torch and ours may then keep another entry, and that picture differs by more.
    assert min(errors) < 1e-5
    assert max(errors) < 0.02


def assert_part_and_gradients_equal(ours, theirs, config, shape, place):
    """Output within 1e-5 and gradients within 1e-4, of a part of the network.

    Args:
        ours: makes our module from a config.
        theirs: the twin's module.
        config: of our network.
        shape: (B, C, H, W) of the features.
        place: where the table knows the part: our prefix and theirs.
    """
    x = torch.randn(shape, requires_grad=True)
    y = theirs(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    network = models.Network("part", config, ours)
    stacked = ".blocks." in place[0]
    shapes = {
        place[0] + name: (1, *spec.shape) if stacked else spec.shape
        for name, spec in network.abstract_params().items()
    }
    entries = tables.entries(tables.DRSFORMER, shapes)
    state = {place[1] + name: value.numpy() for name, value in theirs.state_dict().items()}
    assert {entry.theirs for entry in entries} == state.keys()
    pieces = {}
    for entry in entries:
        array = jax.device_put(entry.layout.from_torch(state[entry.theirs]))
        pieces.setdefault(entry.ours.removeprefix(place[0]), []).append((entry.index, array))
    params = {
        name: found[0][1]
        if stacked or found[0][0] is None
        else jnp.stack([array for _, array in found])
        for name, found in pieces.items()
    }

    def objective(params, x):
        out = network.apply(params, x)
        return (out * parity.nhwc(direction)).sum(), out

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    step = jax.jit(gradient)
    (gradients, dx), out = step(params, parity.nhwc(x))
    assert parity.relative(out, y.permute(0, 2, 3, 1)) < 1e-5
    assert parity.relative(dx, x.grad.permute(0, 2, 3, 1)) < 1e-4
    for entry in entries:
        value = np.asarray(gradients[entry.ours.removeprefix(place[0])])
        value = value if stacked or entry.index is None else value[entry.index]
        parameter = theirs.get_parameter(entry.theirs.removeprefix(place[1]))
        assert parity.relative(entry.layout.to_torch(value), parameter.grad) < 1e-4, entry.theirs


@pytest.mark.parametrize(
    "channels, heads, form",
    [(48, 1, {}), (16, 2, dict(bias=True, LayerNorm_type="BiasFree"))],
    ids=["odd hidden width", "even hidden width, biases"],
)
def test_blocks_and_their_gradients_equal_the_twin(channels, heads, form):
    torch.manual_seed(1)
    config = models.build("drsformer", **form).config
    assert_part_and_gradients_equal(
        lambda config: drsformer.TransformerBlock(channels, heads, config),
        parity.shaken(twin.TransformerBlock(channels, heads, **form)),
        config,
        (2, channels, 6, 10),
        ("latent.blocks.", "latent.0."),
    )


def test_experts_and_their_gradients_equal_the_twin():
    torch.manual_seed(2)
    config = models.build("drsformer").config
    assert_part_and_gradients_equal(
        lambda config: drsformer.Compensator(12, config),
        parity.shaken(twin.Compensator(12)),
        config,
        (2, 12, 9, 7),
        ("refinement.", "refinement."),
    )


def test_of_equal_logits_the_first_lead_and_exactly_k_are_kept():
    x = np.random.default_rng(0).integers(0, 4, (2, 3, 7, 7)).astype(np.float32)
    order = np.argsort(-x, axis=-1, kind="stable")
    np.testing.assert_array_equal(
        drsformer.ranks(jnp.asarray(x)), np.argsort(order, axis=-1, kind="stable")
    )

    network = models.Network("part", None, lambda _: drsformer.SparseAttention(12, 1))
    equal = jnp.zeros((1, 12, 12))
    weights = network.apply(network.init(0), equal, method="sparse_softmax")
    expected = [sum(0.2 / k for k in (6, 8, 9, 9) if i < k) for i in range(12)]
    np.testing.assert_allclose(weights[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name, count", [("drsformer", 33_655_424), ("drsformer-200l", 32_610_304)])
def test_published_networks_have_the_published_number_of_parameters(name, count):
    shapes = models.build(name).abstract_params()
    assert sum(math.prod(spec.shape) for spec in shapes.values()) == count


def test_bfloat16_stays_near_float32():
    config = models.build("drsformer").config
    block = models.Network("block", config, lambda c: drsformer.TransformerBlock(16, 2, c))
    experts = models.Network("experts", config, lambda c: drsformer.Compensator(16, c))
    x = jax.random.normal(jax.random.key(0), (1, 8, 12, 16))
    for part in (block, experts):
        run = jax.jit(part.apply)
        params = part.init(0)
        full, half = run(params, x), run(params, x.astype(jnp.bfloat16))
        assert half.dtype == jnp.bfloat16
        assert 0 < np.abs(half - full).max() < 0.03 * np.abs(full).max()


def test_gradients_stay_float32_under_bfloat16():
    config = models.build("drsformer", dtype="bfloat16", remat=True).config
    x = jax.ShapeDtypeStruct((2, 8, 8, 16), "bfloat16")
    for make in (
        lambda c: drsformer.TransformerBlock(16, 2, c),
        lambda c: drsformer.Compensator(16, c),
    ):
        part = models.Network("part", config, make)
        gradient = jax.grad(lambda params, x, part=part: part.apply(params, x).sum())
        gradients = jax.eval_shape(gradient, part.abstract_params(), x)
        assert {str(value.dtype) for value in gradients.values()} == {"float32"}


def test_pictures_of_few_pixels_come_back_whole():
    network = models.build("drsformer", **SMALL)
    for height, width in ((1, 1), (3, 9)):
        images = jax.ShapeDtypeStruct((1, height, width, 3), "float32")
        out = jax.eval_shape(network.apply, network.abstract_params(), images)
        assert out.shape == images.shape
