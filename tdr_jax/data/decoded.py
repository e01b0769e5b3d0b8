"""Pictures decoded once: kept in memory up to a limit, or in files that processes map together."""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.errors import InputError

OPEN = 8192  # files mapped at a time by one process; Linux lets it have 65,530
RESCAN = 256  # pictures that a process writes before it looks how much others have written


class Memory:
    """Decoded pictures in the memory of this process, until `limit_mb` MiB are full.

    What comes later is decoded each time. Nothing is evicted: an epoch visits every picture once in
    a new order, so the picture that was used last is no likelier to come back than any other.
    """

    def __init__(self, limit_mb: float):
        self.room = int(limit_mb * 2**20)
        self.pictures: dict[Hashable, np.ndarray] = {}
        self.lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Gives a picture.

        Args:
            key: names the picture.
            decode: makes it, if it is not there.
        """
        picture = self.pictures.get(key)
        if picture is None:
            picture = decode()
            with self.lock:
                if key not in self.pictures and picture.nbytes <= self.room:
                    self.room -= picture.nbytes
                    self.pictures[key] = picture
        return picture

    def __getstate__(self):
        # A worker process starts with an empty cache: pixels are not sent through a pipe.
        return self.room + sum(picture.nbytes for picture in self.pictures.values())

    def __setstate__(self, room):
        self.__init__(0)
        self.room = room


class Mapped:
    """Decoded pictures in files, mapped into memory; all processes of a machine share them.

    The operating system keeps of them in memory what fits there. Files stay for the next run.

    Args:
        folder: to keep them in, on a local disk; made if missing.
        limit_mb: MiB in it, about; what comes later is decoded each time.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike, limit_mb: float):
        self.folder, self.limit = Path(folder), int(limit_mb * 2**20)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from error
        self.lock = threading.Lock()
        self.maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self.used, self.unseen = None, 0

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Gives a picture, read only; see `Memory.get`."""
        name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        with self.lock:
            if name in self.maps:
                self.maps.move_to_end(name)
                return self.maps[name]
        path = self.folder / name[:2] / f"{name}.npy"
        picture = self._mapped(path)
        if picture is None:
            picture = decode()
            if not self._has_room(picture.nbytes):
                return picture
            with disk.replacing(path) as (partial,), partial.open("wb") as file:
                np.save(file, picture)
            picture = self._mapped(path)
        with self.lock:
            self.maps[name] = picture
            while len(self.maps) > OPEN:
                self.maps.popitem(last=False)
        return picture

    def _mapped(self, path: Path) -> np.ndarray | None:
        with contextlib.suppress(OSError, ValueError):  # not there, or of another program
            # A plain array over the map: slices of `np.memmap` cost more than copying a crop.
            return np.asarray(np.load(path, mmap_mode="r")).view(np.ndarray)
        return None

    def _has_room(self, size: int) -> bool:
        with self.lock:
            if self.used is None or self.unseen >= RESCAN:
                files = (path.stat().st_size for path in self.folder.glob("*/*.npy"))
                self.used, self.unseen = sum(files), 0
            if self.used + size > self.limit:
                return False
            self.used, self.unseen = self.used + size, self.unseen + 1
            return True

    def __getstate__(self):
        return self.folder, self.limit / 2**20

    def __setstate__(self, state):
        self.__init__(*state)


def open_store(data) -> Memory | Mapped:
    """Opens what keeps decoded pictures.

    Args:
        data: config with `decoded`, a folder, or "" for the memory of each process; and `cache_mb`,
            its limit.
    """
    folder = data.get("decoded", "")
    return Mapped(folder, data.cache_mb) if folder else Memory(data.cache_mb)
