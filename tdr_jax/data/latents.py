"""Latent-diffusion examples: squares of pictures, example n a pure function of the seed and of n.

A square of a photograph, degraded at a resolution of its own, is shrunk twice: to what the vision
tower sees, and to what the diffusion network draws. Both are of the same window.
"""

from typing import NamedTuple

import numpy as np

from tdr_jax.data.color_jitter import jitter_colors
from tdr_jax.data.pipeline import sigma_of
from tdr_jax.data.turns import dihedral
from tdr_jax.degradations import recipes
from tdr_jax.degradations.draws import (
    CHOICES,
    JITTER,
    draw,
    example_rng,
    index_of,
    pick,
    task_rng,
)
from tdr_jax.degradations.synthesis import degrade
from tdr_jax.degradations.vocabulary import CLEAN, SYNTHESISED, TASKS
from tdr_jax.errors import InputError
from tdr_jax.text import captions

KINDS = (CLEAN, *TASKS)  # what `kind` of an example counts
WANTED = ("target", "views", "caption", "same", "pair")


class Square(NamedTuple):
    """What is drawn for a square window of a picture."""

    side: float
    row: float
    column: float


class Choices(NamedTuple):
    """What is drawn for an example, beside its degradation."""

    cut: Square
    dihedral: float  # how it is turned
    task: float
    other: float  # which side of a pair, or which degradation the other state of a view has
    view: Square
    second_view: Square
    oversample: float
    jitter: float  # whether light and colours are changed


class LatentExamples:
    """Makes the n-th example.

    Args:
        source: see `tdr_jax.data.sources`.
        data: the `data` part of a config: `tasks`, of which "clean" is one here, and their
            `weights`, for pictures that are not pairs; `sigma_range` or `sigmas`; `dihedral`;
            `cover`, the lowest and highest share of a picture's shorter side that the square takes,
            or () for a square of the pictures' own size where they are large enough, and else the
            central one of the shorter side; `oversample`, how many times finer than what is drawn
            the square is when it is degraded, at least and at most; `color_jitter`, the share of
            pictures, but pairs, whose light and colours are changed before.
        seed: int.
        wanted: "target", the picture to draw alone; "views", two overlapping crops of it for the
            vision tower, and the first once more in another state; "caption", the picture and what
            `captions.describe` says of it; "same", one degraded or clean picture both to see and to
            draw; "pair", the degraded one to see and the clean one to draw, which are the same
            where the task is "clean".
        view: side in pixels of what the vision tower sees; 0 where nothing does.
        encode: caption -> int32 token ids; for "caption".

    Raises:
        InputError: the config asks for something that cannot be made.
    """

    def __init__(self, source, data, seed, *, wanted, view=0, encode=None):
        if wanted not in WANTED:
            raise ValueError(f"no examples of kind {wanted!r}; there are {', '.join(WANTED)}")
        self.source, self.data, self.seed = source, data, seed
        self.wanted, self.view, self.encode = wanted, view, encode
        self.tasks = tuple(data.tasks)
        weights = np.asarray(data.weights, np.float64)
        fits = len(weights) == len(self.tasks) > 0
        if not fits or weights.min() < 0 or not weights.max() > 0:
            raise InputError(
                f"data.weights {tuple(data.weights)} must hold one number >= 0 for each of "
                f"data.tasks {self.tasks}, one of them above 0"
            )
        if unknown := [task for task in self.tasks if task not in (CLEAN, *SYNTHESISED)]:
            raise InputError(
                f"no task {unknown[0]!r}, given in data.tasks; use some of "
                f"{', '.join((CLEAN, *SYNTHESISED))}"
            )
        self.ways = recipes.Ways(data.recipes, self.tasks)
        self.damages = tuple(task for task in self.tasks if task != CLEAN)
        if wanted == "views" and not self.damages:
            raise InputError("data.tasks holds 'clean' alone; views need pictures in two states")
        self.edges = np.cumsum(weights) / weights.sum()
        if data.cover and not 0 < data.cover[0] <= data.cover[-1] <= 1:
            raise InputError(f"data.cover is {data.cover}; give (lowest, highest) within (0, 1]")
        if not 1 <= data.oversample[0] <= data.oversample[-1]:
            raise InputError(f"data.oversample is {data.oversample}; give (lowest, highest) >= 1")

    def __call__(self, n, size):
        """Makes example n.

        Args:
            n: int >= 0.
            size: side of the picture to draw, in pixels.

        Returns:
            dict with `kind`, int32: the place in KINDS of what was done to the picture; and
                "target" and "caption": `target`, float32 (size, size, 3) in [-1, 1];
                "caption": `ids`, int32 (T,);
                "views": `clip_image`, `clip_image_other_crop` and `clip_image_other_state`, float32
                  (view, view, 3) in [0, 1]; the last is what `clip_image` shows, clean if that is
                  degraded and degraded if it is clean;
                "same" and "pair": `clip_image` and `target`; "pair" also `clip_image_clean`.
        """
        item = self.source[index_of(self.source, self.seed, n)]
        choices = draw(Choices, example_rng(self.seed, n, CHOICES))
        paired = "degraded" in item
        pictures = (item["degraded"], item["clean"]) if paired else (item["image"],)
        pictures = self._cut(pictures, choices, size)
        how = pick(self.data.dihedral, choices.dihedral)
        pictures = [dihedral(picture.astype(np.float32) / 255, how) for picture in pictures]
        clean, kind = pictures[-1], item.get("task")
        if not paired:
            if choices.jitter < self.data.color_jitter:
                clean = jitter_colors(clean, example_rng(self.seed, n, JITTER))
            kind = kind or self.tasks[int(np.searchsorted(self.edges, choices.task, side="right"))]
            degraded = self._degrade(clean, kind, n)
        else:
            degraded = pictures[0]
            # A mixture holds both sides of a pair.
            if self.wanted != "pair" and choices.other < 0.5:
                degraded, kind = clean, CLEAN
        example = {"kind": np.int32(KINDS.index(kind))}
        if self.wanted == "views":
            if kind != CLEAN:
                other = clean
            elif paired:
                other = pictures[0]
            else:
                other = self._degrade(clean, pick(self.damages, choices.other), n)
            views = {
                "clip_image": _window(degraded, choices.view),
                "clip_image_other_crop": _window(degraded, choices.second_view),
                "clip_image_other_state": _window(other, choices.view),
            }
            return example | {name: shrink(view, self.view) for name, view in views.items()}
        target = shrink(clean if self.wanted == "pair" else degraded, size)
        example["target"] = target * np.float32(2) - np.float32(1)
        if self.wanted == "caption":
            example["ids"] = self.encode(captions.describe(target, kind))
        elif self.wanted != "target":
            example["clip_image"] = shrink(degraded, self.view)
        if self.wanted == "pair":
            example["clip_image_clean"] = shrink(clean, self.view)
        return example

    def _cut(self, pictures, choices, size):
        """One square window of all pictures, at the resolution at which it is to be degraded."""
        import cv2

        height, width = pictures[0].shape[:2]
        short = min(height, width)
        drawn = choices.cut
        if self.data.cover:
            low, high = self.data.cover[0], self.data.cover[-1]
            side = max(1, round(short * (low + (high - low) * drawn.side)))
            y, x = _corner(height, width, side, drawn)
        elif short >= size:
            side = size
            y, x = _corner(height, width, side, drawn)
        else:  # as TDR: smaller pictures give their centre
            side = short
            y, x = (height - side) // 2, (width - side) // 2
            if self.data.oversample[-1] == 1:  # degraded as they are, and enlarged afterwards
                return [picture[y : y + side, x : x + side] for picture in pictures]
        low, high = self.data.oversample[0], self.data.oversample[-1]
        wanted = round(size * low * (high / low) ** choices.oversample)
        cut = [picture[y : y + side, x : x + side] for picture in pictures]
        how = cv2.INTER_AREA if wanted < side else cv2.INTER_CUBIC
        return [cv2.resize(picture, (wanted, wanted), interpolation=how) for picture in cut]

    def _degrade(self, picture, task, n):
        if task == CLEAN:
            return picture
        if task in self.ways:
            degraded = self.ways(np.ascontiguousarray(picture), task, self.seed, n)
        else:
            rng = task_rng(self.seed, n, task)
            sigma = sigma_of(self.data, rng) if task == "noise" else None
            degraded = degrade(np.ascontiguousarray(picture), task, rng, sigma=sigma)
        # Files hold whole levels; so do the pictures that words are read from.
        return np.rint(np.clip(degraded, 0, 1) * np.float32(255)) / np.float32(255)


def shrink(picture, side):
    """Resizes a square picture as Pillow does, bicubic with antialiasing.

    Args:
        picture: float32 (H, H, 3) in [0, 1].
        side: of the result.

    Returns:
        float32 (side, side, 3) in [0, 1], of whole levels of 255 as files have them.
    """
    from PIL import Image

    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if len(levels) != side:
        image = Image.fromarray(np.ascontiguousarray(levels))
        levels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return levels.astype(np.float32) / np.float32(255)


def _window(picture, drawn):
    """A square of 60 to 100 % of the side, of a square picture."""
    side = round(len(picture) * (0.6 + 0.4 * drawn.side))
    y, x = _corner(*picture.shape[:2], side, drawn)
    return picture[y : y + side, x : x + side]


def _corner(height, width, side, drawn):
    """Where a square lies: the row and the column of its upper left corner."""
    return pick(range(height - side + 1), drawn.row), pick(range(width - side + 1), drawn.column)
