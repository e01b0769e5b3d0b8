"""SFNet's residual blocks, which weigh and filter frequencies.

They weigh a feature map's low frequencies (its mean) against its high ones (the rest); the last
block of each level also splits them by filters that it predicts from the picture.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.nn import layers, ops, pooling, rows
from tdr_jax.nn.batch_norm import BatchNorm, Running, prefixed
from tdr_jax.nn.typing import Array


def pool(x: Float[Array, "b h w c"], base_size: int | None) -> Float32[Array, "b _ _ c"]:
    """The low frequencies of features: means over the picture, or over windows for each pixel.

    Args:
        x: any range.
        base_size: side of the window, in pixels, where features are 256 x 256; None for the whole.

    Returns:
        One mean a picture and channel, or one a pixel.
    """
    if base_size is None:
        return x.mean((1, 2), dtype=jnp.float32, keepdims=True)
    # A window of less than a pixel has no mean; the reference divides by zero there.
    window = tuple(max(1, side * base_size // 256) for side in x.shape[1:3])
    return pooling.window_mean(x, window)


class BasicConv(nnx.Module):
    """Convolution with bias, and gelu where asked for."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, stride=1, gelu=True):
        if size == 1:
            conv = layers.Linear(in_channels, out_channels)
        else:
            conv = layers.Conv(in_channels, out_channels, size=size, stride=stride, bias=True)
        self.main = nnx.List([conv])
        self.gelu = gelu

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps features to features of the same dtype."""
        y = self.main[0](x)
        return ops.gelu(y) if self.gelu else y


class Modulator(nnx.Module):
    """Weighs low against high frequencies, channel by channel, from their mean (MCSF)."""

    def __init__(self, channels: int):
        hidden = max(channels // 2, 32)
        self.fc = layers.Linear(channels, hidden)
        self.fcs = nnx.List([layers.Linear(hidden, channels) for _ in range(2)])
        self.out = layers.Linear(channels, channels)

    def weights(
        self, means: Float32[Array, "*n c"]
    ) -> tuple[Float32[Array, "*n c"], Float32[Array, "*n c"]]:
        """Maps means to the weights of the high and of the low frequencies, in [0, 1].

        The softmax runs over all 2C together, as in the reference.
        """
        hidden = self.fc(means)
        logits = jnp.concatenate([fc(hidden) for fc in self.fcs], -1)
        return tuple(jnp.split(jax.nn.softmax(logits, -1), 2, -1))


class DynamicFilter(nnx.Module):
    """Splits features by a low-pass filter that it predicts, then recombines them (MDSF).

    Args:
        channels: of the features; they share filters in 8 groups.
        size: side of the filters.
        base_size: of the pooling window; see `pool`.
    """

    groups = 8

    def __init__(self, channels: int, size: int, base_size: int | None):
        taps = self.groups * size**2
        self.conv = layers.Linear(channels, taps, bias=False)
        self.conv.kernel = layers.param((channels, taps), std=math.sqrt(2 / taps))
        self.bn = BatchNorm(taps)
        self.modulate = Modulator(channels)
        self.size = size
        self.base_size = base_size

    def __call__(
        self, x: Float[Array, "b h w c"], training: bool
    ) -> tuple[Float[Array, "b h w c"], Running]:
        """Maps features to features of the same dtype and the new running statistics."""
        b, _, _, channels = x.shape
        means = pool(x, None)[:, 0, 0]
        logits, running = self.bn(self.conv(means), training)
        taps = jax.nn.softmax(logits.reshape(b, self.groups, self.size**2), -1)
        taps = jnp.repeat(taps, channels // self.groups, 1).transpose(0, 2, 1)
        taps = taps.reshape(b, self.size, self.size, channels)
        if self.base_size is None:
            # The weights are equal everywhere: high = x - low lets one kernel do the whole split.
            high, low = self.modulate.weights(means)
            centre = (slice(None), self.size // 2, self.size // 2)
            taps = (taps * (low - high)[:, None, None]).at[centre].add(high)
            mixed = filter_samples(x, taps)
        else:
            high, low = self.modulate.weights(pool(x, self.base_size))
            mixed = (x * high + filter_samples(x, taps) * (low - high)).astype(x.dtype)
        return self.modulate.out(mixed), prefixed("bn", running)


def filter_samples(
    x: Float[Array, "b h w c"], kernels: Float[Array, "b k k c"]
) -> Float[Array, "b h w c"]:
    """Filters each sample by its own depthwise kernels, in x's dtype.

    Borders are reflected. The taps are summed one by one: nothing k * k times as large exists.
    """
    margin = kernels.shape[1] // 2
    kernels = kernels.astype(x.dtype)
    if rows.cut():
        return rows.with_neighbours(_filter_reflected, x, kernels, margin=margin, reflect=True)
    reflected = jnp.pad(x, ((0, 0), (margin, margin), (0, 0), (0, 0)), mode="reflect")
    return _filter_reflected(reflected, kernels)


def _filter_reflected(x, kernels):
    """Filters x, which has the rows above and below already, and reflects the columns."""
    margin = kernels.shape[1] // 2
    reflected = jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (0, 0)), mode="reflect")
    filtered = jax.vmap(lambda x, kernel: ops.depthwise(x[None], kernel)[0])(reflected, kernels)
    return filtered[:, margin:-margin, margin:-margin]


class Gap(nnx.Module):
    """Gains of a feature map's low and high frequencies, one of each a channel."""

    def __init__(self, channels: int):
        self.fscale_d = layers.param((channels,))
        self.fscale_h = layers.param((channels,))

    def gains(self) -> tuple[Float[Array, "2 2 c"], Float[Array, "2 2 c"]]:
        """Those of the low and of the high frequencies, equal in every quadrant."""
        shape = (2, 2, *self.fscale_d.shape)
        return tuple(jnp.broadcast_to(g, shape) for g in (self.fscale_d[...], self.fscale_h + 1))


class PatchAp(nnx.Module):
    """Gains of the low and high frequencies of each quadrant of a feature map."""

    def __init__(self, channels: int):
        self.h = layers.param((4 * channels,))
        self.l = layers.param((4 * channels,))

    def gains(self) -> tuple[Float[Array, "2 2 c"], Float[Array, "2 2 c"]]:
        """Those of the low and of the high frequencies; the reference's are C-major."""
        return tuple(g[...].reshape(-1, 2, 2).transpose(1, 2, 0) for g in (self.l, self.h))


class ResBlock(nnx.Module):
    """x + conv2(modulated gelu(conv1(x))): half the channels as a whole, half by quadrants.

    Args:
        channels: of the features.
        base_size: of the pooling window; see `pool`.
    """

    def __init__(self, channels: int, base_size: int | None):
        self.conv1 = BasicConv(channels, channels, 3)
        self.conv2 = BasicConv(channels, channels, 3, gelu=False)
        self.localap = PatchAp(channels // 2)
        self.global_ap = Gap(channels // 2)
        self.base_size = base_size

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features of even sides to features of the same dtype."""
        return self.finish(x, self.conv1(x))

    def finish(
        self, x: Float[Array, "b h w c"], z: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        """Weighs the frequencies of z and adds what conv2 makes of them to x."""
        # Without the barrier XLA computes what produced z twice: for the means and for the rest.
        z = lax.optimization_barrier(z)
        if rows.cut():
            return x + self.conv2(self.weigh_rows(z))
        b, h, w, c = z.shape
        parts = z.reshape(b, 2, h // 2, 2, w // 2, c)
        if self.base_size is None:
            means = parts.mean((2, 4), dtype=jnp.float32, keepdims=True)
            whole = jnp.broadcast_to(means.mean((1, 3), keepdims=True), means.shape)
            means = jnp.concatenate([whole[..., : c // 2], means[..., c // 2 :]], -1)
        else:
            whole = pool(z[..., : c // 2], self.base_size).reshape(*parts.shape[:-1], -1)
            quarters = parts[..., c // 2 :].transpose(0, 1, 3, 2, 4, 5)
            means = pool(quarters.reshape(4 * b, h // 2, w // 2, -1), self.base_size)
            means = means.reshape(quarters.shape).transpose(0, 1, 3, 2, 4, 5)
            means = jnp.concatenate([whole, means], -1)
        low, high = (gains[:, None, :, None] for gains in self.gains())
        z = ((parts - means) * high + means * low).astype(z.dtype).reshape(z.shape)
        return x + self.conv2(z)

    def gains(self) -> tuple[Float[Array, "2 2 c"], Float[Array, "2 2 c"]]:
        """Those of the low and of the high frequencies of all channels, by quadrants."""
        return tuple(
            jnp.concatenate(gains, -1)
            for gains in zip(self.global_ap.gains(), self.localap.gains(), strict=True)
        )

    def weigh_rows(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Weighs the frequencies of z whose rows are cut over devices, by means of the whole.

        Rows are told to their half one by one: an axis of the two halves, with rows of several
        devices in each, is one that the compiler can only make by moving the picture.
        """
        b, h, w, c = z.shape
        upper = (jnp.arange(h) < h // 2)[:, None, None, None]
        parts = z.reshape(b, h, 2, w // 2, c)
        lines = parts.mean(3, dtype=jnp.float32, keepdims=True)
        # Over as many rows as both halves have, of which the other's are zeros.
        halves = [2 * jnp.where(half, lines, 0).mean(1, keepdims=True) for half in (upper, ~upper)]
        whole = sum(halves).mean(2, keepdims=True) / 2
        first = jnp.arange(c) < c // 2
        halves = [jnp.where(first, whole, half) for half in halves]
        low, high = (jnp.where(upper, *gains[:, None, :, None]) for gains in self.gains())
        means = jnp.where(upper, *halves)
        return ((parts - means) * high + means * low).astype(z.dtype).reshape(z.shape)


class FilteredBlock(ResBlock):
    """A residual block that filters half of its channels 3x3 and half 5x5 before weighing them."""

    def __init__(self, channels: int, base_size: int | None):
        super().__init__(channels, base_size)
        self.dyna = DynamicFilter(channels // 2, 3, base_size)
        self.dyna_2 = DynamicFilter(channels // 2, 5, base_size)

    def __call__(
        self, x: Float[Array, "b h w c"], training: bool
    ) -> tuple[Float[Array, "b h w c"], Running]:
        """Maps features of even sides to the same and the new running statistics."""
        z = lax.optimization_barrier(self.conv1(x))
        small, large = jnp.split(z, 2, -1)
        small, running = self.dyna(small, training)
        large, running_2 = self.dyna_2(large, training)
        running = prefixed("dyna", running) | prefixed("dyna_2", running_2)
        return self.finish(x, jnp.concatenate([small, large], -1)), running
