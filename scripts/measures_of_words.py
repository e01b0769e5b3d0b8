"""Whether words say what is in a picture, and whether restored words say it better."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tdr_jax.data import latents
from tdr_jax.degradations.draws import example_rng

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with the 95 % interval of the bootstrap over pictures."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(values, seed: int = 0) -> Estimate:
    """Estimates a mean.

    Args:
        values: one number for each picture.
        seed: of the bootstrap.

    Returns:
        the mean, and the 2.5 and 97.5 percentiles of the means of resampled pictures.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picked].mean(1), (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high))


def feature_distance(guide) -> Callable:
    """The distance of what pictures look like to a guide's vision tower: 1 - cosine, (B,)."""

    def distance(pictures, others):
        return 1 - (guide.features(pictures) * guide.features(others)).sum(-1)

    return distance


def rank(distances: Callable, drawn, sources, *, among: int = 20, seed: int = 0) -> np.ndarray:
    """Counts for each drawn picture the photographs that are as much like it as its source is.

    Args:
        distances: `(pictures, others) -> (B,)`, the smaller the more alike.
        drawn: (N, H, W, 3), picture i drawn from source i.
        sources: (N, H, W, 3), of different photographs.
        among: how many photographs, the source and `among - 1` random others.
        seed: of the others.

    Returns:
        int (N,): how many of the others are not further away than the source; 0 where the source is
        found, (among - 1) / 2 by chance.
    """
    count = len(sources)
    if among > count:
        raise ValueError(f"{among} photographs are to choose from, but there are {count}")
    ranks = []
    for i in range(count):
        others = np.delete(np.arange(count), i)
        chosen = example_rng(seed, i).choice(others, among - 1, replace=False)
        pictures = sources[np.concatenate([[i], chosen])]
        found = distances(np.broadcast_to(drawn[i], pictures.shape), pictures)
        ranks.append((found[1:] <= found[0]).sum())
    return np.asarray(ranks)


def words_error(said, wanted) -> np.ndarray:
    """Mean squared distance between the words of pictures: (N, W, C) twice -> (N,)."""
    return np.square(np.asarray(said, np.float64) - wanted).mean((-2, -1))


def held_out(
    pictures: Sequence[np.ndarray], kinds: Sequence[str], *, side: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Degrades the central square of every photograph.

    Args:
        pictures: uint8 (H, W, 3), of any size.
        kinds: of the degradations: "noise15", "noise25" or another level, "rain", "haze", "blur".
        side: to which squares are resized before they are degraded.
        seed: of the degradations.

    Returns:
        kind -> uint8 (N, side, side, 3); "clean" among them.
    """
    from tdr_jax.degradations.synthesis import degrade
    from tdr_jax.infer.guide import central_square

    clean = [central_square(picture, side) for picture in pictures]
    found = {"clean": np.stack(clean)}
    for number, kind in enumerate(kinds):
        task = "noise" if kind.startswith("noise") else kind
        sigma = float(kind.removeprefix("noise")) if task == "noise" else None
        rows = []
        for i, picture in enumerate(clean):
            rng = example_rng(seed, i, 1 + number)
            degraded = degrade(picture.astype(np.float32) / 255, task, rng, sigma=sigma)
            rows.append(np.rint(np.clip(degraded, 0, 1) * 255).astype(np.uint8))
        found[kind] = np.stack(rows)
    return found


def shrunk(pictures, side: int) -> np.ndarray:
    """uint8 (N, H, H, 3) -> float32 (N, side, side, 3) in [0, 1], as `latents.shrink` does."""
    return np.stack(
        [latents.shrink(picture.astype(np.float32) / 255, side) for picture in pictures]
    )
