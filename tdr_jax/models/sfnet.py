"""SFNet ("Selective Frequency Network for Image Restoration", ICLR 2023): three scales in and out.

Residual blocks weigh a feature map's low frequencies (its mean) against its high ones (the rest);
the last block of each level also splits them by filters that it predicts from the picture.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from tdr_jax.nn import layers, ops, pooling, remat, rows

Running = dict[str, jax.Array]

# Side of the test-time pooling window for features of 256 x 256, by the data set that the weights
# were trained for. None: these keep the mean of the whole picture, as in training.
_BASE_SIZES = {
    "Indoor": 246,
    "Outdoor": 210,
    "GOPRO": 80,
    "HIDE": 110,
    "RSBlur": 75,
    "CSD": 200,
    "SRRS": None,
    "Snow100K": None,
}


@dataclasses.dataclass(frozen=True)
class SFNetConfig:
    """Hyper-parameters under the reference's names; the defaults are the published network.

    Args:
        mode: ("train", anything) takes means over the whole picture; ("test", data set) over the
            window that the paper chose for that data set, and changes no parameter.
        num_res: residual blocks a level, the one with the filters included.
        base_channel: features at full resolution; a multiple of 16.
        dtype: of the computation.
        remat: what the backward pass finds kept of a block, see `tdr_jax.nn.remat`.
        scan_unroll: blocks per scan iteration.
        microbatches: a stage works on the batch in so many parts, one after the other; deeper ones
            in fewer.

    Raises:
        ValueError: the mode or the data set is unknown, or the channels do not split.
    """

    mode: tuple[str, str] = ("train", "")
    num_res: int = 16
    base_channel: int = 32
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1

    def __post_init__(self):
        phase, data = self.mode
        if phase != "train" and (phase != "test" or data not in _BASE_SIZES):
            raise ValueError(
                f"mode is {self.mode}; it must be ('train', anything) or ('test', data set) with "
                f"one of {', '.join(_BASE_SIZES)}"
            )
        if self.base_channel % 16:
            raise ValueError(
                f"base_channel is {self.base_channel}; half of it goes through filters in 8 "
                "groups, so it must be a multiple of 16"
            )

    @property
    def base_size(self) -> int | None:
        """Side of the pooling window for features of 256 x 256; None for the whole picture."""
        return None if self.mode[0] == "train" else _BASE_SIZES[self.mode[1]]

    @property
    def multiple(self) -> int:
        """Sides the network works on: two halvings, then quadrants of the smallest features."""
        return 8

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the pictures that go in and come out."""
        return 3, 3


SIZES = {"sfnet": {}}


def pool(x: jax.Array, base_size: int | None) -> jax.Array:
    """The low frequencies of (B, H, W, C) in float32: (B, 1, 1, C), or (B, H, W, C) by windows."""
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

    def __call__(self, x):
        y = self.main[0](x)
        return ops.gelu(y) if self.gelu else y


class TransposedConv(nnx.Module):
    """Transposed convolution, 4x4, stride 2, padding 1: doubles the sides (kernel HWIO).

    Along each axis an output pixel sees two inputs and two taps. One 2x2 convolution computes all
    four combinations of even and odd at once, where a transposed convolution would run over zeros.
    """

    def __init__(self, in_channels: int, out_channels: int):
        fan_in = 16 * out_channels  # torch counts the second axis of its (in, out, 4, 4) kernel
        self.kernel = layers.param((4, 4, in_channels, out_channels), fan_in=fan_in)
        self.bias = layers.param((out_channels,), fan_in=fan_in)

    def __call__(self, x):
        inputs, outputs = self.kernel.shape[2:]
        # Output 2m sees inputs m-1 and m by taps 3 and 1, output 2m+1 inputs m and m+1 by 2 and 0.
        taps = self.kernel[...][::-1, ::-1].reshape(2, 2, 2, 2, inputs, outputs)
        taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)
        taps = taps.astype(x.dtype)
        if rows.cut():
            y = rows.with_neighbours(functools.partial(_doubled, above=0), x, taps, margin=1)
        else:
            y = _doubled(x, taps, above=1)
        return y + self.bias[...].astype(x.dtype)


def _doubled(x, taps, above: int):
    """Sums the four combinations, for x that `above` rows of zeros are put around."""
    b, h, w, _ = x.shape
    h, outputs = h + 2 * above - 2, taps.shape[-1] // 4
    y = lax.conv_general_dilated(
        x, taps, (1, 1), ((above, above), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(b, h + 1, w + 1, 2, 2, outputs)
    pairs = [[y[:, i : i + h, j : j + w, i, j] for j in (0, 1)] for i in (0, 1)]
    y = jnp.stack([jnp.stack(pair, 3) for pair in pairs], 2)
    return y.reshape(b, 2 * h, 2 * w, outputs)


class Upscale(nnx.Module):
    """Transposed convolution and gelu."""

    def __init__(self, in_channels: int, out_channels: int):
        self.main = nnx.List([TransposedConv(in_channels, out_channels)])

    def __call__(self, x):
        return ops.gelu(self.main[0](x))


class BatchNorm(nnx.Module):
    """Normalises (B, C) float32 values over the batch (eps 1e-5, momentum 0.1, as in torch)."""

    def __init__(self, features: int):
        self.weight = layers.param((features,), constant=1.0)
        self.bias = layers.param((features,))
        self.running_mean = layers.param((features,))
        self.running_var = layers.param((features,), constant=1.0)
        self.num_batches_tracked = layers.param(())

    def __call__(self, x, training: bool) -> tuple[jax.Array, Running]:
        """Returns the normalised values and, in training, the new running statistics.

        Raises:
            ValueError: training with a batch of one, whose variance says nothing.
        """
        mean, variance, running = self.running_mean[...], self.running_var[...], {}
        if training:
            batch = x.shape[0]
            if batch == 1:
                raise ValueError("a batch of one picture has no batch statistics: train on more")
            before, mean, variance = (mean, variance), x.mean(0), x.var(0)
            running = {
                "running_mean": 0.9 * before[0] + 0.1 * mean,
                "running_var": 0.9 * before[1] + 0.1 * variance * (batch / (batch - 1)),
                "num_batches_tracked": self.num_batches_tracked[...] + 1,
            }
            running = {name: lax.stop_gradient(value) for name, value in running.items()}
        scale = self.weight[...] * lax.rsqrt(variance + 1e-5)
        return (x - mean) * scale + self.bias[...], running


class Modulator(nnx.Module):
    """Weighs low against high frequencies, channel by channel, from their mean (MCSF)."""

    def __init__(self, channels: int):
        hidden = max(channels // 2, 32)
        self.fc = layers.Linear(channels, hidden)
        self.fcs = nnx.List([layers.Linear(hidden, channels) for _ in range(2)])
        self.out = layers.Linear(channels, channels)

    def weights(self, means) -> tuple[jax.Array, jax.Array]:
        """Maps means (..., C) to the weights of the high and of the low frequencies, (..., C).

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

    def __call__(self, x, training: bool) -> tuple[jax.Array, Running]:
        """Maps (B, H, W, C) to the same shape; also returns the new running statistics."""
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


def filter_samples(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Filters each sample by its own depthwise kernels: x (B, H, W, C), kernels (B, k, k, C).

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

    def gains(self) -> tuple[jax.Array, jax.Array]:
        """Those of the low and of the high frequencies, (2, 2, C): equal in every quadrant."""
        shape = (2, 2, *self.fscale_d.shape)
        return tuple(jnp.broadcast_to(g, shape) for g in (self.fscale_d[...], self.fscale_h + 1))


class PatchAp(nnx.Module):
    """Gains of the low and high frequencies of each quadrant of a feature map."""

    def __init__(self, channels: int):
        self.h = layers.param((4 * channels,))
        self.l = layers.param((4 * channels,))

    def gains(self) -> tuple[jax.Array, jax.Array]:
        """Those of the low and of the high frequencies, (2, 2, C); the reference's are C-major."""
        return tuple(g[...].reshape(-1, 2, 2).transpose(1, 2, 0) for g in (self.l, self.h))


class ResBlock(nnx.Module):
    """x + conv2(modulated gelu(conv1(x))): half the channels as a whole, half by quadrants."""

    def __init__(self, channels: int, config: SFNetConfig):
        self.conv1 = BasicConv(channels, channels, 3)
        self.conv2 = BasicConv(channels, channels, 3, gelu=False)
        self.localap = PatchAp(channels // 2)
        self.global_ap = Gap(channels // 2)
        self.base_size = config.base_size

    def __call__(self, x):
        return self.finish(x, self.conv1(x))

    def finish(self, x, z):
        """Weighs the frequencies of z (B, H, W, C) and adds what conv2 makes of them to x."""
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

    def gains(self) -> tuple[jax.Array, jax.Array]:
        """Those of the low and of the high frequencies of all channels, (2, 2, C) by quadrants."""
        return tuple(
            jnp.concatenate(gains, -1)
            for gains in zip(self.global_ap.gains(), self.localap.gains(), strict=True)
        )

    def weigh_rows(self, z):
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

    def __init__(self, channels: int, config: SFNetConfig):
        super().__init__(channels, config)
        self.dyna = DynamicFilter(channels // 2, 3, config.base_size)
        self.dyna_2 = DynamicFilter(channels // 2, 5, config.base_size)

    def __call__(self, x, training: bool) -> tuple[jax.Array, Running]:
        z = lax.optimization_barrier(self.conv1(x))
        small, large = jnp.split(z, 2, -1)
        small, running = self.dyna(small, training)
        large, running_2 = self.dyna_2(large, training)
        running = prefixed("dyna", running) | prefixed("dyna_2", running_2)
        return self.finish(x, jnp.concatenate([small, large], -1)), running


class Level(nnx.Module):
    """The blocks of one scale, equal but for the last, which filters."""

    def __init__(self, channels: int, config: SFNetConfig):
        make_block, depth = functools.partial(ResBlock, channels, config), config.num_res - 1
        pieces = max(
            1, config.microbatches * config.base_channel // channels
        )  # of arrays of the same size
        options = dict(remat=config.remat, unroll=config.scan_unroll, microbatches=pieces)
        self.layers = layers.Stage(make_block, depth, **options) if depth else None
        self.last = FilteredBlock(channels, config)
        self.remat = config.remat

    def __call__(self, x, training: bool) -> tuple[jax.Array, Running]:
        x = x if self.layers is None else self.layers(x)
        graphdef, params = nnx.split(self.last)

        def run(params, x):
            return nnx.merge(graphdef, params)(x, training)

        y, running = remat.apply(self.remat, run)(params, x)
        return y, prefixed("last", running)


class Shallow(nnx.Module):
    """Features of a smaller copy of the input (SCM), normalised over its pixels."""

    def __init__(self, channels: int):
        self.main = nnx.List(
            [
                BasicConv(3, channels // 4, 3),
                BasicConv(channels // 4, channels // 2, 1),
                BasicConv(channels // 2, channels // 2, 3),
                BasicConv(channels // 2, channels, 1, gelu=False),
                InstanceNorm(channels),
            ]
        )

    def __call__(self, x):
        for layer in self.main:
            x = layer(x)
        return x


class InstanceNorm(nnx.Module):
    """Normalises the pixels of each channel in float32 (biased variance, eps 1e-5)."""

    def __init__(self, channels: int):
        self.weight = layers.param((channels,), constant=1.0)
        self.bias = layers.param((channels,))

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean((1, 2), keepdims=True)
        scale = lax.rsqrt(jnp.square(centred).mean((1, 2), keepdims=True) + 1e-5)
        return (centred * (scale * self.weight[...]) + self.bias[...]).astype(x.dtype)


class Merge(nnx.Module):
    """Joins features of two origins by one convolution (FAM)."""

    def __init__(self, channels: int):
        self.merge = BasicConv(2 * channels, channels, 3, gelu=False)

    def __call__(self, x, y):
        return self.merge(jnp.concatenate([x, y], -1))


class SFNet(nnx.Module):
    """Restores a picture at full, half and quarter size; the full one is the result."""

    def __init__(self, config: SFNetConfig):
        self.config = config
        width = config.base_channel
        self.Encoder = nnx.List([Level(width * scale, config) for scale in (1, 2, 4)])
        self.feat_extract = nnx.List(
            [
                BasicConv(3, width, 3),
                BasicConv(width, 2 * width, 3, stride=2),
                BasicConv(2 * width, 4 * width, 3, stride=2),
                Upscale(4 * width, 2 * width),
                Upscale(2 * width, width),
                BasicConv(width, 3, 3, gelu=False),
            ]
        )
        self.Decoder = nnx.List([Level(width * scale, config) for scale in (4, 2, 1)])
        self.Convs = nnx.List([BasicConv(4 * width, 2 * width, 1), BasicConv(2 * width, width, 1)])
        self.ConvsOut = nnx.List(
            [BasicConv(4 * width, 3, 3, gelu=False), BasicConv(2 * width, 3, 3, gelu=False)]
        )
        self.FAM1, self.SCM1 = Merge(4 * width), Shallow(4 * width)
        self.FAM2, self.SCM2 = Merge(2 * width), Shallow(2 * width)

    def __call__(self, images: jax.Array, *, fuse: Callable | None = None) -> jax.Array:
        """Restores a batch of pictures with the running statistics.

        Args:
            images: (B, H, W, 3) in [0, 1], of any size: padded by reflection inside.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not; smaller
                copies of the input join the features after it.

        Returns:
            float32 (B, H, W, 3), not clipped.
        """
        padded = layers.pad_to_multiple(images, self.config.multiple)
        outputs, _ = self._scales(padded, fuse, training=False)
        return outputs[0][:, : images.shape[1], : images.shape[2]]

    def training(
        self, images: jax.Array, *, fuse: Callable | None = None
    ) -> tuple[tuple[jax.Array, ...], Running]:
        """Restores a batch at three scales with the statistics of the batch.

        Args:
            images: (B, H, W, 3) in [0, 1]; H and W multiples of `config.multiple`, B at least 2.
            fuse: as of the call.

        Returns:
            The pictures, float32 (B, H, W, 3), (B, H/2, W/2, 3) and (B, H/4, W/4, 3), and the new
            values of the running statistics by their dotted names.

        Raises:
            ValueError: H or W is not a multiple of `config.multiple`, or B is 1.
        """
        _, height, width, _ = images.shape
        multiple = self.config.multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"images are {height}x{width}; training needs heights and widths that are "
                f"multiples of {multiple}: choose the crop size so"
            )
        return self._scales(images, fuse, training=True)

    def _scales(self, images, fuse, *, training: bool):
        fuse, running = fuse or layers.keep, {}

        def level(name: str, index: int, x):
            y, new = getattr(self, name)[index](x, training)
            running.update(prefixed(f"{name}.{index}", new))
            return y

        full = images.astype(self.config.dtype)
        half, quarter = full[:, ::2, ::2], full[:, ::4, ::4]  # nearest neighbours, as torch's
        level1 = level("Encoder", 0, fuse(0, self.feat_extract[0](full)))
        x = self.FAM2(fuse(1, self.feat_extract[1](level1)), self.SCM2(half))
        level2 = level("Encoder", 1, x)
        x = self.FAM1(fuse(2, self.feat_extract[2](level2)), self.SCM1(quarter))
        x = level("Decoder", 0, level("Encoder", 2, x))
        residuals = [self.ConvsOut[0](x)]
        x = self.Convs[0](jnp.concatenate([self.feat_extract[3](x), level2], -1))
        x = level("Decoder", 1, x)
        residuals.append(self.ConvsOut[1](x))
        x = self.Convs[1](jnp.concatenate([self.feat_extract[4](x), level1], -1))
        residuals.append(self.feat_extract[5](level("Decoder", 2, x)))
        outputs = tuple(
            images[:, ::step, ::step].astype(jnp.float32) + residual.astype(jnp.float32)
            for step, residual in zip((1, 2, 4), reversed(residuals), strict=True)
        )
        return outputs, running


def prefixed(name: str, running: Running) -> Running:
    """Puts a module's name before the names of its running statistics."""
    return {f"{name}.{key}": value for key, value in running.items()}
