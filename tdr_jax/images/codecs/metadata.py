"""EXIF and XMP of a picture file: what of them travels, and how the picture is turned."""

import re
import struct
from pathlib import PurePath

from tdr_jax.images.codecs.quiet import warnings_caught
from tdr_jax.images.codecs.raster import Extras

_ORIENTATION = 0x0112
_EXIF_IFD, _GPS_IFD, _EXIF_WIDTH, _EXIF_HEIGHT = 0x8769, 0x8825, 0xA002, 0xA003
# A TIFF's own directory mixes the description with the layout of the file; only the first travels.
_DESCRIPTIVE = frozenset(
    {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33432, 0x8769, 0x8825, 36867}
)
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>))(\d)")


def directory(block: bytes) -> dict[int, int]:
    """Read the numbers in the first directory of a TIFF header, damaged as the rest may be.

    Args:
        block: an EXIF block, or a whole (small-offset) TIFF.

    Returns:
        tag -> first value, of those entries that are one 16- or 32-bit number; what lies beyond
        the block is left out.

    Source: TIFF 6.0, section 2.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return {}
    start = struct.unpack_from(order + "I", block, 4)[0]
    found: dict[int, int] = {}
    if start + 2 > len(block):
        return found
    count = struct.unpack_from(order + "H", block, start)[0]
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", block, at)
        if number == 1 and kind in (3, 4):
            value = struct.unpack_from(order + "HI"[kind - 3], block, at + 8)[0]
            found.setdefault(tag, value)
    return found


def orientation(extras: Extras) -> int:
    """Tell how a picture is to be turned: as EXIF says, else as XMP does.

    Returns:
        1 to 8; 1 where neither says so.

    Source: TIFF 6.0, tag 274.
    """
    said = extras.orientation or directory(extras.exif or b"").get(_ORIENTATION)
    if said is None and extras.xmp:
        match = _XMP_ORIENTATION.search(extras.xmp)
        said = int(match[2]) if match else None
    return said if said in range(1, 9) else 1


def turned_upright(extras: Extras, height: int, width: int, tiff: bool = False) -> Extras:
    """Make what travels fit a picture that was turned upright.

    Args:
        extras: as read; changed.
        height, width: of the upright picture, in pixels.
        tiff: whether the EXIF block is a whole TIFF, of whose directory the description is taken.

    Returns:
        the extras, with the orientation reset and no preview, which would show the old picture. An
        EXIF block with a single bad entry goes as a whole, since what else is wrong in it cannot
        be known; the notes say so.
    """
    if extras.xmp:
        extras.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", extras.xmp)
    if extras.exif:
        try:
            extras.exif, dropped = _rewritten(extras.exif, height, width, tiff)
        except Exception:  # Pillow's EXIF reader and writer raise almost anything on bad entries
            extras.exif, dropped = None, True
        if dropped:
            extras.notes += ("its EXIF is damaged and is left out",)
    return extras


def stripped(extras: Extras) -> Extras:
    """Return what the colours need, and what was said of reading them: no metadata."""
    chunks = tuple(chunk for chunk in extras.chunks if chunk[0][1:] not in (b"EXt", b"TXt"))
    return Extras(icc=extras.icc, chunks=chunks, notes=extras.notes)


def _rewritten(block: bytes, height: int, width: int, tiff: bool) -> tuple[bytes | None, bool]:
    """Return the block to keep, and whether it had to be given up for being damaged."""
    from PIL import Image

    exif = Image.Exif()
    with warnings_caught() as complaints:
        exif.load(block)
        if tiff:
            for tag in set(exif) - _DESCRIPTIVE:
                del exif[tag]
        if _ORIENTATION in exif:
            exif[_ORIENTATION] = 1
        details = {tag: exif.get_ifd(tag) for tag in (_EXIF_IFD, _GPS_IFD) if tag in exif}
        detail = details.get(_EXIF_IFD, {})
        if _EXIF_WIDTH in detail and _EXIF_HEIGHT in detail:
            detail[_EXIF_WIDTH], detail[_EXIF_HEIGHT] = width, height
        written = exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) else None
    # What other threads warn of meanwhile says nothing of this block.
    complaints = [each for each in complaints if "PIL" in PurePath(each.filename).parts]
    # A directory that is pointed to and cannot be read comes back empty.
    if complaints or any(not entries for entries in details.values()):
        return None, True
    return written, False
