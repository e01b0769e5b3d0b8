"""From a file to an open picture of whichever format, and the one place where damage is told."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.images.codecs import exr, formats, heif, jpeg, modes, netpbm, png, tiff
from tdr_jax.images.codecs.raster import Extras, Opened, Refused

_HEAD = 256  # bytes, which hold the signature of any format


@contextlib.contextmanager
def boundary(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line that says what and where."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except Refused as error:
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        raise InputError(f"{path}: not enough memory to open it") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    # Readers raise almost anything (OSError, SyntaxError, struct.error, KeyError, ...) on bytes
    # that a broken or hostile file made up, so the file's boundary is drawn here.
    except Exception as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: the picture is damaged ({said}); export it again") from error


def open_file(path: Path, content: bytes | None = None) -> Opened:
    """Read a file and the header in it.

    Args:
        path: of a picture.
        content: of the file, where it is at hand already.

    Raises:
        InputError: it is missing, empty or no picture that is read here.
        Refused, and almost anything else: see `boundary`.
    """
    if content is None:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a picture file")
        if not path.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            # Megabytes of no picture, a film among photographs, are not read for their name.
            opener = _opener(file.read(_HEAD), path)
            file.seek(0)
            return opener(file.read())
    return _opener(content[:_HEAD], path)(content)


def _opener(head: bytes, path: Path):
    """Choose by the first bytes what reads a file, whatever its name."""
    if not head:
        raise Refused("the file is empty; copy or download it again")
    if head.startswith(png.SIGNATURE):
        return png.open_png
    if head.startswith(jpeg.SIGNATURE):
        return jpeg.open_jpeg
    raw = formats.UNREAD.get(path.suffix.lower()) == "camera raw"
    if head.startswith(tiff.SIGNATURES) and not raw:  # which most raw files begin like
        return tiff.open_tiff
    if head.startswith(exr.SIGNATURE):
        return exr.open_exr
    if heif.is_avif(head):
        return heif.open_avif
    if heif.is_heic(head):
        return heif.open_heic
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return netpbm.open_netpbm
    if head.startswith((b"GIF8", b"BM")) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP"):
        return _open_by_pillow
    kind = "camera raw" if raw else formats.unread(head)
    if kind is not None:
        raise Refused(formats.remedy(kind))
    raise Refused(f"not a picture in a format read here ({formats.NAMES})")


def _open_by_pillow(data: bytes) -> Opened:
    """Open a GIF, WebP or BMP."""
    image, count, loop = modes.open_image(data, ("GIF", "WEBP", "BMP"))

    def extras() -> Extras:
        info = image.info
        exif = (info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
        xmp = info.get("xmp")
        icc = info.get("icc_profile") or None
        dpi = info.get("dpi") if image.format == "BMP" else None
        xmp = xmp if isinstance(xmp, bytes) else None
        comment = info.get("comment") or None  # of a GIF
        return Extras(icc=icc, exif=exif, xmp=xmp, dpi=dpi, comment=comment)

    return Opened(image.format, count, lambda index: modes.frame(image, index), extras, loop)
