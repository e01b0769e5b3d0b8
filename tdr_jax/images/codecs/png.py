"""PNG chunk by chunk: pixels from those that hold them, and all others carried whole.

Libraries drop colour chunks, or refuse a picture for the length of its texts; so they are given the
chunks of the pixels alone. 16 bits are decoded and encoded by imagecodecs, since Pillow holds
colour in 8.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from tdr_jax.images.codecs import metadata, modes
from tdr_jax.images.codecs.raster import Extras, Opened, Raster, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_COLOUR = frozenset({b"cICP", b"gAMA", b"cHRM", b"sRGB", b"mDCV", b"cLLI"})
_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_XMP = b"XML:com.adobe.xmp\0"
_EXIF_TEXTS = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_IPTC_TEXT = b"Raw profile type iptc\0"
_MOST = 2**26  # bytes of a profile or text, unpacked, that are still believed
_INCH = 0.0254  # metres


def open_png(data: bytes) -> Opened:
    """Open a PNG or an animated one.

    Args:
        data: the whole file.

    Source: PNG specification, third edition, 11.
    """
    chunks = list(_chunks(data))
    if len(chunks[0][1]) != 13 or chunks[0][0] != b"IHDR":
        raise ValueError("its header is broken")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", chunks[0][1])
    check_size(width, height)
    kinds = {kind for kind, *_ in chunks}
    kept = _PIXELS | _ANIMATION if b"acTL" in kinds else _PIXELS
    pixels = SIGNATURE + b"".join(chunk for kind, _, _, chunk in chunks if kind in kept)
    if b"IEND" not in kinds and chunks[-1][2]:  # complete but for its last twelve bytes
        pixels += _chunk(b"IEND", b"")
    image, count, loop = modes.open_image(pixels, ("PNG",))

    def read(index: int) -> Raster:
        if bits == 16 and count == 1:
            import imagecodecs

            if not all(_is_sound(chunk) for kind, _, _, chunk in chunks if kind in _PIXELS):
                raise ValueError("its pixels fail their checksum")
            samples = imagecodecs.png_decode(pixels)
            return Raster(samples[..., None] if samples.ndim == 2 else samples)
        raster = modes.frame(image, index)
        if bits == 16:
            raster.notes += ("its 16 bits are read as 8, for it is an animation",)
        return raster

    return Opened("PNG", count, read, lambda: _extras(chunks), loop)


def encode(samples: np.ndarray, extras: Extras) -> bytes:
    """Encode a PNG of 8 or 16 bits with all that travels.

    Args:
        samples: uint8 or uint16 (H, W, C): grey, grey + alpha, RGB, RGBA by C = 1, 2, 3, 4.
        extras: of the picture.

    Returns:
        the file's bytes.
    """
    import imagecodecs

    flat = samples[..., 0] if samples.shape[-1] == 1 else samples
    return with_extras(imagecodecs.png_encode(np.ascontiguousarray(flat), level=6), extras)


def with_extras(encoded: bytes, extras: Extras) -> bytes:
    """Put what travels behind the header of an encoded PNG, before all pixels.

    Args:
        encoded: a PNG without metadata.
        extras: of the picture.

    Returns:
        the file's bytes.
    """
    added = list(extras.chunks)
    if extras.icc:
        added.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(extras.icc)))
    if extras.dpi:
        metre = (min(round(dpi / _INCH), 2**31 - 1) for dpi in extras.dpi)
        added.append((b"pHYs", struct.pack(">IIB", *metre, 1)))
    if extras.exif:
        added.append((b"eXIf", extras.exif))
    if extras.xmp:
        added.append((b"iTXt", _XMP + b"\0\0\0\0" + extras.xmp))
    if extras.comment:
        added.append((b"tEXt", b"Comment\0" + extras.comment.replace(b"\0", b"")))
    if extras.iptc:
        digits = extras.iptc.hex().encode()
        text = b"\niptc\n%8d\n" % len(extras.iptc) + digits + b"\n"
        added.append((b"zTXt", _IPTC_TEXT + b"\0" + zlib.compress(text)))
    after = len(SIGNATURE) + 25  # the length of IHDR with its frame
    return encoded[:after] + b"".join(_chunk(*each) for each in added) + encoded[after:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _is_sound(chunk: bytes) -> bool:
    return struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool, bytes]]:
    """Yield kind, body, whether it is complete, and all bytes of each chunk up to IEND."""
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at) if at + 8 <= len(data) else (0,)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        yield kind, data[at + 8 : at + 8 + length], end <= len(data), data[at:end]
        if kind == b"IEND":
            return
        at = end


def _extras(chunks: Iterable[tuple[bytes, bytes, bool, bytes]]) -> Extras:
    extras = Extras()
    kept = []
    for kind, body, complete, chunk in chunks:
        if kind in _PIXELS | _ANIMATION:
            continue
        try:
            if not complete or not _is_sound(chunk):
                raise ValueError("its checksum is wrong")
            if not _take(extras, kind, body):
                if kind in _COLOUR | _TEXT:
                    kept.append((kind, body))
        except (ValueError, zlib.error, struct.error):
            if kind == b"eXIf":
                extras.orientation = metadata.orientation(Extras(exif=body))
            name = kind.decode("latin-1")
            extras.notes += (f"its {name} chunk is damaged and is left out",)
    extras.chunks = tuple(kept)
    return extras


def _take(extras: Extras, kind: bytes, body: bytes) -> bool:
    """Put a chunk that other formats have too into its place, and tell whether it was one."""
    if kind == b"iCCP":
        extras.icc = _unpack(body[body.index(b"\0") + 2 :])
    elif kind == b"eXIf":
        extras.exif = body
    elif kind == b"pHYs":
        x, y, metre = struct.unpack(">IIB", body)
        extras.dpi = (x * _INCH, y * _INCH) if metre == 1 and x and y else None
    elif kind == b"iTXt" and body.startswith(_XMP):
        packed = body[len(_XMP)] == 1
        text = body[len(_XMP) + 2 :].split(b"\0", 2)[2]
        extras.xmp = _unpack(text) if packed else text
    elif kind == b"zTXt" and body.startswith((_IPTC_TEXT, *_EXIF_TEXTS)):
        name, _, packed = body.partition(b"\0")
        record = bytes.fromhex(b"".join(_unpack(packed[1:]).split(b"\n")[3:]).decode())
        if name + b"\0" == _IPTC_TEXT:
            extras.iptc = record
        elif record.startswith(b"Exif\0\0"):  # APP1 of some writers is XMP
            extras.exif = record[6:]
    else:
        return False
    return True


def _unpack(packed: bytes) -> bytes:
    """Inflate at most what a profile or text may have."""
    inflater = zlib.decompressobj()
    unpacked = inflater.decompress(packed, _MOST)
    if not inflater.eof:
        raise ValueError("cut short, or too long")
    return unpacked
