"""Picture files in and out; the doors of this package to all that reads and writes them."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tdr_jax import disk
from tdr_jax.errors import InputError
from tdr_jax.images.arrays import upright
from tdr_jax.images.codecs import linear, metadata, reading, writing
from tdr_jax.images.codecs.formats import LOSSY, SUFFIXES, WRITABLE, check_writable
from tdr_jax.images.codecs.raster import (
    Extras,
    Opened,
    Picture,
    Raster,
    Refused,
    check_size,
    eight_bits,
)

__all__ = [
    "LOSSY",
    "SUFFIXES",
    "WRITABLE",
    "Frames",
    "check_writable",
    "grey_of",
    "keep_times",
    "read_frames",
    "read_picture",
    "read_rgb",
    "single",
    "without_metadata",
    "write_frames",
    "write_picture",
    "write_rgb",
]


@dataclasses.dataclass
class Frames:
    """The pictures of a file, one after the other.

    Attributes:
        count: how many.
        loop: how often an animation repeats; 0 without end.
        pictures: reads them as they are asked for.
    """

    count: int
    loop: int
    pictures: Iterator[Picture]


def read_rgb(path: str | os.PathLike, content: bytes | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as plain 8-bit colour, upright.

    Args:
        path: a picture file; grey is repeated, alpha dropped, 16 bits are rounded to 8, floats too;
            what is linear is shown as sRGB.
        content: of the file, where it is at hand already; the path then only names it.

    Raises:
        InputError: the file is missing, empty, unreadable, damaged, animated, too large or no
            picture.
    """
    path = Path(path)
    with reading.boundary(path):
        opened = _single(path, content)
        raster = opened.read(0)
        colour = _colour(_turned(opened, raster)[0])
    if colour.dtype == np.float32:
        colour = np.rint(linear.shown(colour, raster.linear)[0] * 255).astype(np.uint8)
    colour = eight_bits(colour)
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def grey_of(samples: np.ndarray) -> np.ndarray:
    """Turn colour into grey as the denoising papers do, who read their files with OpenCV.

    Args:
        samples: uint8 or uint16 (H, W, 3).

    Returns:
        (H, W, 1) of the same type: 0.299 R + 0.587 G + 0.114 B, rounded.
    """
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(samples), cv2.COLOR_RGB2GRAY)[..., None]


def read_picture(path: str | os.PathLike, content: bytes | None = None) -> Picture:
    """Read a picture with its depth, alpha and all that travels with it.

    Args:
        path: a picture file. Palettes and CMYK become RGB, 1-bit becomes grey.
        content: as for read_rgb.

    Returns:
        the upright Picture.

    Raises:
        InputError: as for read_rgb.
    """
    path = Path(path)
    with reading.boundary(path):
        return _picture(_single(path, content), 0)


def read_frames(path: str | os.PathLike) -> Frames:
    """Open an animation, the pages of a TIFF, or a single picture as one frame.

    Args:
        path: a picture file.

    Raises:
        InputError: as for read_rgb, but for several pictures; what is wrong with a later one is
            raised when it is asked for.
    """
    path = Path(path)
    with reading.boundary(path):
        opened = reading.open_file(path)
        first = _picture(opened, 0)
        check_size(*first.pixels.shape[1::-1], opened.count)

    def pictures() -> Iterator[Picture]:
        yield first
        for index in range(1, opened.count):
            with reading.boundary(path):
                picture = _picture(opened, index)
            yield picture

    return Frames(opened.count, opened.loop, pictures())


def single(picture: Picture) -> Frames:
    """Return a picture as the only frame."""
    return Frames(1, 0, iter([picture]))


def write_picture(
    path: str | os.PathLike, picture: Picture, quality: int | None = None
) -> tuple[str, ...]:
    """Write a picture with its depth, alpha and all that travels with it, whole or not at all.

    The file appears under its name only when it is complete; a failure, or a kill, leaves an
    earlier file of that name as it was.

    Args:
        path: target; its suffix chooses the format. Folders that lack are made.
        picture: pixels are clipped to [0, 1] but in float files.
        quality: 1 to 100, of JPEG (by default 95), WebP (95) and AVIF (90).

    Returns:
        what of the picture its format does not keep, a clause each.

    Raises:
        InputError: the format is not one of WRITABLE, cannot hold the picture (transparency in
            JPEG or BMP, sides beyond WebP's), the pixels are not finite, or the disk refuses.
    """
    return write_frames(path, single(picture), quality)


def write_frames(
    path: str | os.PathLike, frames: Frames, quality: int | None = None
) -> tuple[str, ...]:
    """Write pictures as an animation (PNG, WebP, AVIF) or as pages (TIFF), one alone as it is.

    Args:
        path, quality: as for write_picture.
        frames: asked for one after the other; the metadata of the first is that of the file.

    Returns:
        as for write_picture.

    Raises:
        InputError: as for write_picture, or the format holds one picture.
    """
    path = Path(path)
    data, notes = writing.encode(path, frames.pictures, frames.count, quality, frames.loop)
    disk.write_bytes(path, data)
    return notes


def write_rgb(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array as an 8-bit picture, whole or not at all.

    Args:
        path: target; its suffix chooses the format.
        array: (H, W, 3), uint8, or float in [0, 1] (clipped).

    Raises:
        InputError: the array is something else, holds NaN, or the file cannot be written.
    """
    array = np.asarray(array)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"{path}: array is {array.shape}; expected (height, width, 3)")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / np.float32(255)
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: array is {array.dtype}; expected uint8 or float in [0, 1]")
    write_picture(path, Picture(pixels=array))


def without_metadata(picture: Picture) -> Picture:
    """Return a picture that travels with nothing but what its colours need."""
    return dataclasses.replace(picture, extras=metadata.stripped(picture.extras))


def keep_times(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a file the times of another, when it was last read and changed.

    Args:
        source, target: files.
    """
    status = os.stat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _single(path: Path, content: bytes | None) -> Opened:
    opened = reading.open_file(path, content)
    if opened.count > 1:
        raise InputError(
            f"{path}: holds {opened.count} pictures; save the one you want as a PNG, "
            "or restore them all by tdr restore --frames"
        )
    return opened


def _picture(opened: Opened, index: int) -> Picture:
    raster = opened.read(index)
    samples, extras = _turned(opened, raster)
    extras = metadata.turned_upright(extras, *samples.shape[:2], tiff=opened.format == "TIFF")
    if raster.converted:
        extras.icc = None
    extras.notes += raster.notes
    colour = _colour(samples)
    pixels = np.empty((*samples.shape[:2], 3), np.float32)
    floats = samples.dtype == np.float32
    np.divide(colour, np.float32(1 if floats else np.iinfo(samples.dtype).max), out=pixels)
    return Picture(
        pixels=pixels,
        alpha=samples[..., -1].copy() if samples.shape[-1] in (2, 4) else None,
        depth=8 * samples.dtype.itemsize,
        grey=samples.shape[-1] < 3,
        format=opened.format,
        linear=raster.linear,
        duration=raster.duration,
        extras=extras,
    )


def _turned(opened: Opened, raster: Raster) -> tuple[np.ndarray, Extras]:
    """Return the upright samples and what travels with them, as it stands in the file."""
    if raster.samples.dtype == np.float32 and not np.isfinite(raster.samples).all():
        raise Refused("it holds NaN or infinite values; replace them first")
    extras = opened.extras()
    said = raster.orientation or metadata.orientation(extras)
    return upright(raster.samples, said), extras


def _colour(samples: np.ndarray) -> np.ndarray:
    """Return the samples without alpha: (H, W, 1) or (H, W, 3)."""
    return samples[..., :1] if samples.shape[-1] < 3 else samples[..., :3]
