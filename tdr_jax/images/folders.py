"""Which pictures a folder holds, and which of another folder goes with each."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

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


def partners(
    folder: str | os.PathLike, names: Iterable[str], what: str, *, flat: bool = False
) -> list[Path]:
    """Find the picture of a folder that goes with each name.

    It has that name; or that name but for the extension; or that after "no", as clean pictures of
    rain data sets do (rain-1 and norain-1); or its part before the first underscore, after which
    those of haze say what they did to a scene (0001_0.8_0.2 and 0001).

    Args:
        folder: searched with the folders in it.
        names: relative paths with forward slashes.
        what: such as "guidance", for the error.
        flat: look at the names alone, wherever they lie in the folders.

    Returns:
        a path for each name.

    Raises:
        InputError: there is no such folder, some names have no partner, which lists them, or two
            pictures differ in their extension only.
    """
    root = Path(folder)
    found: dict[str, list[Path]] = {}
    for path in list_pictures(root):
        name = path.stem if flat else path.relative_to(root).with_suffix("").as_posix()
        found.setdefault(name, []).append(path)
    matches, missing = [], []
    for name in names:
        path = PurePosixPath(PurePosixPath(name).name if flat else name)
        stems = path.stem, f"no{path.stem}", path.stem.split("_")[0] or path.stem
        keys = [str(path.with_name(stem)) for stem in stems]
        match = next((found[key] for key in keys if key in found), [])
        exact = [path for path in match if path == root / name and not flat]
        if len(match) > 1 and not exact:
            raise InputError(f"{match[0]} and {match[1]} both fit {name}; keep one of them")
        matches += exact or match
        if not match:
            missing.append(name)
    if missing:
        listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise InputError(
            f"{root}: no {what} for {listed}; give each a picture of its name, any extension, "
            "of 'no' and its name, or of what stands before its first underscore"
        )
    return matches
