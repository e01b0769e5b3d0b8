"""The folder of a run, on disk or in a bucket."""

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from tdr_jax import disk, distributed
from tdr_jax.errors import InputError, TryAgain
from tdr_jax.train.lock import LOCK, Lock, Unlocked

# What lies in it.
METRICS, HPARAMS, RESULT = "metrics.jsonl", "hparams.json", "result.json"
INPUTS = "inputs.json"
CHECKPOINTS, DAMAGED = "checkpoints", "damaged"
# Orbax reads and writes a bucket by itself; what is kept of frozen networks can be made again.
NOT_COPIED = (CHECKPOINTS, DAMAGED, "features")
# What a disk says that worked before: full, over its quota, broken, read-only or gone.
FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.ESTALE}


class Workdir:
    """Where a run writes, and what brings it to where it belongs.

    Logs are appended to and weights are renamed when they are whole, which buckets cannot do. So a
    run in a bucket writes to a folder on disk, and its files are copied when something is saved.

    Args:
        path: a folder, or a bucket's: gs://BUCKET/RUN.
        scratch: where the folder on disk is made for one in a bucket; by default among the
            temporary files.

    Attributes:
        local: the folder on disk.
        remote: the folder in the bucket; None where `path` is on disk.
    """

    def __init__(self, path, scratch=None):
        self.remote = epath.Path(path) if "://" in str(path) else None
        if self.remote is None:
            self.local = Path(path)
        else:
            name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
            self.local = Path(scratch or tempfile.gettempdir()) / f"tdr_jax-{name}"
        self._copied = {}

    @property
    def path(self):
        """What was given: the place to name, and to keep checkpoints in."""
        return self.local if self.remote is None else self.remote

    @contextlib.contextmanager
    def held(self) -> Iterator[Lock]:
        """Keeps other runs out while the block runs; what its disk does to the run is one line.

        Raises:
            InputError: another run is at work there, or the folder cannot be written at all.
            TryAgain: the disk failed in the middle.
        """
        lock, error = None, None
        folder = self.path
        new = not folder.exists()
        if distributed.is_lead():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = Lock(folder)
                _clear(self.local)
            except OSError as failed:
                reason = failed.strerror or failed
                error = InputError(
                    f"{self.path}: cannot be written ({reason}); give another --workdir"
                )
            except InputError as refused:
                error = refused
        if not distributed.lead_says(error is None):
            raise error or InputError(f"{self.path}: refused by process 0, which says why")
        try:
            yield lock or Unlocked()
        except OSError as failed:
            raise self._failed(failed) from failed
        except InputError as refused:  # of `disk`
            if not isinstance(refused.__cause__, OSError) or refused.__cause__.errno not in FAILING:
                raise
            raise self._failed(refused.__cause__) from refused
        finally:
            if lock:
                lock.release()
                if new:
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # which only an empty one lets happen

    def _failed(self, error: OSError) -> TryAgain:
        steps = self.path / CHECKPOINTS
        saved = []
        with contextlib.suppress(OSError):
            saved = sorted(int(entry.name) for entry in steps.iterdir() if entry.name.isdigit())
        kept = f"step {saved[-1]} is saved" if saved else "no step is saved yet"
        return TryAgain(
            f"{self.path}: {error.strerror or error}; {kept}, the same command goes on from there "
            "once the disk is well"
        )

    def pull(self) -> None:
        """Brings what an earlier run left in the bucket to the folder on disk."""
        if self.remote is None or not self.remote.exists():
            return
        for entry in _files(self.remote):
            target = self.local / entry.relative_to(self.remote)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.read_bytes())

    def push(self) -> None:
        """Copies what is new or has changed in the folder on disk to the bucket."""
        if self.remote is None:
            return
        for entry in _files(epath.Path(self.local)):
            about = entry.stat()
            state = about.length, about.mtime
            name = entry.relative_to(self.local)
            if self._copied.get(name) != state:
                target = self.remote / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(entry.read_bytes())
                self._copied[name] = state


def _clear(folder: Path) -> None:
    """Removes what a killed run was writing."""
    for partial in folder.rglob(disk.PARTIAL):
        with contextlib.suppress(OSError):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _files(folder):
    """The files of a folder and of those in it that are copied."""
    for entry in folder.iterdir():
        if not entry.is_dir():
            if entry.name != LOCK:
                yield entry
        elif not entry.name.startswith(NOT_COPIED):
            yield from _files(entry)
