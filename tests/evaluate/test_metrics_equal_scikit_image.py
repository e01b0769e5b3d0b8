import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tdr_jax.errors import InputError
from tdr_jax.evaluate import metrics
from tdr_jax.objectives import losses


def picture_pair(height, width, channels=3, seed=0):
    """A piece of a real photograph, clean and with noise that leaves flat regions flat."""
    rng = np.random.default_rng(seed)
    clean = data.chelsea()[40 : 40 + height, 60 : 60 + width, :channels] / 255.0
    noisy = clean + 0.05 * rng.standard_normal(clean.shape) * (clean > 0.4)
    return clean.astype(np.float32), np.clip(noisy, 0, 1).astype(np.float32)


def skimage_scores(clean, other):
    clean, other = clean.astype(np.float64), other.astype(np.float64)
    return (
        peak_signal_noise_ratio(clean, other, data_range=1),
        structural_similarity(clean, other, data_range=1, channel_axis=-1),
    )


@pytest.mark.parametrize("size", [(120, 121), (64, 96), (61, 83), (7, 7), (7, 40), (9, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_numpy_scores_equal_scikit_image(size, channels):
    clean, noisy = picture_pair(*size, channels)
    got = metrics.psnr(noisy, clean), metrics.ssim(noisy, clean)
    assert got[1].dtype == np.float64
    np.testing.assert_allclose(got, skimage_scores(clean, noisy), rtol=1e-11)


@pytest.mark.parametrize("size, channels", [((61, 83), 1), ((7, 40), 3)])
def test_jitted_scores_equal_scikit_image(size, channels):
    clean, noisy = picture_pair(*size, channels)
    got = jax.jit(lambda a, b: (metrics.psnr(a, b), metrics.ssim(a, b)))(noisy, clean)
    expected = skimage_scores(clean, noisy)
    assert got[1].dtype == jnp.float32
    assert abs(float(got[0]) - expected[0]) < 1e-5
    assert abs(float(got[1]) - expected[1]) < 1e-6


@pytest.mark.parametrize("ssim", [metrics.ssim, jax.jit(metrics.ssim)], ids=["numpy", "jax"])
def test_bright_flat_pictures_keep_their_digits(ssim):
    # E[x^2] - E[x]^2 in float32 fails this one by more than 1e-3.
    rng = np.random.default_rng(3)
    clean = (0.98 + 0.001 * rng.standard_normal((48, 48, 3))).astype(np.float32)
    other = (clean + 0.001 * rng.standard_normal(clean.shape)).astype(np.float32)
    assert abs(float(ssim(other, clean)) - skimage_scores(clean, other)[1]) < 1e-6


def test_batch_prefix_gives_one_score_a_picture():
    pairs = [picture_pair(32, 40, seed=seed) for seed in range(6)]
    clean = np.stack([p[0] for p in pairs]).reshape(2, 3, 32, 40, 3)
    noisy = np.stack([p[1] for p in pairs]).reshape(2, 3, 32, 40, 3)
    expected = np.array([skimage_scores(*p) for p in pairs]).reshape(2, 3, 2)
    np.testing.assert_allclose(metrics.psnr(noisy, clean), expected[..., 0], rtol=1e-10)
    np.testing.assert_allclose(metrics.ssim(noisy, clean), expected[..., 1], rtol=1e-10)
    jitted = jax.jit(metrics.ssim)(noisy, clean)
    np.testing.assert_allclose(jitted, expected[..., 1], atol=1e-6)


def test_uint8_pictures_need_their_range():
    clean, noisy = (np.round(p * 255).astype(np.uint8) for p in picture_pair(40, 40))
    expected = structural_similarity(clean, noisy, channel_axis=-1)
    assert abs(metrics.ssim(clean, noisy, data_range=255) - expected) < 1e-6
    with pytest.raises(InputError, match="data_range=255"):
        metrics.ssim(clean, noisy)


def test_equal_pictures_score_inf_and_one():
    clean, _ = picture_pair(20, 20)
    assert metrics.psnr(clean, clean) == np.inf
    assert abs(metrics.ssim(clean, clean) - 1) < 1e-12


@pytest.mark.usefixtures("unchecked")
def test_pictures_too_small_or_unequal_are_refused():
    clean, noisy = picture_pair(6, 30)
    with pytest.raises(InputError, match="30x6"):
        metrics.ssim(clean, noisy)
    with pytest.raises(InputError, match="differ in shape"):
        metrics.psnr(clean, noisy[:5])


def torch_loss(name, x, y):
    """The formulas written a second time, in torch and float64."""
    if name == "l1":
        return torch.nn.functional.l1_loss(x, y)
    if name == "charbonnier":
        return torch.sqrt((x - y) ** 2 + 1e-6).mean()
    if name == "psnr_loss":
        return (10 * torch.log10(((x - y) ** 2).mean(dim=(1, 2, 3)) + 1e-8)).mean()
    fx, fy = (torch.view_as_real(torch.fft.fft2(v, dim=(1, 2))) for v in (x, y))
    return torch.nn.functional.l1_loss(fx, fy)


@pytest.mark.parametrize("name", ["l1", "charbonnier", "psnr_loss", "fft_l1"])
def test_losses_and_their_gradients_equal_torch(name):
    pairs = [picture_pair(12, 15, seed=seed) for seed in range(3)]
    clean, noisy = (np.stack([p[i] for p in pairs]) for i in range(2))
    x = torch.tensor(noisy, dtype=torch.float64, requires_grad=True)
    expected = torch_loss(name, x, torch.tensor(clean, dtype=torch.float64))
    expected.backward()
    value, gradient = jax.value_and_grad(getattr(losses, name))(jnp.asarray(noisy), clean)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    scale = np.abs(x.grad.numpy()).max()
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=2e-5 * scale)


@pytest.mark.parametrize("name", ["l1", "charbonnier", "psnr_loss", "fft_l1"])
def test_losses_are_float32_for_bfloat16_pictures(name):
    clean, noisy = (jnp.asarray(p, jnp.bfloat16) for p in picture_pair(16, 16))
    value = getattr(losses, name)(noisy, clean)
    exact = getattr(losses, name)(noisy.astype(jnp.float32), clean.astype(jnp.float32))
    assert value.dtype == jnp.float32
    assert float(value) == float(exact)
