"""Which picture formats are read, which are written, and which are only known by name."""

from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.images.codecs import heif, tiff

WRITABLE = {  # suffix -> Pillow's format name
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".exr": "EXR",
}
ONLY_READ = (".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".mpo", ".apng", ".avifs")
SUFFIXES = frozenset({*WRITABLE, *ONLY_READ, ".heic", ".heif", ".hif"})
ANIMATED = ("PNG", "WEBP", "AVIF", "TIFF")  # written with several pictures
LOSSY = frozenset({"JPEG", "WEBP", "AVIF"})  # which have a quality
NAMES = "JPEG, PNG, WebP, TIFF, AVIF, HEIC, OpenEXR, BMP, GIF, PPM"

_RAW = (
    ".3fr .ari .arw .bay .braw .cap .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef "
    ".mos .mrw .nef .nrw .orf .pef .ptx .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
)
_KNOWN = {
    "camera raw": _RAW,
    "JPEG XL": ".jxl",
    "JPEG 2000": ".jp2 .j2k .jpf .jpx .j2c .jpc",
    "JPEG XR": ".jxr .wdp .hdp",
    "Photoshop": ".psd .psb",
    "Radiance HDR": ".hdr .pic",
    "float map": ".pfm",
    "PAM": ".pam",
    "Targa": ".tga",
    "DirectDraw surface": ".dds",
    "icon": ".ico .cur .icns",
    "QOI": ".qoi",
    "vector graphics": ".svg .svgz .eps .ai",
    "FITS": ".fits .fit",
    "DICOM": ".dcm",
    "video": ".mp4 .mov .avi .mkv .webm .m4v",
}
# suffix -> kind of picture that is not read
UNREAD = {suffix: kind for kind, suffixes in _KNOWN.items() for suffix in suffixes.split()}

_SIGNATURES = {  # first bytes of pictures that are not read -> their kind
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"II\xbc": "JPEG XR",
    b"8BPS": "Photoshop",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"PF\n": "float map",
    b"Pf\n": "float map",
    b"P7\n": "PAM",
    b"qoif": "QOI",
    b"DDS ": "DirectDraw surface",
    b"SIMPLE  =": "FITS",
    b"<svg": "vector graphics",
    b"<?xml": "vector graphics or other XML",
    b"%!PS": "vector graphics",
    b"%PDF": "PDF",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIU\0": "camera raw",
    b"IIRO": "camera raw",
    b"IIRS": "camera raw",
    b"FOVb": "camera raw",
    b"\0MRM": "camera raw",
}


def unread(head: bytes) -> str | None:
    """Tell which kind of picture a file is that is not read here.

    Args:
        head: its first bytes.

    Returns:
        such as "JPEG XL", or None if it is none that is known.
    """
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    boxes = heif.brands(head)
    if any(brand.startswith(b"crx") for brand in boxes):
        return "camera raw"
    return "video" if boxes & {b"isom", b"mp41", b"mp42", b"qt  ", b"avc1", b"M4V "} else None


def remedy(kind: str) -> str:
    """Say what to do with a kind of picture that is not read."""
    if kind == "camera raw":
        return f"{tiff.RAW}"
    return f"is {kind}, which is not read; export it as PNG, TIFF or JPEG"


def check_writable(path) -> str:
    """Return the format that a suffix names.

    Raises:
        InputError: it names none that can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise InputError(
            f"{path}: cannot write '{Path(path).suffix}' files; use one of {' '.join(WRITABLE)}"
        )
    return WRITABLE[suffix]
