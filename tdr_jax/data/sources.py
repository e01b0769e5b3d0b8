"""Random-access sources of pictures: a folder, arrays in memory, pairs of folders, and their sum.

A source has `len(source)` and `source[i]`, a dict with `name` and either `image`, a clean picture
that the pipeline degrades itself, or `degraded` and `clean`. Pictures are uint8 (H, W, 3); those of
`DualPixel` may be uint16 and its degraded ones have six channels. The key `task`, where there is
one, says what the example is for. `source.names` lists every name at least once; `source.files`,
where pictures are files, the paths of each example's.
"""

import importlib
import logging
import os
from pathlib import Path

import numpy as np

from tdr_jax.data import decoded, pairs
from tdr_jax.errors import InputError
from tdr_jax.images.arrays import open_picture
from tdr_jax.images.files import read_picture, read_rgb
from tdr_jax.images.folders import listed

_log = logging.getLogger(__name__)


def decode(where, content=None, deep=False):
    """Decodes a picture.

    Args:
        where: its path, or what stands for it in errors.
        content: its file's bytes, where they are at hand.
        deep: 16 bits stay uint16, and floats are rounded to them.

    Returns:
        uint8 or uint16 (H, W, 3).

    Raises:
        InputError: the picture cannot be read.
    """
    if not deep:
        return read_rgb(where, content)
    picture = read_picture(where, content)
    pixels, _ = open_picture(picture)  # floats as a screen shows them
    kind = np.uint8 if picture.depth == 8 else np.uint16
    return np.rint(pixels * np.float32(np.iinfo(kind).max)).astype(kind)


class _Files:
    """Picture files, decoded once by a store of `data.decoded`."""

    def __init__(self, store, deep=False):
        self.store, self.deep = store, deep

    def read(self, path):
        key = str(path)
        if isinstance(self.store, decoded.Mapped):  # which outlives a file's content
            stat = os.stat(path)
            key = os.path.abspath(path), stat.st_size, stat.st_mtime_ns, self.deep
        return self.store.get(key, lambda: decode(path, deep=self.deep))


def item(views, name, task, where):
    """Makes an item of decoded pictures.

    Args:
        views: `image`; `degraded` and `clean`; or `left`, `right` and `clean`, which become
            `degraded`, of six channels, and `clean`.
        name: of the item.
        task: what it is for, or None.
        where: {view: its place, for errors}, or the place of all.

    Returns:
        see the head of this file.

    Raises:
        InputError: sizes, or depths of two views, differ.
    """
    at = where if isinstance(where, dict) else {view: f"{where} {view}" for view in views}
    first = next(iter(views))
    for view, picture in views.items():
        if picture.shape != views[first].shape:
            raise InputError(
                f"{at[first]} is {_size(views[first])} but {at[view]} is {_size(picture)}; "
                "a pair must have one size"
            )
    if "left" in views:
        left, right = views["left"], views["right"]
        if left.dtype != right.dtype:
            raise InputError(
                f"{at['left']} is {left.dtype} but {at['right']} is {right.dtype}; views pair up"
            )
        views = {"degraded": np.concatenate([left, right], axis=-1), "clean": views["clean"]}
    item = views | {"name": name}
    # A pair says even that it is for no task in particular.
    return item if task is None and "image" in views else item | {"task": task}


def _size(picture):
    return f"{picture.shape[1]}x{picture.shape[0]}"


class Folder:
    """The pictures of a folder and of its subfolders, in sorted order.

    Args:
        path: the folder.
        cache_mb: how many MiB of decoded pictures to keep in memory.
        task: the only task these pictures serve, such as "noise"; None leaves it to the pipeline.

    Raises:
        InputError: if the folder is missing or holds no picture; at `[i]`, if a file is unreadable.
    """

    views = ("image",)

    def __init__(self, path, cache_mb=1024, task=None, store=None):
        self.root, self.task, found = Path(path), task, listed(path)
        self.names, self.paths = list(found), list(found.values())
        self._files = _Files(store or decoded.Memory(cache_mb))

    @property
    def files(self):
        return [(path,) for path in self.paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path, name = self.paths[index], self.names[index]
        return item({"image": self._files.read(path)}, name, self.task, str(path))


class Pictures:
    """Pictures that are in memory already.

    Args:
        pictures: a sequence of uint8 (H, W, 3) arrays, of any sizes.
        task: as for `Folder`.

    Raises:
        InputError: if there is none, or one is of another type or shape.
    """

    views = ("image",)

    def __init__(self, pictures, task=None):
        self.pictures, self.task = list(pictures), task
        if not self.pictures:
            raise InputError("the list of pictures is empty; give at least one")
        for i, picture in enumerate(self.pictures):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise InputError(
                    f"picture {i} is {picture.dtype} {picture.shape}; give uint8 (H, W, 3)"
                )

    @property
    def names(self):
        return [str(i) for i in range(len(self.pictures))]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return item({"image": self.pictures[index]}, str(index), self.task, "")


# Colour photographs that come inside the package itself: no download.
PACKAGES = {"skimage": ("astronaut", "chelsea", "coffee", "rocket")}


def package_pictures(package="skimage", task=None):
    """Gives the photographs that an installed package carries, as a source.

    Args:
        package: "skimage", scikit-image's sample photographs.
        task: as for `Folder`.

    Raises:
        InputError: if the package is not known or not installed.
    """
    if package not in PACKAGES:
        raise InputError(f"no pictures are known in package {package!r}; use {', '.join(PACKAGES)}")
    try:
        data = importlib.import_module(f"{package}.data")
    except ImportError as error:
        raise InputError(f"{package} is not installed: pip install scikit-image") from error
    return Pictures([getattr(data, name)() for name in PACKAGES[package]], task)


class Pairs:
    """Degraded pictures and their clean ones.

    Args:
        degraded_dir, clean_dir: folders, matched by `data.pairs`; clean pictures that belong to no
            degraded one are told to the log.
        task: what separates the two, such as "rain".
        cache_mb: how many MiB of decoded pictures to keep in memory.
        store: keeps them instead, see `data.decoded`.

    Raises:
        InputError: see `pairs.of_folders`; at `[i]`, if a file is unreadable or two sizes differ.
    """

    views = ("degraded", "clean")

    def __init__(self, degraded_dir, clean_dir, task, cache_mb=1024, store=None):
        paths, matching = pairs.of_folders(degraded_dir, clean_dir)
        self._fill(paths, matching, clean_dir, task, store or decoded.Memory(cache_mb))

    @classmethod
    def inside(cls, folder, task, cache_mb=1024, store=None):
        """Opens a folder that holds both sides, see `pairs.split`; None for one that does not."""
        sides = pairs.split(folder)
        if sides is None:
            return None
        matching = pairs.match(list(sides.degraded), list(sides.clean))
        pairs.refuse_missing(matching, Path(folder), "clean picture")
        if sides.neither:
            told = pairs.shown([path.name for path in sides.neither])
            first = next(iter(sides.degraded.values())).relative_to(folder)
            if first.parts[0].casefold() not in pairs.DEGRADED_FOLDERS:
                raise InputError(
                    f"{folder} holds degraded pictures, in {first.parent}, beside {told}; give "
                    "the folder right above degraded/ and clean/, or one of clean pictures only"
                )
            _log.warning("%s: %d of neither side: %s", folder, len(sides.neither), told)
        paths = [(sides.degraded[one], sides.clean[other]) for one, other in matching.pairs]
        made = cls.__new__(cls)
        made._fill(paths, matching, folder, task, store or decoded.Memory(cache_mb))
        return made

    def _fill(self, paths, matching, clean_dir, task, store):
        self.paths, self.matching, self.task = paths, matching, task
        self.names = [name for name, _ in matching.pairs]
        self._files = _Files(store)
        if line := pairs.left_over(matching, clean_dir):
            _log.warning(line)

    @property
    def files(self):
        return self.paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        paths = dict(zip(("degraded", "clean"), self.paths[index], strict=True))
        views = {view: self._files.read(path) for view, path in paths.items()}
        return item(views, self.names[index], self.task, paths)


class DualPixel:
    """The two views of a dual-pixel sensor, from two folders, and the clean pictures of a third.

    Args:
        left_dir, right_dir: folders of the views.
        clean_dir: folder of the clean pictures; `data.pairs` finds the one of each left view, and
            its right one.
        task: what separates them, such as "blur".
        cache_mb: how many MiB of decoded pictures to keep in memory.

    The degraded picture has six channels, left before right. Files of 16 bits keep them, as the
    Dual-Pixel Defocus Deblurring data set's do.

    Raises:
        InputError: see `pairs.of_folders`; a view has no partner; at `[i]`, if a file is unreadable
            or two sizes or depths differ.
    """

    views = ("left", "right", "clean")

    def __init__(self, left_dir, right_dir, clean_dir, task, cache_mb=1024, store=None):
        self.root, self.task = Path(left_dir), task
        self.paths, self.matching = pairs.of_folders(left_dir, clean_dir)
        views, others = pairs.of_folders(left_dir, right_dir, pairs.VIEWS, "right view")
        if others.left_over:
            alone = pairs.shown(others.left_over)
            raise InputError(f"{right_dir}: no left view in {left_dir} for {alone}; views pair up")
        if line := pairs.left_over(self.matching, clean_dir):
            _log.warning(line)
        self.right = [right for _, right in views]
        self._files = _Files(store or decoded.Memory(cache_mb), deep=True)

    @property
    def names(self):
        return [path.relative_to(self.root).as_posix() for path, _ in self.paths]

    @property
    def files(self):
        return [
            (left, right, clean)
            for (left, clean), right in zip(self.paths, self.right, strict=True)
        ]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path, clean_path = self.paths[index]
        paths = {"left": path, "right": self.right[index], "clean": clean_path}
        views = {view: self._files.read(path) for view, path in paths.items()}
        return item(views, path.relative_to(self.root).as_posix(), self.task, paths)


class Concat:
    """Several sources as one, each repeated a number of times per epoch.

    Args:
        *parts: (source, repeats) with repeats >= 1; for the reference's epoch of 158,431 examples
            (noise pictures, 9), (rain pairs, 200), (haze pairs, 1).
    """

    def __init__(self, *parts):
        self.sources = [source for source, _ in parts]
        self.ends = np.cumsum([len(source) * repeats for source, repeats in parts])

    @property
    def views(self):
        return views_of(self.sources[0])

    @property
    def names(self):
        return [name for source in self.sources for name in source.names]

    @property
    def files(self):
        return [paths for source in self.sources for paths in getattr(source, "files", ())]

    def __len__(self):
        return int(self.ends[-1])

    def __getitem__(self, index):
        part = int(np.searchsorted(self.ends, index, side="right"))
        source = self.sources[part]
        start = self.ends[part - 1] if part else 0
        return source[int(index - start) % len(source)]


def views_of(source):
    """Tells what an example of a source holds, without decoding any where the source says.

    Returns:
        ("image",), ("degraded", "clean") or ("left", "right", "clean").
    """
    if hasattr(source, "views"):
        return source.views
    first = source[0]
    if "degraded" not in first:
        return ("image",)
    return Pairs.views if first["degraded"].shape[-1] == 3 else DualPixel.views


def name_groups(source):
    """Lists the names of a source set by set, for what goes by a rule of a whole set."""
    return [part.names for part in source.sources] if isinstance(source, Concat) else [source.names]
