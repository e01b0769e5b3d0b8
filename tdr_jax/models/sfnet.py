"""SFNet ("Selective Frequency Network for Image Restoration", ICLR 2023): three scales in and out.

Residual blocks weigh a feature map's low frequencies (its mean) against its high ones (the rest);
the last block of each level also splits them by filters that it predicts from the picture.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.models.sfnet_blocks import BasicConv, FilteredBlock, ResBlock
from tdr_jax.nn import layers, ops, remat, rows
from tdr_jax.nn.batch_norm import Running, prefixed
from tdr_jax.nn.typing import Array

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


class TransposedConv(nnx.Module):
    """Transposed convolution, 4x4, stride 2, padding 1: doubles the sides (kernel HWIO).

    Along each axis an output pixel sees two inputs and two taps. One 2x2 convolution computes all
    four combinations of even and odd at once, where a transposed convolution would run over zeros.
    """

    def __init__(self, in_channels: int, out_channels: int):
        fan_in = 16 * out_channels  # torch counts the second axis of its (in, out, 4, 4) kernel
        self.kernel = layers.param((4, 4, in_channels, out_channels), fan_in=fan_in)
        self.bias = layers.param((out_channels,), fan_in=fan_in)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Maps features to features of the same dtype."""
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

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Maps features to features of the same dtype."""
        return ops.gelu(self.main[0](x))


class Level(nnx.Module):
    """The blocks of one scale, equal but for the last, which filters."""

    def __init__(self, channels: int, config: SFNetConfig):
        make_block = functools.partial(ResBlock, channels, config.base_size)
        depth = config.num_res - 1
        # Of arrays of the same size.
        pieces = max(1, config.microbatches * config.base_channel // channels)
        options = dict(remat=config.remat, unroll=config.scan_unroll, microbatches=pieces)
        self.layers = layers.Stage(make_block, depth, **options) if depth else None
        self.last = FilteredBlock(channels, config.base_size)
        self.remat = config.remat

    def __call__(
        self, x: Float[Array, "b h w c"], training: bool
    ) -> tuple[Float[Array, "b h w c"], Running]:
        """Maps features to features of the same dtype and the new running statistics."""
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

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w c"]:
        """Maps a picture to features of the same dtype."""
        for layer in self.main:
            x = layer(x)
        return x


class InstanceNorm(nnx.Module):
    """Normalises the pixels of each channel in float32 (biased variance, eps 1e-5)."""

    def __init__(self, channels: int):
        self.weight = layers.param((channels,), constant=1.0)
        self.bias = layers.param((channels,))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean((1, 2), keepdims=True)
        scale = lax.rsqrt(jnp.square(centred).mean((1, 2), keepdims=True) + 1e-5)
        return (centred * (scale * self.weight[...]) + self.bias[...]).astype(x.dtype)


class Merge(nnx.Module):
    """Joins features of two origins by one convolution (FAM)."""

    def __init__(self, channels: int):
        self.merge = BasicConv(2 * channels, channels, 3, gelu=False)

    def __call__(
        self, x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        """Maps both features to features of the same dtype."""
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

    def __call__(
        self, images: Float[Array, "b h w 3"], *, fuse: Callable | None = None
    ) -> Float32[Array, "b h w 3"]:
        """Restores a batch of pictures with the running statistics.

        Args:
            images: in [0, 1], of any size: padded by reflection inside.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not; smaller
                copies of the input join the features after it.

        Returns:
            About [0, 1], not clipped.
        """
        padded = layers.pad_to_multiple(images, self.config.multiple)
        outputs, _ = self._scales(padded, fuse, training=False)
        return outputs[0][:, : images.shape[1], : images.shape[2]]

    def training(
        self, images: Float[Array, "b h w 3"], *, fuse: Callable | None = None
    ) -> tuple[
        tuple[
            Float32[Array, "b h w 3"],
            Float32[Array, "b h//2 w//2 3"],
            Float32[Array, "b h//4 w//4 3"],
        ],
        Running,
    ]:
        """Restores a batch at three scales with the statistics of the batch.

        Args:
            images: in [0, 1]; h and w multiples of `config.multiple`, b at least 2.
            fuse: as of the call.

        Returns:
            The pictures at full, half and quarter size, not clipped, and the new values of the
            running statistics by their dotted names.

        Raises:
            ValueError: h or w is not a multiple of `config.multiple`, or b is 1.
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
