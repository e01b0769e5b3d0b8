"""Damage as the world makes it, by what a sentence calls it: for training.

Wider ranges than those of `synthesis`, whose streams evaluation keeps.
"""

import numpy as np

from tdr_jax.degradations import synthesis
from tdr_jax.degradations.camera import camera_noise, jpeg
from tdr_jax.degradations.vocabulary import SYNTHESISED
from tdr_jax.degradations.weather import haze, rain
from tdr_jax.errors import InputError

NOISES = ("gaussian", "camera", "jpeg")  # that one sentence asks to remove


def noise(image, rng, *, sigma, shares, mode="uint8"):
    """Adds one of the noises that a single sentence asks to remove.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        sigma: of Gaussian noise, on the scale of 0 to 255.
        shares: how often each of `NOISES` is drawn.
        mode: of Gaussian noise, see `synthesis.gaussian_noise`.

    Returns:
        float32 (H, W, C).
    """
    weights = np.asarray(shares, np.float64)
    kind = NOISES[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), "right"))]
    if kind == "gaussian":
        return synthesis.gaussian_noise(image, sigma, rng, mode)
    make = camera_noise if kind == "camera" else jpeg
    if image.shape[-1] == 1:
        return make(np.repeat(image, 3, axis=-1), rng).mean(-1, keepdims=True)
    return make(image, rng)


def degrade(
    image,
    task,
    rng,
    *,
    sigma,
    shares,
    window=None,
    shape=None,
    noise_mode="uint8",
    guide=None,
):
    """Degrades a picture, or a window of one, for a task, as `synthesis.degrade` does.

    Args:
        image: float32 (h, w, C) in [0, 1].
        task: "noise", "rain", "haze", or "blur", which is `degradations.synthesis`'s.
        rng: `numpy.random.Generator`, for instance of `draws.example_rng`.
        sigma, shares, noise_mode: see `noise`.
        window, shape, guide: see `haze`.

    Returns:
        float32 (h, w, C).

    Raises:
        InputError: for a task that cannot be synthesised.
    """
    if task == "noise":
        return noise(image, rng, sigma=sigma, shares=shares, mode=noise_mode)
    if task == "rain":
        return rain(image, rng)
    if task == "haze":
        return haze(image, rng, window=window, shape=shape, guide=guide)
    if task == "blur":
        return synthesis.motion_blur(image, rng)
    raise InputError(f"cannot make {task!r}; the degradations are {', '.join(SYNTHESISED)}")
