"""From a picture and a sentence to the restored picture, whatever the picture's size and type."""

from collections.abc import Callable
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from tdr_jax.errors import InputError
from tdr_jax.infer import tiles

MAX_PIXELS = 2**21  # about 2 million: what a 8 GB machine restores at once with the shipped network
LEAST_MAX_PIXELS = 64 * 64


class Restorer:
    """Restores pictures as a sentence asks.

    Args:
        network: a Network whose apply(params, images, vectors) restores images.
        params: its flat dict of parameters.
        encoder: anything with `.dim` and `.encode(list of str) -> float32 (N, dim)`.

    Raises:
        InputError: the network takes no sentence, or not this encoder's.
    """

    def __init__(self, network, params: dict[str, Any], encoder):
        wanted = getattr(network.config, "text_dim", None)
        if wanted is None:
            raise InputError(f"{network.name} is no network that restores pictures from a sentence")
        if encoder.dim != wanted:
            raise InputError(
                f"network {network.name} takes sentences as {wanted} numbers, but the text "
                f"encoder gives {encoder.dim}; load it with the encoder it was trained with"
            )
        self.network = network
        self.params = params
        self.encoder = encoder

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike = "textpromptir-compact", encoder="minilm"
    ) -> "Restorer":
        """Load a network with its weights.

        Args:
            name_or_path: a name with shipped weights, our own folder or a .safetensors file.
            encoder: a text encoder, or the name or folder of one.

        Returns:
            the Restorer.

        Raises:
            InputError: there are no such weights, or the encoder does not fit them.
        """
        from tdr_jax import text, weights

        network, params = weights.load(name_or_path)
        if isinstance(encoder, (str, PathLike)):
            encoder = text.TextEncoder.from_pretrained(encoder)
        return cls(network, params, encoder)

    def __call__(
        self,
        image,
        prompt: str,
        *,
        strength: float = 1.0,
        max_pixels: int = MAX_PIXELS,
        progress: Callable[[int, int], None] | None = None,
    ):
        """Restore one picture; its size never changes.

        A picture of at most `max_pixels` goes through the network whole, reflected at the right
        and lower edge up to the multiple the network needs. A larger one is cut into equal tiles
        of at most that size, which overlap and are blended with raised-cosine weights, so the
        memory needed stays that of one tile. The network looks at statistics of everything it is
        given; those are then taken tile by tile, so the result differs a little from that of the
        whole picture, most where parts of the picture differ in how bad they are.

        Args:
            image: uint8, uint16 or float array (H, W, 3), float in [0, 1], NumPy or JAX; or a
                PIL image, whose alpha stays as it is. Palette and CMYK images become RGB or
                RGBA, 1-bit ones L.
            prompt: what to do, in words, such as "remove the noise".
            strength: 1 gives the restored picture, 0 the input, between them a blend.
            max_pixels: the most pixels that go through the network at once, at least 4096.
            progress: called as progress(tiles done, tiles in all) before the first tile and
                after each.

        Returns:
            the restored picture, same type and size as `image`, float in [0, 1].

        Raises:
            InputError: the image, prompt, strength or max_pixels is not as above; memory is too
                small; or the network's answer is not finite.
        """
        check_strength(strength)
        check_max_pixels(max_pixels)
        check_prompt(prompt)
        pixels, close = _open(image)
        vector = np.asarray(self.encoder.encode([prompt.strip()]), np.float32)
        restored = self._restore(pixels, vector, max_pixels, progress or (lambda done, total: None))
        if strength < 1:
            restored *= np.float32(strength)
            restored += np.float32(1 - strength) * pixels
        return close(np.clip(restored, 0, 1, out=restored))

    @cached_property
    def _apply(self):
        import jax
        import jax.numpy as jnp

        params = jax.device_put(self.params)

        @jax.jit
        def apply(params, images, vectors):
            return self.network.apply(params, images, vectors).astype(jnp.float32)

        return lambda images, vectors: np.asarray(apply(params, images, vectors))

    def _restore(self, pixels, vector, max_pixels, progress) -> np.ndarray:
        """Return float32 (H, W, 3), not clipped; memory besides input and output is one tile's."""
        height, width, _ = pixels.shape
        multiple = self.network.config.multiple
        tall, broad = tiles.tile_shape(height, width, max_pixels, multiple)
        tops, lefts = tiles.starts(height, tall), tiles.starts(width, broad)
        total = len(tops) * len(lefts)
        progress(0, total)
        if total == 1:
            restored = self._tile(_pad(pixels, tall, broad), vector)
            progress(1, 1)
            return restored[:height, :width].copy()
        rows = tiles.windows(height, tall, tops)
        columns = tiles.windows(width, broad, lefts)
        restored = np.zeros((height, width, 3), np.float32)
        done = 0
        for top, row in zip(tops, rows, strict=True):
            for left, column in zip(lefts, columns, strict=True):
                target = restored[top : top + tall, left : left + broad]
                high, wide, _ = target.shape  # less than a tile where the picture is narrower
                tile = pixels[top : top + tall, left : left + broad]
                answer = self._tile(_pad(tile, tall, broad), vector)[:high, :wide]
                target += answer * (row[:high, None, None] * column[:wide, None])
                done += 1
                progress(done, total)
        return restored

    def _tile(self, tile: np.ndarray, vector: np.ndarray) -> np.ndarray:
        import jax

        try:
            answer = self._apply(tile[None], vector)[0]
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


def check_prompt(prompt: str) -> None:
    """Raise InputError unless the prompt says something."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f'the prompt is {prompt!r}; say what to do, such as "remove the noise"')


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


def _open(image) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Return float32 pixels (H, W, 3) and the way back to what `image` was."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return _open_pil(image)
    if not hasattr(image, "__array__"):
        raise InputError(f"image is a {type(image).__name__}; give an array or a PIL image")
    array = np.asarray(image)
    pixels = _floats(array)
    if isinstance(image, np.ndarray):
        return pixels, lambda restored: _back(restored, array.dtype)
    import jax.numpy as jnp

    return pixels, lambda restored: jnp.asarray(_back(restored, array.dtype))


def _floats(array: np.ndarray) -> np.ndarray:
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"image is {array.shape}; expected (height, width, 3), none of them 0")
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise InputError(f"image is {array.dtype}; expected uint8, uint16, or float in [0, 1]")
    pixels = array.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise InputError("image holds NaN or infinite values; replace them first")
    # Strong noise goes somewhat past [0, 1]; a picture scaled to 255 goes far past it.
    if pixels.max() > 4 or pixels.min() < -4:
        raise InputError(
            f"image holds values from {pixels.min():g} to {pixels.max():g}; floats must be in "
            "[0, 1]: divide by 255, or give uint8"
        )
    return pixels


def _back(restored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u":
        return np.rint(restored * np.float32(np.iinfo(dtype).max)).astype(dtype)
    return restored.astype(dtype)


def _open_pil(image) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    from PIL import Image

    info = dict(image.info)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        grey = image.mode == "1"
        transparent = image.has_transparency_data
        image = image.convert("L" if grey else "RGBA" if transparent else "RGB")
        info.pop("transparency", None)
        if info.get("icc_profile", b"")[16:20] == b"CMYK":  # the colour space it was made for
            del info["icc_profile"]
    array = np.asarray(image)
    samples = array[..., None] if array.ndim == 2 else array
    grey, alpha = samples.shape[-1] < 3, samples.shape[-1] in (2, 4)
    colour = samples[..., :1] if grey else samples[..., :3]
    pixels = _floats(np.broadcast_to(colour, (*colour.shape[:2], 3)))

    def close(restored: np.ndarray):
        if grey:
            restored = restored.mean(-1, keepdims=True)
        parts = [_back(restored, array.dtype), *([samples[..., -1:]] if alpha else [])]
        result = Image.fromarray(np.concatenate(parts, -1).reshape(array.shape))
        result.info = info
        return result

    return pixels, close
