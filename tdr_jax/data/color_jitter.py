"""Photographs as another camera or hour would have taken them."""

import numpy as np


def jitter_colors(image, rng):
    """Gives a good picture other light, contrast and colours.

    Some hundred photographs are few to learn from how different good ones can be.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        rng: `numpy.random.Generator`.

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    shade, vivid, strong = np.exp(rng.uniform((-0.25, -0.5, -0.2), (0.25, 0.35, 0.25)))
    image = image ** np.float32(shade)
    grey = image.mean(-1, keepdims=True)
    image = (grey + (image - grey) * vivid) * np.exp(rng.uniform(-0.08, 0.08, 3))
    pivot = rng.random()
    return np.clip(pivot + (image - pivot) * strong, 0, 1).astype(np.float32)
