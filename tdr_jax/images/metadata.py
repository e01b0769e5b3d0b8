"""EXIF of a picture file: what of it travels, and how the picture is turned."""

_ORIENTATION = 0x0112
_EXIF_IFD, _EXIF_WIDTH, _EXIF_HEIGHT = 0x8769, 0xA002, 0xA003
# A TIFF's own directory mixes the description with the layout of the file; only the first travels.
_DESCRIPTIVE = frozenset(
    {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33432, 0x8769, 0x8825, 36867}
)


def exif(image) -> tuple[int, bytes | None]:
    """Read the EXIF of a picture that is to be turned upright.

    Args:
        image: PIL's, loaded.

    Returns:
        the orientation, 1 to 8, and the EXIF block with the orientation reset, beginning with a
        TIFF header, or None.
    """
    exif = image.getexif()
    orientation = exif.get(_ORIENTATION, 1)
    if orientation not in range(1, 9):
        orientation = 1
    if image.format == "TIFF":
        for tag in set(exif) - _DESCRIPTIVE:
            del exif[tag]
    if not len(exif):
        return orientation, None
    if _ORIENTATION in exif:
        exif[_ORIENTATION] = 1
    detail = exif.get_ifd(_EXIF_IFD) if _EXIF_IFD in exif else {}
    # Pillow turns a TIFF itself while loading, so its size is the upright one already.
    turned = orientation >= 5 and image.format != "TIFF"
    if _EXIF_WIDTH in detail and _EXIF_HEIGHT in detail:
        size = image.size[::-1] if turned else image.size
        detail[_EXIF_WIDTH], detail[_EXIF_HEIGHT] = size
    return orientation, exif.tobytes().removeprefix(b"Exif\0\0")
