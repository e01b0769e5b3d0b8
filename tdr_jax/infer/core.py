"""From pixels to pixels through a trained network: whole, by strips, in tiles; few programs."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from tdr_jax.errors import InputError
from tdr_jax.images.arrays import pad, padded

if TYPE_CHECKING:  # the parsers of commands import this, and need no JAX
    from tdr_jax import models

MAX_PIXELS = 2**21  # about 2 million: the most that goes through a network at once by default
MIN_MAX_PIXELS = 64 * 64
SMALL = 256 * 256  # up to here any network has room, and nothing is estimated
MEMORY = 3 * 2**30  # for a network's intermediate results: what a machine of 8 GB can spare
PROGRAMS = 6  # for all pictures of a folder
WORTH = 2**31  # bytes of intermediate results of pictures that are restored during a compilation

_log = logging.getLogger(__name__)


class NotEnoughMemory(InputError):
    """What was tried needs more memory than there is; something smaller may still work."""


@contextlib.contextmanager
def told(width: int, height: int) -> Iterator[None]:
    """Turn what JAX and NumPy raise where memory is too small into one line.

    Args:
        width, height: of what is restored, in pixels.

    Raises:
        NotEnoughMemory: an allocation failed.
    """
    import jax

    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise NotEnoughMemory(
            f"not enough memory for {width}x{height} pixels; lower max_pixels"
        ) from error


class Core:
    """A network, its parameters and its programs.

    Args:
        network: a Network that restores pictures.
        params: its flat dict of parameters.
        rows: how many devices each picture is cut over, by its rows; None or 0 for one device.

    Raises:
        InputError: there are fewer devices, or the network cannot work on rows.
    """

    def __init__(self, network, params: dict[str, Any], rows: int | None = None):
        self.network = network
        self.params = params
        self.rows = rows or 1
        self.buckets: dict[tuple[int, int], bool] = {}
        if self.rows != 1:
            from tdr_jax.infer.rows import Rows

            self._devices = Rows(network, rows)

    @cached_property
    def max_pixels(self) -> int:
        """The most pixels that go through the network at once, unless a call says otherwise.

        As many as are estimated to need 3 GiB for intermediate results, at most 2**21; those of
        guidance of the same size count as well. With `rows`, so many for each of the devices.
        """
        from tdr_jax.analysis import memory

        one = np.clip(MEMORY / memory.bytes_per_pixel(self.network), SMALL, MAX_PIXELS)
        return self.rows * int(one)

    def prepare(
        self,
        sizes: Iterable[tuple[int, int]],
        programs: int = PROGRAMS,
        memory: int | None = None,
    ) -> None:
        """Choose programs for pictures to come, so that few have to be compiled.

        Those of about one size share a program, which gives what one for each size would. Without
        this, or for a network that it does not work with, each size has its own.

        Args:
            sizes: (height, width) of the pictures; what is too large to be restored whole is passed
                over.
            programs: the most that are compiled.
            memory: as for restoring.
        """
        if not self.network.heeds_extent or self.rows != 1:
            return
        from tdr_jax.analysis import memory as needs
        from tdr_jax.infer import buckets

        multiple = self.network.config.multiple
        sides = [padded(height, width, multiple) for height, width in sizes]
        fitting = [s for s in sides if math.prod(s) <= self._at_once(*s, memory=memory)]
        largest = max([self._at_once(*s, memory=memory) for s in fitting], default=0)
        # A network that needs more memory for a pixel needs longer for it, too.
        worth = int(WORTH / needs.bytes_per_pixel(self.network))
        self.buckets = buckets.choose(fitting, programs, worth, largest)

    def whole(
        self,
        pixels: Float32[np.ndarray, "h w c"],
        *others: Float32[np.ndarray, "..."],
        method: str = "__call__",
    ) -> Float32[np.ndarray, "h w d"]:
        """Put a picture through the network at once, as it is: the core of all that restores.

        Args:
            pixels: in [0, 1], of the channels that the network takes, continued at the right and
                lower edge up to the multiple it needs.
            *others: guidance (h2, w2, 3) in [0, 1] and a sentence vector (e,), just where the
                network takes them.
            method: "__call__", or "confidence" of a guided network, for the pixels' channels.

        Returns:
            The channels that the network gives, not clipped; of a confidence d = 1.

        Raises:
            InputError: memory is too small, or the network's answer is not finite.
        """
        height, width, _ = pixels.shape
        size = self.bucket(height, width) if method == "__call__" else None
        if size is not None and self.buckets[size]:
            return self._in_bucket([pixels], [others], size)[0]
        sides = padded(height, width, self.network.config.multiple, self.rows)
        return self._answer(method, pad(pixels, *sides, self._padding), others)[:height, :width]

    def bucket(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the size of the program for a picture of that size, where one was prepared."""
        if not self.buckets:
            return None
        from tdr_jax.infer import buckets

        return buckets.fitting(
            self.buckets, *padded(height, width, self.network.config.multiple, self.rows)
        )

    def _in_bucket(self, pictures, others, size: tuple[int, int]) -> list[np.ndarray]:
        """Put several pictures through the network at once, in arrays of one size."""
        from tdr_jax.infer import buckets

        sizes = [picture.shape[:2] for picture in pictures]
        multiple = self.network.config.multiple
        filled = [
            pad(picture, *padded(*picture.shape[:2], multiple), self._padding)
            for picture in pictures
        ]
        inputs = buckets.put(filled, size), *buckets.sides(filled)
        vectors = [np.stack(each) for each in zip(*others, strict=True)]
        with told(*size[::-1]):
            run = buckets.program(self.network)
            answers = np.asarray(run(self._placed, *inputs, *vectors))
        answers = [a[:h, :w].copy() for a, (h, w) in zip(answers, sizes, strict=True)]
        for answer in answers:
            self._check_finite(answer)
        return answers

    @property
    def _padding(self) -> str:
        """Zeros for devices that have rows in the padding alone would darken the means of all."""
        return self.network.padding if self.rows == 1 else "reflect"

    @cached_property
    def _placed(self) -> dict:
        import jax

        return jax.device_put(self.params) if self.rows == 1 else self._devices.place(self.params)

    @cached_property
    def _strips(self):
        from tdr_jax.infer.strips import Strips

        devices = None if self.rows == 1 else self._devices
        return Strips(self.network, self.params, devices)

    def _at_once(
        self, height: int, width: int, max_pixels: int | None = None, memory: int | None = None
    ) -> int:
        """Return how many pixels of such a picture go through the network at once at most."""
        if max_pixels is not None:
            check_max_pixels(max_pixels, self.rows, self.network.config.multiple)
            return max_pixels
        sides = padded(height, width, self.network.config.multiple, self.rows)
        small = self.rows * SMALL
        if memory is None:
            return small if math.prod(sides) <= small else self.max_pixels
        from tdr_jax.analysis import memory as needs

        each = max(int(memory / needs.bytes_per_pixel(self.network)), MIN_MAX_PIXELS)
        return self.rows * each

    def _through(
        self, method: str, given, others, most: int, progress, limit: int | None = None
    ) -> np.ndarray:
        """Return what the network makes: float32 (H, W, channels of each given), not clipped.

        Args:
            most: pixels that go through the network at once at most.
            limit: bytes that strips may use; None for no strips.
        """
        progress = progress or (lambda done, total: None)
        failed = None
        for name, way in self._ways(method, given, others, most, progress, limit):
            if failed is not None:
                _log.warning("%s; trying again %s", failed, name)
            try:
                return way()
            except NotEnoughMemory as error:
                failed = error
        raise failed

    def _ways(self, method: str, given, others, most: int, progress, limit: int | None) -> Iterator:
        """Yield the names of what can be tried and how, each needing less memory than before."""
        height, width, _ = given[0].shape
        multiple = self.network.config.multiple
        pixels = math.prod(padded(height, width, multiple, self.rows))

        def whole():
            progress(0, 1)
            restored = self.whole(given[0], *others, method=method)
            progress(1, 1)
            return restored.copy()

        if len(given) == 1 and pixels <= most:
            yield "whole", whole
        sides = padded(height, width, multiple)
        if limit and method == "__call__" and self.network.heeds_extent:
            if pixels > self.rows * SMALL and self._strips.least(*sides) <= limit:
                yield "strip by strip", lambda: self._by_strips(given, others, limit, progress)
        most = min(most, pixels) if len(given) > 1 or pixels > most else pixels // 2
        smallest = smallest_tile(self.rows, multiple)
        while True:
            most = max(most, smallest)
            tiles = functools.partial(self._by_tiles, method, given, others, most, progress)
            yield f"in tiles of {most} pixels", tiles
            if most == smallest:
                return
            most //= 2

    def _by_strips(self, given, others, limit: int, progress) -> np.ndarray:
        height, width, _ = given[0].shape
        sides = padded(height, width, self.network.config.multiple)
        answers = []
        for index, pixels in enumerate(given):

            def part(done, total, index=index):
                progress(index * total + done, len(given) * total)

            with told(width, height):
                filled = pad(pixels, *sides, self.network.padding)
                answer = self._strips(filled, *others, limit=limit, progress=part)
            answers.append(self._check_finite(answer[:height, :width]))
        return np.concatenate(answers, -1)

    def _by_tiles(self, method: str, given, others, most: int, progress) -> np.ndarray:
        from tdr_jax.infer import tiles

        height, width, _ = given[0].shape
        shape = tiles.tile_shape(height, width, most, self.network.config.multiple, self.rows)
        channels = self.network.config.channels[1] if method == "__call__" else 1
        answer = functools.partial(self._answer, method, others=others)
        return tiles.blend(answer, given, channels, shape, progress, self._padding)

    def _answer(self, method: str, pixels: np.ndarray, others) -> np.ndarray:
        """Run the network on pixels of sides that it can take."""
        inputs = (pixels, *others)
        run = program(self.network, self.rows, method)
        with told(pixels.shape[1], pixels.shape[0]):
            answer = np.asarray(run(self._placed, *(each[None] for each in inputs)))[0]
        return self._check_finite(answer)

    def _check_finite(self, answer: np.ndarray) -> np.ndarray:
        return finite(self.network, answer)


def finite(
    network: "models.Network", answer: Float32[np.ndarray, "*n c"]
) -> Float32[np.ndarray, "*n c"]:
    """Return what a network answered, or raise InputError if it is not finite."""
    if not np.isfinite(answer).all():
        raise InputError(
            f"network {network.name} answered with NaN or infinite values; "
            "its weights are damaged or do not belong to it"
        )
    return answer


def program(network: "models.Network", rows: int = 1, method: str = "__call__") -> Callable:
    """Prepare a network for pictures; it is compiled once for each shape, whoever asks for it.

    Args:
        network: a Network that restores pictures.
        rows: how many devices each picture is cut over, by its rows.
        method: "__call__", or "confidence" of a guided network.

    Returns:
        run(params, images (n, h, w, c), guidance (n, h2, w2, 3), vectors (n, e)) -> float32
        (n, h, w, d), without those of the inputs that the network does not take.

    Raises:
        InputError: there are fewer devices, or the network cannot work on rows.
    """
    return _program(network, rows, method)


@functools.lru_cache(maxsize=8)
def _program(network, rows: int, method: str) -> Callable:
    import jax
    import jax.numpy as jnp

    def run(params, images, *others):
        if method == "__call__":
            answer = network.apply(params, images, *others)
        else:
            answer = network.apply(params, images, *others, method=method)[..., None]
        return answer.astype(jnp.float32)

    if rows == 1:
        return jax.jit(run)
    from tdr_jax.infer.rows import Rows

    devices = Rows(network, rows)
    return functools.partial(devices.run, devices.jit(run))


def check_max_pixels(max_pixels: int, rows: int = 1, multiple: int = 1) -> None:
    """Raise InputError unless tiles of max_pixels are large enough to make sense on each device.

    Args:
        max_pixels: to be used.
        rows: how many devices each picture is cut over.
        multiple: of the sides that the network works on; a tile has two of it along each.
    """
    smallest = smallest_tile(rows, multiple)
    if max_pixels < smallest:
        over = f" over {rows} devices" if rows > 1 else ""
        raise InputError(f"max_pixels is {max_pixels}; it must be at least {smallest}{over}")


def smallest_tile(rows: int, multiple: int) -> int:
    """Return the fewest pixels that a tile may have."""
    return rows * max(MIN_MAX_PIXELS, 4 * multiple**2)
