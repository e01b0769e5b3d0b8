"""OpenEXR: scene-linear pictures of floats, through the library of its own project."""

import io

import numpy as np

from tdr_jax.images.codecs.quiet import silence
from tdr_jax.images.codecs.raster import Extras, Opened, Raster, Refused, check_size, straight

SIGNATURE = b"\x76\x2f\x31\x01"


def open_exr(data: bytes) -> Opened:
    """Open the first part of an EXR that has colours.

    Args:
        data: the whole file.

    Raises:
        Refused: it has no R, G and B, nor Y.
        ValueError: it is damaged.
    """
    parts = _parts(data, header_only=True)
    listed = [{channel.name: channel for channel in part.header["channels"]} for part in parts]
    index, names = _colours(listed)
    header = parts[index].header
    (left, top), (right, bottom) = header["dataWindow"]
    check_size(int(right) - int(left) + 1, int(bottom) - int(top) + 1)
    if any((listed[index][n].xSampling, listed[index][n].ySampling) != (1, 1) for n in names):
        raise Refused("its colours are subsampled; save it as RGB")

    def read(_: int) -> Raster:
        channels = _parts(data, header_only=False)[index].channels
        samples = np.stack([np.asarray(channels[n].pixels, np.float32) for n in names], -1)
        # Alpha of an EXR is multiplied in.
        return Raster(straight(samples) if names[-1] == "A" else samples, 1, linear=True)

    def extras() -> Extras:
        notes = []
        others = sum(map(len, listed)) - len(names)
        if others:
            notes.append(f"its {others} channels beside {', '.join(names)} are left out")
        if not np.array_equal(header["dataWindow"], header["displayWindow"]):
            notes.append("its display window is left out")
        if "chromaticities" in header:
            notes.append("its chromaticities are left out")
        return Extras(notes=tuple(notes))

    return Opened("EXR", 1, read, extras)


def encode(samples: np.ndarray) -> bytes:
    """Encode an EXR of floats, losslessly compressed.

    Args:
        samples: float32 (H, W, C), scene-linear: grey, grey + alpha, RGB, RGBA by C = 1, 2, 3, 4;
            alpha is multiplied in here.

    Returns:
        the file's bytes.
    """
    import OpenEXR

    names = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[samples.shape[-1]]
    if names[-1] == "A":
        alpha = samples[..., -1:]
        colour = np.where(alpha > 0, samples[..., :-1] * alpha, samples[..., :-1])
        samples = np.concatenate([colour, alpha], -1)
    planes = np.moveaxis(samples.astype(np.float32), -1, 0)
    channels = {name: np.ascontiguousarray(p) for name, p in zip(names, planes, strict=True)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = io.BytesIO()
    OpenEXR.File(header, channels, num_threads=1).write(buffer)
    return buffer.getvalue()


def _colours(listed: list[dict]) -> tuple[int, list[str]]:
    """Return the first part with colours and the names of these channels."""
    for index, channels in enumerate(listed):
        alpha = ["A"] if "A" in channels else []
        if {"R", "G", "B"} <= channels.keys():
            return index, ["R", "G", "B", *alpha]
        if "Y" in channels and not {"RY", "BY"} & channels.keys():
            return index, ["Y", *alpha]
    raise Refused("it has no channels R, G and B, nor Y alone; save one of its layers as these")


def _parts(data: bytes, header_only: bool) -> list:
    import OpenEXR

    with silence():
        file = OpenEXR.File(io.BytesIO(data), True, header_only, num_threads=1)
    if not file.parts:  # the library has said on its own why, and raised nothing
        raise ValueError("its pixels cannot be decoded")
    return file.parts
