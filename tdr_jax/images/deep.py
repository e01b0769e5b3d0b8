"""16-bit pictures as bytes: what Pillow cannot do, because it holds colour in 8 bits only.

Reading goes through OpenCV, which keeps all 16 bits. Writing is done here, because OpenCV drops
colour profiles and EXIF and cannot write grey with alpha.
"""

import struct
import zlib

import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_header(head: bytes) -> tuple[int, bool]:
    """Read the bit depth of a PNG and whether it is grey.

    Args:
        head: at least the first 26 bytes of the file.

    Returns:
        (bits per sample, True for the colour types 0 and 4); (0, False) if this is no PNG.

    Source: PNG specification, 11.2.1 (IHDR).
    """
    if len(head) < 26 or head[:8] != PNG_SIGNATURE or head[12:16] != b"IHDR":
        return 0, False
    return head[24], head[25] in (0, 4)


def decode(data: bytes, grey: bool) -> np.ndarray:
    """Decode a 16-bit PNG or TIFF without losing a bit.

    Args:
        data: the whole file.
        grey: whether the file holds grey, so that colours made from it are folded back.

    Returns:
        uint16 (H, W, C): grey, grey + alpha, RGB or RGBA by C = 1, 2, 3, 4. A TIFF's orientation
        tag is already applied (OpenCV's TIFF reader does that whatever the flags), a PNG's not.

    Raises:
        ValueError: the bytes are not such a picture.
    """
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("its 16-bit data cannot be decoded")
    if array.ndim == 2:
        return array[..., None]
    colour, alpha = array[..., 2::-1], array[..., 3:]  # BGR(A) -> RGB, A
    return np.concatenate([colour[..., :1] if grey else colour, alpha], axis=-1)


def encode_png(samples: np.ndarray, icc: bytes | None = None, exif: bytes | None = None) -> bytes:
    """Encode a 16-bit PNG.

    Args:
        samples: uint16 (H, W, C), C in 1, 2, 3, 4: grey, grey + alpha, RGB, RGBA.
        icc: colour profile, kept in an iCCP chunk.
        exif: EXIF block (TIFF header first, no "Exif" prefix), kept in an eXIf chunk.

    Returns:
        the file's bytes.

    Source: PNG specification, 9.2 (the "Up" filter: each row minus the one above).
    """
    height, width, channels = samples.shape
    rows = np.ascontiguousarray(samples, ">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)  # each row begins with "2": Up
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append((b"eXIf", exif))
    chunks += [(b"IDAT", zlib.compress(filtered.data, 6)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def encode_tiff(samples: np.ndarray, icc: bytes | None = None) -> bytes:
    """Encode a 16-bit TIFF: one deflated strip, little-endian.

    Args:
        samples: uint16 (H, W, C), C in 1, 3, 4: grey, RGB, RGBA (alpha not premultiplied).
        icc: colour profile.

    Returns:
        the file's bytes.

    Source: TIFF 6.0, sections 2, 3, 6 and 18; compression 8 from its technical note 2.
    """
    height, width, channels = samples.shape
    strip = zlib.compress(np.ascontiguousarray(samples, "<u2").data, 6)
    tags = [  # (tag, type, values); type 3: 16-bit, 4: 32-bit, 7: raw bytes
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16] * channels),  # bits per sample
        (259, 3, [8]),  # compression: deflate
        (262, 3, [1 if channels == 1 else 2]),  # photometric: 0 is black, or RGB
        (273, 4, [8]),  # the strip follows the 8-byte header
        (274, 3, [1]),  # orientation: upright
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(strip)]),
        (284, 3, [1]),  # samples of a pixel side by side
        (339, 3, [1] * channels),  # unsigned integers
    ]
    if channels == 4:
        tags.insert(-1, (338, 3, [2]))  # the extra sample is unassociated alpha
    if icc:
        tags.append((34675, 7, icc))
    strip += b"\0" * (len(strip) % 2)  # the directory must begin at an even offset
    directory = 8 + len(strip)
    far = directory + 2 + 12 * len(tags) + 4  # values over 4 bytes lie behind the directory
    entries, values = [], b""
    for tag, kind, content in tags:
        code = {3: "H", 4: "I", 7: "B"}[kind]
        data = struct.pack(f"<{len(content)}{code}", *content)
        data += b"\0" * (len(data) % 2)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", far + len(values))
        values += data if len(data) > 4 else b""
        entries.append(struct.pack("<HHI", tag, kind, len(content)) + field)
    head = struct.pack("<2sHI", b"II", 42, directory)
    body = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", 0)
    return head + strip + body + values
