"""From a picture, a sentence and guidance to the restored picture, whatever its size and type."""

import functools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from tdr_jax.errors import InputError
from tdr_jax.images.arrays import open_guidance, open_picture, pad, padded
from tdr_jax.infer import conditioning

if TYPE_CHECKING:  # the parsers of commands import this, and need no JAX
    from tdr_jax import models

MODEL = "textpromptir-compact"
GUIDED_MODEL = "guided-compact"  # for noise; what is used with guidance unless asked otherwise
MAX_PIXELS = 2**21  # about 2 million: the most that goes through a network at once by default
MIN_MAX_PIXELS = 64 * 64
SMALL = 256 * 256  # up to here any network has room, and nothing is estimated
MEMORY = 3 * 2**30  # for a network's intermediate results: what a machine of 8 GB can spare


class Restorer:
    """Restores pictures, as a sentence asks and with guidance where the network takes them.

    Args:
        network: a Network whose apply(params, images) restores images. If its config is `guided`,
            guidance follows the images, and if it has a `text_dim`, vectors come last.
        params: its flat dict of parameters.
        encoder: anything with `.dim` and `.encode(list of str) -> float32 (N, dim)`; None for a
            network that takes no sentence.
        rows: how many devices each picture is cut over, by its rows; None or 0 for one device.

    Raises:
        InputError: the network restores no pictures, or the encoder is not what it needs; there
            are fewer devices, or the network cannot work on rows.
    """

    def __init__(self, network, params: dict[str, Any], encoder=None, *, rows: int | None = None):
        network.check_restores(encoder)
        self.network = network
        self.params = params
        self.encoder = encoder
        self.rows = rows or 1
        if self.rows != 1:
            from tdr_jax.infer.rows import Rows

            self._devices = Rows(network, rows)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike = MODEL,
        encoder: Any = None,
        *,
        insist: bool = False,
        rows: int | None = None,
    ) -> "Restorer":
        """Load a network with its weights.

        Args:
            name_or_path: what `tdr_jax.load` takes: a name with shipped weights, our own folder
                or file, or a PyTorch checkpoint.
            encoder: a text encoder, or the name or folder of one; loaded only if the network
                takes a sentence. By default the one that the weights name, or "minilm".
            insist: take `encoder` although the weights name another, which is then told.
            rows: as for the class.

        Returns:
            the Restorer.

        Raises:
            InputError: there are no such weights, or they were trained with another encoder than
                the one given; or as for the class.
        """
        from tdr_jax import weights

        network, params = weights.load(name_or_path)
        network, encoder = weights.with_encoder(network, encoder, insist=insist)
        return cls(network, params, encoder, rows=rows)

    @cached_property
    def max_pixels(self) -> int:
        """The most pixels that go through the network at once, unless a call says otherwise.

        As many as are estimated to need 3 GiB for intermediate results, at most 2**21; those of
        guidance of the same size count as well. With `rows`, so many for each of the devices.
        """
        from tdr_jax.analysis import memory

        one = np.clip(MEMORY / memory.bytes_per_pixel(self.network), SMALL, MAX_PIXELS)
        return self.rows * int(one)

    def __call__(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        guidance: Any = None,
        right: Any = None,
        strength: float = 1.0,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Restore one picture; its size never changes.

        A picture of at most `max_pixels` goes through the network whole, continued at the right
        and lower edge up to the multiple the network needs, by reflection or by zeros as it does
        itself (`network.padding`). A larger one is cut into equal tiles
        of at most that size, which overlap and are blended with raised-cosine weights, so the
        memory needed stays that of one tile. The network looks at statistics of everything it is
        given; those are then taken tile by tile, so the result differs a little from that of the
        whole picture, most where parts of the picture differ in how bad they are.

        With `rows`, the picture or tile is cut over the devices, and reflected at the lower edge
        until each has the same number of rows, a multiple of what the network needs.

        Each tile sees the whole guidance. Guidance of more pixels than the picture, or a tile of
        it, is shrunk to as many first, but not to fewer than 2**18; it never has more than 2**20.
        So the memory needed stays bounded whatever is given.

        A network for colour sees a grey picture three times, and the mean of what it answers is
        the result. A network for grey restores a colour picture one channel after the other,
        or once if the three are equal.

        Args:
            image: an `images.Picture`; uint8, uint16 or float array (H, W, 3), or grey (H, W) or
                (H, W, 1), float in [0, 1], NumPy or JAX; or a PIL image, whose alpha stays as it
                is. Palette and CMYK images become RGB or RGBA, 1-bit ones L.
            prompt: what to do, in words, such as "remove the noise"; several sentences, all of
                which are to be fulfilled; "auto" for whatever the picture shows, which may be
                nothing, and then it comes back as it is; None for a network that takes no sentence.
            guidance: for a guided network, a picture that shows what the restored one should look
                like, such as another photograph of the scene: of any type that `image` may have,
                grey too, and any size; else None.
            right: the right view, like `image` and of its size, for a network that restores the
                left view from both; else None.
            strength: 1 gives the restored picture, 0 the input; between them, a network that has
                learnt it (`config.text_strength`) does less, and of others it is a blend.
            max_pixels: the most pixels that go through the network at once, at least 4096 for each
                device; None chooses by the network's need for memory, see `Restorer.max_pixels`.
            progress: called as progress(tiles done, tiles in all) before the first tile and
                after each.

        Returns:
            the restored picture, same type and size as `image`, float in [0, 1].

        Raises:
            InputError: the image, prompt, guidance, view, strength or max_pixels is not as above or
                not what the network takes; memory is too small; or the network's answer is not
                finite.
        """
        conditioning.check_strength(strength)
        self.check(prompt, guidance, right)
        pixels, close = open_picture(image)
        others = ()
        if prompt is not None:
            prompts = self.prompts(pixels, prompt)
            if not prompts:
                return close(pixels)
            scale = strength if self.network.takes_strength else 1
            others = (conditioning.vector(self.encoder, prompts, scale),)
        given = self._given(pixels, right)
        most = self._at_once(pixels, max_pixels)
        if guidance is not None:
            others = (_guidance(guidance, pixels, most), *others)
        restored = self._through("__call__", given, others, most, progress)
        if restored.shape[-1] > pixels.shape[-1]:
            restored = restored.mean(-1, keepdims=True)
        elif restored.shape[-1] < pixels.shape[-1]:
            restored = np.repeat(restored, 3, -1)
        if strength < 1 and (strength == 0 or not self.network.takes_strength):
            restored *= np.float32(strength)
            restored += np.float32(1 - strength) * pixels
        return close(np.clip(restored, 0, 1, out=restored))

    def confidence(
        self,
        image: Any,
        guidance: Any,
        *,
        right: Any = None,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float32[np.ndarray, "h w"]:
        """Tell how sure a guided network is, place by place, of what it found in the guidance.

        Args:
            image, guidance, right, max_pixels, progress: as for restoring.

        Returns:
            About 0 to 1: the cosine between the features of each place and of the
            one it was matched with, the mean over the channels that are restored one by one.

        Raises:
            InputError: as for restoring.
        """
        conditioning.check_guidance(self.network, guidance)
        conditioning.check_views(self.network, right)
        pixels, _ = open_picture(image)
        given = self._given(pixels, right)
        most = self._at_once(pixels, max_pixels)
        others = (_guidance(guidance, pixels, most),)
        return self._through("confidence", given, others, most, progress).mean(-1)

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
        sides = padded(height, width, self.network.config.multiple, self.rows)
        return self._answer(method, pad(pixels, *sides, self._padding), others)[:height, :width]

    def prompts(self, image: Any, prompt: str | Sequence[str]) -> tuple[str, ...]:
        """Tell which sentences a picture is restored with.

        Args:
            image, prompt: as for restoring.

        Returns:
            the sentences; of "auto" one for each degradation that the picture shows and that the
            network was trained for, so perhaps none.
        """
        if prompt == conditioning.AUTO:
            from tdr_jax.infer import blind

            return blind.prompts(blind.shipped()(image), self.network)
        return (prompt,) if isinstance(prompt, str) else tuple(prompt)

    def check(
        self, prompt: str | Sequence[str] | None, guidance: Any = None, right: Any = None
    ) -> None:
        """Raise InputError unless there is just what the network takes beside the picture."""
        conditioning.check_prompt(self.network, prompt)
        conditioning.check_guidance(self.network, guidance)
        conditioning.check_views(self.network, right)

    def _given(self, pixels: np.ndarray, right) -> list[np.ndarray]:
        """Return what goes through the network one after the other, each (H, W, channels in)."""
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

    @property
    def _padding(self) -> str:
        """Zeros for devices that have rows in the padding alone would darken the means of all."""
        return self.network.padding if self.rows == 1 else "reflect"

    @cached_property
    def _placed(self) -> dict:
        import jax

        return jax.device_put(self.params) if self.rows == 1 else self._devices.place(self.params)

    def _at_once(self, pixels: np.ndarray, max_pixels: int | None) -> int:
        """Return how many pixels of this picture go through the network at once at most."""
        if max_pixels is not None:
            check_max_pixels(max_pixels, self.rows, self.network.config.multiple)
            return max_pixels
        height, width, _ = pixels.shape
        sides = padded(height, width, self.network.config.multiple, self.rows)
        small = self.rows * SMALL
        return small if math.prod(sides) <= small else self.max_pixels

    def _through(self, method: str, given, others, max_pixels: int, progress) -> np.ndarray:
        """Return what the network makes: float32 (H, W, channels of each given), not clipped.

        Memory besides input and output is that of one tile, or of the picture where it is no
        larger than that.
        """
        progress = progress or (lambda done, total: None)
        height, width, _ = given[0].shape
        multiple = self.network.config.multiple
        if len(given) == 1 and math.prod(padded(height, width, multiple, self.rows)) <= max_pixels:
            progress(0, 1)
            restored = self.whole(given[0], *others, method=method)
            progress(1, 1)
            return restored.copy()
        from tdr_jax.infer import tiles

        shape = tiles.tile_shape(height, width, max_pixels, multiple, self.rows)
        channels = self.network.config.channels[1] if method == "__call__" else 1
        answer = functools.partial(self._answer, method, others=others)
        return tiles.blend(answer, given, channels, shape, progress, self._padding)

    def _answer(self, method: str, pixels: np.ndarray, others) -> np.ndarray:
        """Run the network on pixels of sides that it can take."""
        import jax

        inputs = (pixels, *others)
        run = program(self.network, self.rows, method)
        try:
            answer = np.asarray(run(self._placed, *(each[None] for each in inputs)))[0]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise InputError(f"not enough memory for {size} pixels; lower max_pixels") from error
        if not np.isfinite(answer).all():
            raise InputError(
                f"network {self.network.name} answered with NaN or infinite values; "
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
    smallest = rows * max(MIN_MAX_PIXELS, 4 * multiple**2)
    if max_pixels < smallest:
        over = f" over {rows} devices" if rows > 1 else ""
        raise InputError(f"max_pixels is {max_pixels}; it must be at least {smallest}{over}")


def _guidance(guidance, pixels: np.ndarray, most: int) -> np.ndarray:
    """Return guidance (h, w, 3) for a picture of which `most` pixels are restored at once."""
    height, width, _ = pixels.shape
    return open_guidance(guidance, min(height * width, most))


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
