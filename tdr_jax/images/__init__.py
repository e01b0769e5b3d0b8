"""Pictures: files in and out, and arrays of any type as float pixels."""

from tdr_jax.images.codecs.raster import Picture
from tdr_jax.images.files import (
    LOSSY,
    SUFFIXES,
    WRITABLE,
    Frames,
    check_writable,
    grey_of,
    keep_times,
    read_frames,
    read_picture,
    read_rgb,
    single,
    without_metadata,
    write_frames,
    write_picture,
    write_rgb,
)
from tdr_jax.images.folders import list_pictures, passed_over

__all__ = [
    "LOSSY",
    "SUFFIXES",
    "WRITABLE",
    "Frames",
    "Picture",
    "check_writable",
    "grey_of",
    "keep_times",
    "list_pictures",
    "passed_over",
    "read_frames",
    "read_picture",
    "read_rgb",
    "single",
    "without_metadata",
    "write_frames",
    "write_picture",
    "write_rgb",
]
