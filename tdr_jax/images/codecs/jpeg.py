"""JPEG segment by segment: pixels from those that hold them, and the metadata apart.

A decoder that never sees the metadata cannot be misled by it.
"""

import struct
from collections.abc import Iterator

from tdr_jax.images.codecs import metadata, modes
from tdr_jax.images.codecs.raster import Extras, Opened, Refused, check_size

SIGNATURE = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 ...
_SCAN, _COMMENT = 0xDA, 0xFE
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_ICC, _MPF, _PHOTOSHOP = b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
# Bits that end no scan: what is complete does not change whatever follows it.
_FILLER = bytes(range(1, 255)) * 2


def open_jpeg(data: bytes) -> Opened:
    """Open a JPEG; of several pictures in one, which phones write, the first.

    Args:
        data: the whole file.

    Source: ITU T.81, annex B; CIPA DC-007 for several pictures.
    """
    header, start = [], len(data)
    for marker, body, at in _segments(data):
        if marker == _SCAN:
            start = at
            break
        header.append((marker, body, at))
    frame = next((body for marker, body, _ in header if marker in _FRAMES), b"")
    if len(frame) >= 6:
        bits, height, width = struct.unpack_from(">BHH", frame)
        if bits > 8:
            raise Refused(f"JPEG with {bits} bits a sample is not read; save it with 8, or as PNG")
        if height:  # else it stands behind the first scan
            check_size(width, height)
    pixels = SIGNATURE[:2] + b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body, _ in header
        if not 0xE0 <= marker <= 0xEF and marker != _COMMENT or _tells_colour(marker, body)
    )
    pixels += data[start:]
    if _END not in data[start:]:
        pixels = _completed(pixels)
    image, _, _ = modes.open_image(pixels, ("JPEG",))
    icc = _profile(header)
    return Opened("JPEG", 1, lambda index: modes.frame(image, 0, icc), lambda: _extras(header))


def records(iptc: bytes) -> bytes:
    """Wrap IPTC-IIM records as the segment (marker and all) that a JPEG keeps them in.

    Source: Adobe Photoshop file formats, image resource 0x0404.
    """
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = _PHOTOSHOP + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, body and place of each segment, and of each scan its header."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # no segment; fill; restarts
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield marker, data[at + 4 : at + 2 + length], at
        at += 2 + max(length, 2)


def _tells_colour(marker: int, body: bytes) -> bool:
    jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _profile(header: list[tuple[int, bytes, int]]) -> bytes | None:
    """Join the colour profile, which numbers its parts."""
    parts = {
        body[12]: body[14:]
        for marker, body, _ in header
        if marker == 0xE2 and body.startswith(_ICC) and len(body) > 14
    }
    return b"".join(parts[number] for number in sorted(parts)) or None


def _completed(pixels: bytes) -> bytes:
    """Add the end marker to a JPEG that lacks nothing else.

    A picture is there once each component's coefficients came down to the last bit, and
    the last scan is complete if what is put behind it does not change a pixel.
    """
    coefficients: dict[int, list[int]] = {}
    for marker, body, _ in _segments(pixels):
        if marker in (0xC0, 0xC1, 0xC2) and len(body) >= 6:
            coefficients = {part: [14] * 64 for part in body[6::3][: body[5]]}
        if marker == _SCAN and coefficients and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] :][:3]
            for part in body[1 : 1 + 2 * body[0] : 2]:
                for place in range(first, min(last, 63) + 1):
                    coefficients.get(part, [0] * 64)[place] = bits & 15
    if any(any(left) for left in coefficients.values()):
        return pixels
    try:
        ends = [pixels + filler + _END for filler in (b"", _FILLER)]
        same = len({modes.open_image(end, ("JPEG",))[0].tobytes() for end in ends}) == 1
    except OSError:
        return pixels
    return ends[0] if same else pixels


def _extras(header: list[tuple[int, bytes, int]]) -> Extras:
    extras = Extras(icc=_profile(header))
    several = gain_map = False
    for marker, body, _ in header:
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            unit, x, y = struct.unpack_from(">BHH", body, 7)
            if unit in (1, 2) and x and y:
                inch = 1 if unit == 1 else 2.54
                extras.dpi = (x * inch, y * inch)
        elif marker == 0xE1 and body.startswith(_EXIF):
            extras.exif = extras.exif or body[len(_EXIF) :]
        elif marker == 0xE1 and body.startswith(_XMP):
            extras.xmp = extras.xmp or body[len(_XMP) :]
        elif marker == 0xE1 and body.startswith(_XMP_MORE):
            note = "what its XMP says in further segments is left out"
            extras.notes += () if note in extras.notes else (note,)
        elif marker == 0xE2 and body.startswith(_MPF):
            several = metadata.directory(body[len(_MPF) :]).get(0xB001, 2) > 1
        elif marker == 0xE2 and body.startswith(_GAIN_MAP):
            gain_map = True
        elif marker == _COMMENT:
            extras.comment = body or None
        elif marker == 0xED and body.startswith(_PHOTOSHOP):
            extras.iptc = _iptc(body[len(_PHOTOSHOP) :]) or extras.iptc
    if gain_map or b"hdrgm:" in (extras.xmp or b""):
        extras.xmp = None  # which describes what is no longer there
        extras.notes += ("its gain map (HDR) and the XMP about it are left out",)
    elif several:
        extras.notes += ("its further pictures (previews, depth, other views) are left out",)
    return extras


def _iptc(resources: bytes) -> bytes | None:
    """Find the IPTC-IIM records among Photoshop's image resources."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        name = resources[at + 6] + 1
        size_at = at + 6 + name + name % 2
        if size_at + 4 > len(resources):
            return None
        (size,) = struct.unpack_from(">I", resources, size_at)
        if resources[at + 4 : at + 6] == b"\x04\x04":
            return resources[size_at + 4 : size_at + 4 + size] or None
        at = size_at + 4 + size + size % 2
    return None
