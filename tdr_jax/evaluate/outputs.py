"""Scores of pictures that were restored elsewhere: files beside files, without any network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tdr_jax.data import pairs
from tdr_jax.errors import InputError
from tdr_jax.evaluate import protocols, report, scoring
from tdr_jax.evaluate.evaluators import Result
from tdr_jax.images import floats
from tdr_jax.images.files import read_picture
from tdr_jax.images.folders import list_pictures

# Names as programs give them to what they write: the input's, perhaps with a word behind it.
_BEHIND = r"(.+?)[_.-](?:restored|output|pred|out)"
RULES = (*pairs.RULES, pairs.Rule("NAME_restored and NAME", _BEHIND, r"(.+)"))


class Outputs:
    """Restored pictures, what they should be, and what they were made of.

    Args:
        pred: folder of the restored pictures: picture files, of 16 bits too, .npy, or TIFF in
            floats, as `tdr degrade --format` writes.
        target: folder of the clean ones, by the rules of `tdr_jax.data.pairs`.
        degraded: folder of the inputs, likewise, or None.

    Raises:
        InputError: a folder that is not there or empty, a restored picture without its target or
            input, or the reverse: a target that nothing was restored for.
    """

    def __init__(self, pred, target, degraded=None):
        self.root = Path(pred)
        self.pred, target_files = _listed(pred), _listed(target)
        names = list(self.pred)
        self.matching = pairs.match(names, list(target_files), RULES)
        pairs.refuse_missing(self.matching, Path(target), "target")
        self.targets = [target_files[name] for _, name in self.matching.pairs]
        self.inputs: list[Path | None] = [None] * len(names)
        if degraded is not None:
            given = _listed(degraded)
            found = pairs.match(names, list(given), RULES)
            pairs.refuse_missing(found, Path(degraded), "degraded picture")
            self.inputs = [given[name] for _, name in found.pairs]

    def __len__(self) -> int:
        return len(self.pred)

    def results(self, measure: scoring.Measure, limit: int | None = None) -> Iterator[Result]:
        """Scores the pictures in the order of their names.

        Args:
            measure: the protocol and further scores.
            limit: only the first so many.

        Raises:
            InputError: a file cannot be read, or two sizes differ.
        """
        for index, (name, path) in enumerate(self.pred.items()):
            if limit is not None and index >= limit:
                return
            paths = [path, self.targets[index], self.inputs[index]]
            pictures = [None if each is None else read(each) for each in paths]
            if not measure.protocol.whole:
                pictures = [x if x is None else protocols.center_crop(x) for x in pictures]
            restored, clean, given = _alike(pictures, paths)
            restored = np.clip(restored, 0, 1)
            after = measure(restored, clean)
            before = {} if given is None else measure(given, clean)
            scores = report.scores(name, None, after, before)
            example = protocols.Example(index, name, given, clean)
            yield Result(example, None, restored, scores)


def evaluate(
    outputs: Outputs,
    measure: scoring.Measure,
    name: str = "outputs",
    *,
    limit: int | None = None,
    each: Callable[[str, Result], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> report.Row:
    """Scores restored pictures as a row of a table.

    Args:
        outputs: see `Outputs`.
        measure: the protocol and further scores.
        name: of the row.
        limit: only the first so many pictures.
        each: called with the name and each result.
        progress: called with (name, pictures done, pictures in all).

    Raises:
        InputError: see `Outputs.results`.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; measure at least one picture")
    total = len(outputs) if limit is None else min(limit, len(outputs))
    scores = []
    for result in outputs.results(measure, limit):
        scores.append(result.scores)
        if each is not None:
            each(name, result)
        if progress is not None:
            progress(name, len(scores), total)
    return report.Row(name, tuple(scores))


def _alike(pictures, paths):
    """The pictures in one shape: grey ones have as many channels as the others."""
    channels = max(each.shape[-1] for each in pictures if each is not None)
    sizes = {each.shape[:2]: path for each, path in zip(pictures, paths, strict=True) if path}
    if len(sizes) > 1:
        told = " but ".join(f"{path} is {w}x{h}" for (h, w), path in sizes.items())
        raise InputError(f"{told}; a picture and its target have one size")
    return [
        None if each is None else np.broadcast_to(each, (*each.shape[:2], channels))
        for each in pictures
    ]


def read(path: Path) -> Float32[np.ndarray, "h w c"]:
    """A picture of any kind that `Outputs` takes, about [0, 1]; floats are not clipped.

    Raises:
        InputError: it cannot be read.
    """
    pixels = floats.read_floats(path)
    if pixels is not None:
        return pixels
    picture = read_picture(path)
    return picture.pixels[..., :1] if picture.grey else picture.pixels


def _listed(folder) -> dict[str, Path]:
    root = Path(folder)
    found = [*list_pictures(root), *(p for p in root.rglob("*.npy") if not p.name.startswith("."))]
    if not found:
        raise InputError(f"no picture in {root}; put .png, .npy or similar files there")
    return {path.relative_to(root).as_posix(): path for path in sorted(found)}
