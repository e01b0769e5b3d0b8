"""What is wrong with a picture, told from the picture: a small network of our own."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.nn import layers, ops
from tdr_jax.nn.typing import Array

BINS, BANDS = 16, 3  # of histograms: from 0 to 1, and from the upper edge to the lower one
MAPS = 6  # of which there are histograms, see `_histograms`


@dataclasses.dataclass(frozen=True)
class DegradationEstimatorConfig:
    """Widths of the levels, each at half the size of the one before, and of the hidden layer."""

    widths: tuple[int, ...] = (32, 48, 64, 96, 128)
    hidden: int = 64
    dtype: str = "float32"

    @property
    def multiple(self) -> int:
        """Heights and widths that the network works on are multiples of this."""
        return 2 ** len(self.widths)


SIZES = {"degradation-estimator": {}}


class DegradationEstimator(nnx.Module):
    """Tells a good picture from one with noise, rain, haze or blur, and how strong the noise is.

    Noise shows at the finest level and blur at coarser ones, so the answer is drawn from the
    moments of every level. No normalisation: it would hide how strong a degradation is. Haze leaves
    nothing dark and nothing colourful, above all in the distance, which is seldom at the lower
    edge: histograms show it.
    """

    def __init__(self, config: DegradationEstimatorConfig):
        self.config = config
        widths = config.widths
        # The first level sees every pixel, unshuffled by two; each other one halves the size.
        convs = [layers.Conv(4 * 9, widths[0], bias=True)]
        convs += [
            layers.Conv(fine, coarse, stride=2, bias=True)
            for fine, coarse in itertools.pairwise(widths)
        ]
        self.levels = nnx.List(convs)
        self.hidden = layers.Linear(2 * sum(widths) + BANDS * MAPS * BINS, config.hidden)
        self.answer = layers.Linear(config.hidden, len(ESTIMATED) + 1)

    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float32[Array, "b 4"], Float32[Array, " b"]]:
        """Judges each picture of a batch.

        Args:
            images: in [0, 1], sides multiples of `config.multiple`.

        Returns:
            what `conclude` returns.
        """
        return self.conclude(self.moments(images))

    def moments(self, images: Float[Array, "b h w 3"]) -> Float32[Array, "b n"]:
        """Means over each picture, which for a large one are the means of its windows'.

        Args:
            images: as of the call.

        Returns:
            Of all levels' channels, of their squares, and histograms, whose shares are in [0, 1].
        """
        histograms = _histograms(images.astype(jnp.float32))
        images = images.astype(self.config.dtype)
        detail = 16 * (images - _smooth(images))  # what noise changes most, to learn in less time
        x = jnp.concatenate([4 * images - 2, detail, jnp.abs(detail)], -1)
        x = layers.pixel_unshuffle(x, 2)
        first, second = [], []
        for level in self.levels:
            x = 2 * ops.gelu(level(x))  # or else what torch's first values give shrinks by level
            values = x.astype(jnp.float32)
            first.append(values.mean((1, 2)))
            second.append(jnp.square(values).mean((1, 2)))
        return jnp.concatenate([*first, *second, histograms], -1)

    def conclude(
        self, moments: Float32[Array, "b n"]
    ) -> tuple[Float32[Array, "b 4"], Float32[Array, " b"]]:
        """Answers from the moments of a picture.

        Args:
            moments: see `moments`.

        Returns:
            the log-odds of each of `ESTIMATED`, in nats; and the binary logarithm of the noise's
            standard deviation on the scale of 0 to 255, if there is any.
        """
        channels = sum(self.config.widths)
        mean, square, histograms = jnp.split(moments, (channels, 2 * channels), -1)
        spread = jnp.log(jnp.maximum(square - jnp.square(mean), 0) + 1e-6)
        # The root keeps a rare value in sight; the epsilon keeps its slope finite.
        shares = 2 * jnp.sqrt(histograms + 1e-6)
        x = ops.gelu(self.hidden(jnp.concatenate([mean, spread / 4, shares], -1)))
        x = self.answer(x)
        return x[:, :-1], x[:, -1]


def _smooth(images):
    """Means over 3x3 pixels, edges repeated."""
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 9


def _histograms(images):
    """Histograms by which haze is told, of the upper, middle and lower part of each picture.

    Of the dark channel over 16 and 32 pixels (He et al., CVPR 2009), of the bright channel over 16,
    their difference, luminance, and saturation; all of means over 4x4 pixels, which hide noise.

    Args:
        images: float32 (B, H, W, 3) in [0, 1], sides multiples of 4.

    Returns:
        float32 (B, BANDS * MAPS * BINS), each histogram with the sum 1.
    """
    batch, height, width, _ = images.shape
    coarse = images.reshape(batch, height // 4, 4, width // 4, 4, 3).mean((2, 4))
    least, most = coarse.min(-1), coarse.max(-1)
    dark, bright = _least(least, 4), -_least(-most, 4)
    saturation = 1 - least / jnp.maximum(most, 1e-3)
    maps = (dark, _least(least, 8), bright, bright - dark, coarse.mean(-1), saturation)
    return jnp.concatenate([_histogram(values) for values in maps], -1)


def _least(values, side: int):
    """Minima over squares, (B, H, W) -> (B, ceil(H / side), ceil(W / side))."""
    window = (1, side, side)
    return jax.lax.reduce_window(values, jnp.inf, jax.lax.min, window, window, "SAME")


def _histogram(values):
    """How often values in [0, 1] occur in each part: (B, H, W) -> (B, BANDS * BINS).

    A value counts for both bins that it lies between and a row for both parts, so that nothing
    jumps.
    """
    bins = jnp.arange(BINS, dtype=jnp.float32)
    near = jax.nn.relu(1 - jnp.abs(values[..., None] * (BINS - 1) - bins)).mean(2)
    rows = jnp.linspace(0, BANDS - 1, values.shape[1])[:, None]
    parts = jax.nn.relu(1 - jnp.abs(rows - jnp.arange(BANDS)))
    found = jnp.einsum("bhk,hp->bpk", near, parts / (parts.sum(0) + 1e-6))
    return found.reshape(len(values), -1)
