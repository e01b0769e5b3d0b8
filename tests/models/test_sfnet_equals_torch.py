"""SFNet computes what its formulas say, in training and at rest, and travels to PyTorch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tdr_jax import convert, models
from tdr_jax.models import sfnet
from tests.support import torch_sfnet as twin
from tests.support.parity import nhwc, relative

SMALL = dict(num_res=2, base_channel=16)


def shaken(module):
    """Moves every tensor off its start, so that ones and zeros are tested too.

    Kernels move by little: blocks that amplify would amplify rounding errors as well.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.1 if parameter.ndim == 1 else 0.1 * parameter.std()
            parameter.add_(scale * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(1_234_567)
            else:
                buffer.add_(0.2 * torch.rand_like(buffer))
    return module


def photo_like(batch, height, width):
    """Smooth pictures with means of their own, as filters and norms meet them."""
    coarse = torch.rand(batch, 3, 5, 5)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return 0.9 * smooth + 0.1 * torch.rand(batch, 3, height, width)


def restored(module, images):
    """What the reference's test script makes of pictures of any size."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="reflect")
    with torch.no_grad():
        return module.eval()(padded)[0][:, :, :height, :width].permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "mode, base_size, num_res, height, width",
    [
        (("train", ""), None, 2, 48, 64),
        (("test", "GOPRO"), 80, 1, 45, 59),
    ],
)
def test_outputs_equal_the_twin(mode, base_size, num_res, height, width):
    torch.manual_seed(height)
    module = shaken(twin.SFNet(base_size, num_res, 16))
    images = photo_like(1, height, width)
    sizes = dict(mode=mode, num_res=num_res, base_channel=16)
    params = convert.from_torch("sfnet", module.state_dict(), **sizes)
    out = jax.jit(models.build("sfnet", **sizes).apply)(params, nhwc(images))
    assert out.dtype == jnp.float32
    assert relative(out, restored(module, images)) < 1e-5


def check_training(sizes, images):
    """Outputs, gradients and running statistics of a step of training, against the twin's.

    The twin computes in float64, so that the differences are our rounding errors alone.
    """
    module = shaken(twin.SFNet(**sizes)).train()
    network = models.build("sfnet", **sizes)
    params = convert.from_torch("sfnet", module.state_dict(), **sizes)
    images = images.double().requires_grad_()
    theirs = module.double()(images)
    directions = [torch.randn_like(output) for output in theirs]
    sum((y * d).sum() for y, d in zip(theirs, directions, strict=True)).backward()

    def objective(params, images):
        outputs, running = network.apply(params, images, method="training")
        total = sum((y * nhwc(d)).sum() for y, d in zip(outputs, directions, strict=True))
        return total, (outputs, running)

    step = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (gradients, dx), (outputs, running) = step(params, nhwc(images))
    for ours, output in zip(outputs, theirs, strict=True):
        assert relative(ours, output.permute(0, 2, 3, 1)) < 1e-5
    assert relative(dx, images.grad.permute(0, 2, 3, 1)) < 1e-4
    gradients = convert.to_torch("sfnet", gradients, **sizes)
    largest = max(parameter.grad.abs().max() for parameter in module.parameters())
    for name, parameter in module.named_parameters():
        if name.startswith("SCM") and name.endswith("3.main.0.bias"):
            # The norm behind takes this bias away again: rounding is all that is left of both.
            assert max(gradients[name].abs().max(), parameter.grad.abs().max()) < 1e-2
        else:  # or within float32's rounding of the largest: some are a millionth of it
            error = (gradients[name] - parameter.grad).abs().max()
            assert error < max(1e-4 * parameter.grad.abs().max(), 1e-8 * largest), name

    statistics = dict(module.named_buffers())
    assert len(running) == len(statistics) == 36
    updated = convert.to_torch("sfnet", params | running, **sizes)
    for name, value in statistics.items():
        assert relative(updated[name], value) < 1e-5, name
    tracked = [value for name, value in updated.items() if name.endswith("num_batches_tracked")]
    assert {(int(value), value.dtype) for value in tracked} == {(1_234_568, torch.int64)}


def test_a_training_step_equals_the_twin():
    torch.manual_seed(2)
    check_training(SMALL, photo_like(4, 32, 24))


@pytest.mark.full
def test_a_training_step_of_the_published_network_equals_the_twin():
    torch.manual_seed(0)
    check_training({}, photo_like(2, 32, 32))


def test_recomputed_blocks_give_the_same_gradients_and_statistics():
    def results(remat):
        config = sfnet.SFNetConfig(remat=remat, **SMALL)
        level = models.Network("level", config, lambda config: sfnet.Level(16, config))

        def objective(params, x):
            y, running = level.apply(params, x, True)
            return (y**2).sum(), running

        gains = {name: np.asarray(value) + 0.5 for name, value in level.init(0).items()}
        x = jax.random.normal(jax.random.key(0), (2, 8, 8, 16))
        return jax.jit(jax.grad(objective, has_aux=True))(gains, x)

    plain, spared = results(False), results(True)
    assert len(plain[1]) == 6
    # Of the largest value: what a norm takes away again has no gradient but rounding.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[0]))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(functools.partial(close, atol=1e-6 * largest), plain[0], spared[0])
    jax.tree.map(functools.partial(close, atol=1e-4), plain[1], spared[1])


def test_round_trip_is_bit_identical_and_loads_into_the_twin():
    torch.manual_seed(0)
    module = shaken(twin.SFNet())
    state = module.state_dict()
    dead = {"Encoder.0.layers.15.dyna.lamb_l": torch.zeros(16)}
    params = convert.from_torch("sfnet", state | dead)
    back = convert.to_torch("sfnet", params)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert {name: value.dtype for name, value in back.items()} == {
        name: value.dtype for name, value in state.items()
    }
    twin.SFNet().load_state_dict(back, strict=True)


def test_published_network_has_the_published_number_of_parameters():
    shapes = models.build("sfnet").abstract_params()
    count = {False: 0, True: 0}
    for name, spec in shapes.items():
        buffer = name.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")
        count[buffer] += math.prod(spec.shape)
    assert count == {False: 13_270_313, True: 3_276}


def test_bfloat16_stays_near_float32():
    image = nhwc(photo_like(1, 48, 64))
    params = models.build("sfnet", **SMALL).init(0)
    full = jax.jit(models.build("sfnet", **SMALL).apply)(params, image)
    half = jax.jit(models.build("sfnet", dtype="bfloat16", **SMALL).apply)(params, image)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full - image).max()


def test_what_cannot_work_is_said_plainly():
    network = models.build("sfnet", **SMALL)
    params = network.abstract_params()

    def train(*shape):
        images = jax.ShapeDtypeStruct(shape, "float32")
        jax.eval_shape(lambda p, x: network.apply(p, x, method="training"), params, images)

    with pytest.raises(ValueError, match="batch of one picture"):
        train(1, 16, 16, 3)
    with pytest.raises(ValueError, match="16x20; training needs .* multiples of 8"):
        train(2, 16, 20, 3)
    with pytest.raises(ValueError, match="mode is .* one of Indoor"):
        models.build("sfnet", mode=["test", "Venus"])
    with pytest.raises(ValueError, match="base_channel is 24"):
        models.build("sfnet", base_channel=24)
