"""Make the damaged pictures of `examples/damaged` from the photographs in `examples/photos/test`.

    python scripts/make_examples.py

Each is the middle of a photograph, 480x320, damaged with a fixed seed; `examples/prompts.tsv`
names what was done to it.
"""

from pathlib import Path

import numpy as np

from tdr_jax import images
from tdr_jax.degradations import synthesis
from tdr_jax.degradations.draws import example_rng

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WIDTH, HEIGHT = 480, 320
SCENES = {
    "noisy_moose.png": ("moose.jpg", "noise"),
    "rainy_mountains.png": ("aitzgorri_by_aitzol_berasategi.jpg", "rain"),
    "hazy_sunset.png": ("sunset_by_aitzol_berasategi.jpg", "haze"),
}


def damage(photo: np.ndarray, task: str) -> np.ndarray:
    """Damages a float32 (H, W, 3) picture clearly, but no more than photographs come."""
    rng = example_rng(7, 0)
    if task == "noise":
        return synthesis.gaussian_noise(photo, 35, rng)
    if task == "rain":
        return synthesis.rain(photo, rng, severity=0.6)
    depth = synthesis.synthetic_depth(photo.shape[:2], rng)
    return synthesis.haze(photo, depth, airlight=0.9, beta=0.16)


def main():
    for name, (source, task) in SCENES.items():
        photo = images.read_rgb(EXAMPLES / "photos" / "test" / source)
        top, left = (photo.shape[0] - HEIGHT) // 2, (photo.shape[1] - WIDTH) // 2
        middle = photo[top : top + HEIGHT, left : left + WIDTH].astype(np.float32) / 255
        images.write_rgb(EXAMPLES / "damaged" / name, damage(middle, task))


if __name__ == "__main__":
    main()
