"""What guidance is worth: noisy crops of photographs, restored with guidance of several kinds."""

import functools
from pathlib import Path

import jax
import numpy as np

from tdr_jax import weights
from tdr_jax.data import guidance
from tdr_jax.data.pipeline import as_float, grown
from tdr_jax.degradations.draws import (
    CHOICES,
    DEGRADATION,
    GUIDANCE,
    Place,
    draw,
    example_rng,
    pick,
)
from tdr_jax.degradations.synthesis import gaussian_noise
from tdr_jax.errors import InputError
from tdr_jax.evaluate import metrics
from tdr_jax.models.dinov2 import most_alike

# Right guidance, a second view or another part of the same photograph; and wrong guidance, the view
# that belongs to the next photograph.
KINDS = ("view", "part", "shuffled")
EXPORTED = "weights.safetensors"  # of a run, see `objectives.base`


def load(run):
    """Loads what a run has learnt: its folder, or whatever else `weights.load` takes."""
    path = Path(run) / EXPORTED
    return weights.load(path if path.is_file() else run)


def held_out(source, *, side=256, size=384, sigma=50, seed=0):
    """Makes one noisy crop of each photograph, and guidance for it.

    Args:
        source: of at least two photographs, see `tdr_jax.data.sources`.
        side: of the crops, at a random place.
        size: side of the guidance.
        sigma: of the noise, of 255; it is neither clipped nor rounded.
        seed: of places, noise and guidance.

    Returns:
        dict of float32 arrays, all with a first axis of N photographs: `clean` and `degraded`
        (N, side, side, 3), and by kind the guidance (N, size, size, 3).

    Raises:
        InputError: there are fewer than two photographs.
    """
    if len(source) < 2:
        raise InputError("one photograph has no wrong guidance; give at least two")
    rows = []
    for i in range(len(source)):
        picture = grown(source[i]["image"], side)
        drawn = draw(Place, example_rng(seed, i, CHOICES))
        y = pick(range(picture.shape[0] - side + 1), drawn.row)
        x = pick(range(picture.shape[1] - side + 1), drawn.column)
        window = (y, x, side, side)
        clean = as_float(picture[y : y + side, x : x + side])
        rng = example_rng(seed, i, GUIDANCE)
        row = {
            "clean": clean,
            "degraded": gaussian_noise(clean, sigma, example_rng(seed, i, DEGRADATION), "float"),
            "view": guidance.view(picture, size, window, rng),
            "part": as_float(guidance.part(picture, size, window, rng)),
        }
        rows.append(row)
    found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return found | {"shuffled": np.roll(found["view"], -1, 0)}


def psnr(network, params, pictures, kind=None, selector=None):
    """Restores crops and compares them with the clean ones.

    Args:
        network: guided, or without a `kind` not; `params`, its parameters.
        pictures: from `held_out`.
        kind: of the guidance.
        selector: a Dinov2 network and its parameters, to show the network only the window of the
            guidance that this finds the most like the crop; None shows all of it.

    Returns:
        (N,) decibels.
    """
    restore = _program(network, selector and selector[0])
    frozen = selector[1] if selector else None
    found = []
    for i, (degraded, clean) in enumerate(
        zip(pictures["degraded"], pictures["clean"], strict=True)
    ):
        given = pictures[kind][i : i + 1] if kind else None
        restored = np.asarray(restore(params, frozen, degraded[None], given))
        found.append(metrics.psnr(np.clip(restored, 0, 1), clean[None])[0])
    return np.array(found)


@functools.lru_cache(maxsize=8)
def _program(network, selector):
    @jax.jit
    def restore(params, frozen, degraded, given):
        if given is None:
            return network.apply(params, degraded)
        if selector is not None:
            given = most_alike(selector, frozen, degraded, given)
        return network.apply(params, degraded, given)

    return restore
