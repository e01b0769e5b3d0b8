"""Locks that vanish with the processes that hold them."""

import os
from pathlib import Path
from typing import IO

from tdr_jax.errors import InputError

SWEEP = "sweep.lock"  # in the sweep's folder, held by the command that starts its runs
RUN = "run.lock"  # in a run's folder, held by the run itself


def take(path: Path) -> IO[str] | None:
    """Take a lock.

    Args:
        path: the lock's file, made if it is not there and never removed.

    Returns:
        the open file. The lock is held until it is closed here and in every process that inherited
        it, however these end. None if another process holds it.

    Raises:
        InputError: this system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise InputError(
            "this system has no flock; use --launcher print and start the runs yourself"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def sign(file: IO[str], pid: int) -> None:
    """Write into a lock that is held which process it is held for."""
    file.seek(0)
    file.truncate()
    file.write(f"{pid}\n")
    file.flush()


def holder(path: Path) -> int | None:
    """The process that a lock was last signed for; None if that is not known."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def is_held(path: Path) -> bool:
    """Whether a process holds the lock; one whose file is not there is free."""
    if not path.exists():
        return False
    file = take(path)
    if file:
        file.close()
    return file is None


def take_sweep(folder: Path) -> IO[str]:
    """Take the lock of a sweep's folder.

    Args:
        folder: of the sweep, made if it is not there.

    Returns:
        the open file, signed; to be closed at the end.

    Raises:
        InputError: another sweep is at work there, or the folder cannot be written.
    """
    try:
        file = take(folder / SWEEP)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    if file is None:
        pid = holder(folder / SWEEP)
        raise InputError(
            f"{folder}: another sweep is at work there{f', process {pid}' if pid else ''}; wait "
            "until it ends, or give another --workdir"
        )
    sign(file, os.getpid())
    return file
