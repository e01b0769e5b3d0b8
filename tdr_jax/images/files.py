"""Picture files in and out; the only place of this package that reads or writes them."""

import os
import threading
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.errors import InputError
from tdr_jax.images import deep, metadata
from tdr_jax.images.arrays import Picture, upright

READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # Pillow's format names
WRITABLE = {  # suffix -> Pillow's format name
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
SUFFIXES = frozenset(WRITABLE) | {".gif", ".ppm", ".pgm", ".jfif", ".mpo"}
MAX_PIXELS = 170_000_000  # just under where Pillow itself refuses, as a guard against bombs

_open_lock = threading.Lock()


def read_rgb(path: str | os.PathLike, content: bytes | None = None) -> np.ndarray:
    """Read a picture as plain 8-bit colour, upright.

    Args:
        path: a picture file; grey is repeated, alpha dropped, 16 bits are rounded to 8.
        content: of the file, where it is at hand already; the path then only names it.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: the file is missing, empty, unreadable, damaged, animated, too large or no
            picture.
    """
    samples, *_ = _decode(Path(path), content)
    colour = _colour(samples)
    if colour.dtype == np.uint16:
        colour = ((colour.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
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
    """Read a picture with its depth, alpha, colour profile and EXIF.

    Args:
        path: a picture file. Palettes and CMYK become RGB, 1-bit becomes grey.
        content: as for read_rgb.

    Returns:
        the upright Picture.

    Raises:
        InputError: as for read_rgb.
    """
    samples, form, icc, exif = _decode(Path(path), content)
    colour = _colour(samples)
    top = np.float32(np.iinfo(samples.dtype).max)
    pixels = np.empty((*samples.shape[:2], 3), np.float32)
    np.divide(colour, top, out=pixels)
    return Picture(
        pixels=pixels,
        alpha=samples[..., -1].copy() if samples.shape[-1] in (2, 4) else None,
        depth=samples.dtype.itemsize * 8,
        grey=colour.shape[-1] == 1,
        format=form,
        icc=icc,
        exif=exif,
    )


def write_picture(path: str | os.PathLike, picture: Picture) -> None:
    """Write a picture in the format that the name's suffix says, whole or not at all.

    JPEG is written at quality 95 without chroma subsampling. 16-bit pictures stay 16-bit in PNG
    and TIFF (whose EXIF is then dropped) and are rounded to 8 bits in the other formats.

    Args:
        path: target, its folder made if missing; replaced in one step if it exists.
        picture: pixels outside [0, 1] are clipped.

    Raises:
        InputError: the suffix is unknown, the format cannot hold the picture's transparency, or
            the file cannot be written.
    """
    path = Path(path)
    disk.write_bytes(path, _encode(picture, path))


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


def check_writable(path: str | os.PathLike) -> None:
    """Raise InputError unless the suffix names a format that can be written."""
    if Path(path).suffix.lower() not in WRITABLE:
        raise InputError(
            f"{path}: cannot write '{Path(path).suffix}' files; use one of {' '.join(WRITABLE)}"
        )


def _decode(
    path: Path, content: bytes | None = None
) -> tuple[np.ndarray, str, bytes | None, bytes | None]:
    """Return the upright samples (H, W, 1..4) uint8 or uint16, format, ICC and EXIF of a file."""
    try:
        if content is not None:
            return _decode_file(path, BytesIO(content))
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a picture file")
        if not path.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; copy or download it again")
        with path.open("rb") as file:
            return _decode_file(path, file)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: not enough memory to open it") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    # Pillow's readers raise almost anything (OSError, SyntaxError, struct.error, KeyError, ...) on
    # bytes that a broken or hostile file made up, so the file's boundary is drawn here.
    except Exception as error:
        raise InputError(f"{path}: the picture is damaged ({error}); export it again") from error


def _decode_file(path: Path, file) -> tuple[np.ndarray, str, bytes | None, bytes | None]:
    from PIL import Image, UnidentifiedImageError

    head = file.read(32)
    file.seek(0)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        raise InputError(f"{path}: HEIC pictures are not read; export it as JPEG or PNG first")
    try:
        # Only the header is read here. The lock is for catch_warnings, which is not thread-safe.
        with _open_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=READABLE)
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not a picture in a format read here (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM)"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(_too_large(path)) from None
    if image.width * image.height > MAX_PIXELS:
        raise InputError(_too_large(path, f" ({image.width}x{image.height})"))
    # A phone's MPO is a JPEG with previews or depth maps behind it: its first picture is the one.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"{path}: holds {frames} pictures; save the one you want as a PNG")
    image.load()  # notices truncated data, also for the 16-bit pictures that are decoded again

    orientation, exif = metadata.exif(image) if image.getexif() else (1, None)
    icc = image.info.get("icc_profile") or None
    depth, grey = _png_header(head)
    if image.format == "TIFF":
        depth = max(image.tag_v2.get(258, (1,)))
        grey = image.tag_v2.get(262) == 1
    if depth == 16 and not image.mode.startswith("F"):
        file.seek(0)
        samples = deep.decode(file.read(), grey)
        if image.format == "TIFF":
            orientation = 1  # already applied by the decoder
    else:
        image, icc = _plain(path, image, icc)
        samples = np.asarray(image)
        samples = samples[..., None] if samples.ndim == 2 else samples
    form = "JPEG" if image.format == "MPO" else image.format
    return upright(samples, orientation), form or "PNG", icc, exif


def _png_header(head: bytes) -> tuple[int, bool]:
    """Read the bit depth of a PNG and whether it is grey.

    Args:
        head: at least the first 26 bytes of the file.

    Returns:
        (bits per sample, True for the colour types 0 and 4); (0, False) if this is no PNG.

    Source: PNG specification, 11.2.1 (IHDR).
    """
    if len(head) < 26 or head[:8] != deep.PNG_SIGNATURE or head[12:16] != b"IHDR":
        return 0, False
    return head[24], head[25] in (0, 4)


def _too_large(path: Path, size: str = "") -> str:
    limit = f"{MAX_PIXELS // 10**6} million pixels"
    return f"{path}: the picture{size} has more than {limit}; cut it into parts"


def _plain(path: Path, image, icc: bytes | None):
    """Convert any 8-bit mode to L, LA, RGB or RGBA; the profile goes where it no longer fits."""
    form, mode = image.format, image.mode
    if mode in ("I", "F") or mode.startswith("I;"):
        raise InputError(f"{path}: has samples of mode {mode}; save it with 8 or 16 bits")
    if mode == "CMYK" and icc:
        from PIL import ImageCms

        image = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    elif mode in ("1", "L", "LA", "La"):
        alpha = mode in ("LA", "La") or image.has_transparency_data
        image = image.convert("LA" if alpha else "L")
    else:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.format = form  # a converted image forgets it
    return image, (None if mode in ("CMYK", "YCbCr", "LAB") else icc)


def _colour(samples: np.ndarray) -> np.ndarray:
    """Return the samples without alpha: (H, W, 1) or (H, W, 3)."""
    return samples[..., :1] if samples.shape[-1] < 3 else samples[..., :3]


def _encode(picture: Picture, path: Path) -> bytes:
    from PIL import Image

    check_writable(path)
    form = WRITABLE[path.suffix.lower()]
    depth = picture.depth if form in ("PNG", "TIFF") else 8
    samples = _samples(picture, depth, path)
    if form in ("JPEG", "BMP") and samples.shape[-1] in (2, 4):
        if samples[..., -1].min() < np.iinfo(samples.dtype).max:
            raise InputError(f"{path}: {form} cannot keep the transparency; write a .png")
        samples = _colour(samples)
    if form == "TIFF" and samples.shape[-1] == 2:
        samples = samples[..., [0, 0, 0, 1]]  # few programs read grey + alpha from a TIFF
    if depth == 16:
        if form == "PNG":
            return deep.encode_png(samples, picture.icc, picture.exif)
        return deep.encode_tiff(samples, picture.icc)

    image = Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    if form == "WEBP":
        options = {"quality": 95, "method": 4, "exact": True}
    if form == "TIFF" and not picture.exif:  # libtiff, which compresses, refuses nested EXIF
        options = {"compression": "tiff_adobe_deflate"}
    if form != "BMP":
        options["icc_profile"] = picture.icc
        if picture.exif:
            options["exif"] = picture.exif if form == "TIFF" else b"Exif\0\0" + picture.exif
    buffer = BytesIO()
    try:
        image.save(buffer, form, **options)
    except (ValueError, OSError, RuntimeError) as error:  # such as over 16383 pixels a side in WebP
        raise InputError(f"{path}: {form} cannot hold it ({error}); write a .png") from error
    return buffer.getvalue()


def _samples(picture: Picture, depth: int, path: Path) -> np.ndarray:
    """Round the pixels to unsigned integers and put the untouched alpha behind them."""
    if not np.isfinite(picture.pixels).all():
        raise InputError(f"{path}: the picture to write holds NaN or infinite values")
    kind, top = (np.uint16, 65535) if depth == 16 else (np.uint8, 255)
    pixels = picture.pixels
    if picture.grey:
        pixels = pixels.mean(-1, keepdims=True)
    samples = np.rint(np.clip(pixels, 0, 1) * np.float32(top)).astype(kind)
    if picture.alpha is None:
        return samples
    alpha = picture.alpha
    if alpha.dtype == np.uint16 and depth == 8:
        alpha = ((alpha.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.concatenate([samples, alpha[..., None]], axis=-1)
