"""From a picture, and a sentence, to the restored picture, whatever its size and type."""

import itertools
import math
from collections.abc import Callable
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from tdr_jax.errors import InputError
from tdr_jax.infer import takes, tiles
from tdr_jax.infer.pictures import open_picture

MAX_PIXELS = 2**21  # about 2 million: the most that goes through a network at once by default
LEAST_MAX_PIXELS = 64 * 64
SMALL = 256 * 256  # up to here any network has room, and nothing is estimated
MEMORY = 3 * 2**30  # for a network's intermediate results: what a machine of 8 GB can spare


class Restorer:
    """Restores pictures, as a sentence asks where the network takes one.

    Args:
        network: a Network whose apply(params, images) or, if its config has a `text_dim`,
            apply(params, images, vectors) restores images.
        params: its flat dict of parameters.
        encoder: anything with `.dim` and `.encode(list of str) -> float32 (N, dim)`; None for a
            network that takes no sentence.

    Raises:
        InputError: the network restores no pictures, or the encoder is not what it needs.
    """

    def __init__(self, network, params: dict[str, Any], encoder=None):
        takes.check(network, encoder)
        self.network = network
        self.params = params
        self.encoder = encoder

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike = "textpromptir-compact", encoder="minilm"
    ) -> "Restorer":
        """Load a network with its weights.

        Args:
            name_or_path: what `tdr_jax.load` takes: a name with shipped weights, our own folder
                or file, or a PyTorch checkpoint.
            encoder: a text encoder, or the name or folder of one; loaded only if the network
                takes a sentence.

        Returns:
            the Restorer.

        Raises:
            InputError: there are no such weights, or the encoder does not fit them.
        """
        from tdr_jax import text, weights

        network, params = weights.load(name_or_path)
        if not takes.sentence(network):
            encoder = None
        elif isinstance(encoder, (str, PathLike)):
            encoder = text.TextEncoder.from_pretrained(encoder)
        return cls(network, params, encoder)

    @cached_property
    def max_pixels(self) -> int:
        """The most pixels that go through the network at once, unless a call says otherwise.

        As many as are estimated to need 3 GiB for intermediate results, at most 2**21.
        """
        from tdr_jax.infer import memory

        return int(np.clip(MEMORY / memory.bytes_per_pixel(self.network), SMALL, MAX_PIXELS))

    def __call__(
        self,
        image,
        prompt: str | None = None,
        *,
        right=None,
        strength: float = 1.0,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        """Restore one picture; its size never changes.

        A picture of at most `max_pixels` goes through the network whole, reflected at the right
        and lower edge up to the multiple the network needs. A larger one is cut into equal tiles
        of at most that size, which overlap and are blended with raised-cosine weights, so the
        memory needed stays that of one tile. The network looks at statistics of everything it is
        given; those are then taken tile by tile, so the result differs a little from that of the
        whole picture, most where parts of the picture differ in how bad they are.

        A network for colour sees a grey picture three times, and the mean of what it answers is
        the result. A network for grey restores a colour picture one channel after the other,
        or once if the three are equal.

        Args:
            image: uint8, uint16 or float array (H, W, 3), or grey (H, W) or (H, W, 1), float in
                [0, 1], NumPy or JAX; or a PIL image, whose alpha stays as it is. Palette and CMYK
                images become RGB or RGBA, 1-bit ones L.
            prompt: what to do, in words, such as "remove the noise"; None for a network that
                takes no sentence.
            right: the right view, like `image` and of its size, for a network that restores the
                left view from both; else None.
            strength: 1 gives the restored picture, 0 the input, between them a blend.
            max_pixels: the most pixels that go through the network at once, at least 4096; None
                chooses by the network's need for memory, see `Restorer.max_pixels`.
            progress: called as progress(tiles done, tiles in all) before the first tile and
                after each.

        Returns:
            the restored picture, same type and size as `image`, float in [0, 1].

        Raises:
            InputError: the image, prompt, view, strength or max_pixels is not as above or not
                what the network takes; memory is too small; or the network's answer is not finite.
        """
        check_strength(strength)
        if max_pixels is not None:
            check_max_pixels(max_pixels)
        self.check_prompt(prompt)
        vectors = ()
        if prompt is not None:
            vectors = (np.asarray(self.encoder.encode([prompt.strip()]), np.float32),)
        pixels, close = open_picture(image)
        given = self._given(pixels, right)
        restored = self._restore(given, vectors, max_pixels, progress or (lambda done, total: None))
        if restored.shape[-1] > pixels.shape[-1]:
            restored = restored.mean(-1, keepdims=True)
        elif restored.shape[-1] < pixels.shape[-1]:
            restored = np.repeat(restored, 3, -1)
        if strength < 1:
            restored *= np.float32(strength)
            restored += np.float32(1 - strength) * pixels
        return close(np.clip(restored, 0, 1, out=restored))

    def check_prompt(self, prompt: str | None) -> None:
        """Raise InputError unless there is a prompt that says something where one is needed."""
        if not takes.sentence(self.network):
            if prompt is not None:
                raise InputError(
                    f"network {self.network.name} takes no sentence; leave the prompt out"
                )
        elif not isinstance(prompt, str) or not prompt.strip():
            raise InputError(
                f'the prompt is {prompt!r}; say what to do, such as "remove the noise"'
            )

    def check_views(self, right) -> None:
        """Raise InputError unless there is a right view just where one is needed."""
        two = takes.two_views(self.network)
        if two and right is None:
            raise InputError(
                f"network {self.network.name} restores from two views; give the right one as well"
            )
        if right is not None and not two:
            raise InputError(
                f"network {self.network.name} restores from one picture; leave the right view out"
            )

    def _given(self, pixels: np.ndarray, right) -> list[np.ndarray]:
        """Return what goes through the network one after the other, each (H, W, channels in)."""
        self.check_views(right)
        if right is not None:
            other, _ = open_picture(right)
            if other.shape[:2] != pixels.shape[:2]:
                sizes = (f"{array.shape[1]}x{array.shape[0]}" for array in (other, pixels))
                raise InputError("the right view is {}, but the left one {}".format(*sizes))
            return [np.concatenate([_colour(pixels), _colour(other)], -1)]
        if self.network.config.channels[0] > 1:
            return [_colour(pixels)]
        planes = [pixels[..., i : i + 1] for i in range(pixels.shape[-1])]
        equal = all(np.array_equal(plane, planes[0]) for plane in planes[1:])
        return planes[:1] if equal else planes

    @cached_property
    def _apply(self):
        import jax
        import jax.numpy as jnp

        params = jax.device_put(self.params)

        @jax.jit
        def apply(params, images, *vectors):
            return self.network.apply(params, images, *vectors).astype(jnp.float32)

        return lambda images, *vectors: np.asarray(apply(params, images, *vectors))

    def _restore(self, given, vectors, max_pixels, progress) -> np.ndarray:
        """Return float32 (H, W, channels out of each), not clipped.

        Memory besides input and output is one tile's.
        """
        height, width, _ = given[0].shape
        multiple, channels = self.network.config.multiple, self.network.config.channels[1]
        if max_pixels is None:
            small = math.prod(tiles.padded(height, width, multiple)) <= SMALL
            max_pixels = SMALL if small else self.max_pixels
        tall, broad = tiles.tile_shape(height, width, max_pixels, multiple)
        tops, lefts = tiles.starts(height, tall), tiles.starts(width, broad)
        total = len(tops) * len(lefts) * len(given)
        progress(0, total)
        if total == 1:
            restored = self._tile(_pad(given[0], tall, broad), vectors)
            progress(1, 1)
            return restored[:height, :width].copy()
        rows = tiles.windows(height, tall, tops)
        columns = tiles.windows(width, broad, lefts)
        restored = np.zeros((height, width, channels * len(given)), np.float32)
        places = itertools.product(
            enumerate(given), zip(tops, rows, strict=True), zip(lefts, columns, strict=True)
        )
        for done, ((plane, pixels), (top, row), (left, column)) in enumerate(places, 1):
            parts = slice(plane * channels, (plane + 1) * channels)
            target = restored[top : top + tall, left : left + broad, parts]
            high, wide, _ = target.shape  # less than a tile where the picture is narrower
            tile = pixels[top : top + tall, left : left + broad]
            answer = self._tile(_pad(tile, tall, broad), vectors)[:high, :wide]
            target += answer * (row[:high, None, None] * column[:wide, None])
            progress(done, total)
        return restored

    def _tile(self, tile: np.ndarray, vectors) -> np.ndarray:
        import jax

        try:
            answer = self._apply(tile[None], *vectors)[0]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            size = f"{tile.shape[1]}x{tile.shape[0]}"
            raise InputError(f"not enough memory for {size} pixels; lower max_pixels") from error
        if not np.isfinite(answer).all():
            raise InputError(
                f"network {self.network.name} answered with NaN or infinite values; "
                "its weights are damaged or do not belong to it"
            )
        return answer


def check_strength(strength: float) -> None:
    """Raise InputError unless the strength lies in [0, 1]."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it must lie between 0 and 1")


def check_max_pixels(max_pixels: int) -> None:
    """Raise InputError unless tiles of max_pixels are large enough to make sense."""
    if max_pixels < LEAST_MAX_PIXELS:
        raise InputError(f"max_pixels is {max_pixels}; it must be at least {LEAST_MAX_PIXELS}")


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect the right and lower edge; NumPy repeats the reflection for pictures smaller yet."""
    for axis, length in enumerate((height, width)):
        missing = length - pixels.shape[axis]
        if missing:
            mode = "reflect" if pixels.shape[axis] > 1 else "edge"  # one row has no second to show
            margins = [(0, 0)] * 3
            margins[axis] = (0, missing)
            pixels = np.pad(pixels, margins, mode=mode)
    return pixels
