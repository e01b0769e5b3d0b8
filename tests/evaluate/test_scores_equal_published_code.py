"""PSNR, SSIM and NIQE as other programs count them: their numbers, and formulas again."""

import numpy as np
import pytest
from scipy.special import gamma
from skimage import data
from skimage.metrics import structural_similarity

from tdr_jax.errors import InputError
from tdr_jax.evaluate import niqe, scoring, variants


def pair(height=61, width=83):
    """A piece of a photograph and a noisy one, uint8."""
    clean = data.chelsea()[40:101, 60:143]
    noise = np.random.default_rng(0).normal(0, 15, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    return clean[:height, :width], noisy[:height, :width]


def unit(picture):
    return picture.astype(np.float32) / np.float32(255)


# Told by basicsr 1.4.2 (calculate_psnr, calculate_ssim) and NAFNet's copy (_ssim_3d in float64); of
# restormer-derain by basicsr's _ssim of the Y that MATLAB's rgb2ycbcr gives.
PUBLISHED = {
    "basicsr": ((61, 83), 24.639747434333465, 0.588813096255334),
    "basicsr-y": ((61, 83), 29.556364914561524, 0.7706360042362025),
    "restormer-derain": ((61, 83), 29.55200183215938, 0.7706708248667582),
    "nafnet": ((30, 34), 24.62960982294203, 0.8799827102318503),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_protocols_give_the_numbers_of_their_programs(name):
    size, psnr, ssim = PUBLISHED[name]
    clean, noisy = map(unit, pair(*size))
    found = scoring.Measure(scoring.protocol(name))(noisy, clean)
    assert found["psnr"] == pytest.approx(psnr, abs=1e-6)
    assert found["ssim"] == pytest.approx(ssim, abs=1e-7)


def test_gaussian_windows_equal_scikit_image():
    clean, noisy = (picture.astype(np.float64) for picture in pair())
    options = dict(data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    # truncate=3.5 of scikit-image is the 11x11 window; its mean leaves out the same edge of 5.
    expected = structural_similarity(noisy, clean, channel_axis=2, **options)
    assert variants.gaussian_ssim(noisy, clean, 255) == pytest.approx(expected, abs=1e-12)
    # A picture of one channel is a volume one deep, whose depth goes on as it is.
    flat = variants.volume_ssim(noisy[..., :1], clean[..., :1], 255)
    deep = [np.repeat(x[..., :1], 3, -1) for x in (noisy, clean)]
    assert flat == pytest.approx(variants.volume_ssim(*deep, 255), abs=1e-12)


def test_files_and_floats_are_told_apart():
    clean, noisy = map(unit, pair())
    dark = noisy - np.float32(0.3 / 255)  # rounds back to the same levels
    for name, protocol in scoring.PROTOCOLS.items():
        same = protocol.psnr(dark, clean) == protocol.psnr(noisy, clean)
        assert same == protocol.whole_levels, name
        assert protocol.psnr(clean, clean) == np.inf
        assert protocol.similarity(clean, clean) == pytest.approx(1)
        assert protocol.source and protocol.pyiqa
    assert scoring.protocol("promptir").psnr(noisy, clean) == pytest.approx(
        10 * np.log10(1 / np.mean((noisy.astype(float) - clean) ** 2)), abs=1e-9
    )


def test_luma_is_that_of_bt601_from_16_to_235():
    ends = np.array([[[0, 0, 0], [255, 255, 255]]])
    np.testing.assert_allclose(variants.luma(ends)[0, :, 0], [16, 235], atol=1e-9)
    assert variants.luma(np.array([[[10, 200, 90]]]), rounded=True).item() == 128.0
    grey = np.array([[[7.0]]])
    assert variants.luma(grey) is not None and variants.luma(grey).item() == 7


def test_unknown_protocols_and_small_pictures_are_refused():
    with pytest.raises(InputError, match="promptir, restormer-derain, nafnet"):
        scoring.protocol("psnr")
    clean, noisy = map(unit, pair(10, 40))
    with pytest.raises(InputError, match="11x11 pixels, given 40x10"):
        scoring.protocol("basicsr").similarity(noisy, clean)


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Made-up statistics of natural pictures, in BasicSR's file."""
    side = np.exp(-0.5 * ((np.arange(7) - 3) / (7 / 6)) ** 2)
    window = np.outer(side, side)
    path = tmp_path_factory.mktemp("niqe") / "niqe_pris_params.npz"
    np.savez(
        path,
        mu_pris_param=np.linspace(0.1, 2, 36)[None],
        cov_pris_param=np.diag(np.linspace(0.05, 0.5, 36)) + 0.01,
        gaussian_window=window / window.sum(),
    )
    return path


def test_niqe_equals_basicsr(parameters):
    clean = data.chelsea()
    noise = np.random.default_rng(0).normal(0, 15, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    measure = niqe.Niqe(parameters)
    # Told by basicsr 1.4.2's niqe() with the same parameters.
    assert measure(unit(clean)) == pytest.approx(14.049512082194754, abs=1e-4)
    assert measure(unit(noisy)) == pytest.approx(21.102206841911975, abs=1e-4)


def test_shapes_of_distributions_are_found():
    rng = np.random.default_rng(0)
    for shape in (1.0, 2.0):  # Laplace's and Gauss's
        draw = rng.laplace if shape == 1 else rng.normal
        values = draw(0, 2, (400, 500))
        alpha, left, right = niqe._fit(values)
        width = 2 * (np.sqrt(2) if shape == 1 else 1) * np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        assert abs(alpha - shape) < 0.03
        np.testing.assert_allclose([left, right], width, rtol=0.03)


def test_halves_keep_ramps_and_means():
    ramp = np.add.outer(np.arange(24.0), 2 * np.arange(32.0)).astype(np.float32)
    half = niqe._half(ramp)
    inner = slice(2, -2)
    expected = (ramp[::2, ::2] + ramp[1::2, 1::2]) / 2
    np.testing.assert_allclose(half[inner, inner], expected[inner, inner], atol=1e-4)


def test_niqe_says_what_it_cannot_use(parameters, tmp_path):
    measure = niqe.Niqe(parameters)
    with pytest.raises(InputError, match="two blocks of 96x96 pixels, a picture is 120x100"):
        measure(np.zeros((100, 120, 3), np.float32))
    with pytest.raises(InputError, match="not flat"):
        measure(np.full((100, 200, 3), 0.5, np.float32))
    np.savez(tmp_path / "other.npz", mu_pris_param=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("none.npz", "other.npz", "text.npz"):
        with pytest.raises(InputError, match=f"{name}.*niqe_pris_params.npz"):
            niqe.Niqe(tmp_path / name)
    with pytest.raises(InputError, match="no_such_package is not installed: install it"):
        scoring.packaged("no_such_package", "file", "install it")
