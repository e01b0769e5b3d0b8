"""What the objectives share: weighted loss terms, PSNR, and targets on a coarser grid."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Float32

from tdr_jax.nn.typing import Array
from tdr_jax.objectives import losses


def weighted(
    weights: Any, restored: Float32[Array, "b h w c"], clean: Float32[Array, "b h w c"]
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """Sum the loss terms that have a weight.

    Args:
        weights: `config.loss`: `l1`, `charbonnier`, `psnr` and `fft`; 0 leaves a term out.
        restored, clean: pictures, clean in [0, 1], restored not clipped.

    Returns:
        the sum, and a dict of the terms without their weights: always `l1`, and
        `charbonnier` and `fft` where they count. The PSNR term needs no entry beside `psnr`.
    """
    terms = {"l1": losses.l1(restored, clean)}
    total = weights.l1 * terms["l1"]
    if weights.charbonnier:
        terms["charbonnier"] = losses.charbonnier(restored, clean)
        total = total + weights.charbonnier * terms["charbonnier"]
    if weights.psnr:
        total = total + weights.psnr * losses.psnr_loss(restored, clean)
    if weights.fft:
        terms["fft"] = losses.fft_l1(restored, clean)
        total = total + weights.fft * terms["fft"]
    return total, terms


def on_every_grid(
    weights: Any,
    outputs: Sequence[Float[Array, "b _ _ c"]],
    clean: Float32[Array, "b h w c"],
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """Sum the loss of a network's pictures, each against the clean one shrunk to its grid.

    Args:
        weights: see `weighted`.
        outputs: pictures of h / f x w / f pixels for several f, that of full size first.
        clean: in [0, 1].

    Returns:
        the sum, and a dict of values of the full-size picture: the
        terms of `weighted`, and `psnr`.
    """
    outputs = [output.astype(jnp.float32) for output in outputs]
    parts = [
        weighted(weights, output, reduced(clean, clean.shape[1] // output.shape[1]))
        for output in outputs
    ]
    return sum(part for part, _ in parts), parts[0][1] | {"psnr": psnr(outputs[0], clean)}


def psnr(
    restored: Float32[Array, "b h w c"], clean: Float32[Array, "b h w c"]
) -> Float32[Array, ""]:
    """Mean over the batch of the clipped pictures' PSNR in decibels, at most 100."""
    # 1e-10 keeps a perfectly restored picture finite, at 100 dB.
    error = jnp.square(jnp.clip(restored, 0, 1) - clean).mean((-3, -2, -1))
    return (-10 * jnp.log10(error + 1e-10)).mean()


def reduced(
    pictures: Float[Array, "b h w c"], factor: int
) -> Float[Array, "b h//{factor} w//{factor} c"]:
    """Shrink pictures as torch's `F.interpolate(scale_factor=1 / factor, mode="bilinear")` does.

    Without antialiasing an output pixel is the mean of the 2x2 pixels in the middle of its
    factor x factor ones: all four of them for 2, the inner four of sixteen for 4.

    Args:
        pictures: any range, with sides that are multiples of factor.
        factor: 1, or an even number.

    Returns:
        Pictures of the same dtype.
    """
    if factor == 1:
        return pictures
    left = factor // 2 - 1
    rows = 0.5 * (pictures[:, left::factor] + pictures[:, left + 1 :: factor])
    return 0.5 * (rows[:, :, left::factor] + rows[:, :, left + 1 :: factor])
