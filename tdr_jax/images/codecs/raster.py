"""Pictures on their way through a format: samples as stored, and what travels with them."""

import dataclasses
from collections.abc import Callable

import numpy as np

MAX_PIXELS = 170_000_000  # just under where Pillow itself refuses, as a guard against bombs


class Refused(ValueError):
    """A sound file that is not read, for the reason given and with its remedy."""


@dataclasses.dataclass
class Extras:
    """What travels with the pixels.

    Attributes:
        icc: colour profile, or None.
        exif: EXIF block beginning with a TIFF header, or None.
        xmp: XMP packet, or None.
        iptc: IPTC-IIM records, or None.
        dpi: horizontal and vertical resolution in pixels per inch, or None.
        comment: a text without a name, or None.
        chunks: (kind, body) of what only a PNG holds: colour (cICP, gAMA, cHRM, sRGB, ...), texts.
        notes: what of the file is not kept, and why, a clause each.
        orientation: as an EXIF block says that is too damaged to travel, or None.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()
    orientation: int | None = None


@dataclasses.dataclass
class Raster:
    """One picture of a file.

    Attributes:
        samples: (H, W, C): grey, grey + alpha, RGB or RGBA by C = 1, 2, 3, 4; alpha not
            multiplied in. uint8, uint16, or float32, whose colours may lie beyond [0, 1].
        orientation: 1 to 8, how the samples are to be turned; None where EXIF and XMP tell.
        linear: whether the colours are proportional to light.
        converted: whether the colours became sRGB, so that the file's profile no longer fits.
        duration: milliseconds that it is shown in an animation, or None.
        notes: what was not kept of the pixels' own, a clause each.
    """

    samples: np.ndarray
    orientation: int | None = None
    linear: bool = False
    converted: bool = False
    duration: float | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and what must survive its restoration.

    Attributes:
        pixels: float32 (H, W, 3) in [0, 1], upright; grey is repeated three times. Those of float
            files may lie beyond.
        alpha: (H, W) uint8, uint16 or float32 exactly as read, or None.
        depth: 8 or 16 bits per sample, or 32 for floats.
        grey: whether the file held grey, so that it is written as grey again.
        format: Pillow's name of the format it was read from.
        linear: whether the pixels are proportional to light, not curved as sRGB is.
        duration: milliseconds that it is shown in an animation, or None.
        extras: colour profile, EXIF and what else travels with it.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    depth: int = 8
    grey: bool = False
    format: str = "PNG"
    linear: bool = False
    duration: float | None = None
    extras: Extras = dataclasses.field(default_factory=Extras)


@dataclasses.dataclass
class Opened:
    """A file whose header was read.

    Attributes:
        format: its name, as Pillow has it.
        count: how many pictures it shows, one after the other.
        read: the index of a picture -> its Raster.
        extras: gives what travels with it; asked for only where it is kept.
        loop: how often an animation repeats; 0 without end.
    """

    format: str
    count: int
    read: Callable[[int], Raster]
    extras: Callable[[], Extras]
    loop: int = 0


def check_size(width: int, height: int, count: int = 1) -> None:
    """Raise Refused unless so many pictures of a size may be opened.

    Args:
        width, height: in pixels.
        count: of pictures that are to be held together.
    """
    if width < 1 or height < 1:
        raise Refused(f"its header says {width}x{height}, which is no picture; export it again")
    if width * height * count > MAX_PIXELS:
        size = f"{width}x{height}" + (f" in {count} pictures" if count > 1 else "")
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise Refused(f"the picture ({size}) has more than {limit}; cut it into parts")


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """Round uint16 samples to uint8; return uint8 samples as they are."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def straight(samples: np.ndarray) -> np.ndarray:
    """Divide alpha out of colours that were multiplied by it.

    Args:
        samples: (H, W, 2 or 4) of any type, alpha last.

    Returns:
        the same type; whole numbers are rounded, and end at their top. Where alpha is 0 colours
        stay as they are: light that adds to what lies behind, in float pictures.
    """
    alpha = samples[..., -1:]
    top = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
    # float64 holds 16 bits times 16 bits exactly.
    scale = np.divide(top, alpha, where=alpha > 0, out=np.ones(alpha.shape, np.float64))
    colour = samples[..., :-1] * scale
    if samples.dtype.kind == "u":
        colour = np.rint(np.minimum(colour, top))
    return np.concatenate([colour.astype(samples.dtype), alpha], -1)
