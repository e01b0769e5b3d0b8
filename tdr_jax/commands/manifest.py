"""What a folder of drawn pictures was drawn from and with, so that a run can be taken up again."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tdr_jax import disk
from tdr_jax.errors import InputError

NAME = "manifest.json"
SHARE = 0.05  # of a run's time that may go into writing the manifest of very many pictures


@dataclasses.dataclass
class Manifest:
    """The settings of a folder and, by name, the pictures in it.

    It holds no time and no path, so that equal runs leave equal files.

    Attributes:
        folder: it lies in.
        settings: all that decides how a picture is drawn.
        files: output name -> "source" (name), "source_sha256", "sha256" (of the output), "seed".
    """

    folder: Path
    settings: dict[str, Any]
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _due: float = 0.0

    def holds(self, name: str, source: str, source_sha256: str, **more: object) -> bool:
        """Whether a finished picture of that source is there, undamaged; see `add`."""
        entry = self.files.get(name)
        if not isinstance(entry, dict):
            return False
        if (entry.get("source"), entry.get("source_sha256")) != (source, source_sha256):
            return False
        if any(entry.get(key) != value for key, value in more.items()):
            return False
        path = self.folder / name
        return path.is_file() and sha256(path) == entry.get("sha256")

    def add(self, name: str, source: str, source_sha256: str, seed: int, **more: object) -> None:
        """Takes in a picture that was written just now, with whatever else it was made of."""
        self.files[name] = {
            "source": source,
            "source_sha256": source_sha256,
            "sha256": sha256(self.folder / name),
            "seed": seed,
            **more,
        }

    def write(self, *, final: bool = True) -> None:
        """Writes the file, whole or not at all.

        Args:
            final: False leaves it be where writing would take too much of the run's time; what it
                does not say yet would be drawn again after a kill.
        """
        began = time.monotonic()
        if not final and began < self._due:
            return
        content = {"settings": self.settings, "files": dict(sorted(self.files.items()))}
        disk.write_json(self.folder / NAME, content)
        now = time.monotonic()
        self._due = now + (now - began) / SHARE


def take_up(
    folder: Path,
    settings: dict[str, Any],
    targets: Iterable[Path],
    *,
    overwrite: bool,
    remedy: str = "choose another -o, or give --overwrite to draw all anew",
) -> Manifest:
    """Opens the manifest of a folder, or begins one, and clears what a killed run left half-made.

    Args:
        folder: made if missing.
        settings: of this run.
        targets: the pictures that it is to write.
        overwrite: begin anew whatever the folder holds.
        remedy: what to do where the folder does not fit, for the error.

    Returns:
        the manifest, written; pictures of other runs with the same settings are kept in it.

    Raises:
        InputError: the folder was drawn with other settings, holds pictures that nobody vouches
            for under these names, or cannot be written; or its manifest is damaged.
    """
    manifest = Manifest(folder, settings)
    if overwrite:
        pass
    elif (folder / NAME).exists():
        said = disk.read_json(folder / NAME)
        if not all(isinstance(said.get(key), dict) for key in ("settings", "files")):
            raise InputError(f"{folder / NAME} is no manifest of this command; {remedy}")
        _compare(folder / NAME, said["settings"], settings, remedy)
        manifest.files = {k: v for k, v in said["files"].items() if (folder / k).is_file()}
    elif strangers := [path for path in targets if path.exists()]:
        raise InputError(
            f"{strangers[0]} is there already and no {NAME} says what it was drawn with; {remedy}"
        )
    for pattern in (disk.PARTIAL, f".{NAME}.*"):  # the second of runs by earlier versions
        for path in folder.rglob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()
    manifest.write()
    return manifest


def _compare(path: Path, before: dict, now: dict, remedy: str) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise InputError(
                f"{path}: was drawn with {key} {before.get(key)!r}, now it is {now.get(key)!r}; "
                f"{remedy}"
            )


def sha256(path: Path) -> str:
    """Returns the digest of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
