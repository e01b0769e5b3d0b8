"""NAFNet (arXiv 2204.04676): restoration without activation functions, and its local variant.

A U of blocks whose only nonlinearities are LayerNorm, products of two halves of the channels
(SimpleGate) and one scale a channel computed from its mean (simplified channel attention, SCA).
With `train_size` the means are local (TLC, arXiv 2112.04491), for pictures larger than the crops of
the training.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax.nn import layers, ops, pooling, remat
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class NAFNetConfig:
    """Hyper-parameters under the reference's names; the defaults are the GoPro network."""

    img_channel: int = 3
    width: int = 64
    middle_blk_num: int = 1
    enc_blk_nums: tuple[int, ...] = (1, 1, 1, 28)
    dec_blk_nums: tuple[int, ...] = (1, 1, 1, 1)
    # Height and width of the training crops, last (what stands before is not read): means are
    # taken over windows half as long again. Empty: over the whole picture.
    train_size: tuple[int, ...] = ()
    padding: str = "zeros"  # of sides that do not fit, as in the reference; or "reflect"
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1

    def __post_init__(self):
        layers.check_padding(self.padding)

    @property
    def multiple(self) -> int:
        """Heights and widths that the network works on are multiples of this."""
        return 2 ** len(self.enc_blk_nums)

    @property
    def channels(self) -> tuple[int, int]:
        """Number of input and of output channels."""
        return self.img_channel, self.img_channel

    @property
    def heeds_extent(self) -> bool:
        """Whether pictures may fill less than the arrays they come in, see `nn.extent`."""
        return not self.train_size  # means over windows look for the border of the array

    def window(self, level: int) -> tuple[int, int] | None:
        """Height and width of the window of the local means, `level` halvings down; or None."""
        if not self.train_size:
            return None
        sizes = self.train_size[-2:]
        padded = (size + -size % self.multiple for size in sizes)
        return tuple(
            (side >> level) * int(size * 1.5) // size
            for side, size in zip(padded, sizes, strict=True)
        )


_SIDD = dict(enc_blk_nums=(2, 2, 4, 8), middle_blk_num=12, dec_blk_nums=(2, 2, 2, 2))
# The GoPro networks, those of SIDD, and GoPro's as it is tested: with local means.
SIZES = {
    "nafnet": {},
    "nafnet-32": dict(width=32),
    "nafnet-sidd": _SIDD,
    "nafnet-sidd-32": dict(width=32, **_SIDD),
    "nafnet-local": dict(train_size=(1, 3, 256, 256)),
}


class NAFBlock(nnx.Module):
    """Two residual halves: filtered and gated features under channel attention, then a gated MLP.

    y = x + beta conv3(s g), g = gate(conv2(conv1(norm1(x)))), s = sca(mean g), and
    y + gamma conv5(gate(conv4(norm2(y)))). Weights are sliced where the reference splits
    activations; s, beta and gamma are folded into the kernels beside them.
    """

    def __init__(self, channels: int, window: tuple[int, int] | None):
        self.norm1 = layers.LayerNorm(channels, eps=1e-6)
        self.conv1 = layers.Linear(channels, 2 * channels)
        self.conv2 = layers.DepthwiseConv(2 * channels, bias=True)
        self.sca = layers.Linear(channels, channels)
        self.conv3 = layers.Linear(channels, channels)
        self.beta = layers.param((channels,))
        self.norm2 = layers.LayerNorm(channels, eps=1e-6)
        self.conv4 = layers.Linear(channels, 2 * channels)
        self.conv5 = layers.Linear(channels, channels)
        self.gamma = layers.param((channels,))
        self.window = window

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        channels = x.shape[-1]
        first, second = slice(0, channels), slice(channels, 2 * channels)
        z = self.norm1(x)
        a, b = (self.conv2(self.conv1(z, part), part) for part in (first, second))
        x = remat.half(x + self.attend(a * b))
        z = self.norm2(x)
        gated = self.conv4(z, first) * self.conv4(z, second)
        return x + scaled(self.conv5, gated, self.gamma[...])

    def attend(self, gated: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Simplified channel attention and conv3, of the same dtype."""
        _, height, width, _ = gated.shape
        means = pooling.whole_window_mean(gated, self.window or (height, width))
        scale = self.sca(means)
        if scale.shape[1:3] == (1, 1):
            return scaled(self.conv3, gated, self.beta[...], scale[:, 0, 0])
        gated = gated * pooling.spread(scale, height, width).astype(gated.dtype)
        return scaled(self.conv3, gated, self.beta[...])


def scaled(
    linear: layers.Linear,
    x: Float[Array, "b h w c"],
    out_scale: Float[Array, " d"],
    in_scale: Float[Array, "b c"] | None = None,
) -> Float[Array, "b h w d"]:
    """Computes out_scale * linear(in_scale * x) by scaling the kernel.

    Args:
        linear: of c to d features.
        x: features.
        out_scale: any range.
        in_scale: any range; None for ones.

    Returns:
        Features of x's dtype.
    """
    b, h, w, c = x.shape
    kernel = (linear.kernel[...] * out_scale)[None]
    if in_scale is not None:
        kernel = in_scale[:, :, None] * kernel
    else:
        x = x.reshape(1, b * h * w, c)
    y = ops.matmul(x.reshape(kernel.shape[0], -1, c), kernel.astype(x.dtype))
    return y.reshape(b, h, w, -1) + (linear.bias[...] * out_scale).astype(x.dtype)


class NAFNet(nnx.Module):
    """Restores a picture of the degradation that its weights were trained on."""

    def __init__(self, config: NAFNetConfig):
        self.config = config
        width = config.width

        def stage(level: int, depth: int) -> layers.Stage:
            window = config.window(level)
            make_block = functools.partial(NAFBlock, width * 2**level, window)
            options = dict(remat=config.remat, unroll=config.scan_unroll)
            pieces = config.microbatches // 2**level  # of arrays of the same size
            return layers.Stage(make_block, depth, microbatches=max(1, pieces), **options)

        depths = len(config.enc_blk_nums)
        levels = range(depths)
        if len(config.dec_blk_nums) != depths:
            raise ValueError(f"{depths} numbers of enc_blk_nums, {config.dec_blk_nums=}")
        self.intro = layers.Conv(config.img_channel, width, bias=True)
        self.encoders = nnx.List(map(stage, levels, config.enc_blk_nums))
        self.downs = nnx.List(
            layers.Conv(width * 2**i, width * 2 ** (i + 1), size=2, stride=2, padding=0, bias=True)
            for i in levels
        )
        self.middle_blks = stage(depths, config.middle_blk_num)
        self.ups = nnx.List(
            layers.Linear(width * 2 ** (i + 1), width * 2 ** (i + 2), bias=False)
            for i in reversed(levels)
        )
        self.decoders = nnx.List(map(stage, reversed(levels), config.dec_blk_nums))
        self.ending = layers.Conv(width, config.img_channel, bias=True)

    def __call__(
        self, images: Float[Array, "b h w c"], *, fuse: Callable | None = None
    ) -> Float32[Array, "b h w c"]:
        """Restores a batch of pictures.

        Args:
            images: in [0, 1], of any size, c = img_channel: `config.padding` fills the lower and
                right edge up to multiples of `config.multiple`, and is cut off at the end.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not.

        Returns:
            About [0, 1], not clipped.
        """
        fuse = fuse or layers.keep
        _, height, width, _ = images.shape
        padded = layers.pad_to_multiple(images, self.config.multiple, self.config.padding)
        x = self.intro(padded.astype(self.config.dtype))
        skips = []
        for level, (encoder, down) in enumerate(zip(self.encoders, self.downs, strict=True)):
            x = encoder(fuse(level, x))
            skips.append(x)
            x = down(x)
        x = self.middle_blks(fuse(len(skips), x))
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(layers.pixel_shuffle(up(x), 2) + skip)
        residual = self.ending(x).astype(jnp.float32)
        return (padded.astype(jnp.float32) + residual)[:, :height, :width]
