"""Training losses: pure functions of a restored and a clean picture, float32 whatever comes in.

All take NHWC batches with values in [0, 1] (unclipped outputs are fine) and
give one scalar, the mean over everything unless the formula says otherwise.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from tdr_jax.nn.typing import Array


def _difference(restored: jax.Array, clean: jax.Array) -> jax.Array:
    # Upcast before subtracting: in bfloat16 the small errors of a late training step would vanish.
    return restored.astype(jnp.float32) - clean.astype(jnp.float32)


def _absolute(x: jax.Array) -> jax.Array:
    # jnp.abs has gradient 1 at 0, which would push a pixel that is already right; torch has 0.
    return x * jax.lax.stop_gradient(jnp.sign(x))


def l1(restored: Float[Array, "*n h w c"], clean: Float[Array, "*n h w c"]) -> Float32[Array, ""]:
    """Mean absolute error, ``mean |x - y|``.

    Args:
        restored, clean: any float dtype, in [0, 1].

    Returns:
        At least 0.

    Source: the objective of TextPromptIR (arXiv 2312.06162), PromptIR and Restormer.
    """
    return jnp.mean(_absolute(_difference(restored, clean)))


def charbonnier(
    restored: Float[Array, "*n h w c"], clean: Float[Array, "*n h w c"], eps: float = 1e-3
) -> Float32[Array, ""]:
    """Smooth absolute error, ``mean sqrt((x - y)^2 + eps^2)``.

    Args:
        restored, clean: any float dtype, in [0, 1].
        eps: width of the quadratic bowl around zero, in picture units; the loss is never below it.

    Returns:
        At least ``eps``.

    Source: Charbonnier et al., ICIP 1994; eps 1e-3 as in MPRNet (arXiv 2102.02808), equation 2.
    """
    return jnp.mean(jnp.sqrt(jnp.square(_difference(restored, clean)) + eps * eps))


def psnr_loss(
    restored: Float[Array, "*n h w c"], clean: Float[Array, "*n h w c"], eps: float = 1e-8
) -> Float32[Array, ""]:
    """Negative PSNR of each picture, averaged: ``mean_b 10 log10(mean_hwc (x - y)^2 + eps)``.

    Args:
        restored, clean: any float dtype, in [0, 1].
        eps: keeps the logarithm finite for equal pictures (then the loss is -80 for 1e-8).

    Returns:
        Decibels, lower is better.

    Source: NAFNet (arXiv 2204.04676), section 4.
    """
    error = jnp.mean(jnp.square(_difference(restored, clean)), axis=(-3, -2, -1))
    return jnp.mean(10.0 / math.log(10.0) * jnp.log(error + eps))


def fft_l1(
    restored: Float[Array, "*n h w c"], clean: Float[Array, "*n h w c"]
) -> Float32[Array, ""]:
    """Mean absolute error of the spectra, real and imaginary parts counted as separate values.

    ``mean(|Re F(x) - Re F(y)|, |Im F(x) - Im F(y)|)`` with F the unnormalised 2-D FFT over H, W.

    Args:
        restored, clean: any float dtype, in [0, 1].

    Returns:
        At least 0; it grows with the picture's side, so weights of 0.01 to 0.1 are
        usual beside ``l1``.

    Source: MIMO-UNet (arXiv 2108.05054), equation 9; real and imaginary parts as in SFNet.
    """
    # F is linear, so one transform of the difference stands for two.
    spectrum = jnp.fft.fft2(_difference(restored, clean), axes=(-3, -2))
    return 0.5 * (jnp.mean(_absolute(spectrum.real)) + jnp.mean(_absolute(spectrum.imag)))
