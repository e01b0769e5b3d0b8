"""Pictures as the floats that they are: nothing is clipped or rounded."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tdr_jax import disk
from tdr_jax.errors import InputError
from tdr_jax.images.codecs import tiff
from tdr_jax.images.codecs.raster import Extras

SUFFIXES = {".tif": "TIFF", ".tiff": "TIFF", ".npy": "NumPy"}


def write_floats(path: Path, pixels: Float32[np.ndarray, "h w c"], icc: bytes | None = None):
    """Write a picture in 32-bit floats, whole or not at all.

    Args:
        path: its suffix, one of `SUFFIXES`, chooses the format.
        pixels: of any range; 3 channels, or 1 for grey.
        icc: colour profile, for TIFF.

    Raises:
        InputError: the suffix is another, or the file cannot be written.
    """
    form = SUFFIXES.get(path.suffix.lower())
    pixels = np.ascontiguousarray(pixels, np.float32)
    buffer = BytesIO()
    if form == "NumPy":
        np.save(buffer, pixels)
    elif form == "TIFF":
        buffer.write(tiff.encode([(pixels, Extras(icc=icc))]))
    else:
        raise InputError(f"{path}: floats go into one of {' '.join(SUFFIXES)}")
    disk.write_bytes(path, buffer.getvalue())
