"""Restormer computes what the PyTorch module computes, in every form that was published."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tdr_jax import models
from tdr_jax.convert import tables, torch_modules
from tdr_jax.nn import blocks
from tests.support import parity

SMALL = dict(dim=8, num_blocks=(1, 2, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4))
FORMS = {
    "with bias": {},
    "bias-free, grey": dict(LayerNorm_type="BiasFree", inp_channels=1, out_channels=1),
    "dual pixel": dict(dual_pixel_task=True, inp_channels=6),
}


@pytest.mark.parametrize("form", FORMS)
def test_networks_equal_the_twin_at_sizes_that_are_no_multiples(form):
    torch.manual_seed(0)
    sizes = SMALL | FORMS[form]
    module = parity.shaken(torch_modules.Restormer(**sizes))
    shape = 2, sizes.get("inp_channels", 3), 21, 18
    parity.assert_outputs_equal("restormer", module, shape, **sizes)
    parity.assert_round_trip("restormer", module, torch_modules.Restormer(**sizes), **sizes)


def test_network_and_its_gradients_equal_the_twin():
    torch.manual_seed(1)
    sizes = SMALL | dict(bias=True, dual_pixel_task=True, inp_channels=6)
    module = parity.shaken(torch_modules.Restormer(**sizes))
    parity.assert_gradients_equal("restormer", module, (1, 6, 16, 24), **sizes)
    parity.assert_round_trip("restormer", module, torch_modules.Restormer(**sizes), **sizes)


@pytest.mark.full
def test_published_network_and_its_gradients_equal_the_twin():
    torch.manual_seed(0)
    module = parity.shaken(torch_modules.Restormer())
    parity.assert_gradients_equal("restormer", module, (1, 3, 40, 27))
    parity.assert_round_trip("restormer", module, torch_modules.Restormer())


@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
def test_block_and_its_gradients_equal_the_twin(norm):
    torch.manual_seed(2)
    block = parity.shaken(torch_modules.TransformerBlock(48, 2, LayerNorm_type=norm))
    x = torch.randn(2, 48, 6, 10).add(0.5).requires_grad_()  # a mean that a norm may leave
    y = block(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    config = models.build("restormer", LayerNorm_type=norm).config
    network = models.Network("block", config, lambda c: blocks.TransformerBlock(48, 2, c))
    shapes = {
        f"latent.blocks.{name}": (1, *spec.shape)
        for name, spec in network.abstract_params().items()
    }
    rows = [
        (row.theirs.removeprefix("latent.0."), row.ours.removeprefix("latent.blocks."), row.layout)
        for row in tables.entries(tables.RESTORMER, shapes)
    ]
    state = {name: tensor.numpy() for name, tensor in block.state_dict().items()}
    assert len(rows) == len(state)
    params = {
        ours: jax.device_put(layout.from_torch(state[theirs])) for theirs, ours, layout in rows
    }

    def objective(params, x):
        out = network.apply(params, x)
        return (out * parity.nhwc(direction)).sum(), out

    step = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (gradients, dx), out = step(params, parity.nhwc(x))
    assert parity.relative(out, y.permute(0, 2, 3, 1)) < 1e-5
    assert parity.relative(dx, x.grad.permute(0, 2, 3, 1)) < 1e-4
    for theirs, ours, layout in rows:
        gradient = layout.to_torch(np.asarray(gradients[ours]))
        assert parity.relative(gradient, block.get_parameter(theirs).grad) < 1e-4, theirs

    half = jax.jit(network.apply)(params, parity.nhwc(x).astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert parity.relative(half.astype(jnp.float32), y.permute(0, 2, 3, 1)) < 0.03


@pytest.mark.parametrize(
    "form, count",
    [
        ({}, 26_126_644),
        (dict(inp_channels=1, out_channels=1, LayerNorm_type="BiasFree"), 26_109_076),
        (dict(inp_channels=6, dual_pixel_task=True), 26_132_548),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(form, count):
    shapes = models.build("restormer", **form).abstract_params()
    assert sum(math.prod(spec.shape) for spec in shapes.values()) == count
    assert sum(p.numel() for p in torch_modules.Restormer(**form).parameters()) == count


def test_pictures_of_few_pixels_come_back_whole():
    network = models.build("restormer", **SMALL)
    for height, width in ((1, 1), (3, 9)):
        images = jax.ShapeDtypeStruct((1, height, width, 3), "float32")
        out = jax.eval_shape(network.apply, network.abstract_params(), images)
        assert out.shape == images.shape


def test_an_unknown_norm_is_said_plainly():
    with pytest.raises(ValueError, match="LayerNorm_type is 'Biasfree'; there are: WithBias"):
        models.build("restormer", LayerNorm_type="Biasfree").abstract_params()
