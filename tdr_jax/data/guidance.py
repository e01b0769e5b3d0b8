"""Guidance for an example: a second, clean picture to take detail from, as a pure function of n.

It comes from a folder, as pictures that were drawn or taken for each degraded one, or is made of
the photographs that are trained on: another view of the scene, another part of the photograph, or
another photograph, from which there is little to learn.
"""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from tdr_jax.data import guidance_folders, pairs, steady
from tdr_jax.data.pipeline import as_float, grown
from tdr_jax.data.sources import Concat, Folder, views_of
from tdr_jax.data.turns import dihedral
from tdr_jax.degradations.draws import GUIDANCE, Place, draw, example_rng
from tdr_jax.errors import InputError

KINDS = ("file", "view", "part", "other")

# How a second shot differs from the first: a slightly other distance and tilt of the camera, and
# another exposure and white balance, for each colour its own.
SCALE = (0.95, 1.05)
TILT = 3.0  # degrees, at most, to either side
GAIN = (0.85, 1.15)
GAMMA = (0.85, 1.15)


class Guidance:
    """Gives examples their guidance.

    Args:
        source: see `tdr_jax.data.sources`; with `names` where guidance comes from files.
        settings: the `guidance` part of a config: `kinds`, some of KINDS, and their `weights`;
            `size`, the side of the guidance; and of files `path`, the folder, in which
            `data.pairs.find` finds that of each picture.
        seed: int.
        cache_mb: how many MiB of decoded guidance pictures to keep.
        data: the `data` part of a config, by which clean pictures are degraded: guidance from files
            then comes from the folder of each damage, see `guidance_folders`; None where the same
            guidance goes with whatever is done. Its `on_damaged` and `check` are of guidance too.

    Raises:
        InputError: the settings do not fit, a picture has no guidance in the folder, or none that
            was drawn from the damage that is made.
    """

    def __init__(self, source, settings, seed, cache_mb=1024, data=None):
        self.source, self.size, self.seed = source, int(settings.size), seed
        self.kinds = tuple(settings.kinds)
        weights = np.asarray(settings.weights, np.float64)
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise InputError(
                f"no guidance of kind {unknown[0]!r}, given in config.guidance.kinds; use some of "
                f"{', '.join(KINDS)}"
            )
        fits = len(weights) == len(self.kinds) > 0
        if not fits or weights.min() < 0 or not weights.max() > 0:
            raise InputError(
                f"config.guidance.weights {tuple(settings.weights)} must hold one number >= 0 for "
                f"each of config.guidance.kinds {self.kinds}, one of them above 0"
            )
        self.edges = (np.cumsum(weights) / weights.sum()).tolist()
        if self.size < 1:
            raise InputError(f"config.guidance.size is {self.size}; give a side in pixels")
        if ("file" in self.kinds) != bool(settings.path):
            raise InputError(
                f"config.guidance.path is {settings.path!r}, but config.guidance.kinds are "
                f"{self.kinds}; give both a folder and the kind 'file', or neither"
            )
        if settings.path:
            folder = Folder(settings.path, cache_mb)
            self.folder = steady.of_config(folder, data or {})
            place = {path: i for i, path in enumerate(folder.paths)}
            self.levels, self.places = data and guidance_folders.Levels(data), {}
            for part in source.sources if isinstance(source, Concat) else [source]:
                for level in self._levels_of(part):
                    inner = f"{settings.path}/{level}" if level else settings.path
                    found = pairs.find(inner, part.names, "guidance")
                    self.places |= {
                        (level, name): place[path]
                        for name, path in zip(part.names, found, strict=True)
                    }

    def _levels_of(self, part):
        """The damage whose guidance a part of the source needs; "" for that of a pair."""
        if self.levels is None or views_of(part) != ("image",):
            return [""]
        return self.levels.found(self.folder.root, part)

    def __call__(self, n, index, name, picture, window, how, present=()):
        """Makes the guidance of example n.

        Args:
            n: int >= 0, the number of the example.
            index: of its picture in the source.
            name: of that picture.
            picture: uint8 or uint16 (H, W, 3), the clean photograph that the example is cut from.
            window: (y, x, h, w) of the crop in it.
            how: how the crop is turned, see `dihedral`.
            present: tasks whose damage is made of the clean picture; none of a pair's.

        Returns:
            dict with `guidance`, float32 (size, size, 3) in [0, 1], and `kind`, int32: the place of
            its kind in KINDS.
        """
        rng = example_rng(self.seed, n, GUIDANCE)
        kind = self.kinds[bisect_right(self.edges, rng.random())]
        if kind == "file":
            level = self.levels.drawn(self.seed, n, present) if self.levels and present else ""
            given = self.folder[self.places[level, name]]["image"]
            made = at_crop(given, self.size, window, picture.shape[:2])
        elif kind == "view":
            made = view(picture, self.size, window, rng)
        elif kind == "part":
            made = part(picture, self.size, window, rng)
        else:
            made = part(self._other(index, name, rng), self.size, None, rng)
        if kind != "file":
            # Matching compares small upright patches, so guidance that is not turned with its crop
            # would be of no use to seven crops of eight. TDR does leave it, and so do files here:
            # drawn guidance lies upright at test time too.
            made = dihedral(made, how)
        return {
            "guidance": np.ascontiguousarray(as_float(made)),
            "kind": np.int32(KINDS.index(kind)),
        }

    def _other(self, index, name, rng):
        """A clean picture of another name than that at `index`."""
        count = len(self.source)
        start = index + 1 + int(rng.random() * (count - 1))
        for place in range(start, start + count):  # a source may repeat its pictures
            item = self.source[place % count]
            if item["name"] != name:
                return item["clean"] if "clean" in item else item["image"]
        raise InputError(f"guidance of kind 'other' needs another picture than {name}")


class Colour(NamedTuple):
    """A number for each channel."""

    red: float
    green: float
    blue: float


class View(NamedTuple):
    """What is drawn for another view of a scene."""

    scale: float
    tilt: float
    shift: Place
    gain: Colour
    gamma: Colour


def view(picture, size, window, rng):
    """Takes the scene of a crop once more: shifted, slightly scaled and tilted, in other colours.

    Args:
        picture: uint8 or uint16 (H, W, 3).
        size: side of the result. The crop lies in it, but for its corners, where that is larger.
        window: (y, x, h, w) of the crop.
        rng: `numpy.random.Generator`.

    Returns:
        float32 (size, size, 3) in [0, 1]; beyond the picture's border its reflection.
    """
    import cv2

    drawn = draw(View, rng)
    scale = SCALE[0] * (SCALE[1] / SCALE[0]) ** drawn.scale
    tilt = np.deg2rad(TILT * (2 * drawn.tilt - 1))
    centre = []
    y, x, h, w = window
    for start, side, whole, shift in zip(
        (y, x), (h, w), picture.shape[:2], drawn.shift, strict=True
    ):
        reach = max((size - side) / 2, side / 8)
        middle = start + side / 2 + reach * (2 * shift - 1)
        room = min(size, whole) / 2
        centre.append(np.clip(middle, room, whole - room) - 0.5)
    cos, sin = scale * np.cos(tilt), scale * np.sin(tilt)
    turned = np.array([[cos, -sin], [sin, cos]])  # of (x, y), from the view to the picture
    offset = np.array(centre[::-1]) - turned @ np.full(2, (size - 1) / 2)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        np.ascontiguousarray(picture),
        np.column_stack([turned, offset]),
        (size, size),
        flags=flags,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    gain = (GAIN[0] + (GAIN[1] - GAIN[0]) * np.array(drawn.gain)).astype(np.float32)
    gamma = (GAMMA[0] + (GAMMA[1] - GAMMA[0]) * np.array(drawn.gamma)).astype(np.float32)
    return np.clip(gain * as_float(warped) ** gamma, 0, 1)


def part(picture, size, window, rng):
    """Cuts a square that does not show a crop; where there is no room, as little of it as can be.

    Args:
        picture: (H, W, 3); grown by reflection where it is smaller than the square.
        size: side of the square.
        window: (y, x, h, w) to keep away from, or None.
        rng: `numpy.random.Generator`.

    Returns:
        (size, size, 3) of the picture's type.
    """
    picture = grown(picture, size)
    rows, columns = (side - size + 1 for side in picture.shape[:2])
    y, x, height, width = window or (0, 0, 0, 0)
    # How much of the crop a square at each place shows.
    shown = [
        np.clip(np.minimum(at + size, start + side) - np.maximum(at, start), 0, None)
        for at, start, side in ((np.arange(rows), y, height), (np.arange(columns), x, width))
    ]
    shown = np.multiply.outer(*shown)
    places = np.flatnonzero(shown == shown.min())
    row, column = divmod(int(places[int(rng.random() * len(places))]), columns)
    return picture[row : row + size, column : column + size]


def at_crop(picture, size, window, shape):
    """Cuts a square at the place where a crop lies in its own picture.

    Args:
        picture: (h, w, 3), a picture of the same scene or for it, of any size.
        size: side of the square; a picture of that size is given as it is.
        window: (y, x, h, w) of the crop in a picture of `shape`, (H, W).

    Returns:
        (size, size, 3) of the picture's type.
    """
    picture = grown(picture, size)
    starts = []
    y, x, h, w = window
    for start, side, theirs, ours in zip((y, x), (h, w), shape, picture.shape[:2], strict=True):
        middle = (start + side / 2) * ours / theirs
        starts.append(int(np.clip(round(middle - size / 2), 0, ours - size)))
    y, x = starts
    return picture[y : y + size, x : x + size]
