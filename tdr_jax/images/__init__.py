"""Pictures: files in and out, and arrays of any type as float pixels."""

from tdr_jax.images.arrays import Picture
from tdr_jax.images.files import (
    SUFFIXES,
    WRITABLE,
    check_writable,
    grey_of,
    read_picture,
    read_rgb,
    write_picture,
    write_rgb,
)
from tdr_jax.images.folders import list_pictures

__all__ = [
    "SUFFIXES",
    "WRITABLE",
    "Picture",
    "check_writable",
    "grey_of",
    "list_pictures",
    "read_picture",
    "read_rgb",
    "write_picture",
    "write_rgb",
]
