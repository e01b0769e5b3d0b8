"""PSNR and SSIM of one picture, or of many along any axes in front.

NumPy pictures are measured in float64 on the host; JAX arrays in float32 under ``jit`` as well.
One formula serves both: covariances are taken around the window's own mean, never as
``E[xy] - E[x]E[y]``, which in float32 would lose what SSIM measures in flat regions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array

WINDOW = 7  # side of the SSIM window, scikit-image's default and the field's


def psnr(
    a: Num[Array, "*n h w c"], b: Num[Array, "*n h w c"], data_range: float = 1.0
) -> Float[Array, "*n"] | float:
    """Peak signal-to-noise ratio in decibels, ``10 log10(range^2 / mean (a - b)^2)``, per picture.

    Args:
        a, b: pictures, float in [0, data_range]; or integers with their ``data_range`` (255 for
            uint8).
        data_range: largest minus smallest possible value.

    Returns:
        Decibels; float64 for NumPy pictures, float32 for JAX arrays; inf where they are equal.

    Raises:
        InputError: shapes differ, fewer than three axes, or integers with a range of 1.

    Source: equal to ``skimage.metrics.peak_signal_noise_ratio`` for one picture.
    """
    xp, a, b = _pictures(a, b, data_range)
    error = _picture_mean(xp.square(a - b))
    with np.errstate(divide="ignore"):
        return 10.0 * xp.log10(data_range**2 / error)


def ssim(
    a: Num[Array, "*n h w c"], b: Num[Array, "*n h w c"], data_range: float = 1.0
) -> Float[Array, "*n"] | float:
    """Structural similarity over 7x7 uniform windows, mean over positions and channels.

    ``(2 ux uy + C1)(2 vxy + C2) / ((ux^2 + uy^2 + C1)(vx + vy + C2))`` with window means u,
    sample (co)variances v (divided by n - 1), ``C1 = (0.01 R)^2``, ``C2 = (0.03 R)^2``, at the
    positions whose window lies inside the picture.

    Args:
        a, b: pictures, float in [0, data_range]; or integers with their ``data_range`` (255 for
            uint8).
        data_range: R, largest minus smallest possible value.

    Returns:
        In [-1, 1]; float64 for NumPy pictures, float32 for JAX arrays.

    Raises:
        InputError: as ``psnr``, or a side shorter than 7 pixels.

    Source: Wang et al., IEEE TIP 2004, equation 13; equal to
    ``skimage.metrics.structural_similarity(channel_axis=-1)`` computed in float64.
    """
    xp, a, b = _pictures(a, b, data_range)
    height, width = a.shape[-3:-1]
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels, given {width}x{height}; "
            "leave small pictures out or enlarge them"
        )
    mean_a, mean_b, var_a, var_b, cov = _window_moments(xp, a, b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * unbiased * cov + c2) / (unbiased * (var_a + var_b) + c2)
    return _picture_mean(luminance * structure)


def _pictures(a, b, data_range):
    """Check a pair and bring it to the floating type it is measured in."""
    xp = jnp if isinstance(a, jax.Array) or isinstance(b, jax.Array) else np
    a, b = xp.asarray(a), xp.asarray(b)
    if a.shape != b.shape:
        raise InputError(
            f"pictures to compare differ in shape: {a.shape} and {b.shape}; crop them alike"
        )
    if a.ndim < 3:
        raise InputError(f"expected pictures (..., H, W, C), given shape {a.shape}; add an axis")
    if data_range == 1 and not (
        xp.issubdtype(a.dtype, xp.floating) and xp.issubdtype(b.dtype, xp.floating)
    ):
        raise InputError(
            f"pictures are {a.dtype} and {b.dtype} with data_range 1; "
            "pass data_range=255 for uint8 or convert them to float in [0, 1]"
        )
    dtype = np.float64 if xp is np else jnp.promote_types(a.dtype, jnp.float32)
    return xp, a.astype(dtype), b.astype(dtype)


def _picture_mean(values):
    # Axis by axis: a single float32 sum over millions of pixels would lose digits.
    return values.mean(-2).mean(-2).mean(-1)


def _window_moments(xp, a, b):
    """Means, variances and covariance (divided by n) of every 7x7 window, two passes per axis.

    First within the seven pixels of a row, then across the seven rows, by the law of total
    covariance: ``cov = mean(row cov) + cov(row means)``. 14 shifts do the work of 49.
    """

    def along(axis, moments):
        size = moments[0].shape[axis] - WINDOW + 1

        def shifts(values):
            index = [slice(None)] * values.ndim
            for start in range(WINDOW):
                index[axis] = slice(start, start + size)
                yield values[tuple(index)]

        def mean(values):
            return sum(shifts(values)) / WINDOW

        mean_a, mean_b = mean(moments[0]), mean(moments[1])
        between = [xp.zeros_like(mean_a) for _ in range(3)]
        for x, y in zip(shifts(moments[0]), shifts(moments[1]), strict=True):
            x, y = x - mean_a, y - mean_b
            between = [between[0] + x * x, between[1] + y * y, between[2] + x * y]
        within = [mean(v) for v in moments[2:]] or [0.0] * 3
        return mean_a, mean_b, *(w + s / WINDOW for w, s in zip(within, between, strict=True))

    return along(a.ndim - 3, along(a.ndim - 2, (a, b)))
