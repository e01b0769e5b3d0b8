"""Files and folders that are there whole or not at all, and JSON that says what is wrong with it.

What is written lies under a hidden name beside its place until it is complete; then it is renamed.
A kill leaves no half file, only one of the hidden names, which PARTIAL matches.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tdr_jax.errors import InputError

PARTIAL = ".tdr-*.part"


def _hidden(path: Path) -> Path:
    return path.with_name(f".tdr-{os.getpid()}-{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Yields a hidden file beside each path; they take its name, in order, when all is written.

    Args:
        *paths: of one folder, which is made if missing.

    Raises:
        InputError: the folder or a file cannot be written. What was there before is still there.
    """
    partials = [_hidden(path) for path in paths]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for partial in partials:
            partial.touch(exist_ok=False)
        mode = partials[0].stat().st_mode & 0o777  # as the umask says; safetensors writes 0600
        yield partials
        for partial in partials:
            partial.chmod(mode)
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        for partial, path in zip(partials, paths, strict=True):
            os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{paths[0]}: cannot be written ({reason}); give another place") from error
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink()


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a hidden folder beside the path, which takes its place when all is written.

    Args:
        path: what it holds already is replaced.

    Raises:
        InputError: it cannot be written.
    """
    made = _hidden(path)
    try:
        made.mkdir(parents=True)
        yield made
        if path.exists():
            shutil.rmtree(path)
        made.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); give another place") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as (partial,):
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a UTF-8 file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_bytes(path, content.encode())


def write_json(path: Path, content) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Reads a JSON file that holds an object.

    Raises:
        InputError: it is missing, unreadable or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} has no {path.name}: copy it there from where the weights come from"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no table of names and values; copy it again")
    return content
