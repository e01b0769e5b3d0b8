"""NAFNet, with means over the picture and local ones, computes what its torch twin computes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tdr_jax import convert, models
from tdr_jax.nn import pooling
from tests.support import torch_nafnet as twin
from tests.support.parity import nhwc, relative, shaken

SMALL = dict(width=8, middle_blk_num=1, enc_blk_nums=(1, 2), dec_blk_nums=(1, 1))
SHALLOW = dict(width=8, middle_blk_num=1, enc_blk_nums=(2,), dec_blk_nums=(1,))


def pair(name, sizes):
    """A twin, our network and the twin's parameters in it."""
    torch.manual_seed(0)
    module = shaken(twin.NAFNet(**sizes), 0.1)
    params = convert.from_torch(name, module.state_dict(), **sizes)
    return module, models.build(name, **sizes), params


def compare_gradients(name, sizes, shape):
    """Output and all gradients at one shape (B, C, H, W)."""
    module, network, params = pair(name, sizes)
    images = torch.rand(*shape, requires_grad=True)
    y = module(images)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    def objective(params, images):
        out = network.apply(params, images)
        return (out * nhwc(direction)).sum(), out

    step = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (gradients, dx), out = step(params, nhwc(images))
    assert relative(out - nhwc(images), (y - images).permute(0, 2, 3, 1)) < 1e-5
    assert relative(dx, images.grad.permute(0, 2, 3, 1)) < 1e-4
    gradients = convert.to_torch(name, gradients, **sizes)
    for key, parameter in module.named_parameters():
        assert relative(gradients[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize("sizes, shape", [(SMALL, (2, 3, 16, 24)), (SHALLOW, (2, 1, 13, 17))])
def test_network_and_its_gradients_equal_the_twin(sizes, shape):
    compare_gradients("nafnet", sizes | dict(img_channel=shape[1]), shape)


def test_local_network_and_its_gradients_equal_the_twin():
    compare_gradients("nafnet", SHALLOW | dict(train_size=(12, 8)), (1, 3, 29, 33))


# The window is 18 rows by 12 columns: it covers the first picture, and one side of the second.
@pytest.mark.parametrize("height, width", [(16, 12), (17, 21)])
def test_local_network_equals_the_twin_where_the_window_covers_a_side(height, width):
    module, network, params = pair("nafnet", SMALL | dict(train_size=(12, 8)))
    images = torch.rand(1, 3, height, width)
    out = jax.jit(network.apply)(params, nhwc(images))
    assert relative(out - nhwc(images), (module(images) - images).permute(0, 2, 3, 1)) < 1e-5


def test_local_means_differ_from_global_ones_only_on_larger_pictures():
    networks = [models.build("nafnet", train_size=size, **SHALLOW) for size in ((), (1, 3, 12, 8))]
    params = shaken_params(networks[0])
    for size, equal in (((16, 12), True), ((24, 12), False)):
        images = np.random.default_rng(1).uniform(size=(1, *size, 3)).astype(np.float32)
        first, second = (jax.jit(network.apply)(params, images) for network in networks)
        assert np.allclose(first, second, atol=1e-6) == equal


def shaken_params(network):
    generator = np.random.default_rng(0)
    return {
        name: np.asarray(value) + 0.1 * generator.standard_normal(value.shape).astype(np.float32)
        for name, value in network.init(0).items()
    }


@pytest.mark.full
def test_gopro_network_equals_the_twin():
    compare_gradients("nafnet-32", dict(width=32), (1, 3, 50, 64))


def test_state_dict_goes_out_as_it_came_in():
    module, _, params = pair("nafnet", SMALL)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    back = convert.to_torch("nafnet", params, **SMALL)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    module.load_state_dict(back, strict=True)


@pytest.mark.parametrize(
    "name, count",
    [
        ("nafnet", 67_888_835),
        ("nafnet-local", 67_888_835),
        ("nafnet-32", 17_111_907),
        ("nafnet-sidd", 115_982_915),
        ("nafnet-sidd-32", 29_159_715),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(name, count):
    shapes = models.build(name).abstract_params()
    assert sum(math.prod(spec.shape) for spec in shapes.values()) == count


def test_blocks_start_as_identities():
    network = models.build("nafnet", **SHALLOW)
    params = network.init(0)
    assert all(
        not value.any() for name, value in params.items() if name.endswith(("beta", "gamma"))
    )
    moved = {name: value + ("blocks" in name and "conv" in name) for name, value in params.items()}
    images = jax.random.uniform(jax.random.key(0), (1, 16, 12, 3))
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(apply(moved, images), apply(params, images))


def test_bfloat16_stays_near_float32():
    sizes = dict(train_size=(8, 8), **SHALLOW)
    params = shaken_params(models.build("nafnet", **sizes))
    images = jax.random.uniform(jax.random.key(0), (1, 24, 20, 3))
    full, half = (
        jax.jit(models.build("nafnet", dtype=dtype, **sizes).apply)(params, images)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full - images).max()


def exact_window_mean(x, window):
    """Summed areas in float64, the outermost values repeated."""
    _, height, width, _ = x.shape
    kh, kw = min(window[0], height), min(window[1], width)
    areas = np.pad(x.astype(np.float64), ((0, 0), (1, 0), (1, 0), (0, 0))).cumsum(1).cumsum(2)
    sums = areas[:, kh:, kw:] - areas[:, :-kh, kw:] - areas[:, kh:, :-kw] + areas[:, :-kh, :-kw]
    rows, columns = kh - 1, kw - 1
    margins = (rows // 2, (rows + 1) // 2), (columns // 2, (columns + 1) // 2)
    return np.pad(sums / (kh * kw), ((0, 0), *margins, (0, 0)), mode="edge")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "height, width, window",
    [
        (6, 9, (7, 10)),  # the window covers the picture
        (7, 10, (7, 10)),
        (8, 10, (7, 10)),  # one row more, one side covered
        (6, 31, (7, 10)),
        (40, 33, (7, 10)),
        (300, 420, (96, 150)),
    ],
)
def test_window_mean_is_exact(backend, height, width, window, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = np.random.default_rng(0).uniform(size=(2, height, width, 3)).astype(np.float32)
    x[:, : height // 2] *= 3  # a bright half: prefix sums of it are large
    mean = jax.jit(functools.partial(pooling.window_mean, window=window))(x)
    assert mean.dtype == jnp.float32
    assert mean.shape == x.shape
    assert np.abs(mean - exact_window_mean(x, window)).max() < 2e-6
