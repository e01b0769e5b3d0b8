"""The NHWC primitives and their hand-written gradients equal torch's."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from tdr_jax.nn import layers, ops


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nchw(array):
    return torch.tensor(array).permute(0, 3, 1, 2)


def close(ours, theirs, tolerance=1e-5):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 5, 7, 6), (1, 130, 3, 4), (3, 8, 16, 20)])
@pytest.mark.parametrize("size, dilation", [(3, 1), (5, 1), (7, 2)])
def test_depthwise_convolution_and_its_gradients(shape, size, dilation):
    x, kernel, dy = random(*shape), random(size, size, shape[-1], seed=1), random(*shape, seed=2)
    tx = torch.tensor(x, requires_grad=True)
    tk = torch.tensor(kernel, requires_grad=True)
    y = F.conv2d(
        tx.permute(0, 3, 1, 2),
        tk.permute(2, 0, 1)[:, None],
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=shape[-1],
    ).permute(0, 2, 3, 1)
    y.backward(torch.tensor(dy))
    depthwise = functools.partial(ops.depthwise, dilation=dilation)
    ours, pull = jax.vjp(depthwise, jnp.asarray(x), jnp.asarray(kernel))
    dx, dk = pull(jnp.asarray(dy))
    close(ours, y.detach())
    close(dx, tx.grad)
    close(dk, tk.grad)


@pytest.mark.parametrize("size, dilation", [(3, 1), (7, 2)])
def test_both_depthwise_implementations_agree(monkeypatch, size, dilation):
    x, kernel = random(2, 6, 9, 5), random(size, size, 5, seed=1)
    shifted = ops.depthwise(jnp.asarray(x), jnp.asarray(kernel), dilation)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    close(ops.depthwise(jnp.asarray(x), jnp.asarray(kernel), dilation), shifted)


def test_pixel_shuffles_use_torch_channel_order():
    x = random(2, 6, 8, 12)
    close(layers.pixel_shuffle(x, 2), F.pixel_shuffle(nchw(x), 2).permute(0, 2, 3, 1))
    close(layers.pixel_unshuffle(x, 2), F.pixel_unshuffle(nchw(x), 2).permute(0, 2, 3, 1))
    np.testing.assert_array_equal(layers.pixel_unshuffle(layers.pixel_shuffle(x, 2), 2), x)


def test_normalise_is_layer_norm_with_torch_eps():
    x = 1e-3 * random(2, 3, 4, 16)  # small, so that another eps would show
    close(layers.normalise(jnp.asarray(x)), F.layer_norm(torch.tensor(x), (16,)))


def test_gelu_gate_and_its_gradients():
    a, b, dy = 2 * random(50), random(50, seed=1), random(50, seed=2)
    ta, tb = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    y = F.gelu(ta) * tb
    y.backward(torch.tensor(dy))
    ours, pull = jax.vjp(ops.gelu_gate, jnp.asarray(a), jnp.asarray(b))
    da, db = pull(jnp.asarray(dy))
    close(ours, y.detach())
    close(da, ta.grad)
    close(db, tb.grad)


@pytest.mark.parametrize(
    "function, equation, shapes",
    [
        (ops.matmul, "bnc,bcd->bnd", ((2, 7, 5), (2, 5, 3))),
        (ops.gram, "bnc,bnd->bcd", ((2, 7, 5), (2, 7, 3))),
    ],
)
def test_products_and_their_gradients(function, equation, shapes):
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = torch.einsum(equation, *tensors)
    dy = random(*y.shape, seed=5)
    y.backward(torch.tensor(dy))
    ours, pull = jax.vjp(function, *map(jnp.asarray, arrays))
    close(ours, y.detach())
    for gradient, tensor in zip(pull(jnp.asarray(dy)), tensors, strict=True):
        close(gradient, tensor.grad)


def test_products_keep_bfloat16_and_sum_in_float32():
    ones = jnp.full((1, 4096, 2), 1.0, jnp.bfloat16)
    assert ops.gram(ones, ones).dtype == jnp.float32
    np.testing.assert_array_equal(ops.gram(ones, ones), 4096.0)  # bfloat16 sums stop at 256
    assert ops.matmul(ones, jnp.ones((1, 2, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "size, stride, padding", [(3, 1, 1), (3, 1, 0), (5, 1, 2), (4, 1, 1), (3, 2, 1), (2, 2, 0)]
)
def test_convolution_and_its_gradients(size, stride, padding):
    x, kernel = random(2, 5, 6, 4), random(size, size, 4, 7, seed=1)
    tx, tk = torch.tensor(x, requires_grad=True), torch.tensor(kernel, requires_grad=True)
    y = F.conv2d(
        tx.permute(0, 3, 1, 2), tk.permute(3, 2, 0, 1), padding=padding, stride=stride
    ).permute(0, 2, 3, 1)
    dy = random(*y.shape, seed=2)
    y.backward(torch.tensor(dy))
    ours, pull = jax.vjp(
        lambda x, kernel: ops.convolve(x, kernel, stride, padding), x, jnp.asarray(kernel)
    )
    close(ours, y.detach())
    dx, dkernel = pull(jnp.asarray(dy))
    close(dx, tx.grad)
    close(dkernel, tk.grad)


def test_convolutions_in_a_loop_keep_the_layout_that_is_quick_on_cpu():
    """Another takes XLA many times as long; only outside of loops does it change that itself."""
    stage = layers.Stage(lambda: layers.Conv(4, 4), 3)
    graphdef, state = nnx.split(stage)
    gradient = jax.jit(jax.grad(lambda state, x: nnx.merge(graphdef, state)(x).sum(), (0, 1)))
    program = gradient.lower(state, jnp.ones((2, 8, 8, 4))).compile().as_text()
    layouts = re.findall(r" convolution\(.*dim_labels=(\S+?)[, ]", program)
    assert layouts == 3 * ["b01f_01io->b01f"]


@pytest.mark.parametrize("padding, mode", [("reflect", "reflect"), ("zeros", "constant")])
def test_padding_to_a_multiple_equals_torch(padding, mode):
    x = random(1, 5, 9, 2)
    padded = layers.pad_to_multiple(jnp.asarray(x), 8, padding)
    theirs = F.pad(nchw(x), (0, 7, 0, 3), mode).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(padded, theirs)
    assert layers.pad_to_multiple(padded, 8, padding) is padded


@pytest.mark.parametrize(
    "options",
    [dict(), dict(remat=True), dict(unroll=2), dict(microbatches=2), dict(microbatches=3)],
)
def test_stage_runs_its_blocks_in_order_whatever_the_options(options):
    kernels, x, dy = 0.3 * random(3, 4, 4), random(2, 4, seed=1), random(2, 4, seed=2)
    stage = layers.Stage(lambda: layers.Linear(4, 4, bias=False), 3, **options)
    graphdef, state = nnx.split(stage)

    def run(kernels, x):
        flat = [(path, v.replace(kernels)) for path, v in nnx.to_flat_state(state)]
        return nnx.merge(graphdef, nnx.from_flat_state(flat))(x)

    tensors = torch.tensor(kernels, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = tensors[1] @ tensors[0][0] @ tensors[0][1] @ tensors[0][2]
    y.backward(torch.tensor(dy))
    ours, pull = jax.vjp(run, jnp.asarray(kernels), jnp.asarray(x))
    close(ours, y.detach())
    for gradient, tensor in zip(pull(jnp.asarray(dy)), tensors, strict=True):
        close(gradient, tensor.grad)
