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
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, Shaped

from tdr_jax.errors import InputError
from tdr_jax.nn import backend, extent, ops, points
from tdr_jax.nn.remat import apply as checkpointed
from tdr_jax.nn.typing import Array

PADDINGS = {"reflect": "reflect", "zeros": "constant"}  # ours to NumPy's


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

    def __call__(
        self, x: Float[Array, "*n c"], features: slice = slice(None)
    ) -> Float[Array, "*n d"]:
        """Computes the given slice of the output features (all by default), of x's dtype."""
        kernel = self.kernel[...][:, features].astype(x.dtype)
        y = ops.matmul(x.reshape(1, -1, x.shape[-1]), kernel[None])
        return self.add_bias(y.reshape(*x.shape[:-1], -1), features)

    def add_bias(
        self, y: Float[Array, "*n d"], features: slice = slice(None)
    ) -> Float[Array, "*n d"]:
        """Adds the bias, if there is one, to products computed elsewhere, of y's dtype."""
        return y if self.bias is None else y + self.bias[...][features].astype(y.dtype)


# Activations under the names that Hugging Face configs give them.
ACTIVATIONS = {
    "gelu": ops.gelu,
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

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Convolves features; h2 = (h + 2 padding - size) // stride + 1, of x's dtype."""
        return self.add_bias(
            ops.convolve(x, self.kernel[...].astype(x.dtype), self.stride, self.padding)
        )

    def add_bias(self, y: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Adds the bias, if there is one, to a convolution computed elsewhere, of y's dtype."""
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class LayerNorm(nnx.Module):
    """Normalises the last axis in float32 (biased variance, eps 1e-5: torch's default).

    Without a bias this is Restormer's BiasFree form: x is divided by its standard deviation, but
    not centred.
    """

    def __init__(self, features: int, *, bias: bool = True, eps: float = 1e-5):
        self.weight = param((features,), constant=1.0)
        self.bias = param((features,)) if bias else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Maps features to features of the same dtype."""
        if self.bias is None:
            y = x.astype(jnp.float32)
            y *= lax.rsqrt(y.var(-1, keepdims=True) + self.eps) * self.weight[...]
        else:
            y = normalise(x, self.eps) * self.weight[...] + self.bias[...]
        return y.astype(x.dtype)


def normalise(x: Float[Array, "*n c"], eps: float = 1e-5) -> Float32[Array, "*n c"]:
    """Returns x with zero mean and unit biased variance along its last axis.

    Args:
        x: any range.
        eps: added to the variance; 1e-5 is torch's default.
    """
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)


class GroupNorm(nnx.Module):
    """Normalises over pixels and the channels of a group, in float32."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5):
        self.weight = param((channels,), constant=1.0)
        self.bias = param((channels,))
        self.groups = groups
        self.eps = eps

    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *n c"]:
        """Maps features to features of the same dtype."""
        b, c = x.shape[0], x.shape[-1]
        z = x.astype(jnp.float32).reshape(b, -1, self.groups, c // self.groups)
        mean = z.mean((1, 3), keepdims=True)
        variance = jnp.square(z - mean).mean((1, 3), keepdims=True)
        # One scale and one shift a channel: the picture is read once more, not three times.
        scale = lax.rsqrt(variance + self.eps) * self.weight[...].reshape(self.groups, -1)
        shift = self.bias[...].reshape(self.groups, -1) - mean * scale
        return (z * scale + shift).reshape(x.shape).astype(x.dtype)


def pixel_unshuffle(
    x: Shaped[Array, "b h w c"], factor: int
) -> Shaped[Array, "b h//{factor} w//{factor} c*{factor}**2"]:
    """Moves squares of f x f pixels into channels: channel c f f + i f + j, torch's order.

    Args:
        x: any dtype and range.
        factor: f; divides height and width.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor**2)


def pixel_shuffle(
    x: Shaped[Array, "b h w c"], factor: int
) -> Shaped[Array, "b h*{factor} w*{factor} c//{factor}**2"]:
    """Moves channels into squares of f x f pixels: the inverse of `pixel_unshuffle`.

    Args:
        x: any dtype and range.
        factor: f; its square divides the channels.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, c // factor**2)


def pad_to_multiple(
    images: Shaped[Array, "b h w c"], multiple: int, padding: str = "reflect"
) -> Shaped[Array, "b h2 w2 c"]:
    """Pads the lower and right edge until both sides are multiples of `multiple`.

    Args:
        images: any dtype and range.
        multiple: of the padded sides, in pixels.
        padding: "reflect", as the test scripts of the Restormer family, or "zeros", as NAFNet and
            TDR's guided networks themselves.

    Returns:
        Of the same dtype; crop what comes out to h and w.
    """
    _, height, width, _ = images.shape
    margins = (0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)
    return jnp.pad(images, margins, PADDINGS[padding]) if any(map(any, margins)) else images


def check_padding(padding: str) -> None:
    """Refuses a way to continue pictures that `pad_to_multiple` does not know.

    Raises:
        InputError: names both.
    """
    if padding not in PADDINGS:
        raise InputError(f"padding is {padding!r}; give one of {', '.join(PADDINGS)}")


def keep(
    level: int, x: Float[Array, "b h w c"], *context: Shaped[Array, "b ..."]
) -> Float[Array, "b h w c"]:
    """Leaves features as they are: what `fuse` of the restoration networks is by default.

    Args:
        level: of the encoder, 0 at full resolution; the last is the bottleneck's.
        x: features as they enter that level.
        *context: what the network's blocks read beside features.

    Returns:
        x; another `fuse` returns features of its shape and dtype.
    """
    return x


class Downsample(nnx.Module):
    """Halves the resolution and doubles the channels: conv 3x3 to C/2, then pixel unshuffle."""

    def __init__(self, channels: int):
        self.body = nnx.List([Conv(channels, channels // 2)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 2*c"]:
        """Maps features of even sides to features of the same dtype."""
        return pixel_unshuffle(self.body[0](x), 2)


class Upsample(nnx.Module):
    """Doubles the resolution and halves the channels: conv 3x3 to 2C, then pixel shuffle."""

    def __init__(self, channels: int):
        self.body = nnx.List([Conv(channels, 2 * channels)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c//2"]:
        """Maps features to features of the same dtype."""
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

    def __call__(
        self, x: Float[Array, "b h w c"], channels: slice = slice(None)
    ) -> Float[Array, "b h w c"]:
        """Applies the filters of the given channels to x, whose last axis holds just those."""
        y = ops.depthwise(x, self.kernel[...][..., channels].astype(x.dtype), self.dilation)
        return y if self.bias is None else y + self.bias[...][channels].astype(x.dtype)


STACKED = ".blocks."  # in the name of every parameter of a `Stage`, and of no other


class Stage(nnx.Module):
    """Identical blocks in a row, their parameters stacked on a leading axis, run by `lax.scan`.

    Where the devices hold a part of every parameter, each block's are gathered when it runs.

    Args:
        make_block: makes a module whose call takes (x, *context) and returns x's shape.
        depth: number of blocks.
        remat: what the backward pass finds kept of a block, see `tdr_jax.nn.remat`.
        unroll: blocks per scan iteration: more compile time for a little speed.
        microbatches: the examples of a device go through all blocks in so many parts, one after the
            other, or in as many as their number divides by: what a block makes of a few pictures
            stays in the fast memory of a TPU.
    """

    def __init__(
        self,
        make_block: Callable[[], nnx.Module],
        depth: int,
        *,
        remat: bool | str = False,
        unroll: int = 1,
        microbatches: int = 1,
    ):
        self.blocks = nnx.vmap(make_block, in_axes=(), out_axes=0, axis_size=depth)()
        self.remat = remat
        self.unroll = unroll
        self.microbatches = microbatches

    def __call__(
        self, x: Float[Array, " b *n"], *context: Shaped[Array, "b ..."]
    ) -> Float[Array, " b *n"]:
        """Runs the blocks one after the other on features and what they read beside them."""
        graphdef, params = nnx.split(self.blocks)
        if points.stopping():
            return points.stage(graphdef, params, x, context)
        run = functools.partial(self._run, graphdef, backend.all_gather)
        parts = math.gcd(self.microbatches, len(x) // backend.sharing())
        parts = 1 if extent.known() else parts  # which tells of the whole batch
        if parts == 1:
            return run(params, x, *context)

        # Within shard_map the devices have gathered the parameters of all blocks already.
        run = functools.partial(self._run, graphdef, lambda params: params)

        def in_parts(params, *inputs):
            cut = [y.reshape(parts, -1, *y.shape[1:]) for y in inputs]
            y = lax.map(lambda part: run(params, *part), cut)
            return y.reshape(-1, *y.shape[2:])

        mesh = backend.mesh()
        if mesh is None:
            return in_parts(params, x, *context)

        # Left to the compiler, the devices would sum their gradients after every part.
        own = P(mesh.axis_names)
        specs = (P(), *[own] * (1 + len(context)))
        on_each = jax.shard_map(in_parts, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)
        return on_each(params, x, *context)

    def _run(self, graphdef, gather, params, x, *context):
        def body(x, block_params):
            return nnx.merge(graphdef, gather(block_params))(x, *context), None

        body = checkpointed(self.remat, body)
        return lax.scan(body, x, params, unroll=self.unroll)[0]


def run_block(
    block: nnx.Module, x: Float[Array, " b *n"], *, remat: bool | str = False
) -> Float[Array, " b *n"]:
    """Runs a block that stands alone as `Stage` runs those in a row.

    Args:
        block: whose call takes x and returns x's shape.
        x: features.
        remat: as of `Stage`.
    """
    if points.stopping():
        graphdef, params = nnx.split(block)
        return points.stage(graphdef, jax.tree.map(lambda p: p[None], params), x, ())
    return checkpointed(remat, block)(x)
