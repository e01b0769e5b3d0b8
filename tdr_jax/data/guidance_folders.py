"""Folders of guidance: one picture for each, or a folder of them for each level of damage.

Guidance shows what a degraded picture may look like without its damage. Drawn from the clean
picture it would show what no one has who restores: `tdr guide --degrade noise50` draws it from
what evaluation makes of the picture, into DIR/noise50/, and says so in a manifest.
"""

import contextlib
import hashlib
from pathlib import Path

from tdr_jax import disk
from tdr_jax.degradations import recipes
from tdr_jax.errors import InputError

MANIFEST = "manifest.json"  # of a folder that `tdr guide` drew


def levels(folder: str | Path, source) -> list[str]:
    """List what damage a folder has folders of guidance for.

    Args:
        folder: of guidance.
        source: of `data.sources`, with `names`; folders that its pictures lie in are no levels.

    Returns:
        names of recipes, such as "noise25", sorted.
    """
    folder = Path(folder)
    theirs = {name.split("/")[0] for name in source.names if "/" in name}
    found = []
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir() and inner.name not in theirs:
            with contextlib.suppress(InputError):
                if recipes.spell(recipes.parse(inner.name)) == inner.name:
                    found.append(inner.name)
    return found


def of_level(folder: str | Path, level: str, source) -> Path:
    """Find the guidance for a damage: in the folder of that name, or in the folder itself.

    Args:
        folder, source: see `levels`.
        level: name of a recipe.

    Raises:
        InputError: the folder has some for other damage, but none for this; or it was drawn from
            something else.
    """
    found = levels(folder, source)
    if found and level not in found:
        raise InputError(
            f"{folder} has guidance for {', '.join(found)}, but none for {level}; {_advice(level)}"
        )
    inner = Path(folder, level) if found else Path(folder)
    if found and (wrong := wrong_origin(inner, level, source)):
        raise InputError(f"{wrong}; {_advice(level)}")
    return inner


def wrong_origin(folder: str | Path, level: str, source) -> str:
    """Say that guidance was drawn from another damage, or from the clean picture itself.

    Args:
        folder: of guidance, perhaps with the manifest of `tdr guide`.
        level: the damage that it is to be for.
        source: of clean pictures.

    Returns:
        what is wrong; "" where nothing is known to be.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return ""
    said = disk.read_json(folder / MANIFEST)
    settings, files = said.get("settings"), said.get("files")
    if not isinstance(settings, dict) or not isinstance(files, dict):
        return ""
    drawn_from = settings.get("degrade")
    if drawn_from is not None:
        return "" if drawn_from == level else f"{folder} was drawn from {drawn_from}, not {level}"
    # One picture tells: a folder is drawn from one set.
    entry = next((each for each in files.values() if each.get("source") in source.names), None)
    root = getattr(source, "root", None)
    path = Path(root, entry["source"]) if root is not None and entry else None
    if path is not None and path.is_file() and "degraded" not in source[0]:
        if hashlib.sha256(path.read_bytes()).hexdigest() == entry.get("source_sha256"):
            return f"{folder} was drawn from the clean pictures, such as {path}, not from {level}"
    return ""


def _advice(level: str) -> str:
    return f"draw it: tdr guide PICTURES -o FOLDER --degrade {level}"
