"""Arrays of pictures as other programs leave them: the floats that they are."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tdr_jax.errors import InputError

SUFFIXES = (".npy", ".tif", ".tiff")


def read_floats(path: Path) -> Float32[np.ndarray, "h w c"] | None:
    """Read a picture of floats without rounding or clipping it.

    Args:
        path: .npy with floats (H, W) or (H, W, C), about [0, 1], or uint8 or uint16; or a TIFF.

    Returns:
        the pixels; None for a file that holds no floats, which `files.read_picture` reads.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return None
    try:
        if suffix == ".npy":
            pixels = np.load(path, allow_pickle=False)
        else:
            import tifffile

            with tifffile.TiffFile(path) as file:
                if file.pages[0].dtype.kind != "f":
                    return None
                pixels = file.asarray()
    except Exception as error:  # damaged files fail in every way that there is
        if suffix != ".npy":
            return None  # the reader of pictures says what is wrong with it
        raise InputError(f"{path}: cannot be read as an array ({error})") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
        raise InputError(
            f"{path}: holds {pixels.shape}; a picture is (H, W), (H, W, 1) or (H, W, 3)"
        )
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if pixels.dtype.kind != "f":
        raise InputError(f"{path}: holds {pixels.dtype}; give floats in [0, 1], uint8 or uint16")
    if not np.isfinite(pixels).all():
        raise InputError(f"{path}: holds NaN or infinite values")
    return pixels.astype(np.float32)
