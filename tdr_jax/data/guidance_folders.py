"""Folders of guidance: one picture for each, or a folder of them for each level of damage.

Guidance shows what a degraded picture may look like without its damage. Drawn from the clean
picture it would show what no one has who restores: `tdr guide --degrade noise50` draws it from
what evaluation makes of the picture, into DIR/noise50/, and says so in a manifest.
"""

import contextlib
import hashlib
import itertools
from functools import partial
from pathlib import Path

from tdr_jax import disk
from tdr_jax.data.pipeline import sigma_of
from tdr_jax.data.sources import views_of
from tdr_jax.degradations import recipes
from tdr_jax.degradations.draws import task_rng
from tdr_jax.degradations.vocabulary import KINDS, MADE_IN_ORDER, SYNTHESISED
from tdr_jax.errors import InputError

MANIFEST = "manifest.json"  # of a folder that `tdr guide` drew


class Levels:
    """The damage that training makes of clean pictures, by the names of its guidance's folders.

    A level is a recipe: "noise25", "rain", "realistic_haze", "rain+noise25" where two go together.

    Args:
        data: the `data` part of a config, see `data.pipeline.batches`.
    """

    def __init__(self, data):
        self.data = data
        self.ways = recipes.Ways(data.recipes, tuple(data.tasks))
        self._there: list[str] = []

    def possible(self, of: str | None = None) -> list[str]:
        """All levels that can be drawn; of a range of sigma its ends.

        Args:
            of: the one task that the pictures serve; None for any.
        """
        weights = dict(zip(self.data.tasks, self.data.weights, strict=True))
        tasks = [task for task in MADE_IN_ORDER if weights.get(task, 0) > 0 or task == of]
        tasks = [task for task in tasks if task in SYNTHESISED or task in self.ways]
        sets = [(task,) for task in tasks if of in (None, task)]
        if self.data.p_keep_one + self.data.p_joint > 0:
            sets += [two for two in itertools.combinations(tasks, 2) if of in (None, *two)]
        return [
            "+".join(names) for each in sets for names in itertools.product(*map(self._names, each))
        ]

    def found(self, folder: Path, source) -> list[str]:
        """The levels of a folder that training needs.

        Args:
            folder: of guidance.
            source: of clean pictures, see `levels`.

        Raises:
            InputError: some are not there, or were drawn from something else.
        """
        self._there, wanted = levels(folder, source), self.possible(source[0].get("task"))
        missing = [level for level in wanted if self._nearest(level) not in self._there]
        if missing:
            raise InputError(
                f"config.guidance.path={folder} has no folder for {', '.join(missing)}, which "
                "training makes of clean pictures; guidance must be drawn from the like: "
                f"tdr guide PICTURES -o {folder} --degrade {','.join(missing)}"
            )
        used = [level for level in self._there if any(self._serves(level, w) for w in wanted)]
        for level in used:
            if wrong := wrong_origin(folder / level, level, source):
                raise InputError(f"{wrong}; {_advice(level)}")
        return used

    def drawn(self, seed: int, n: int, present) -> str:
        """The level of example n, of the folders that were found.

        Args:
            seed, n: see `draws.example_rng`.
            present: the tasks whose damage is made.
        """
        names = []
        for task in MADE_IN_ORDER:
            if task not in present:
                continue
            if task in self.ways:
                names.append(recipes.spell(self.ways.drawn(task, seed, n)))
            elif task == recipes.NOISE and self.data.synthesis == "published":
                sigma = sigma_of(self.data, task_rng(seed, n, task))
                names.append(recipes.Layer(task, float(sigma)).name)
            else:
                names += self._names(task)
        return self._nearest("+".join(names))

    def _names(self, task: str) -> list[str]:
        """The levels of a task."""
        if task in self.ways:
            return [recipes.spell(layers) for layers in self.ways.of(task)]
        realistic = f"realistic_{task}"
        if self.data.synthesis == "realistic" and realistic in KINDS:
            return [realistic]
        if task != recipes.NOISE:
            return [task]
        sigmas = self.data.sigma_range or self.data.sigmas
        return [recipes.Layer(task, float(sigma)).name for sigma in dict.fromkeys(sigmas)]

    def _serves(self, level: str, wanted: str) -> bool:
        """Whether a level is the wanted one, or of a range of sigma one of another sigma."""
        if not self.data.sigma_range:
            return level == wanted
        ours, theirs = recipes.parse(level), recipes.parse(wanted)
        return len(ours) == len(theirs) and all(
            a == b or a.kind == b.kind == recipes.NOISE for a, b in zip(ours, theirs, strict=True)
        )

    def _nearest(self, wanted: str) -> str:
        """The level that serves best, of those that are there; itself if none does."""

        def far(level: str) -> float:
            both = zip(recipes.parse(level), recipes.parse(wanted), strict=True)
            return sum(abs((a.level or 0) - (b.level or 0)) for a, b in both)

        return min(
            filter(partial(self._serves, wanted=wanted), self._there), key=far, default=wanted
        )


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
    if path is not None and path.is_file() and views_of(source) == ("image",):
        if hashlib.sha256(path.read_bytes()).hexdigest() == entry.get("source_sha256"):
            return f"{folder} was drawn from the clean pictures, such as {path}, not from {level}"
    return ""


def _advice(level: str) -> str:
    return f"draw it: tdr guide PICTURES -o FOLDER --degrade {level}"
