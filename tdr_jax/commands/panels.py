"""Panels of `tdr restore`: before and after, and what guided it, under captions."""

import textwrap

import numpy as np
from jaxtyping import UInt8

from tdr_jax import images
from tdr_jax.images.arrays import open_picture

WIDTH = 3200  # of all pictures of a panel; none is higher than it is wide at most


def captions(asked: tuple[str, ...] | None, between: list, drawn: bool) -> list[str]:
    """Return what stands over the pictures of a panel.

    Args:
        asked: the sentences that the picture was restored with, if any.
        between: guidance and confidence, or nothing.
        drawn: whether the guidance was drawn.
    """
    said = " ".join(asked or ())
    if not between:
        return ["before", said or "after"]
    guides = "guidance, drawn" if drawn else "guidance"
    return ["input", guides, f"confidence {between[1].mean():.2f}", said or "output"]


def panel(pictures: list, captions: list[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Set pictures side by side under their captions, each as large as the first is shown.

    Args:
        pictures: `images.Picture`, uint8 or float in [0, 1] (H, W, 3), or a map of values in
            [0, 1], (H, W).
        captions: shortened to a line.
    """
    from PIL import Image, ImageOps

    from tdr_jax.evaluate import report

    # Floats are shown as the network sees them.
    pictures = [open_picture(p)[0] if isinstance(p, images.Picture) else p for p in pictures]
    height, width = pictures[0].shape[:2]
    scale = min(WIDTH / len(pictures) / max(height, width), 1)
    height, width = (max(round(side * scale), 1) for side in (height, width))
    shown = []
    for pixels in pictures:
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(pixels)
        if picture.size != (width, height):
            picture = ImageOps.contain(picture, (width, height))
        if picture.mode == "L":
            picture = Image.fromarray(report.heat(np.asarray(picture) / 255))
        # Room for a caption over tiny pictures.
        size = (max(width, 160), height)
        sheet = Image.new("RGB", size, "white")
        sheet.paste(picture)
        shown.append(np.asarray(sheet))
    return report.panel(shown, [textwrap.shorten(c, 36, placeholder="...") for c in captions])
