"""Where a run writes what it measures: JSONL, pictures, and TensorBoard where it is installed.

The methods are those of clu's metric writers, without their need for TensorFlow.
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from tdr_jax import disk
from tdr_jax.train.workdir import HPARAMS, METRICS, RESULT


class Writer(Protocol):
    """What the loop asks of a writer; the methods' names and arguments are clu's."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...
    def write_hparams(self, hparams: Mapping[str, object]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Jsonl:
    """Scalars as one JSON object a step in `metrics.jsonl`, settings in `hparams.json`.

    Args:
        workdir: the run's folder, made if it is not there.
        start: the number of finished steps the run goes on from. Later records, written by a run
            that was cut off after its last checkpoint, are dropped, and so is a broken last line;
            the record of `start` itself is opened again, so that no step is there twice.
    """

    def __init__(self, workdir, start: int = 0):
        self.path = Path(workdir) / METRICS
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_jsonl(self.path) if record["step"] <= start]
        self._record = kept.pop() if kept and kept[-1]["step"] == start else {}
        disk.write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self.path.open("r+b")
        self._file.seek(0, 2)

    def has(self, step: int, prefix: str) -> bool:
        """Whether the newest record is that of `step` and holds a name that starts so."""
        return self._record.get("step") == step and any(
            name.startswith(prefix) for name in self._record
        )

    def write_scalars(self, step, scalars):
        """Add numbers to the record of `step`, on disk at once; steps must not fall."""
        if step != self._record.get("step", step):
            self._file.write(_line(self._record))
            self._record = {}
        self._record.setdefault("step", step)
        self._record.update({name: float(value) for name, value in scalars.items()})
        self.flush()

    def write_images(self, step, images):
        """Nothing: `Panels` keeps the pictures."""

    def write_hparams(self, hparams):
        """Write the run's settings to `hparams.json`."""
        text = json.dumps(dict(hparams), indent=2, default=str) + "\n"
        disk.write_text(self.path.with_name(HPARAMS), text)

    def flush(self):
        """Put the open record on disk; it stays open, and what is added later replaces it."""
        position = self._file.tell()
        if self._record:
            self._file.write(_line(self._record))
        self._file.flush()
        self._file.seek(position)

    def close(self):
        """Put the last record on disk and close the file."""
        self.flush()
        self._file.close()


def _line(record) -> bytes:
    return json.dumps(record).encode() + b"\n"


class Panels:
    """Pictures as PNG files, `panels/<name>_<step>.png`."""

    def __init__(self, workdir):
        self.folder = Path(workdir) / "panels"

    def write_images(self, step, images):
        """Write pictures, float (H, W, 3) in [0, 1] or uint8."""
        from tdr_jax.images.files import write_rgb

        self.folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            write_rgb(self.folder / f"{name}_{step:07d}.png", image)

    def write_scalars(self, step, scalars):
        """Nothing: these are pictures."""

    def write_hparams(self, hparams):
        """Nothing: these are pictures."""

    def flush(self):
        """Nothing: every picture is on disk when `write_images` returns."""

    close = flush


class TensorBoard:
    """Event files for TensorBoard in `workdir/tensorboard`, by tensorboardX: no TensorFlow.

    Args:
        workdir: the run's folder.
        start: TensorBoard hides what an earlier run wrote for steps after this one.
    """

    def __init__(self, workdir, start: int = 0):
        with _no_torch():
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1)

    def write_scalars(self, step, scalars):
        """Write numbers."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step, images):
        """Write pictures, float (H, W, 3) in [0, 1] or uint8."""
        for name, image in images.items():
            self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def write_hparams(self, hparams):
        """Write the settings as one text."""
        self._writer.add_text("hparams", json.dumps(dict(hparams), indent=2, default=str), 0)

    def flush(self):
        """Put everything on disk."""
        self._writer.flush()

    def close(self):
        """Put everything on disk and close the file."""
        self._writer.close()


@contextlib.contextmanager
def _no_torch():
    """Hides PyTorch from tensorboardX, which imports it where it is: a second of every run."""
    hidden = {"torch": None} if "torch" not in sys.modules else {}
    sys.modules |= hidden
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class Many:
    """Several writers as one."""

    def __init__(self, writers: Sequence[Writer]):
        self.writers = tuple(writers)

    def __getattr__(self, method):
        if method.startswith("__"):
            raise AttributeError(method)

        def call(*args):
            for writer in self.writers:
                getattr(writer, method)(*args)

        return call


def make(workdir, start: int) -> tuple[Many, Jsonl | None]:
    """Everything that writes what this process measures: nothing except on process 0.

    Args:
        workdir: the run's folder.
        start: the number of finished steps.

    Returns:
        the writer, and the JSONL one in it.
    """
    if jax.process_index():
        return Many([]), None
    jsonl = Jsonl(workdir, start)
    parts = [jsonl, Panels(workdir)]
    if tensorboard_is_installed():
        parts.append(TensorBoard(workdir, start))
    return Many(parts), jsonl


def write_result(workdir, step: int, weights) -> None:
    """Write `result.json`, the last file of a run: where it is, the run is finished.

    Args:
        workdir: the run's folder.
        step: the number of finished steps.
        weights: the path of what was exported.
    """
    metrics = {}
    for record in read_jsonl(Path(workdir) / METRICS):
        metrics |= {name: value for name, value in record.items() if isinstance(value, float)}
    result = {"step": step, "weights": os.path.relpath(weights, workdir), "metrics": metrics}
    disk.write_json(Path(workdir) / RESULT, result)


def read_jsonl(path) -> list[dict]:
    """Read records of one JSON object a line.

    Args:
        path: the file; one that is not there has no records.

    Returns:
        the records in order, up to a line that was cut off while it was being written.
    """
    path = Path(path)
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def tensorboard_is_installed() -> bool:
    """Whether the extra `tensorboard` is there."""
    return importlib.util.find_spec("tensorboardX") is not None
