"""PGM and PPM of more than 8 bits, which Pillow cuts down to 8."""

import re

import numpy as np

from tdr_jax.images.codecs import modes
from tdr_jax.images.codecs.raster import Extras, Opened, Raster, check_size

_FIELD = rb"(?:\s|#[^\n\r]*[\n\r])+(\d{1,9})"
_HEADER = re.compile(rb"P([2356])" + _FIELD * 3 + rb"\s")


def open_netpbm(data: bytes) -> Opened:
    """Open a PBM, PGM, PPM or PAM.

    Args:
        data: the whole file.

    Source: netpbm's pgm(5), ppm(5): samples of a maximum over 255 take two bytes, high one first.
    """
    header = _HEADER.match(data[:4096])
    kind, width, height, most = map(int, header.groups()) if header else (0, 0, 0, 0)
    if not 255 < most < 65536:
        image, *_ = modes.open_image(data, ("PPM",))
        return Opened("PPM", 1, lambda index: modes.frame(image), Extras)
    check_size(width, height)

    def read(index: int) -> Raster:
        count = width * height * (3 if kind in (3, 6) else 1)
        body = data[header.end() :]
        if kind in (5, 6):
            samples = np.frombuffer(body, ">u2", count)
        else:
            samples = np.array(re.sub(rb"#[^\n\r]*", b"", body).split()[:count], np.int64)
        if samples.size < count or samples.max() > most or samples.min() < 0:
            raise ValueError("it has too few samples, or some above its maximum")
        samples = (samples.astype(np.uint32) * 65535 + most // 2) // most
        return Raster(samples.astype(np.uint16).reshape(height, width, -1))

    return Opened("PPM", 1, read, Extras)
