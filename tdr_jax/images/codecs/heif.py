"""HEIC and AVIF: the pictures of phones and of the web, with all their bits."""

import struct

import numpy as np

from tdr_jax.images.codecs import modes
from tdr_jax.images.codecs.raster import Extras, Opened, Raster, check_size, straight

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF = frozenset({b"avif", b"avis"})
_GAIN_MAP = "its gain map (HDR) is left out"


def brands(head: bytes) -> frozenset[bytes]:
    """Return the brands that a file of boxes gives itself, empty for any other file.

    Args:
        head: its first bytes, some dozens at least.

    Source: ISO/IEC 14496-12, 4.3.
    """
    if head[4:8] != b"ftyp":
        return frozenset()
    size = min(struct.unpack_from(">I", head)[0], len(head))
    return frozenset({head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))})


def is_avif(head: bytes) -> bool:
    """Tell whether a file is AVIF by its first bytes."""
    return bool(brands(head) & _AVIF)


def is_heic(head: bytes) -> bool:
    """Tell whether a file is HEIC by its first bytes."""
    return bool(brands(head) & _HEIC) and not is_avif(head)


def open_avif(data: bytes) -> Opened:
    """Open an AVIF, still or animated.

    Args:
        data: the whole file.
    """
    image, count, loop = modes.open_image(data, ("AVIF",))
    check_size(*image.size)
    bits = _avif_bits(data)

    def read(index: int) -> Raster:
        if bits == 8:
            return modes.frame(image, index)
        import imagecodecs

        samples = imagecodecs.avif_decode(data, index=index)
        if samples.ndim == 2:
            samples = samples[..., None]
        image.seek(index)
        return Raster(_spread(samples, bits), duration=image.info.get("duration"))

    def extras() -> Extras:
        icc, xmp = (image.info.get(key) or None for key in ("icc_profile", "xmp"))
        exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
        chunks = _cicp(_nclx(data))
        notes = (_GAIN_MAP,) if b"tmap" in brands(data[:256]) else ()
        return Extras(icc=icc, exif=exif, xmp=xmp, chunks=chunks, notes=notes)

    return Opened("AVIF", count, read, extras, loop)


def open_heic(data: bytes) -> Opened:
    """Open a HEIC; of several pictures in one, the one that it calls its primary.

    Args:
        data: the whole file.
    """
    import pillow_heif

    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    check_size(*image.size)

    def read(index: int) -> Raster:
        kind = np.uint16 if ";16" in image.mode else np.uint8
        channels = {"L": 1, "LA": 2, "RGB": 3}.get(image.mode.split(";")[0], 4)
        width, height = image.size
        stored = np.frombuffer(image.data, np.uint8).reshape(height, -1)
        samples = np.ascontiguousarray(stored[:, : width * channels * kind().itemsize])
        samples = samples.view(kind).reshape(height, width, channels)
        if kind is np.uint16:
            bits = image.info["bit_depth"]
            samples = _spread(samples >> (16 - bits), bits)
        if image.premultiplied_alpha:
            samples = straight(samples)
        return Raster(samples, orientation=1)  # libheif has turned it

    def extras() -> Extras:
        info = image.info
        notes = ()
        if any("gainmap" in kind.lower() for kind in info.get("aux", {})):
            notes += (_GAIN_MAP,)
        elif b"tmap" in brands(data[:256]):
            notes += (_GAIN_MAP,)
        if len(file) > 1:
            notes += (f"it holds {len(file)} pictures, of which the primary one is restored",)
        if info.get("depth_images"):
            notes += ("its depth map is left out",)
        nclx = info.get("nclx_profile") or {}
        keys = ("color_primaries", "transfer_characteristics", "full_range_flag")
        exif = (info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
        return Extras(
            icc=info.get("icc_profile") or None,
            exif=exif,
            xmp=info.get("xmp") or None,
            chunks=_cicp(tuple(int(nclx[key]) for key in keys) if nclx else None),
            notes=notes,
        )

    return Opened("HEIF", 1, read, extras)


def _spread(samples: np.ndarray, bits: int) -> np.ndarray:
    """Stretch samples of 9 to 16 bits over all 16: their high bits fill the low ones."""
    samples = samples.astype(np.uint16)
    return (samples << (16 - bits)) | (samples >> (2 * bits - 16))


def _avif_bits(data: bytes) -> int:
    """Read the bits of a sample from the first decoder configuration.

    Source: AV1 in ISOBMFF, 2.3.3.
    """
    at = data.find(b"av1C", 0, 2**16)
    if at < 0 or at + 7 > len(data):
        return 8
    flags = data[at + 6]
    return 12 if flags & 0x60 == 0x60 else 10 if flags & 0x40 else 8


def _nclx(data: bytes) -> tuple[int, int, int] | None:
    """Read the code points of the colours: primaries, transfer, range."""
    at = data.find(b"colrnclx", 0, 2**16)
    if at < 0 or at + 15 > len(data):
        return None
    primaries, transfer, _, flags = struct.unpack_from(">HHHB", data, at + 8)
    return primaries, transfer, flags >> 7


def _cicp(code_points: tuple[int, int, int] | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return a PNG's chunk of the colours, unless they are those that are taken for granted.

    Source: ITU-T H.273: primaries 1 and transfers 1, 6, 13 are shown as sRGB is, 2 says nothing.
    """
    if code_points is None:
        return ()
    primaries, transfer, _ = code_points
    if primaries in (0, 1, 2) and transfer in (0, 1, 2, 6, 13):
        return ()
    return ((b"cICP", bytes((primaries, transfer, 0, 1))),)  # decoded: RGB of the full range
