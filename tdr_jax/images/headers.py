"""What the first and last bytes of a picture file tell, for looking over many files quickly."""

import os
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # Pillow's names of those looked at so
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk, PNG specification 11.2.5
ORIENTATION = 0x0112  # EXIF's tag, and its values that swap width and height
SIDEWAYS = (5, 6, 7, 8)


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """Finds a picture's size, and whether its file is all there, by as few bytes as can tell.

    The header and the end are read. A file of which these do not show that it is whole is decoded:
    what cannot be decoded is damaged, nothing else is.

    Args:
        path: a picture file.

    Returns:
        (width, height), upright.

    Raises:
        InputError: the file is missing, empty, unreadable, damaged or no picture.
    """
    path = Path(path)
    size = _glance(path)
    if size is None:
        height, width = read_rgb(path).shape[:2]
        return width, height
    return size


def _glance(path: Path) -> tuple[int, int] | None:
    """The size of a file that is whole; None where only decoding can tell."""
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            size, form = image.size, image.format
            # Others may keep their EXIF behind the pixels, where nothing is looked for.
            exif = image.getexif() if form in ("JPEG", "TIFF") else {}
            turned = exif.get(ORIENTATION, 1) in SIDEWAYS
            told = form in ("JPEG", "TIFF") or "exif" not in image.info
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - len(PNG_END)))
            end = file.read()
            file.seek(0)
            head = file.read(8)
    except (InputError, MemoryError):
        raise
    except Exception:  # as many kinds as there are ways to be no picture; decoding says which
        return None
    whole = {
        "PNG": end == PNG_END,
        "JPEG": end.endswith(b"\xff\xd9"),
        "WEBP": length >= 8 + int.from_bytes(head[4:8], "little"),
        "BMP": 0 < int.from_bytes(head[2:6], "little") <= length,
        "GIF": end.endswith(b";"),
        "TIFF": True,  # its directory, which was read, often lies at the end
    }
    if not (told and whole.get(form, False)):
        return None
    return size[::-1] if turned else size
