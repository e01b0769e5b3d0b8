"""The folder of a run, on disk or in a bucket."""

import hashlib
import tempfile
from pathlib import Path

from etils import epath

# What lies in it.
METRICS, HPARAMS, RESULT = "metrics.jsonl", "hparams.json", "result.json"
INPUTS = "inputs.json"
CHECKPOINTS, DAMAGED = "checkpoints", "damaged"
# Orbax reads and writes a bucket by itself; what is kept of frozen networks can be made again.
NOT_COPIED = (CHECKPOINTS, DAMAGED, "features")


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


def _files(folder):
    """The files of a folder and of those in it that are copied."""
    for entry in folder.iterdir():
        if not entry.is_dir():
            yield entry
        elif not entry.name.startswith(NOT_COPIED):
            yield from _files(entry)
