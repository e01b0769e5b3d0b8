"""Functions on NHWC arrays whose gradients are written out, each for the sake of its speed on CPU.

They compute what JAX's own would; what was slow about those stands beside each.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.nn import backend, extent, remat, rows
from tdr_jax.nn.typing import Array


def matmul(x: Float[Array, "b n c"], kernel: Float[Array, "b c d"]) -> Float[Array, "b n d"]:
    """Matrix products of one dtype, with gradients in the layouts of their arguments.

    The gradient that JAX derives for `kernel` comes out transposed; on CPU, XLA then computes
    whatever produced dy a second time, column by column: about a third of a block's training time.
    """
    return remat.product(_matmul(x, kernel))


def gram(x: Float[Array, "b n c"], y: Float[Array, "b n d"]) -> Float32[Array, "b c d"]:
    """x^T y, summed over n in float32."""
    return remat.product(_gram(x, y))


@jax.custom_vjp
def _matmul(x, kernel):
    return _contract(x, kernel, (2, 1))


@jax.custom_vjp
def _gram(x, y):
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


_matmul.defvjp(lambda x, kernel: (_matmul(x, kernel), (x, kernel)), _matmul_backward)
_gram.defvjp(lambda x, y: (_gram(x, y), (x, y)), _gram_backward)


@jax.custom_vjp
def gelu_gate(a: Float[Array, "*n"], b: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """gelu(a) * b with the exact (erf) gelu; keeps only a and b for the backward pass."""
    return (a * _normal_cdf(a) * b).astype(a.dtype)


@jax.custom_vjp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
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


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int, padding: int
) -> Float[Array, "b h2 w2 d"]:
    """Convolution with zero padding, by the fastest implementation of the backend.

    Args:
        x: features.
        kernel: of x's dtype.
        stride: in both directions, in pixels.
        padding: zeros on every side, in pixels.

    Returns:
        Features of x's dtype, h2 = (h + 2 padding - k) // stride + 1. A 1x1 kernel is a matrix
        product, and so, on CPU, is a wide kernel over few pixels, whose windows are gathered first:
        up to twice as fast as XLA's convolution.
    """
    b, h, w, c = x.shape
    size, out = kernel.shape[0], kernel.shape[-1]
    if size == 1 and stride == 1 and not padding:
        return matmul(x.reshape(1, -1, c), kernel[0]).reshape(b, h, w, out)
    x = extent.inside(x) if padding else x
    if rows.cut() and 1 <= size - 2 * padding <= stride:  # as many rows as x has, over the stride
        local = functools.partial(_convolve, stride=stride, padding=(0, padding))
        return rows.with_neighbours(local, x, kernel, margin=padding)
    few = b * h * w <= 512 and c >= 256 and stride == 1 and 2 * padding == size - 1
    if few and backend.name() == "cpu":
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = [padded[:, i : i + h, j : j + w] for i, j in _taps(size, 1)]
        windows = jnp.concatenate(windows, -1).reshape(1, b * h * w, -1)
        return matmul(windows, kernel.reshape(1, -1, out)).reshape(b, h, w, out)
    if stride == 1 and backend.name() == "cpu":
        return _convolve_in_loops(x, kernel, padding)
    return _convolve(x, kernel, stride, (padding, padding))


def _convolve(x, kernel, stride, padding):
    above, beside = padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((above, above), (beside, beside)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_in_loops(x, kernel, padding):
    """With gradients that are convolutions of the same layout as this one.

    XLA's CPU compiler changes other layouts to it outside of loops only; in a loop, such as that
    of `Stage`, JAX's own gradients take many times as long.
    """
    return _convolve(x, kernel, 1, (padding, padding))


def _convolve_forward(x, kernel, padding):
    return _convolve_in_loops(x, kernel, padding), (x, kernel)


def _convolve_backward(padding, residuals, dy):
    x, kernel = residuals
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    margin = kernel.shape[0] - 1 - padding
    dx = _convolve(dy, turned, 1, (margin, margin))
    x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    dkernel = _convolve(x, dy, 1, (padding, padding))
    return dx, dkernel.transpose(1, 2, 0, 3)


_convolve_in_loops.defvjp(_convolve_forward, _convolve_backward)


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], dilation: int = 1
) -> Float[Array, "b h w c"]:
    """Depthwise convolution with zero padding, by the fastest implementation of the backend.

    Args:
        x: features.
        kernel: of x's dtype; k odd.
        dilation: distance of neighbouring taps, in pixels.

    Returns:
        Features of x's dtype. On CPU, XLA's grouped convolution is many times slower than k * k
        shifted multiply-adds.
    """
    margin = dilation * (kernel.shape[0] // 2)
    x = extent.inside(x) if margin else x
    grouped = functools.partial(_grouped, dilation=dilation, beside=margin)
    cpu = backend.name() == "cpu"
    if rows.cut():
        local = functools.partial(_shifted_rows, dilation=dilation) if cpu else grouped
        return rows.with_neighbours(local, x, kernel, margin=margin)
    return _shifted_depthwise(x, kernel, dilation) if cpu else grouped(x, kernel, above=margin)


def _grouped(x, kernel, dilation, beside, above=0):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (1, 1),
        ((above, above), (beside, beside)),
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
    return _sum_of_taps(_padded(x, kernel.shape[0], dilation), kernel, dilation).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _shifted_rows(x, kernel, dilation):
    """The same for x with the rows above and below that the result, so much lower, hangs on."""
    margin = dilation * (kernel.shape[0] // 2)
    padded = jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (0, 0)))
    return _sum_of_taps(padded, kernel, dilation).astype(x.dtype)


def _sum_of_taps(padded, kernel, dilation):
    size, reach = kernel.shape[0], dilation * (kernel.shape[0] - 1)
    b, h, w, channels = padded.shape
    h, w = h - reach, w - reach
    # Without the barrier XLA pads, and whatever computes x is computed, again for each of the taps.
    padded = lax.optimization_barrier(padded)
    weights = kernel.reshape(-1, channels).astype(jnp.float32)
    taps = zip(_taps(size, dilation), weights, strict=True)
    return sum(
        lax.slice(padded, (0, i, j, 0), (b, i + h, j + w, channels)).astype(jnp.float32) * tap
        for (i, j), tap in taps
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_depthwise(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation)


def _shifted_forward(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation), (x, kernel)


def _shifted_backward(dilation, residuals, dy):
    """dx is the same sum with the kernel turned; dk is summed some pixels at a time.

    A plain reduction over pixels runs one channel at a time. The scan goes through some 64 pixels
    of a few rows or small pictures, and adds their products to four columns of sums for each tap: a
    carry that stays in the cache, vectorised over channels.
    """
    x, kernel = residuals
    # Without the barrier XLA fuses whatever computes dy into each of the shifts.
    dy = lax.optimization_barrier(dy)
    dx = _shifted_sum(dy, kernel[::-1, ::-1], dilation)
    b, h, w, c = x.shape
    size = kernel.shape[0]
    reach = dilation * (size - 1)
    rows = math.gcd(h, max(1, 64 // w))
    pictures = math.gcd(b, max(1, 64 // (h * w))) if rows == h else 1
    padded = lax.optimization_barrier(_padded(x, size, dilation))
    # Products written out one by one take half the time, and XLA much longer to compile: 1 s for
    # nine taps, ten times what the stack takes for 49.
    add = _add_each if size <= 3 else _add_stacked

    def add_pixels(totals, index):
        corner = (index // (h // rows) * pictures, index % (h // rows) * rows, 0, 0)
        window = lax.dynamic_slice(padded, corner, (pictures, rows + reach, w + reach, c))
        g = lax.dynamic_slice(dy, corner, (pictures, rows, w, c))
        return add(totals, window, g, _taps(size, dilation)), None

    totals = tuple(jnp.zeros((size**2, math.gcd(w, 4), c), jnp.float32))
    totals, _ = lax.scan(add_pixels, totals, jnp.arange(b * h // (rows * pictures)))
    return dx, jnp.stack(totals).sum(1).reshape(kernel.shape).astype(kernel.dtype)


def _add_each(totals, window, g, taps):
    """Adds the products of pixels and gradients to the sums of each tap, four columns at a time."""
    pictures, rows, w, _ = g.shape
    columns = totals[0].shape[0]
    places = list(itertools.product(range(pictures), range(rows), range(0, w, columns)))

    def products(i, j):
        for n, row, left in places:
            x_here = window[n, row + i, left + j : left + j + columns]
            yield x_here * g[n, row, left : left + columns]

    return tuple(
        total + sum(product.astype(jnp.float32) for product in products(i, j))
        for total, (i, j) in zip(totals, taps, strict=True)
    )


def _add_stacked(totals, window, g, taps):
    """What `_add_each` does, for all taps in one product."""
    _, rows, w, c = g.shape
    shifted = jnp.stack([window[:, i : i + rows, j : j + w] * g for i, j in taps])
    sums = shifted.astype(jnp.float32).reshape(len(taps), -1, totals[0].shape[0], c).sum(1)
    return tuple(total + part for total, part in zip(totals, sums, strict=True))


_shifted_depthwise.defvjp(_shifted_forward, _shifted_backward)
