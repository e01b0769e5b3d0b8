"""What is seen of picture files: size, what tells them from others, and which show the same."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8

from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb

SIDE = 32  # of the small picture by which files are compared
# The cosine of two small pictures from which on they show the same. Over BSD400, CBSD68, Rain100H
# and PolyU the same photograph, cropped by a pixel or saved as JPEG, has 0.99 and more; two others
# have 0.58 at most.
ALIKE = 0.9
BLOCK = 4096  # small pictures that are compared at once
THREADS = 8  # decoding happens outside of Python's lock


@dataclass(frozen=True)
class Look:
    """What is seen of a picture.

    Attributes:
        size: (width, height), upright.
        content: digest of the file's bytes.
        pixels: digest of its size and pixels, at 8 bits.
        small: of unit length, or 0 where there is no detail.
    """

    size: tuple[int, int]
    content: str
    pixels: str
    small: Float16[np.ndarray, " n"]


def look(path: Path) -> Look:
    """Decodes a picture wholly and tells what is seen.

    Raises:
        InputError: it cannot be read.
    """
    picture = read_rgb(path)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    height, width = picture.shape[:2]
    pixels = hashlib.sha256(f"{width}x{height}".encode())
    pixels.update(picture)
    return Look((width, height), content, pixels.hexdigest(), small(picture))


def small(picture: UInt8[np.ndarray, "h w 3"]) -> Float16[np.ndarray, " n"]:
    """Shrinks a picture to its grey detail, which survives JPEG, noise and a cropped border.

    Returns:
        32 * 32 values of unit length; 0 where the picture is even.
    """
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    tiny = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Light and shade over the whole picture make many scenes alike: only what is finer counts.
    detail = (tiny - cv2.GaussianBlur(tiny, (0, 0), 3)).ravel()
    detail -= detail.mean()
    length = np.linalg.norm(detail)
    return (detail / length if length > 1 else 0 * detail).astype(np.float16)


def look_at(
    paths: Iterable[Path], progress: Callable[[Iterable, int], Iterable] | None = None
) -> tuple[dict[Path, Look], dict[Path, str]]:
    """Looks at many files.

    Args:
        paths: of the files.
        progress: draws a bar over an iterable of so many.

    Returns:
        what was seen of each; and of each that cannot be read, why.
    """

    def attempt(path: Path) -> Look | str:
        try:
            return look(path)
        except InputError as error:
            return str(error)

    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(attempt, paths)
        found = list(progress(found, len(paths)) if progress else found)
    seen = dict(zip(paths, found, strict=True))
    return (
        {path: what for path, what in seen.items() if isinstance(what, Look)},
        {path: what for path, what in seen.items() if isinstance(what, str)},
    )


def alike(ours: dict[Path, Look], theirs: dict[Path, Look]) -> Iterator[tuple[Path, Path, float]]:
    """Finds pictures that show the same.

    Args:
        ours, theirs: from `look_at`; where both are the same dict, each pair comes once.

    Yields:
        ours, theirs, and the cosine of their small pictures, at least `ALIKE`.
    """
    mine, others = list(ours), list(theirs)
    for first in range(0, len(mine), BLOCK):
        rows = np.stack([ours[path].small for path in mine[first : first + BLOCK]])
        for start in range(0, len(others), BLOCK):
            columns = np.stack([theirs[path].small for path in others[start : start + BLOCK]])
            cosines = rows.astype(np.float32) @ columns.astype(np.float32).T
            for i, j in zip(*np.nonzero(cosines >= ALIKE), strict=True):
                if ours is not theirs or first + i < start + j:
                    yield mine[first + i], others[start + j], float(cosines[i, j])
