"""Pillow's many modes as grey or RGB samples, with or without alpha."""

from io import BytesIO

import numpy as np

from tdr_jax.images.codecs.quiet import warnings_caught
from tdr_jax.images.codecs.raster import Raster, Refused, check_size, straight


def open_image(data: bytes, formats: tuple[str, ...]):
    """Read a header by Pillow.

    Args:
        data: the whole file.
        formats: Pillow's names of those that it may be.

    Returns:
        PIL's image, not loaded; how many pictures it shows; how often it repeats, 0 without end.

    Raises:
        Refused: it has too many pixels.
        OSError and many more: it is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings_caught():
        try:
            image = Image.open(BytesIO(data), formats=formats)
        except Image.DecompressionBombError:
            raise Refused("the picture is too large (over 170 million pixels)") from None
        except UnidentifiedImageError:  # its own words name an object in memory
            raise ValueError("its header is broken or incomplete") from None
        check_size(*image.size)
        count = getattr(image, "n_frames", 1)
    loop = image.info.get("loop", 0 if image.format == "AVIF" else 1)  # a GIF plays once
    return image, count, loop if isinstance(loop, int) else 0


def frame(image, index: int = 0, icc: bytes | None = None) -> Raster:
    """Decode one picture of a file.

    Args:
        image: of `open_image`.
        index: which, from 0.
        icc: the profile of CMYK colours.

    Returns:
        the Raster, upright if Pillow turns this format itself, of 8 bits.

    Raises:
        OSError and many more: it is damaged.
        Refused: it has samples that do not fit into 8 bits.
    """
    if getattr(image, "is_animated", False) or index:
        image.seek(index)
    image.load()
    duration = image.info.get("duration")
    shown, notes = plain(image, icc)
    samples = np.asarray(shown)
    samples = samples[..., None] if samples.ndim == 2 else samples
    # Samples of these modes are no longer in the colours of the file's profile.
    converted = image.mode in ("CMYK", "YCbCr", "LAB")
    return Raster(samples, converted=converted, duration=duration, notes=notes)


def plain(image, icc: bytes | None = None):
    """Convert any mode of 8 bits to L, LA, RGB or RGBA.

    Args:
        image: PIL's, loaded.
        icc: the profile of CMYK colours, which become sRGB by it.

    Returns:
        PIL's image, and what is to be said of the conversion.

    Raises:
        Refused: its samples have more than 8 bits.
    """
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;"):
        raise Refused(f"has samples of mode {mode}; save it with 8 or 16 bits")
    if mode == "CMYK" and icc:
        from PIL import ImageCms

        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            target = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, profile, target, outputMode="RGB"), ()
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            note = "its CMYK profile cannot be used; the colours are those of plain inks"
            return image.convert("RGB"), (note,)
    if mode == "La" or (mode == "RGBa"):
        samples = straight(np.asarray(image).reshape(image.height, image.width, -1))
        from PIL import Image

        return Image.fromarray(samples), ()
    if mode in ("1", "L", "LA"):
        alpha = mode == "LA" or image.has_transparency_data
        return image.convert("LA" if alpha else "L"), ()
    return image.convert("RGBA" if image.has_transparency_data else "RGB"), ()
