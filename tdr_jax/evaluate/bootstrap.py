"""How far a mean over so many pictures can be trusted."""

import numpy as np

from tdr_jax.evaluate.report import Row

DRAWS = 2000


def interval(row: Row, name: str, seed: int = 0, share: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of a row's mean.

    Args:
        row: of at least one picture.
        name: of the score, a field of `report.Scores`.
        seed: of the draws; equal rows have equal intervals.
        share: of the resampled means that lie within.

    Returns:
        The bounds; both infinite where a score is.

    Source: Efron, Annals of Statistics 1979.
    """
    values = np.array([getattr(score, name) for score in row.scores], np.float64)
    if not np.isfinite(values).all():
        return float("inf"), float("inf")
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
