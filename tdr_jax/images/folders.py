"""Which pictures a folder holds."""

import os
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.images.codecs.formats import SUFFIXES, UNREAD


def list_pictures(path: str | os.PathLike) -> list[Path]:
    """List the pictures of a folder and the folders in it, by suffix and without hidden ones.

    Args:
        path: a folder.

    Returns:
        paths sorted by name, the same order on every machine; links to folders are not followed.

    Raises:
        InputError: there is no such folder.
    """
    return _walked(path)[0]


def passed_over(path: str | os.PathLike) -> dict[str, list[Path]]:
    """List what `list_pictures` passes over.

    Args:
        path: a folder.

    Returns:
        kind of picture that is not read ("camera raw", "JPEG XL", ...) -> its files; "" for those
        that are no pictures by their names.

    Raises:
        InputError: there is no such folder.
    """
    kinds: dict[str, list[Path]] = {}
    for found in _walked(path)[1]:
        kinds.setdefault(UNREAD.get(found.suffix.lower(), ""), []).append(found)
    return kinds


def listed(folder: str | os.PathLike) -> dict[str, Path]:
    """Lists the pictures of a folder by their names, relative paths with forward slashes.

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a folder of pictures")
    found = {path.relative_to(root).as_posix(): path for path in list_pictures(root)}
    if not found:
        raise InputError(f"no picture in {root}; put .png, .jpg or similar files there")
    return found


def _walked(path: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """Return the pictures and the other files of a folder, sorted by name."""
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: {'is a file' if root.exists() else 'no such folder'}")
    found: tuple[list[Path], list[Path]] = ([], [])
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                found[Path(name).suffix.lower() not in SUFFIXES].append(Path(folder, name))
    for paths in found:
        paths.sort(key=lambda found_path: found_path.relative_to(root).as_posix())
    return found
