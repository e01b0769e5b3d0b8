"""NHWC building blocks that compute what their PyTorch namesakes compute.

Parameters carry the PyTorch module names (`qkv.kernel`, `norm1.body.weight`), in the layouts XLA
wants: dense kernels (in, out), convolution kernels HWIO, depthwise kernels (3, 3, C). Norms run in
float32 whatever the compute dtype is. Initial values follow torch's defaults.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


@dataclasses.dataclass(frozen=True)
class Initial:
    """How `Network.init` draws a parameter: U(-bound, bound) + N(0, std^2) + constant."""

    bound: float = 0.0
    std: float = 0.0
    constant: float = 0.0


def param(
    shape: tuple[int, ...], *, fan_in: int = 0, std: float = 0.0, constant: float = 0.0
) -> nnx.Param:
    """Declares a float32 parameter; `Network.init` draws its values.

    Args:
      shape: of one block; `Stage` puts the layer axis in front.
      fan_in: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default start; 0 means no draw.
      std: of a normal draw instead.
      constant: the value, where nothing is drawn.
    """
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return nnx.Param(jnp.zeros(shape, jnp.float32), initial=Initial(bound, std, constant))


class Linear(nnx.Module):
    """Dense layer on the last axis; also a 1x1 convolution, which in NHWC is the same product.

    The kernel is (in_features, out_features): the transpose of torch's.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True):
        self.kernel = param((in_features, out_features), fan_in=in_features)
        self.bias = param((out_features,), fan_in=in_features) if bias else None

    def __call__(self, x, features: slice = slice(None)):
        """Computes the given slice of the output features (all by default)."""
        kernel = self.kernel[...][:, features].astype(x.dtype)
        y = matmul(x.reshape(1, -1, x.shape[-1]), kernel[None])
        return self.add_bias(y.reshape(*x.shape[:-1], -1), features)

    def add_bias(self, y, features: slice = slice(None)):
        """Adds the bias, if there is one, to products computed elsewhere."""
        return y if self.bias is None else y + self.bias[...][features].astype(y.dtype)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(B, N, C) times (B, C, D) -> (B, N, D), with gradients in the layouts of their arguments.

    The gradient that JAX derives for `kernel` comes out transposed; on CPU, XLA then computes
    whatever produced dy a second time, column by column: about a third of a block's training time.
    """
    return _contract(x, kernel, (2, 1))


@jax.custom_vjp
def gram(x: jax.Array, y: jax.Array) -> jax.Array:
    """(B, N, C), (B, N, D) -> float32 (B, C, D): x^T y, summed over N in float32."""
    return _contract(x, y, (1, 1), jnp.float32)


def _contract(x, y, axes: tuple[int, int], dtype=None):
    dimensions = (((axes[0],), (axes[1],)), ((0,), (0,)))
    return lax.dot_general(x, y, dimensions, preferred_element_type=dtype)


def _matmul_backward(residuals, dy):
    x, kernel = residuals
    dkernel = _contract(x, dy, (1, 1), jnp.float32).astype(kernel.dtype)
    return _contract(dy, kernel, (2, 2)), dkernel


def _gram_backward(residuals, dz):
    x, y = residuals
    return _contract(y, dz.astype(y.dtype), (2, 2)), _contract(x, dz.astype(x.dtype), (2, 1))


matmul.defvjp(lambda x, kernel: (matmul(x, kernel), (x, kernel)), _matmul_backward)
gram.defvjp(lambda x, y: (gram(x, y), (x, y)), _gram_backward)


@jax.custom_vjp
def gelu_gate(a: jax.Array, b: jax.Array) -> jax.Array:
    """gelu(a) * b with the exact (erf) gelu; keeps only a and b for the backward pass."""
    return (a * _normal_cdf(a) * b).astype(a.dtype)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) gelu; keeps only x for the backward pass."""
    return (x * _normal_cdf(x)).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 * (1 + lax.erf(x.astype(jnp.float32) * math.sqrt(0.5)))


def _normal_density(x):
    return jnp.exp(-0.5 * jnp.square(x.astype(jnp.float32))) / math.sqrt(2 * math.pi)


def _gelu_gate_backward(residuals, dy):
    a, b = residuals
    cdf = _normal_cdf(a)
    da = dy * b * (cdf + a * _normal_density(a))
    return da.astype(a.dtype), (dy * a * cdf).astype(b.dtype)


def _gelu_backward(x, dy):
    return ((dy * (_normal_cdf(x) + x * _normal_density(x))).astype(x.dtype),)


gelu_gate.defvjp(lambda a, b: (gelu_gate(a, b), (a, b)), _gelu_gate_backward)
gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


# Activations under the names that Hugging Face configs give them.
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Embedding(nnx.Module):
    """Table of `count` rows, N(0, 0.02) at the start."""

    def __init__(self, count: int, features: int):
        self.weight = param((count, features), std=0.02)


class Conv(nnx.Module):
    """Convolution with zero padding (kernel HWIO); 3x3 and stride 1 unless said otherwise.

    Args:
      in_channels, out_channels: of the kernel.
      size: side of the kernel.
      stride: in both directions.
      padding: zeros on every side; `size // 2` by default.
      bias: whether there is one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
    ):
        fan_in = size * size * in_channels
        self.kernel = param((size, size, in_channels, out_channels), fan_in=fan_in)
        self.bias = param((out_channels,), fan_in=fan_in) if bias else None
        self.stride = stride
        self.padding = size // 2 if padding is None else padding

    def __call__(self, x):
        return self.add_bias(
            convolve(x, self.kernel[...].astype(x.dtype), self.stride, self.padding)
        )

    def add_bias(self, y):
        """Adds the bias, if there is one, to a convolution computed elsewhere."""
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution with zero padding, by the fastest implementation of the backend.

    Args:
      x: (B, H, W, C).
      kernel: (k, k, C, D), of x's dtype.
      stride: in both directions.
      padding: zeros on every side.

    Returns:
      (B, H', W', D). A 1x1 kernel is a matrix product, and so, on CPU, is a wide kernel over few
      pixels, whose windows are gathered first: up to twice as fast as XLA's convolution.
    """
    b, h, w, c = x.shape
    size, out = kernel.shape[0], kernel.shape[-1]
    if size == 1 and stride == 1 and not padding:
        return matmul(x.reshape(1, -1, c), kernel[0]).reshape(b, h, w, out)
    few = b * h * w <= 512 and c >= 256 and stride == 1 and 2 * padding == size - 1
    if few and jax.default_backend() == "cpu":
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = [padded[:, i : i + h, j : j + w] for i, j in _taps(size, 1)]
        windows = jnp.concatenate(windows, -1).reshape(1, b * h * w, -1)
        return matmul(windows, kernel.reshape(1, -1, out)).reshape(b, h, w, out)
    if stride == 1 and jax.default_backend() == "cpu":
        return _convolve_in_loops(x, kernel, padding)
    return _convolve(x, kernel, stride, padding)


def _convolve(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_in_loops(x, kernel, padding):
    """With gradients that are convolutions of the same layout as this one.

    XLA's CPU compiler changes other layouts to it outside of loops only; in a loop, such as that
    of `Stage`, JAX's own gradients take twenty times as long.
    """
    return _convolve(x, kernel, 1, padding)


def _convolve_forward(x, kernel, padding):
    return _convolve(x, kernel, 1, padding), (x, kernel)


def _convolve_backward(padding, residuals, dy):
    x, kernel = residuals
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    dx = _convolve(dy, turned, 1, kernel.shape[0] - 1 - padding)
    dkernel = _convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), 1, padding)
    return dx, dkernel.transpose(1, 2, 0, 3)


_convolve_in_loops.defvjp(_convolve_forward, _convolve_backward)


class LayerNorm(nnx.Module):
    """Normalises the last axis in float32 (biased variance, eps 1e-5: torch's default).

    Without a bias this is Restormer's BiasFree form: x is divided by its standard deviation, but
    not centred.
    """

    def __init__(self, features: int, *, bias: bool = True, eps: float = 1e-5):
        self.weight = param((features,), constant=1.0)
        self.bias = param((features,)) if bias else None
        self.eps = eps

    def __call__(self, x):
        if self.bias is None:
            y = x.astype(jnp.float32)
            y *= lax.rsqrt(y.var(-1, keepdims=True) + self.eps) * self.weight[...]
        else:
            y = normalise(x, self.eps) * self.weight[...] + self.bias[...]
        return y.astype(x.dtype)


def normalise(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Returns x with zero mean and unit biased variance along its last axis, in float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)


class GroupNorm(nnx.Module):
    """Normalises (B, H, W, C) over pixels and the channels of a group, in float32."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5):
        self.weight = param((channels,), constant=1.0)
        self.bias = param((channels,))
        self.groups = groups
        self.eps = eps

    def __call__(self, x):
        b, c = x.shape[0], x.shape[-1]
        z = x.astype(jnp.float32).reshape(b, -1, self.groups, c // self.groups)
        mean = z.mean((1, 3), keepdims=True)
        variance = jnp.square(z - mean).mean((1, 3), keepdims=True)
        # One scale and one shift a channel: the picture is read once more, not three times.
        scale = lax.rsqrt(variance + self.eps) * self.weight[...].reshape(self.groups, -1)
        shift = self.bias[...].reshape(self.groups, -1) - mean * scale
        return (z * scale + shift).reshape(x.shape).astype(x.dtype)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """(B, H, W, C) -> (B, H/f, W/f, C f f); channel c f f + i f + j, torch's order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor**2)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """(B, H, W, C f f) -> (B, H f, W f, C): the inverse of `pixel_unshuffle`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, c // factor**2)


def pad_to_multiple(images: jax.Array, multiple: int, mode: str = "reflect") -> jax.Array:
    """Pads the lower and right edge until both sides are multiples of `multiple`.

    Args:
      images: (B, H, W, C).
      multiple: of the padded sides.
      mode: of `jnp.pad`: "reflect", as the test scripts of the Restormer family, or "constant"
        for zeros, as NAFNet itself.

    Returns:
      (B, H', W', C); crop what comes out to H and W.
    """
    _, height, width, _ = images.shape
    margins = (0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)
    return jnp.pad(images, margins, mode=mode) if any(map(any, margins)) else images


def keep(level: int, x: jax.Array, *context: jax.Array) -> jax.Array:
    """Leaves features as they are: what `fuse` of the restoration networks is by default.

    Args:
      level: of the encoder, 0 at full resolution; the last is the bottleneck's.
      x: (B, H, W, C) as they enter that level.
      *context: what the network's blocks read beside features.

    Returns:
      x; another `fuse` returns features of its shape and dtype.
    """
    return x


class Downsample(nnx.Module):
    """Halves the resolution and doubles the channels: conv 3x3 to C/2, then pixel unshuffle."""

    def __init__(self, channels: int):
        self.body = nnx.List([Conv(channels, channels // 2)])

    def __call__(self, x):
        return pixel_unshuffle(self.body[0](x), 2)


class Upsample(nnx.Module):
    """Doubles the resolution and halves the channels: conv 3x3 to 2C, then pixel shuffle."""

    def __init__(self, channels: int):
        self.body = nnx.List([Conv(channels, 2 * channels)])

    def __call__(self, x):
        return pixel_shuffle(self.body[0](x), 2)


class DepthwiseConv(nnx.Module):
    """Depthwise convolution, stride 1, zero padding that keeps the size (kernel (k, k, C)).

    Args:
      channels: number of filters.
      size: side of the kernel, odd.
      dilation: distance of neighbouring taps.
      bias: whether there is one.
    """

    def __init__(self, channels: int, *, size: int = 3, dilation: int = 1, bias: bool = False):
        self.kernel = param((size, size, channels), fan_in=size * size)
        self.bias = param((channels,), fan_in=size * size) if bias else None
        self.dilation = dilation

    def __call__(self, x, channels: slice = slice(None)):
        """Applies the filters of the given channels to x, whose last axis holds just those."""
        y = depthwise(x, self.kernel[...][..., channels].astype(x.dtype), self.dilation)
        return y if self.bias is None else y + self.bias[...][channels].astype(x.dtype)


def depthwise(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Depthwise convolution with zero padding, by the fastest implementation of the backend.

    Args:
      x: (B, H, W, C).
      kernel: (k, k, C), of x's dtype; k odd.
      dilation: distance of neighbouring taps.

    Returns:
      (B, H, W, C). On CPU, XLA's grouped convolution is many times slower than k * k shifted
      multiply-adds.
    """
    if jax.default_backend() == "cpu":
        return _shifted_depthwise(x, kernel, dilation)
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (1, 1),
        ((margin, margin), (margin, margin)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _taps(size: int, dilation: int) -> list[tuple[int, int]]:
    """Where each tap of the kernel, in order, lies in the padded picture."""
    return [(i * dilation, j * dilation) for i in range(size) for j in range(size)]


def _padded(x, size: int, dilation: int):
    margin = dilation * (size // 2)
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


@functools.partial(jax.jit, static_argnums=2)  # traced once for each shape, not for each call
def _shifted_sum(x, kernel, dilation):
    b, h, w, channels = x.shape
    size = kernel.shape[0]
    # Without the barrier XLA pads, and whatever computes x is computed, again for each of the taps.
    padded = lax.optimization_barrier(_padded(x, size, dilation))
    weights = kernel.reshape(-1, channels).astype(jnp.float32)
    taps = zip(_taps(size, dilation), weights, strict=True)
    total = sum(
        lax.slice(padded, (0, i, j, 0), (b, i + h, j + w, channels)).astype(jnp.float32) * tap
        for (i, j), tap in taps
    )
    return total.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_depthwise(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation)


def _shifted_forward(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation), (x, kernel)


def _shifted_backward(dilation, residuals, dy):
    """dx is the same sum with the kernel turned; dk is summed a few rows at a time.

    A plain reduction over pixels runs one channel at a time. The scan adds the columns of some
    rows in four partial sums instead: a carry that stays in the cache, vectorised over channels.
    """
    x, kernel = residuals
    # Without the barrier XLA fuses whatever computes dy into each of the shifts.
    dy = lax.optimization_barrier(dy)
    dx = _shifted_sum(dy, kernel[::-1, ::-1], dilation)
    b, h, w, c = x.shape
    size = kernel.shape[0]
    rows = math.gcd(h, max(1, 128 // w))
    group = math.gcd(rows * w, 4)
    padded = _padded(x, size, dilation)
    reach = dilation * (size - 1)

    def add_rows(total, index):
        sample, row = index // (h // rows), index % (h // rows) * rows
        corner = (sample, row, 0, 0)
        window = lax.dynamic_slice(padded, corner, (1, rows + reach, w + reach, c))[0]
        g = lax.dynamic_slice(dy, corner, (1, rows, w, c))[0]
        taps = _taps(size, dilation)
        shifted = [lax.slice(window, (i, j, 0), (i + rows, j + w, c)) for i, j in taps]
        products = jnp.stack([window_at * g for window_at in shifted])
        return total + products.astype(jnp.float32).reshape(size**2, -1, group, c).sum(1), None

    steps = jnp.arange(b * h // rows)
    total, _ = lax.scan(add_rows, jnp.zeros((size**2, group, c), jnp.float32), steps)
    return dx, total.sum(1).reshape(kernel.shape).astype(kernel.dtype)


_shifted_depthwise.defvjp(_shifted_forward, _shifted_backward)


class Stage(nnx.Module):
    """Identical blocks in a row, their parameters stacked on a leading axis, run by `lax.scan`.

    Args:
      make_block: makes a module whose call takes (x, *context) and returns x's shape.
      depth: number of blocks.
      remat: recompute each block in the backward pass, which keeps only the blocks' inputs.
      unroll: blocks per scan iteration: more compile time for a little speed.
    """

    def __init__(
        self,
        make_block: Callable[[], nnx.Module],
        depth: int,
        *,
        remat: bool = False,
        unroll: int = 1,
    ):
        self.blocks = nnx.vmap(make_block, in_axes=(), out_axes=0, axis_size=depth)()
        self.remat = remat
        self.unroll = unroll

    def __call__(self, x, *context):
        graphdef, params = nnx.split(self.blocks)

        def body(x, block_params):
            return nnx.merge(graphdef, block_params)(x, *context), None

        if self.remat:
            body = jax.checkpoint(body)
        return lax.scan(body, x, params, unroll=self.unroll)[0]
