"""16-bit pictures as bytes: what Pillow cannot do, because it holds colour in 8 bits only.

Reading goes through OpenCV, which keeps all 16 bits; TIFF is written by tifffile. PNG is written
here, because no library at hand can: OpenCV has no grey with alpha and drops colour profiles.
"""

import struct
import zlib
from io import BytesIO

import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
    """Encode a 16-bit TIFF: one deflated strip.

    Args:
        samples: uint16 (H, W, C), C in 1, 3, 4: grey, RGB, RGBA (alpha not premultiplied).
        icc: colour profile.

    Returns:
        the file's bytes.
    """
    import tifffile

    buffer = BytesIO()
    grey = samples.shape[-1] == 1
    tifffile.imwrite(
        buffer,
        samples[..., 0] if grey else samples,
        photometric="minisblack" if grey else "rgb",
        extrasamples=["unassalpha"] if samples.shape[-1] == 4 else None,
        planarconfig=None if grey else "contig",
        compression="zlib",
        rowsperstrip=len(samples),
        iccprofile=icc,
        metadata=None,  # no description of its own, nor its name
        software=False,
    )
    return buffer.getvalue()
