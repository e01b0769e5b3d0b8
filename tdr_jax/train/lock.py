"""One run at a time in a folder, on disk, on a disk that hosts share, or in a bucket.

Whoever holds the folder writes a file there again and again. Whoever finds one watches it: a file
that changes belongs to a run that is alive, one that does not to a run that was killed. Clocks of
hosts are not compared, and of a process of this host it is seen at once whether it is there.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from tdr_jax import disk
from tdr_jax.errors import InputError, TryAgain

LOCK = "running.json"
BEAT = 5.0  # seconds between two signs of life
PATIENCE = 30.0  # seconds without one after which a run of another host is taken for dead
SETTLE = 0.2  # seconds in which whoever found a folder free at the same time has written


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a folder; each sign of life has another `beat`."""

    token: str
    host: str
    pid: int
    started: str  # when its process began, as its system tells it: numbers of processes come again
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Whether it was a process of this host, and is no more."""
        return self.host == socket.gethostname() and _started(self.pid) != self.started


class Lock:
    """A folder that is held until it is released.

    Args:
        folder: of a run: a `pathlib.Path`, or an `epath.Path` in a bucket; there already.
        beat, patience: see BEAT and PATIENCE.

    Attributes:
        lost_to: who took the folder over while this process stood still; None if nobody did.

    Raises:
        InputError: another run is alive there.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder, *, beat: float = BEAT, patience: float = PATIENCE):
        self._path = folder / LOCK
        pid = os.getpid()
        self._me = Holder(secrets.token_hex(8), socket.gethostname(), pid, _started(pid))
        self.lost_to = None
        other = self._read()
        if other and not other.is_dead() and self._is_alive(other, beat, patience):
            raise InputError(
                f"{folder}: another run is at work there, {other}; wait until it ends, or give "
                "another --workdir"
            )
        self._write(self._me)
        time.sleep(min(beat, SETTLE))  # of two that found it free the later one has it
        if not self._is_mine(found := self._read()):
            raise InputError(f"{folder}: another run began there just now, {found}; wait for it")
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Leave the folder to whoever took it over.

        Raises:
            TryAgain: somebody did.
        """
        if self.lost_to:
            raise TryAgain(
                f"{self._path.parent}: {self.lost_to} took this run over while this process stood "
                "still; it leaves"
            )

    def release(self) -> None:
        """Give the folder free."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                self._path.unlink()

    def _beat(self, beat: float) -> None:
        number = 0
        while not self._released.wait(beat):
            number += 1
            # A disk that is full or away for a while says so where something is saved.
            with contextlib.suppress(OSError, InputError):
                found = self._read()
                if found and not self._is_mine(found):
                    self.lost_to = found
                    return
                self._write(dataclasses.replace(self._me, beat=number))

    def _is_alive(self, other: Holder, beat: float, patience: float) -> bool:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(min(beat, patience) / 5)
            found = self._read()
            if found is None or found.is_dead():
                return False
            if found != other:
                return True
        return False

    def _is_mine(self, found: Holder | None) -> bool:
        return found is not None and found.token == self._me.token

    def _read(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._path.read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return None  # none, or one that a full disk cut off

    def _write(self, holder: Holder) -> None:
        text = json.dumps(dataclasses.asdict(holder))
        if isinstance(self._path, Path):
            disk.write_text(self._path, text)
        else:
            self._path.write_text(text)  # a bucket shows whole files only


class Unlocked:
    """What the other processes of a run have: the first one holds the folder for all."""

    def check(self) -> None:
        """Nothing: the first process leaves, and the others with it."""


def _started(pid: int) -> str:
    """When a process began; "" if there is none, "?" where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"
