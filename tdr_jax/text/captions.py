"""Captions that a program writes: the colours of a picture, place by place, and how it looks.

Stable Diffusion learnt its words from captions that people wrote. The tiny stack, which is trained
on photographs without any, learns them from these: twenty words, as many as an image is mapped to.
"""

import functools
import json
from pathlib import Path

import numpy as np

from tdr_jax.degradations.vocabulary import CLEAN, SYNTHESISED
from tdr_jax.errors import InputError

TEMPLATE = "a photo of a"
GRID = 4  # a colour for each of 4 x 4 places, row by row
LIGHT = ("dark", "dim", "dusky", "plain", "bright", "glaring")
CONTRAST = ("flat", "soft", "clear", "strong")
TEXTURE = ("smooth", "fine", "grainy", "rough", "harsh")
_STATES = ("clean", "noisy", "rainy", "hazy", "blurry")
STATE = dict(zip((CLEAN, *SYNTHESISED), _STATES, strict=True))
TOKENIZER = Path(__file__).parents[1] / "assets" / "tdr-tiny" / "tokenizer"


@functools.cache
def _colours() -> tuple[tuple[str, ...], np.ndarray]:
    """The colour names of CSS, one name a colour, and their places in CIELAB."""
    from PIL import ImageColor

    names = {}
    # By name: Pillow puts tuples in the place of the codes of colours that were asked for.
    for name in sorted(ImageColor.colormap):
        names.setdefault(ImageColor.getrgb(name)[:3], name)
    return tuple(names.values()), _lab(np.array(list(names), np.float32) / 255)


def _lab(colours):
    import cv2

    flat = np.ascontiguousarray(colours.reshape(1, -1, 3), np.float32)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(colours.shape)


def _word(words: tuple[str, ...], limits: tuple[float, ...], value: float) -> str:
    return words[int(np.searchsorted(limits, value))]


def describe(picture, state: str) -> str:
    """Writes the caption of a picture.

    Args:
        picture: float32 (H, W, 3) in [0, 1], sides of at least 4 pixels.
        state: "clean", or the degradation: "noise", "rain", "haze" or "blur".

    Returns:
        "a photo of a" and 20 words: the nearest CSS colour name (in CIELAB) of the mean colour of
        each of 4 x 4 places, row by row; then light, contrast, texture, and what is wrong with it.
    """
    height, width = picture.shape[0] // GRID * GRID, picture.shape[1] // GRID * GRID
    cells = picture[:height, :width].reshape(GRID, height // GRID, GRID, width // GRID, 3)
    names, places = _colours()
    cells = np.clip(cells.mean((1, 3)), 0, 1)
    distance = np.square(_lab(cells)[:, :, None] - places).sum(-1)
    words = [names[i] for i in distance.argmin(-1).ravel()]
    grey = picture.mean(-1)
    edges = 0.5 * (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
    words.append(_word(LIGHT, (0.1, 0.25, 0.4, 0.6, 0.8), float(grey.mean())))
    words.append(_word(CONTRAST, (0.1, 0.18, 0.26), float(grey.std())))
    words.append(_word(TEXTURE, (0.01, 0.025, 0.05, 0.1), float(edges)))
    words.append(STATE[state])
    return f"{TEMPLATE} {' '.join(words)}"


def vocabulary() -> tuple[str, ...]:
    """Returns every word that a caption can hold, once each."""
    words = (*TEMPLATE.split(), *_colours()[0], *LIGHT, *CONTRAST, *TEXTURE, *STATE.values())
    return tuple(dict.fromkeys(words))


def write_tokenizer(folder: Path) -> None:
    """Writes a CLIP tokenizer in which each word of a caption is one token.

    Other words are spelt in the pieces that these have in common, and at last in bytes. It is the
    one that ships with the tiny stack, so that runs and weights made at any time fit each other:
    byte-pair encoding (Sennrich et al. 2016) of `vocabulary` until each word was one piece.

    Args:
        folder: made if missing; gets vocab.json, merges.txt and tokenizer_config.json.

    Raises:
        InputError: the folder cannot be written.
    """
    learnt = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = ["#version: 0.2", *map(" ".join, learnt["merges"])]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    }
    files = {
        "vocab.json": json.dumps(learnt["vocab"], ensure_ascii=False),
        "merges.txt": "\n".join(merges) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
