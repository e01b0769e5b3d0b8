"""The other ways in which papers count PSNR and SSIM: luma, Gaussian windows, across channels.

NumPy in float64 throughout; scores of one paper's way are not those of another's.
"""

import numpy as np
from jaxtyping import Float, Float64, Num

from tdr_jax.errors import InputError

SIDE, SIGMA = 11, 1.5  # of the Gaussian window, the original paper's
# BT.601 on its "studio" scale of 16 to 235, for components in [0, 1].
STUDIO = (65.481, 128.553, 24.966)


def luma(picture: Num[np.ndarray, "*n c"], rounded: bool = False) -> Float64[np.ndarray, "*n 1"]:
    """The Y of MATLAB's `rgb2ycbcr`, of BasicSR and of most deraining tables.

    Args:
        picture: RGB, or grey, which stays as it is; on the scale of 0 to 255.
        rounded: to whole levels, as MATLAB does with uint8 pictures.

    Returns:
        On the scale of 255; of RGB within 16 to 235.

    Source: ITU-R BT.601.
    """
    picture = picture.astype(np.float64)
    if picture.shape[-1] == 1:
        return picture
    y = 16 + picture @ (np.array(STUDIO) / 255)
    return (np.floor(y + 0.5) if rounded else y)[..., None]


def gaussian_ssim(
    a: Num[np.ndarray, "h w c"], b: Num[np.ndarray, "h w c"], data_range: float
) -> float:
    """SSIM of the original MATLAB code and of BasicSR: each channel by itself.

    Args:
        a, b: pictures, both sides at least 11 pixels.
        data_range: largest minus smallest possible value.

    Returns:
        In [-1, 1]: the mean over channels and the positions where an 11x11 Gaussian window lies
        inside the picture.

    Raises:
        InputError: a side is shorter than the window.

    Source: Wang et al., IEEE TIP 2004, equation 13, sigma 1.5.
    """
    height, width = a.shape[:2]
    if min(height, width) < SIDE:
        raise InputError(
            f"SSIM needs pictures of at least {SIDE}x{SIDE} pixels, given {width}x{height}; "
            "leave small pictures out or enlarge them"
        )
    edge = SIDE // 2
    return float(_map(a, b, data_range, (0, 1))[edge:-edge, edge:-edge].mean())


def volume_ssim(
    a: Num[np.ndarray, "h w c"], b: Num[np.ndarray, "h w c"], data_range: float
) -> float:
    """SSIM of NAFNet, HINet and MATLAB's `ssim`: the channels are the depth of a volume.

    Args:
        a, b: pictures.
        data_range: largest minus smallest possible value.

    Returns:
        In [-1, 1]: the mean over every place of the volume, under an 11x11x11 Gaussian window; what
        lies beyond an edge is the edge. Higher than channel by channel, since colours are averaged.

    Source: megvii-research/NAFNet, `calculate_ssim` with `ssim3d`.
    """
    return float(_map(a, b, data_range, (0, 1, 2)).mean())


def _map(a, b, data_range: float, axes) -> Float[np.ndarray, "h w c"]:
    from scipy.ndimage import correlate1d

    a, b = a.astype(np.float64), b.astype(np.float64)
    window = np.exp(-0.5 * ((np.arange(SIDE) - SIDE // 2) / SIGMA) ** 2)
    window /= window.sum()

    def mean(values):
        for axis in axes:
            values = correlate1d(values, window, axis, mode="nearest")
        return values

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * cov + c2) / (var_a + var_b + c2)
