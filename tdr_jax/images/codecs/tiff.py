"""TIFF of any depth, layout and meaning of its samples, by tifffile and its codecs.

Pillow's libtiff knows what is older than these: facsimile, palettes, the first JPEG in TIFF.
"""

import logging
import math
import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np

from tdr_jax.images.codecs import linear, modes
from tdr_jax.images.codecs.quiet import silence
from tdr_jax.images.codecs.raster import (
    MAX_PIXELS,
    Extras,
    Opened,
    Raster,
    Refused,
    check_size,
    straight,
)

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
RAW = "is a camera raw file, which is not read; develop it and export it as TIFF or PNG"
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha, by ExtraSamples
_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4, 6: 3}  # photometric interpretation -> channels
_MOST = 8 * MAX_PIXELS  # bytes of samples
_MOST_TAGS = 200_000  # of all pages: some 10,000 pages
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
# none, LZW, JPEG, deflate (two numbers), packed bits, LZMA, Zstandard, WebP
_COMPRESSIONS = (1, 5, 7, 8, 32946, 32773, 34925, 50000, 50001)
_EXTRA = ("its extra channels, which are no transparency, are left out",)
_TEXTS = (270, 271, 272, 305, 306, 315, 33432)  # tags of the first directory that are plain text

# tifffile tells by its logger what it thinks of a file; what matters is raised here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def open_tiff(data: bytes) -> Opened:
    """Open a TIFF; of its pages those that are pictures, not previews or masks.

    Args:
        data: the whole file.

    Raises:
        Refused: it is a camera's raw file.

    Source: TIFF 6.0; tag 254 for what a page is.
    """
    import tifffile

    file = tifffile.TiffFile(BytesIO(data))
    pages = list(enumerate(_pages(file)))
    if data[8:10] == b"CR" or any(50706 in p.tags or _is_sensor(p) for _, p in pages):
        raise Refused(RAW)  # 50706: the version of DNG
    shown = [(at, page) for at, page in pages if not page.subfiletype & (_REDUCED | _MASK)]
    if not shown and any(page.subifds for _, page in pages):
        raise Refused(RAW)  # previews alone, the picture in a directory of the maker's own
    shown = _without_previews(shown or pages[:1])
    for _, page in shown:
        check_size(page.imagewidth, page.imagelength)

    def read(index: int) -> Raster:
        at, page = shown[index]
        if not _for_tifffile(page):
            return _by_pillow(data, at, page.iccprofile)
        raster = _decoded(page, len(data))
        orientation = page.tags.valueof(274, 1)
        raster.orientation = orientation if orientation in range(1, 9) else 1
        return raster

    def extras() -> Extras:
        notes = ()
        if len(shown) < len(pages):
            notes = (f"its {len(pages) - len(shown)} previews or masks are left out",)
        return _extras(data, shown[0][1], notes)

    return Opened("TIFF", len(shown), read, extras)


def encode(pages: list[tuple[np.ndarray, Extras]], is_linear: bool = False) -> bytes:
    """Encode a TIFF, each page one deflated strip.

    Args:
        pages: samples (H, W, C), uint8, uint16 or float32, C in 1, 2, 3, 4: grey, grey + alpha,
            RGB, RGBA (alpha not multiplied in); and what travels with each.
        is_linear: whether the colours are proportional to light, which a profile then says.

    Returns:
        the file's bytes.
    """
    import tifffile

    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for samples, extras in pages:
            grey = samples.shape[-1] < 3
            alpha = samples.shape[-1] in (2, 4)
            icc = extras.icc or (linear.profile(grey) if is_linear else None)
            options = {"resolution": extras.dpi, "resolutionunit": "INCH"} if extras.dpi else {}
            writer.write(
                samples[..., 0] if samples.shape[-1] == 1 else samples,
                photometric="minisblack" if grey else "rgb",
                extrasamples=["unassalpha"] if alpha else None,
                planarconfig=None if samples.shape[-1] == 1 else "contig",
                compression="zlib",
                rowsperstrip=len(samples),
                iccprofile=icc,
                metadata=None,  # no description of its own, nor its name
                software=False,
                extratags=_tags(extras),
                **options,
            )
    written = buffer.getvalue()
    if any(extras.exif for _, extras in pages):
        written = _with_directories(written, [extras.exif for _, extras in pages])
    return written


def _pages(file) -> Iterator:
    """Yield the pages of tifffile's file, and stop where they lead round in a circle."""
    places, tags = set(), 0
    for page in file.pages:
        tags += len(page.tags)
        if page.offset in places or tags > _MOST_TAGS:
            raise ValueError("its pages follow each other without end")
        places.add(page.offset)
        yield page


def _for_tifffile(page) -> bool:
    """Tell whether tifffile decodes a page, or Pillow: palettes, facsimile, few bits, odd colours.

    Whatever has over 8 bits is for tifffile, and refused if it cannot; Pillow would cut it down.
    """
    plain = page.photometric in _COLOURS and (page.photometric != 6 or page.compression == 7)
    plain = plain and page.compression in _COMPRESSIONS and page.bitspersample == 8
    return plain or page.bitspersample > 8 or page.sampleformat != 1


def _by_pillow(data: bytes, at: int, icc: bytes | None) -> Raster:
    with silence():
        image, *_ = modes.open_image(data, ("TIFF",))
        image.seek(at)
        raster = modes.frame(image, 0, icc)
    raster.orientation = 1  # Pillow has turned it
    return raster


def _is_sensor(page) -> bool:
    return page.photometric in (32803, 34892)  # CFA, LinearRaw


def _without_previews(shown: list) -> list:
    """Leave out pages that are smaller copies of the largest, though nothing says so."""
    _, largest = max(shown, key=lambda each: each[1].imagewidth * each[1].imagelength)

    def is_preview(page) -> bool:
        if not (page.imagewidth and page.imagelength):
            return False
        x = largest.imagewidth / page.imagewidth
        y = largest.imagelength / page.imagelength
        rounding = 1 / min(page.imagewidth, page.imagelength)
        return min(x, y) >= 2 and abs(x / y - 1) <= 1.5 * rounding

    return [each for each in shown if not is_preview(each[1])]


def _decoded(page, size: int) -> Raster:
    """Decode a page of any depth.

    Args:
        page: tifffile's.
        size: of the file, in bytes.
    """
    if page.imagedepth > 1:
        raise Refused("it is a volume of several slices; save one as a picture")
    colours = _COLOURS.get(page.photometric)
    if colours is None:
        name = getattr(page.photometric, "name", page.photometric)
        raise Refused(f"its colours ({name}) are not read; save it as RGB or grey")
    if page.samplesperpixel < colours:
        raise ValueError(f"has {page.samplesperpixel} channels where its kind has {colours}")
    if page.dtype is None or page.dtype.kind not in "uf":
        raise Refused("its samples are signed or complex numbers; save it as unsigned or float")
    if page.samplesperpixel * math.prod(page.shape[-2:]) == 0 or page.nbytes > _MOST:
        raise Refused(f"its {page.samplesperpixel} channels need too much memory; save it as RGB")
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start + count > size or (start > 0) != (count > 0):
            raise ValueError("its data is cut short")
    samples = np.asarray(page.asarray(maxworkers=1))
    if page.planarconfig == 2 and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric == 6 and page.compression != 7:
        raise Refused("its colours (YCbCr of over 8 bits) are not read; save it as RGB")
    samples, notes = _known_type(samples, page.bitspersample)
    if page.photometric == 0:  # white is 0
        top = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
        samples[..., :1] = top - samples[..., :1]
    extra = list(page.extrasamples)[: samples.shape[-1] - colours]
    kinds = [kind for kind in extra if kind in (_ASSOCIATED, _UNASSOCIATED)][:1]
    alpha = samples[..., colours + extra.index(kinds[0])][..., None] if kinds else None
    if samples.shape[-1] > colours + len(kinds):
        notes += _EXTRA
    converted = page.photometric == 5
    if alpha is None:
        samples = samples[..., :colours]
    else:
        samples = np.concatenate([samples[..., :colours], alpha], -1)
        samples = straight(samples) if kinds == [_ASSOCIATED] else samples
    if converted:
        samples, said = _from_inks(samples, page.iccprofile)
        notes += said
    floats = samples.dtype.kind == "f"
    return Raster(
        samples,
        linear=floats and not converted and linear.is_linear(page.iccprofile),
        converted=converted,
        notes=notes,
    )


def _known_type(samples: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return samples as uint8, uint16 or float32, a copy, and what is to be said of that."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32), ()
    top = 2**bits - 1
    if top in (255, 65535):
        return samples.astype(np.uint8 if top == 255 else np.uint16), ()
    if bits < 8:
        return np.rint(samples * (255 / top)).astype(np.uint8), ()
    note = (f"its {bits} bits are rounded to 16",) if bits > 16 else ()
    return np.rint(samples * (65535 / top)).astype(np.uint16), note


def _from_inks(samples: np.ndarray, icc: bytes | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn cyan, magenta, yellow and black (and alpha) into sRGB, by the profile if it will do."""
    import imagecodecs

    inks, alpha = samples[..., :4], samples[..., 4:]
    notes: tuple[str, ...] = ()
    if icc and inks.dtype.kind == "u":
        try:
            srgb = imagecodecs.cms_profile("srgb")
            inks = np.ascontiguousarray(inks)
            colours = imagecodecs.cms_transform(
                inks, icc, srgb, colorspace="cmyk", outcolorspace="rgb"
            )
            return np.concatenate([colours, alpha], -1), ()
        except (RuntimeError, ValueError):
            notes = ("its CMYK profile cannot be used; the colours are those of plain inks",)
    top = np.iinfo(inks.dtype).max if inks.dtype.kind == "u" else 1
    left = 1 - inks.astype(np.float32) / np.float32(top)
    colours = left[..., :3] * left[..., 3:] * np.float32(top)
    if inks.dtype.kind == "u":
        colours = np.rint(colours)
    return np.concatenate([colours.astype(inks.dtype), alpha], -1), notes


def _extras(data: bytes, page, notes: tuple[str, ...]) -> Extras:
    tags = page.tags

    def stored(tag: int) -> bytes | None:
        value = tags.valueof(tag)
        if isinstance(value, tuple) and all(isinstance(n, int) for n in value):
            return b"".join(n.to_bytes(4, "little") for n in value)  # IPTC as 32-bit numbers
        return value.encode() if isinstance(value, str) else value or None

    dpi = None
    try:
        x, y = page.get_resolution("INCH")
        if page.resolutionunit in (2, 3) and 282 in tags and 0 < x < 1e6 and 0 < y < 1e6:
            dpi = (x, y)
    except (ValueError, ZeroDivisionError, TypeError):
        pass
    icc = page.iccprofile
    return Extras(
        icc=bytes(icc) if icc else None,
        # The reader of EXIF blocks takes the whole file for one, unless it is a BigTIFF.
        exif=data if data[2:4] in (b"*\0", b"\0*") else None,
        xmp=stored(700),
        iptc=stored(33723),
        dpi=dpi,
        notes=notes,
    )


def _tags(extras: Extras) -> list[tuple]:
    """Return the tags of the first directory, with places for EXIF's own directories."""
    tags: list[tuple] = []
    if extras.xmp:
        tags.append((700, 1, len(extras.xmp), extras.xmp, True))
    if extras.iptc:
        tags.append((33723, 7, len(extras.iptc), extras.iptc, True))
    if extras.exif:
        exif = _parsed(extras.exif)
        texts = {tag: exif[tag] for tag in _TEXTS if isinstance(exif.get(tag), str)}
        tags += [(tag, 2, 0, text.encode(), True) for tag, text in texts.items()]
        # tifffile writes no directories of EXIF: the number before holds the place of each.
        tags += [(tag - 1, 4, 1, 0, True) for tag in (_EXIF_IFD, _GPS_IFD) if exif.get_ifd(tag)]
    return tags


def _parsed(exif: bytes):
    from PIL import Image

    parsed = Image.Exif()
    parsed.load(exif)
    return parsed


def _with_directories(written: bytes, blocks: list[bytes | None]) -> bytes:
    """Append EXIF's directories to a TIFF, and turn the tags before theirs into them."""
    import tifffile
    from PIL import TiffImagePlugin

    result = bytearray(written)
    with tifffile.TiffFile(BytesIO(written)) as file:
        order = file.byteorder + "HHII"
        for page, block in zip(file.pages, blocks, strict=True):
            exif = _parsed(block) if block else None
            for tag in (_EXIF_IFD, _GPS_IFD):
                if exif is None or tag - 1 not in page.tags:
                    continue
                result += b"\0" * (len(result) % 2)
                struct.pack_into(order, result, page.tags[tag - 1].offset, tag, 4, 1, len(result))
                directory = TiffImagePlugin.ImageFileDirectory_v2(written[:8], group=tag)
                for key, value in exif.get_ifd(tag).items():
                    directory[key] = value
                result += directory.tobytes(len(result))
    return bytes(result)
