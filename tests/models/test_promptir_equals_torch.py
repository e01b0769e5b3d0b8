"""PromptIR and its prompts compute what the PyTorch module computes."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tdr_jax import convert, models
from tdr_jax.convert import torch_modules
from tdr_jax.models import promptir
from tests.support import parity

SMALL = dict(
    dim=8,
    num_blocks=(1, 1, 2, 1),
    num_refinement_blocks=1,
    heads=(1, 2, 2, 4),
    prompt_dim=(4, 6, 10),
    prompt_len=3,
    prompt_size=(11, 6, 4),
)
# What the published checkpoint holds besides: 1x1 convolutions that are built and never called.
DEAD = {
    "chnl_reduce1.weight": (64, 64, 1, 1),
    "chnl_reduce2.weight": (128, 128, 1, 1),
    "chnl_reduce3.weight": (256, 320, 1, 1),
    "reduce_noise_channel_1.weight": (48, 112, 1, 1),
    "reduce_noise_channel_2.weight": (96, 224, 1, 1),
    "reduce_noise_channel_3.weight": (192, 448, 1, 1),
}


def test_network_equals_the_twin_at_a_size_that_is_no_multiple():
    torch.manual_seed(0)
    sizes = SMALL | dict(LayerNorm_type="BiasFree", bias=True)
    module = parity.shaken(torch_modules.PromptIR(**sizes))
    parity.assert_outputs_equal("promptir", module, (2, 3, 45, 18), **sizes)
    parity.assert_round_trip("promptir", module, torch_modules.PromptIR(**sizes), **sizes)


def test_network_and_its_gradients_equal_the_twin():
    torch.manual_seed(1)
    module = parity.shaken(torch_modules.PromptIR(**SMALL))
    # recomputing in the backward pass changes no gradient
    parity.assert_gradients_equal("promptir", module, (1, 3, 16, 24), remat=True, **SMALL)
    parity.assert_round_trip("promptir", module, torch_modules.PromptIR(**SMALL), **SMALL)


@pytest.mark.full
def test_published_network_and_its_gradients_equal_the_twin():
    torch.manual_seed(0)
    module = parity.shaken(torch_modules.PromptIR())
    parity.assert_gradients_equal("promptir", module, (1, 3, 40, 27))
    parity.assert_round_trip("promptir", module, torch_modules.PromptIR())


def test_published_network_has_the_published_number_of_parameters():
    shapes = models.build("promptir").abstract_params()
    live = sum(math.prod(spec.shape) for spec in shapes.values())
    assert live + sum(math.prod(shape) for shape in DEAD.values()) == 35_592_263


def test_dead_tensors_of_the_reference_are_ignored():
    state = torch_modules.PromptIR().state_dict()
    extended = state | {name: torch.zeros(shape) for name, shape in DEAD.items()}
    params = convert.from_torch("promptir", extended)
    assert params.keys() == models.build("promptir").abstract_params().keys()


@pytest.mark.parametrize(
    "size, target", [((64, 64), (33, 177)), ((5, 16), (16, 1)), ((7, 3), (7, 3))]
)
def test_prompts_are_resized_as_torch_does(size, target):
    torch.manual_seed(0)
    picture = torch.rand(2, 3, *size)
    theirs = F.interpolate(picture, target, mode="bilinear").permute(0, 2, 3, 1)
    ours = promptir.resize(parity.nhwc(picture), *target)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=5e-6)


def test_features_choose_the_prompt():
    network = models.Network("prompt", None, lambda _: promptir.PromptGenBlock(6, 3, 5, 8))
    params = network.init(0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 7, 8)), jnp.float32)
    prompts = network.apply(params, x)
    assert np.abs(prompts[0] - prompts[1]).max() > 1e-3
    np.testing.assert_allclose(network.apply(params, x[1:])[0], prompts[1], atol=1e-6)
    only_first = params | {"linear_layer.bias": jnp.asarray([100.0, 0, 0])}
    expected = promptir.resize(params["prompt_param"][:1], 9, 7)
    kernel = jnp.zeros((3, 3, 6, 6)).at[1, 1].set(jnp.eye(6))
    chosen = network.apply(only_first | {"conv3x3.kernel": kernel}, x)
    np.testing.assert_allclose(chosen[0], expected[0], atol=1e-5)


def test_starting_prompts_lie_between_0_and_1():
    prompt = models.build("promptir", **SMALL).init(3)["prompt1.prompt_param"]
    assert 0 <= prompt.min() < 0.05 and 0.95 < prompt.max() <= 1


def test_a_network_without_prompts_is_refused():
    with pytest.raises(ValueError, match="decoder=False"):
        models.build("promptir", decoder=False).abstract_params()
