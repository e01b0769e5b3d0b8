"""How natural a picture looks by itself: NIQE (Mittal, Soundararajan and Bovik, IEEE SPL 2013)."""

import functools

import numpy as np
from jaxtyping import Float, Float64

from tdr_jax.errors import InputError
from tdr_jax.evaluate import variants

PACKAGED = ("basicsr", "metrics/niqe_pris_params.npz")
BLOCK = 96  # pixels a side, as the parameters were estimated
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours whose products are looked at
REMEDY = (
    "give niqe_pris_params.npz of the package basicsr 1.4.2 (pip download --no-deps --no-binary "
    ":all: basicsr, in basicsr/metrics/)"
)


class Niqe:
    """The distance of pictures from natural ones; lower is better.

    Args:
        path: `niqe_pris_params.npz` of BasicSR, which holds the mean and covariance of natural
            pictures' statistics, from the authors' release, and the smoothing window.

    Raises:
        InputError: the file is not there, or holds something else.
    """

    def __init__(self, path):
        try:
            with np.load(path, allow_pickle=False) as held:
                names = "mu_pris_param", "cov_pris_param", "gaussian_window"
                self._mean, self._cov, self._window = (
                    held[name].astype(np.float64) for name in names
                )
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file: {REMEDY}") from error
        except Exception as error:  # a damaged archive fails in every way that there is
            raise InputError(f"{path} holds no parameters of NIQE ({error}): {REMEDY}") from error
        shapes = self._mean.size, self._cov.shape, self._window.shape
        if shapes != (36, (36, 36), (7, 7)):
            raise InputError(f"{path} holds no parameters of NIQE, but {shapes}: {REMEDY}")

    def __call__(self, picture: Float[np.ndarray, "h w c"]) -> float:
        """Measures a picture by the luma of its whole blocks of 96x96 pixels.

        Args:
            picture: RGB or grey, in [0, 1]; at least two blocks.

        Returns:
            About 2 (natural) to 20.

        Raises:
            InputError: the picture has fewer than two blocks.
        """
        levels = np.rint(np.clip(picture, 0, 1) * np.float32(255))
        # float32 between the steps, whole levels and each block by columns: as BasicSR has it.
        values = variants.luma((levels / np.float32(255)).astype(np.float64) * 255)[..., 0] / 255
        values = np.rint(values.astype(np.float32) * np.float32(255))
        rows, columns = (side // BLOCK for side in values.shape)
        if rows * columns < 2:
            height, width = values.shape
            raise InputError(
                f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels, a picture is {width}x{height}; "
                "leave small ones out"
            )
        values = values[: rows * BLOCK, : columns * BLOCK]
        features = []
        for block in (BLOCK, BLOCK // 2):
            even = self._normalised(values)
            parts = even.reshape(rows, block, columns, block).transpose(2, 0, 1, 3)
            features.append([_features(part) for part in parts.reshape(-1, block, block)])
            values = _half(values / np.float32(255)) * np.float32(255)
        features = np.concatenate(features, 1)
        # A block with nothing in it has no distribution, and does not count.
        full = ~np.isnan(features).any(1)
        if full.sum() < 2:
            raise InputError("NIQE needs two blocks that are not flat; leave such pictures out")
        cov = np.cov(features[full], rowvar=False)
        off = self._mean.reshape(-1) - np.nanmean(features, 0)
        return float(np.sqrt(off @ np.linalg.pinv((self._cov + cov) / 2) @ off))

    def _normalised(self, values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Each value less the mean around it, by the deviation around it (equation 1)."""
        from scipy.ndimage import convolve

        mean = convolve(values, self._window, mode="nearest")
        square = convolve(np.square(values), self._window, mode="nearest")
        return (values - mean) / (np.sqrt(np.abs(square - np.square(mean))) + 1)


def _features(block) -> list[float]:
    """The eighteen of a block: how its values and their neighbours' products are distributed."""
    alpha, left, right = _fit(block)
    found = [alpha, (left + right) / 2]
    from scipy.special import gamma

    for shift in SHIFTS:
        alpha, left, right = _fit(block * np.roll(block, shift, (0, 1)))
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        found += [alpha, mean, left, right]
    return found


def _fit(values) -> tuple[float, float, float]:
    """An asymmetric generalised Gaussian: its shape and its width to both sides (equation 4).

    Source: Lasmar, Stitou and Berthoumieu, ICIP 2009: by moments, the shape from a table.
    """
    from scipy.special import gamma

    shapes, ratios = _table()
    values = values.reshape(-1)
    sides = values[values < 0], values[values > 0]
    if not all(side.size for side in sides):
        return np.nan, np.nan, np.nan
    left, right = (np.sqrt(np.mean(side**2)) for side in sides)
    skew = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    alpha = shapes[np.argmin((ratios - ratio) ** 2)]
    width = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * width, right * width


@functools.cache
def _table() -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    inverse = 1 / shapes
    return shapes, gamma(2 * inverse) ** 2 / (gamma(inverse) * gamma(3 * inverse))


def _half(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h/2 w/2"]:
    """Half the size as MATLAB's `imresize`: cubic (a = -1/2), as wide as the target's pixels.

    In float32 and tap after tap, like BasicSR, whose order of summation depends on where in memory
    a row begins. Shapes of distributions come from a table and few blocks meet 36 dimensions, so
    that one last digit here moves a picture's score by up to 0.003, most by less than 0.0001.
    """
    x = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    taps = (np.where(x <= 1, near, far) / 2).astype(np.float32)
    for _ in range(2):  # rows, then columns
        wide = np.pad(values, ((3, 3), (0, 0)), mode="symmetric")
        values = sum(tap * wide[k : len(wide) - 7 + k : 2] for k, tap in enumerate(taps)).T
    return values
