"""Which pictures a folder holds."""

import os
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.images.files import SUFFIXES


def list_pictures(path: str | os.PathLike) -> list[Path]:
    """List the pictures of a folder and the folders in it, by suffix and without hidden ones.

    Args:
        path: a folder.

    Returns:
        paths sorted by name, the same order on every machine; links to folders are not followed.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: {'is a file' if root.exists() else 'no such folder'}")
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found, key=lambda found_path: found_path.relative_to(root).as_posix())


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
