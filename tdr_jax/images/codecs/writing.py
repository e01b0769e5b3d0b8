"""From pictures to the bytes of a file, and what its format could not keep."""

import itertools
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np

from tdr_jax.errors import InputError
from tdr_jax.images.codecs import exr, formats, jpeg, linear, png, tiff
from tdr_jax.images.codecs.raster import Extras, Picture, eight_bits

_KEPT = {  # format -> attributes of Extras that it holds
    "PNG": ("icc", "exif", "xmp", "iptc", "dpi", "chunks", "comment"),
    "JPEG": ("icc", "exif", "xmp", "iptc", "dpi", "comment"),
    "TIFF": ("icc", "exif", "xmp", "iptc", "dpi"),
    "WEBP": ("icc", "exif", "xmp"),
    "AVIF": ("icc", "exif", "xmp"),
    "BMP": ("dpi",),
    "EXR": (),
}
_CALLED = {
    "icc": "the colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "the resolution",
    "comment": "the comment",
}
_ORDINARY_DPI = (72, 96)  # what programs write that know no resolution
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}  # unless asked otherwise


def encode(
    path: Path,
    pictures: Iterable[Picture],
    count: int = 1,
    quality: int | None = None,
    loop: int = 0,
) -> tuple[bytes, tuple[str, ...]]:
    """Encode one picture, or several as an animation or pages.

    Args:
        path: its suffix chooses the format.
        pictures: asked for one after the other; the metadata of the first is that of the file.
        count: of the pictures, at least 1.
        quality: 1 to 100, of JPEG, WebP and AVIF.
        loop: how often an animation repeats; 0 without end.

    Returns:
        the file's bytes; what of the pictures the format does not keep, a clause each.

    Raises:
        InputError: the suffix names no format that is written, or the format cannot hold them.
    """
    form = formats.check_writable(path)
    if count > 1 and form not in formats.ANIMATED:
        raise InputError(f"{path}: {form} holds one picture; write .png, .webp, .avif or .tif")
    rest = iter(pictures)
    first = next(rest)
    pictures = itertools.chain([first], rest)
    extras, notes = _kept(first.extras, form)
    if form == "EXR":
        return exr.encode(_floats(first, path, True)), notes
    if form == "TIFF" and first.depth == 32:
        pages = [(_floats(picture, path, first.linear), extras) for picture in pictures]
        return tiff.encode(pages, first.linear), notes
    if first.linear and extras.icc:
        extras.icc = linear.curved(extras.icc)
    deep = first.depth > 8 and (form == "TIFF" or (form == "PNG" and count == 1))
    depth = 16 if deep else 8
    rounded, durations, said = [], [], set()
    for picture in pictures:
        durations.append(round(picture.duration or 100))
        pixels = _finite(picture, path)
        if picture.depth == 32:
            beyond = pixels.max() > 1 or pixels.min() < 0
            pixels, scale = linear.shown(pixels, picture.linear)
            what = f"scaled down by {scale:g}" if scale != 1 else "cut off"
            if beyond:
                said.add(f"values beyond 0 to 1 are {what}; write .exr or .tif to keep them")
        rounded.append(_samples(pixels, picture.alpha, depth))
    notes += tuple(sorted(said))
    if first.depth > depth:
        notes += (f"{form} keeps {depth} of its {first.depth} bits",)
    if form == "TIFF":
        if first.duration and count > 1:
            notes += ("TIFF does not keep how long each picture is shown",)
        return tiff.encode([(samples, extras) for samples in rounded]), notes
    if len({samples.shape[:2] for samples in rounded}) > 1:
        raise InputError(f"{path}: its pages differ in size, which {form} cannot; write a .tif")
    if form in ("JPEG", "BMP"):
        rounded = [_opaque(samples, form, path) for samples in rounded]
    if form == "PNG" and count == 1:
        return png.encode(rounded[0], extras), notes
    options = _options(form, extras, quality)
    if count > 1:
        options |= {"duration": durations, "loop": loop}
    return _by_pillow(path, form, rounded, options, extras), notes


def _by_pillow(path: Path, form: str, arrays: list, options: dict, extras: Extras) -> bytes:
    from PIL import Image

    shown = [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]
    if len(shown) > 1:
        mode = "RGBA" if any(image.mode in ("LA", "RGBA") for image in shown) else "RGB"
        shown = [image.convert(mode) for image in shown]
        options |= {"save_all": True, "append_images": shown[1:]}
    buffer = BytesIO()
    try:
        shown[0].save(buffer, form, **options)
    except (ValueError, OSError, RuntimeError) as error:  # such as over 16383 pixels a side in WebP
        raise InputError(f"{path}: {form} cannot hold it ({error}); write a .png") from error
    written = buffer.getvalue()
    return png.with_extras(written, extras) if form == "PNG" else written


def _options(form: str, extras: Extras, quality: int | None) -> dict:
    """Return what Pillow's writer of a format is told."""
    options: dict = {"quality": quality or QUALITY[form]} if form in QUALITY else {}
    if form == "JPEG":
        options |= {"subsampling": 0, "comment": extras.comment or b""}
        if extras.iptc:
            options["extra"] = jpeg.records(extras.iptc)
    if form == "WEBP":
        options |= {"method": 4, "exact": True}
    if form in ("JPEG", "BMP") and extras.dpi:
        options["dpi"] = extras.dpi
    if form in ("JPEG", "WEBP", "AVIF"):
        options |= {"icc_profile": extras.icc, "xmp": extras.xmp or b""}
        if extras.exif:
            options["exif"] = b"Exif\0\0" + extras.exif
    return options


def _kept(extras: Extras, form: str) -> tuple[Extras, tuple[str, ...]]:
    """Return what the format holds of what travels, and what is to be said of the rest."""
    held = {name: getattr(extras, name) for name in _KEPT[form]}
    lost = [_CALLED[name] for name in _CALLED if getattr(extras, name) and name not in held]
    if "dpi" not in held and extras.dpi and round(extras.dpi[0]) in _ORDINARY_DPI:
        lost.remove(_CALLED["dpi"])
    if form == "JPEG":  # whose segments have 64 KiB
        for name, most in dict.fromkeys(("exif", "xmp", "iptc", "comment"), 65_500).items():
            if len(getattr(extras, name) or b"") > most:
                held[name] = None
                lost.append(f"{_CALLED[name]}, which is too long for it")
    if "chunks" not in held:
        colour = [kind.decode() for kind, body in extras.chunks if _tells_colour(kind, body)]
        texts = sum(kind[1:] == b"EXt" or kind[1:] == b"TXt" for kind, _ in extras.chunks)
        lost += [f"the colour chunks {', '.join(colour)}"] if colour else []
        lost += [f"{texts} text" + "s" * (texts > 1)] if texts else []
    notes = (f"{form} does not keep {', '.join(lost)}",) if lost else ()
    return Extras(**held), notes


def _tells_colour(kind: bytes, body: bytes) -> bool:
    """Tell whether a chunk says more than that the colours are sRGB, as they are taken to be."""
    if kind == b"gAMA":
        return abs(int.from_bytes(body, "big") - 45455) > 10
    if kind == b"cICP":
        return body[:2] != b"\x01\x0d"
    return kind in (b"mDCV", b"cLLI") or (kind == b"cHRM" and body != _SRGB_PRIMARIES)


_SRGB_PRIMARIES = b"".join(
    n.to_bytes(4, "big") for n in (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
)


def _opaque(samples: np.ndarray, form: str, path: Path) -> np.ndarray:
    """Return the colours of a picture that is nowhere transparent."""
    if samples.shape[-1] not in (2, 4):
        return samples
    if samples[..., -1].min() < 255:
        raise InputError(f"{path}: {form} cannot keep the transparency; write a .png")
    return samples[..., :-1]


def _finite(picture: Picture, path: Path) -> np.ndarray:
    if not np.isfinite(picture.pixels).all():
        raise InputError(f"{path}: the picture to write holds NaN or infinite values")
    return picture.pixels.mean(-1, keepdims=True) if picture.grey else picture.pixels


def _floats(picture: Picture, path: Path, light: bool) -> np.ndarray:
    """Return float samples, of light if asked, with the alpha behind them."""
    pixels = _finite(picture, path)
    if light and not picture.linear:
        pixels = linear.to_light(np.clip(pixels, 0, 1))
    if picture.alpha is None:
        return pixels
    alpha = picture.alpha
    if alpha.dtype.kind == "u":
        alpha = alpha / np.float32(np.iinfo(alpha.dtype).max)
    return np.concatenate([pixels, alpha[..., None]], -1)


def _samples(pixels: np.ndarray, alpha: np.ndarray | None, depth: int) -> np.ndarray:
    """Round the pixels to unsigned integers and put the untouched alpha behind them."""
    kind, top = (np.uint16, 65535) if depth == 16 else (np.uint8, 255)
    samples = np.rint(np.clip(pixels, 0, 1) * np.float32(top)).astype(kind)
    if alpha is None:
        return samples
    if alpha.dtype.kind == "f":
        alpha = np.rint(np.clip(alpha, 0, 1) * np.float32(top)).astype(kind)
    elif depth == 8:
        alpha = eight_bits(alpha)
    elif alpha.dtype == np.uint8:
        alpha = alpha * np.uint16(257)
    return np.concatenate([samples, alpha[..., None]], axis=-1)
