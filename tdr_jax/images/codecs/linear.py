"""Between light (scene-linear values) and the curve that pictures are shown and trained in."""

import functools
import struct
from collections.abc import Iterator

import numpy as np


def to_display(light: np.ndarray) -> np.ndarray:
    """Encode linear values in [0, 1] as sRGB does.

    Source: IEC 61966-2-1, 5.2.
    """
    curved = 1.055 * np.power(np.maximum(light, 0.0031308), 1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, curved).astype(np.float32)


def to_light(shown: np.ndarray) -> np.ndarray:
    """Decode sRGB values in [0, 1] to linear ones."""
    curved = np.power((np.maximum(shown, 0.04045) + 0.055) / 1.055, 2.4)
    return np.where(shown <= 0.04045, shown / 12.92, curved).astype(np.float32)


def shown(pixels: np.ndarray, light: bool) -> tuple[np.ndarray, np.float32]:
    """Show float pixels as pictures are shown and networks know them.

    Args:
        pixels: float32 of any range.
        light: whether they are proportional to light, which is then curved as sRGB is.

    Returns:
        pixels in [0, 1]; and the scale that they were divided by first: 1, but for values in other
        units, such as 0 to 255 or candela, where most of the picture would be beyond white.
    """
    scale = np.float32(np.percentile(pixels, 99) if np.median(pixels) > 1 else 1)
    pixels = np.clip(pixels / scale, 0, 1)
    return (to_display(pixels) if light else pixels), scale


def is_linear(icc: bytes | None) -> bool:
    """Tell whether a colour profile says that values are proportional to light.

    Source: ICC.1:2022, 10.6 and 10.18: a curve without points, or a parameter of 1.
    """
    try:
        _, start = next(_curves(icc or b""))
        kind, first = struct.unpack_from(">4s4xI", icc, start)
        if kind == b"curv":
            gamma = struct.unpack_from(">H", icc, start + 12)[0] / 256
            return first == 0 or (first == 1 and gamma == 1)
        gamma = struct.unpack_from(">i", icc, start + 12)[0] / 65536
        return kind == b"para" and first >> 16 == 0 and gamma == 1
    except (struct.error, StopIteration):
        return False


def curved(icc: bytes) -> bytes:
    """Return a profile whose values are curved as sRGB is, in the same primaries.

    Args:
        icc: a profile of values that are proportional to light.

    Source: ICC.1:2022, 7.3 and 10.18 (a parametric curve of type 3).
    """
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = struct.pack(">4s4xHH5i", b"para", 3, 0, *(round(n * 65536) for n in numbers))
    result = bytearray(icc + b"\0" * (-len(icc) % 4))
    for at, _ in list(_curves(icc)):
        struct.pack_into(">II", result, at + 4, len(result), len(curve))
    result += curve
    struct.pack_into(">I", result, 0, len(result))
    result[84:100] = bytes(16)  # its digest, which is optional
    return bytes(result)


def _curves(icc: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each entry of a tone curve stands in a profile's table, and where the curve."""
    count = struct.unpack_from(">I", icc, 128)[0]
    for at in range(132, 132 + 12 * min(count, 100), 12):
        tag, start = struct.unpack_from(">4sI", icc, at)
        if tag in (b"rTRC", b"gTRC", b"bTRC", b"kTRC"):
            yield at, start


@functools.cache
def profile(grey: bool) -> bytes:
    """Return a profile whose values are proportional to light, of sRGB's primaries or grey."""
    import imagecodecs

    white = (0.3127, 0.3290, 1.0)
    if grey:
        return imagecodecs.cms_profile("gray", whitepoint=white, gamma=1.0)
    primaries = (0.64, 0.33, 1.0, 0.30, 0.60, 1.0, 0.15, 0.06, 1.0)
    return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=1.0)
