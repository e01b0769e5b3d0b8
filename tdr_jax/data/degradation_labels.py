"""Examples for the degradation estimator: pictures with a list of what was done to them."""

from typing import NamedTuple

import numpy as np

from tdr_jax.data.color_jitter import jitter_colors
from tdr_jax.data.pipeline import Crop, Examples, sigma_of
from tdr_jax.data.sources import views_of
from tdr_jax.degradations.draws import CHOICES, JITTER, draw, example_rng, task_rng
from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.errors import InputError

JPEG = 0.4  # share of examples that were saved as JPEG ...
QUALITY = (60, 98)  # ... and how well


class Choices(NamedTuple):
    """What is drawn for an example."""

    crop: Crop
    first: float  # which degradation
    count: float  # none, one or two
    second: float  # which other
    saved: float  # in whole levels or through JPEG
    quality: float  # of JPEG
    jitter: float  # whether light and colours are changed


class LabelledExamples(Examples):
    """Makes the n-th degraded picture of a run, and says what is in it.

    Args:
        source: of clean pictures, see `tdr_jax.data.sources`.
        data: the `data` part of a config, see `tdr_jax.data.pipeline.batches`; here `p_absent` is
            the share of pictures that stay as they are, `p_joint` that of pictures with two
            degradations, and `color_jitter` that of pictures whose light and colours are changed
            first.
        seed: int.
    """

    def __init__(self, source, data, seed):
        super().__init__(source, data, None, seed)
        if unknown := [task for task in self.makeable if task not in ESTIMATED]:
            raise InputError(
                f"data.recipes makes {unknown[0]!r}, but the estimator tells {', '.join(ESTIMATED)}"
            )
        if views_of(source) != ("image",):
            raise InputError("these pictures come in pairs; the estimator learns from clean ones")

    def __call__(self, n, size):
        """Makes example n.

        Args:
            n: int >= 0, the global number of the example.
            size: side of the square crop in pixels.

        Returns:
            dict with `degraded`, float32 (size, size, 3) in [0, 1]; `present`, float32 (4,), 1 for
            each of `ESTIMATED` that is in it; `sigma`, float32, of its noise on the scale of 0 to
            255, or 0.
        """
        choices = draw(Choices, example_rng(self.seed, n, CHOICES))
        crops, where, _ = self._crop(n, size, choices.crop)
        if choices.jitter < self.data.color_jitter:
            crops = [jitter_colors(crops[0], example_rng(self.seed, n, JITTER))]
        present = set()
        if choices.count >= self.data.p_absent:
            present.add(self._draw_task(choices.first))
            if choices.count < self.data.p_absent + self.data.p_joint:
                present.add(self._draw_task(choices.second, but=next(iter(present))))
        sigma = 0.0
        if "noise" in present:
            sigma = sigma_of(self.data, task_rng(self.seed, n, "noise"))  # as `_render` draws it
        degraded = self._render(crops[0], present, **where)
        if "noise" in present and (self.data.synthesis != "published" or "noise" in self.ways):
            # A camera's noise, JPEG and recipes have no sigma: what they changed, measured.
            before = self._render(crops[0], present - {"noise"}, **where)
            sigma = 255 * np.sqrt(np.mean((degraded - before) ** 2))
        return {
            "degraded": _as_file(degraded, choices.saved, choices.quality),
            "present": np.array([name in present for name in ESTIMATED], np.float32),
            "sigma": np.float32(sigma),
        }


def _as_file(image, saved, quality):
    """Gives a picture as it comes back from a file: in whole levels, or through JPEG.

    Without this a network might tell good pictures by their whole levels, and take JPEG for noise.
    """
    import cv2

    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if saved < JPEG:
        worst, best = QUALITY
        options = [cv2.IMWRITE_JPEG_QUALITY, int(worst + quality * (best - worst))]
        # OpenCV's order of colours differs from ours, which matters to JPEG.
        _, file = cv2.imencode(".jpg", levels[..., ::-1], options)
        levels = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]
    return levels.astype(np.float32) / np.float32(255)
