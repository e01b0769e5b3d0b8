"""What frozen networks make of a run's examples, computed once and kept on disk.

Worth it where the examples of a run are few: then each is read, degraded and encoded a single time,
and a training step needs neither the vision tower nor the autoencoder.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.degradations.draws import order
from tdr_jax.errors import InputError

ROWS = 64  # examples that are encoded at once


class CachedFeatures:
    """Examples of features on disk, for `data.pipeline.stream`: n is one of `count`, shuffled.

    Args:
        folder: holds one `.npy` file an array and `about.json`; made if missing. A folder that was
            begun is gone on with.
        make: `make(m, size)`, example m as a dict of arrays.
        encode: turns a batch of examples into features, dict to dict.
        count: how many examples there are.
        size: of the examples.
        seed: of their order, another one in each epoch.
        settings: whatever decides what the features are; JSON-able.

    Raises:
        InputError: the folder holds features of other settings.
    """

    def __init__(self, folder, make, encode, count: int, size: int, seed: int, settings: dict):
        self.count, self.seed = count, seed
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._about = self.folder / "about.json"
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        self._key = f"{count} of {size} {digest.hexdigest()}"
        done = self._done()
        arrays: dict[str, np.ndarray] = {}
        for first in range(done, count, ROWS):
            # The last batch is filled up, so that one program serves all.
            rows = [make(min(m, count - 1), size) for m in range(first, first + ROWS)]
            batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            for name, values in encode(batch).items():
                values = np.asarray(values)
                if name not in arrays:
                    arrays[name] = self._open(name, values, fresh=first == 0)
                arrays[name][first : first + ROWS] = values[: count - first]
            for array in arrays.values():
                array.flush()
            self._write(min(first + ROWS, count))
        self._arrays = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(self.folder.glob("*.npy"))
        }

    def __call__(self, n: int, size: int) -> dict:
        """Returns the features of example n; `size` is that of all."""
        epoch, place = divmod(n, self.count)
        m = int(order(self.seed, epoch, self.count)[place])
        return {name: np.array(array[m]) for name, array in self._arrays.items()}

    def _open(self, name: str, values: np.ndarray, *, fresh: bool) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if not fresh:
            return np.load(path, mmap_mode="r+")
        shape = (self.count, *values.shape[1:])
        return np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)

    def _done(self) -> int:
        if not self._about.exists():
            return 0
        about = json.loads(self._about.read_text())
        if about["key"] != self._key:
            raise InputError(
                f"{self.folder} holds features of other data, networks or settings; remove it, or "
                "give another --workdir"
            )
        return about["done"]

    def _write(self, done: int) -> None:
        disk.write_json(self._about, {"key": self._key, "done": done})


def digest(params: dict) -> str:
    """Returns what tells parameters from others.

    Args:
        params: a flat dict of arrays, or dicts of them by network.

    Returns:
        the SHA-256 of names and values, in hexadecimal digits.
    """
    sha = hashlib.sha256()
    for name in sorted(params):
        value = params[name]
        sha.update(name.encode())
        if isinstance(value, dict):
            sha.update(digest(value).encode())
        else:
            sha.update(np.ascontiguousarray(value).view(np.uint8).reshape(-1))
    return sha.hexdigest()
