"""Arrays and PIL images as float pixels, and the way back to what they were."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tdr_jax.errors import InputError
from tdr_jax.images.codecs import linear
from tdr_jax.images.codecs.raster import Picture

GUIDANCE = (2**18, 2**20)  # pixels: guidance is never shrunk below the first or kept above the last
GUIDANCE_MULTIPLE = 128  # networks continue the sides of guidance by zeros up to multiples of this


def open_picture(image) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Take a picture apart.

    Args:
        image: a `Picture`; uint8, uint16 or float array (H, W, 3), (H, W, 1) or (H, W), float in
            [0, 1], NumPy or JAX; or a PIL image.

    Returns:
        float32 pixels (H, W, 3), or (H, W, 1) if it is grey by its shape or mode; and the function
        that turns pixels of that shape in [0, 1] into what `image` was.

    Raises:
        InputError: it is something else.
    """
    from PIL import Image

    if isinstance(image, Picture):
        if image.depth == 32:
            return _open_floats(image)
        pixels = _floats(image.pixels)
        return pixels, lambda restored: dataclasses.replace(image, pixels=restored)
    if isinstance(image, Image.Image):
        return _open_pil(image)
    if not hasattr(image, "__array__"):
        raise InputError(f"image is a {type(image).__name__}; give an array or a PIL image")
    array = np.asarray(image)
    pixels = _floats(array[..., None] if array.ndim == 2 else array)

    def close(restored: np.ndarray):
        return _back(restored, array.dtype).reshape(array.shape)

    if isinstance(image, np.ndarray):
        return pixels, close
    import jax.numpy as jnp

    return pixels, lambda restored: jnp.asarray(close(restored))


def open_guidance(image, pixels: int) -> np.ndarray:
    """Take a guidance picture apart, and shrink it where it is larger than what it guides.

    Args:
        image: as for `open_picture`; grey is repeated, values beyond [0, 1] are clipped.
        pixels: of the picture that it guides, or of the largest part that is restored at once.

    Returns:
        float32 (h, w, 3) in [0, 1], in its own proportions, of at most `pixels`, but no fewer than
        2**18 and no more than 2**20 pixels; resized as Pillow's bicubic filter does, with
        antialiasing.

    Raises:
        InputError: it is no picture.
    """
    try:
        guidance, _ = open_picture(image)
    except InputError as error:
        raise InputError(f"the guidance: {error}") from error
    guidance = np.clip(guidance, 0, 1)
    height, width = guidance.shape[:2]
    most = int(np.clip(pixels, *GUIDANCE))
    # A strip costs as much as one of GUIDANCE_MULTIPLE rows.
    longest = most // GUIDANCE_MULTIPLE
    scale = min(math.sqrt(most / (height * width)), longest / max(height, width))
    if scale < 1:
        guidance = _resize(guidance, *(max(int(side * scale), 1) for side in (height, width)))
    return np.ascontiguousarray(np.broadcast_to(guidance, (*guidance.shape[:2], 3)))


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror stored rows into the picture as it was seen.

    Args:
        samples: (H, W, C) of any dtype.
        orientation: 1 to 8.

    Returns:
        a view, (W, H, C) from 5 on.

    Source: TIFF 6.0, tag 274.
    """
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def round_up(length: int, multiple: int) -> int:
    """Return the smallest multiple that is at least the length."""
    return -(-length // multiple) * multiple


def padded(height: int, width: int, multiple: int, rows: int = 1) -> tuple[int, int]:
    """Return the sides rounded up to the multiple, and the height to one for each of the rows."""
    return round_up(height, rows * multiple), round_up(width, multiple)


def pad(
    pixels: Shaped[np.ndarray, "h w c"], height: int, width: int, padding: str = "reflect"
) -> Shaped[np.ndarray, "{height} {width} c"]:
    """Continue the right and lower edge until the picture has a size.

    Args:
        pixels: any dtype and range.
        height, width: of the result, in pixels, at least those of the picture; where more is
            missing than there is, the reflection goes on, and a single row or column is repeated.
        padding: "reflect" or "zeros".

    Returns:
        the padded picture, of the same dtype; the picture itself where nothing is missing.
    """
    for axis, length in enumerate((height, width)):
        missing = length - pixels.shape[axis]
        if missing:
            margins = [(0, 0)] * 3
            margins[axis] = (0, missing)
            # NumPy repeats the reflection for smaller pictures; one row has no second to show.
            mode = "reflect" if pixels.shape[axis] > 1 else "edge"
            mode = "constant" if padding == "zeros" else mode
            pixels = np.pad(pixels, margins, mode=mode)
    return pixels


def _open_floats(picture: Picture) -> tuple[np.ndarray, Callable[[np.ndarray], Picture]]:
    """Show networks a float picture as they know pictures, and carry over only what they change.

    Light is curved as sRGB is, and values in other units are scaled down. What lies beyond what can
    be shown, such as highlights above 1, passes by the network untouched.
    """
    pixels = picture.pixels.astype(np.float32)
    shown, scale = linear.shown(pixels, picture.linear)
    light = linear.to_light(shown) if picture.linear else shown

    def close(restored: np.ndarray) -> Picture:
        answer = linear.to_light(restored) if picture.linear else restored
        return dataclasses.replace(picture, pixels=pixels + scale * (answer - light))

    return shown, close


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, -1, 0)]
    planes = [plane.resize((width, height), Image.Resampling.BICUBIC) for plane in planes]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], -1), 0, 1)


def _floats(array: np.ndarray) -> np.ndarray:
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise InputError(
            f"image is {array.shape}; expected (height, width, 3), or (height, width) for grey, "
            "none of them 0"
        )
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

    def close(restored: np.ndarray):
        parts = [_back(restored, array.dtype), *([samples[..., -1:]] if alpha else [])]
        result = Image.fromarray(np.concatenate(parts, -1).reshape(array.shape))
        result.info = info
        return result

    return _floats(colour), close
