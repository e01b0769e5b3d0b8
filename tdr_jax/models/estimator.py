"""What is wrong with a picture, told from the picture: a small network of our own."""

import dataclasses
import itertools

import jax.numpy as jnp
from flax import nnx

from tdr_jax.models import layers, ops

# What it looks for, in the order of its answers; `tdr_jax.degrade` makes examples of all of it.
LOOKED_FOR = ("noise", "rain", "haze", "blur")


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


class DegradationEstimator(nnx.Module):
    """Tells a good picture from one with noise, rain, haze or blur, and how strong the noise is.

    Noise shows at the finest level and haze at the coarsest, so the answer is drawn from the
    moments of every level. No normalisation: it would hide how strong a degradation is.
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
        self.hidden = layers.Linear(2 * sum(widths), config.hidden)
        self.answer = layers.Linear(config.hidden, len(LOOKED_FOR) + 1)

    def __call__(self, images):
        """Judges each picture of a batch.

        Args:
            images: (B, H, W, 3) in [0, 1], sides multiples of `config.multiple`.

        Returns:
            what `conclude` returns.
        """
        return self.conclude(self.moments(images))

    def moments(self, images):
        """Means and means of squares of all levels' channels over each picture: float32 (B, 2 F).

        Those of a large picture are the means of its windows'.
        """
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
        return jnp.concatenate([*first, *second], -1)

    def conclude(self, moments):
        """Answers from the moments of a picture.

        Args:
            moments: float32 (B, 2 F), see `moments`.

        Returns:
            float32 (B, 4), the log-odds of each of `LOOKED_FOR`; and float32 (B,), the binary
            logarithm of the noise's standard deviation on the scale of 0 to 255, if there is any.
        """
        mean, square = jnp.split(moments, 2, -1)
        spread = jnp.log(jnp.maximum(square - jnp.square(mean), 0) + 1e-6)
        x = ops.gelu(self.hidden(jnp.concatenate([mean, spread / 4], -1)))
        x = self.answer(x)
        return x[:, :-1], x[:, -1]


def _smooth(images):
    """Means over 3x3 pixels, edges repeated."""
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 9
