"""Restoration without a prompt: what is wrong is estimated from the picture."""

import dataclasses
import functools
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from tdr_jax import models
from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.errors import InputError
from tdr_jax.images.arrays import open_picture

MODEL = "degradation-estimator"
NOTHING = "nothing"  # what is told of a picture that shows nothing
PROMPTS = {task: f"Remove the {task}." for task in ESTIMATED}
# The least probability of what is asked for. Haze needs more: to take it from a picture without
# any costs some five times of what leaving it in does. Beside noise or rain it needs much more, as
# it is told worse there, and two degradations are rarer outside of the training.
MIN_SHARE = dict.fromkeys(ESTIMATED, 0.5) | {"haze": 0.6}
MIN_HAZE_BESIDE = 0.975
SIDE = 448  # of the windows that are looked at, the largest crop of the training
WINDOWS = 3  # of them at most along each side of a picture


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a picture shows.

    Attributes:
        shares: "noise", "rain", "haze", "blur" -> how likely it is there, each by itself.
        sigma: the noise's standard deviation on the scale of 0 to 255, should there be any.
    """

    shares: dict[str, float]
    sigma: float

    def found(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Returns what is likely there, of these tasks or all, the likeliest first."""
        found = {task for task, share in self.shares.items() if share >= MIN_SHARE[task]}
        if found & {"noise", "rain"} and self.shares["haze"] < MIN_HAZE_BESIDE:
            found.discard("haze")
        order = sorted(found, key=lambda task: -self.shares[task])
        return tuple(task for task in order if tasks is None or task in tasks)

    def __str__(self) -> str:
        """Returns a few words for people: "noise 0.99 (sigma 26), haze 0.61", or "nothing"."""
        level = f" (sigma {self.sigma:.0f})"
        return (
            ", ".join(
                f"{task} {self.shares[task]:.2f}{level if task == 'noise' else ''}"
                for task in self.found()
            )
            or NOTHING
        )


def prompts(estimate: Estimate, network: models.Network) -> tuple[str, ...]:
    """Returns a sentence for each degradation that was found and that the network can remove.

    Args:
        estimate: of the picture.
        network: what was trained for nothing in particular is asked for all that was found.
    """
    return tuple(PROMPTS[task] for task in estimate.found(network.trained_for or None))


class Estimator:
    """Looks at pictures of any size.

    Args:
        network: a `degradation-estimator`.
        params: its flat dict of parameters.

    Raises:
        InputError: the network is another one.
    """

    def __init__(self, network, params):
        import jax

        if network.kind != "DegradationEstimator":
            raise InputError(f"network {network.name} restores pictures; an estimator is needed")
        self.network, self.params = network, jax.device_put(params)
        self._moments = jax.jit(functools.partial(network.apply, method="moments"))
        self._conclude = jax.jit(functools.partial(network.apply, method="conclude"))

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike = MODEL) -> "Estimator":
        """Reads the shipped one, or the weights that a run of configs/estimator.py wrote."""
        from tdr_jax import weights

        return cls(*weights.load(name_or_path))

    def __call__(self, image: Any) -> Estimate:
        """Looks at a picture, or at nine windows spread over it where it is large.

        Args:
            image: as for `tdr_jax.infer.restorer.Restorer`.

        Returns:
            what it shows.

        Raises:
            InputError: it is no picture.
        """
        pixels, _ = open_picture(image)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        moments = [np.asarray(self._moments(self.params, w[None])) for w in self._windows(pixels)]
        logits, level = self._conclude(self.params, np.mean(moments, 0))
        shares = 1 / (1 + np.exp(-np.asarray(logits[0], np.float64)))
        return Estimate(dict(zip(ESTIMATED, map(float, shares), strict=True)), float(2 ** level[0]))

    def _windows(self, pixels: np.ndarray):
        """Yields windows of `SIDE`, or of what a smaller picture fills up to the multiple."""
        multiple = self.network.config.multiple
        sides = [min(SIDE, -(-side // multiple) * multiple) for side in pixels.shape[:2]]
        missing = [max(0, n - side) for n, side in zip(sides, pixels.shape[:2], strict=True)]
        # "symmetric", since a picture may be a single pixel wide.
        pixels = np.pad(pixels, (*((0, n) for n in missing), (0, 0)), mode="symmetric")
        for top in _starts(pixels.shape[0], sides[0]):
            for left in _starts(pixels.shape[1], sides[1]):
                yield pixels[top : top + sides[0], left : left + sides[1]]


def _starts(length: int, side: int) -> list[int]:
    """Spreads windows evenly along a side: as few as cover it, but at most `WINDOWS`."""
    count = min(WINDOWS, -(-length // side))
    return np.linspace(0, length - side, count).astype(int).tolist() if count > 1 else [0]


@functools.cache
def shipped() -> Estimator:
    """Returns the shipped one, read once."""
    return Estimator.from_pretrained()
