"""Residual blocks and changes of resolution that Stable Diffusion's UNet and autoencoder share."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, PyTree

from tdr_jax.nn import backend, layers, ops, remat
from tdr_jax.nn.typing import Array


class ResnetBlock(nnx.Module):
    """Two rounds of norm, SiLU and 3x3 convolution beside a shortcut (Ho et al. 2006.11239, B).

    Args:
        in_channels, out_channels: of the features; a 1x1 convolution joins them where they differ.
        groups: of the norms.
        eps: of the norms.
        time_channels: of the time embedding; 0 where there is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        time_channels: int = 0,
    ):
        self.norm1 = layers.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = layers.Conv(in_channels, out_channels, bias=True)
        self.time_emb_proj = layers.Linear(time_channels, out_channels) if time_channels else None
        self.norm2 = layers.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = layers.Conv(out_channels, out_channels, bias=True)
        joined = in_channels == out_channels
        self.conv_shortcut = (
            None if joined else layers.Conv(in_channels, out_channels, size=1, bias=True)
        )

    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b h w d"]:
        """Maps features to features of the same dtype; `time` has been through SiLU."""
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            y += self.time_emb_proj(time)[:, None, None]
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nnx.Module):
    """Halves the resolution with a 3x3 convolution of stride 2.

    Args:
        channels: of the features.
        even: zeros on every side (the UNet), or on the lower and right ones only (the autoencoder).
    """

    def __init__(self, channels: int, *, even: bool):
        self.conv = layers.Conv(channels, channels, stride=2, padding=1 if even else 0, bias=True)
        self.even = even

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Maps features to features of the same dtype; odd sides are rounded up if `even`."""
        return self.conv(x if self.even else jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))


class Upsample(nnx.Module):
    """Repeats pixels up to a size, then a 3x3 convolution."""

    def __init__(self, channels: int):
        self.conv = layers.Conv(channels, channels, bias=True)

    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        """Maps features to `size` in pixels, (2 h, 2 w) by default, of the same dtype."""
        b, h, w, c = x.shape
        height, width = size or (2 * h, 2 * w)
        if (height, width) == (2 * h, 2 * w):
            if backend.name() == "cpu":
                return self._doubled(x)
            doubled = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
            return self.conv(doubled.reshape(b, height, width, c))
        # A skip of an odd size; the source of pixel i is floor(i * h / height), as in torch.
        rows, columns = jnp.arange(height) * h // height, jnp.arange(width) * w // width
        return self.conv(x[:, rows][:, :, columns])

    def _doubled(self, x):
        """Repeats every pixel twice and convolves, with four ninths of the arithmetic.

        A row of the result sees two rows of x: an even one the row above under the kernel's first
        row and its own under the sum of the others, an odd one its own and the row below. The four
        kinds of pixels are the outputs of one 2x2 convolution.
        """
        b, h, w, c = x.shape
        kernel = _halves(_halves(self.conv.kernel[...].astype(x.dtype), 0), 2)
        out = kernel.shape[-1]  # of (odd row, 2, odd column, 2, C, D)
        kernel = kernel.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, c, 4 * out)
        y = ops.convolve(x, kernel, 1, 1).reshape(b, h + 1, w + 1, 2, 2, out)
        rows = [
            jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in range(2)], 3) for i in range(2)
        ]
        return self.conv.add_bias(jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, out))


def _halves(kernel, axis: int):
    """Sums three taps along an axis into two: for even pixels, and for odd ones, in front."""
    first, middle, last = jnp.moveaxis(kernel, axis, 0)
    both = jnp.stack([jnp.stack([first, middle + last]), jnp.stack([first + middle, last])])
    return jnp.moveaxis(both, (0, 1), (axis, axis + 1))


def call(module: nnx.Module, *inputs: PyTree, policy: bool | str) -> PyTree:
    """Calls a module; `policy` says what the backward pass finds kept of it, see `remat`."""
    if remat.name_of(policy) == "none":
        return module(*inputs)
    graphdef, params = nnx.split(module)

    def run(params, *inputs):
        return nnx.merge(graphdef, params)(*inputs)

    return remat.apply(policy, run)(params, *inputs)
