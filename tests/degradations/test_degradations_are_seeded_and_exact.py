"""Degradations: the same generator gives the same picture, and the formulas hold exactly."""

from pathlib import Path

import numpy as np
import pytest

from tdr_jax.degradations import synthesis
from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.vocabulary import SIGMAS, SYNTHESISED
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb
from tdr_jax.images.folders import list_pictures

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def photos():
    return [read_rgb(path).astype(np.float32) / 255 for path in list_pictures(PHOTOS)]


@pytest.fixture(scope="module")
def crop(photos):
    return photos[0][100:196, 60:188]


def psnr(image, clean):
    return -10 * np.log10(np.mean((np.clip(image, 0, 1) - clean) ** 2))


@pytest.mark.parametrize("task", SYNTHESISED)
def test_same_generator_gives_the_same_picture_and_another_one_does_not(task, crop):
    before = crop.copy()
    first = synthesis.degrade(crop, task, example_rng(3, 14))
    again = synthesis.degrade(crop, task, example_rng(3, 14))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(crop, before)
    assert first.dtype == np.float32 and first.shape == crop.shape
    assert first.min() >= 0 and first.max() <= 1
    for seed, index, stream in ((3, 15, 0), (4, 14, 0), (3, 14, 1)):
        other = synthesis.degrade(crop, task, example_rng(seed, index, stream))
        assert np.abs(first - other).max() > 0.02


def test_generators_of_examples_are_independent():
    draws = np.stack([example_rng(0, i).standard_normal(4000) for i in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 0.08  # 5 standard errors of 1 / sqrt(4000)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_uint8_noise_is_quantised_and_truncation_lowers_the_mean_by_half_a_level(sigma):
    # Grey 128 is far enough from 0 and 255 at sigma 25 for clipping to vanish.
    grey = np.full((600, 600, 3), 128 / 255, np.float32)
    levels = synthesis.gaussian_noise(grey, sigma, example_rng(0, 0)) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    if sigma <= 25:
        standard_error = sigma / np.sqrt(grey.size)
        assert abs(levels.mean() - 128 + 0.5) < 5 * standard_error
        assert abs(levels.std() - sigma) < 0.1
    assert levels.min() >= 0 and levels.max() <= 255


def test_uint8_noise_equals_clip_and_truncate_of_the_same_draws(crop):
    noise = example_rng(1, 2).standard_normal(crop.shape, dtype=np.float32)
    expected = np.clip(np.rint(crop * 255) + 25 * noise, 0, 255).astype(np.uint8)
    got = synthesis.gaussian_noise(crop, 25, example_rng(1, 2))
    np.testing.assert_array_equal(np.rint(got * 255).astype(np.uint8), expected)


def test_noise_of_sigma_zero_is_the_identity_in_both_modes(crop):
    for mode in ("float", "uint8"):
        same = synthesis.gaussian_noise(crop, 0, example_rng(0, 0), mode)
        np.testing.assert_array_equal(same, crop)


def test_float_noise_is_exact_and_not_clipped(crop):
    noise = example_rng(5, 6).standard_normal(crop.shape, dtype=np.float32)
    got = synthesis.gaussian_noise(crop, 50, example_rng(5, 6), "float")
    np.testing.assert_allclose(got, crop + noise * 50 / 255, atol=1e-6)
    assert got.min() < 0


def test_haze_follows_the_scattering_formula(crop):
    depth = np.linspace(0, 9, crop.shape[0] * crop.shape[1]).reshape(crop.shape[:2])
    for airlight, beta in ((0.8, 0.2), ((0.8, 0.9, 1.0), 0.04)):
        t = np.exp(-beta * depth)[..., None]
        expected = crop.astype(np.float64) * t + np.array(airlight) * (1 - t)
        np.testing.assert_allclose(synthesis.haze(crop, depth, airlight, beta), expected, atol=1e-6)
    np.testing.assert_array_equal(synthesis.haze(crop, 0 * depth, 1.0, 0.2), crop)


def test_random_haze_uses_the_values_of_ots():
    black, depth = np.zeros((1, 1, 3), np.float32), np.ones((1, 1), np.float32)
    pairs = {(a, b): a * (1 - np.exp(-b)) for a in synthesis.AIRLIGHTS for b in synthesis.BETAS}
    seen = set()
    for i in range(400):
        value = synthesis.random_haze(black, example_rng(0, i), depth=depth)[0, 0, 0]
        pair = min(pairs, key=lambda key: abs(pairs[key] - value))
        assert abs(pairs[pair] - value) < 1e-6
        seen.add(pair)
    assert len(seen) == 35


@pytest.mark.parametrize("index", range(6))
def test_haze_of_a_window_is_that_window_of_the_whole(photos, index):
    image = photos[index]
    y, x, h, w = 37 + index, 91, 64, 63
    part = (slice(y, y + h), slice(x, x + w))
    whole = synthesis.synthetic_depth(image.shape[:2], example_rng(7, index))
    window = synthesis.synthetic_depth(image.shape[:2], example_rng(7, index), (y, x, h, w))
    np.testing.assert_array_equal(window, whole[part])
    assert 0.3 <= whole.min() and whole.max() <= synthesis.SKY_DEPTH[1]
    assert whole.max() / whole.min() > 2
    hazy = synthesis.degrade(image, "haze", example_rng(8, index))
    window = synthesis.degrade(
        image[part],
        "haze",
        example_rng(8, index),
        window=(y, x, h, w),
        shape=image.shape[:2],
    )
    np.testing.assert_allclose(window, hazy[part], atol=1e-6)


def test_depth_is_larger_at_the_top_than_at_the_bottom():
    maps = [synthesis.synthetic_depth((90, 120), example_rng(0, i)) for i in range(50)]
    assert all(depth[:15].mean() > 1.5 * depth[-15:].mean() for depth in maps)


def test_rain_brightens_and_gets_heavier_with_its_severity(crop):
    previous = np.inf
    for severity in (0.0, 0.5, 1.0):
        values = []
        for i in range(8):
            rng = example_rng(0, i)
            wet = synthesis.rain(crop, rng, severity=severity, layers=2, veil=0)
            assert (wet >= crop).all()
            values.append(psnr(wet, crop))
        assert np.mean(values) < previous - 1
        previous = np.mean(values)


def test_fixing_one_value_of_rain_keeps_the_other_draws():
    rng, same = example_rng(0, 3), example_rng(0, 3)
    dark = np.zeros((64, 64, 3), np.float32)
    synthesis.rain(dark, rng, layers=1)
    synthesis.rain(dark, same, layers=1, angle=10.0, veil=0.01)
    assert rng.random() == same.random()


def test_rain_falls_in_the_direction_it_is_given():
    dark = np.zeros((200, 200, 3), np.float32)
    for angle, axis in ((0, 0), (90, 1)):
        wet = synthesis.rain(dark, example_rng(0, 0), severity=0.5, angle=angle)[..., 0]
        along, across = (np.abs(np.diff(wet, axis=a)).mean() for a in (axis, 1 - axis))
        assert along < 0.5 * across


@pytest.mark.parametrize(
    ("task", "low", "middle", "high"),
    [
        ("noise", 14, (18, 22), 26),
        ("rain", 14, (19, 26), 36),
        ("haze", 6, (13, 20), 34),
        ("blur", 14, (19, 30), 45),
    ],
)
def test_degraded_photographs_lie_in_the_usual_range(photos, task, low, middle, high):
    parts = [photo[:320, :480] for photo in photos for _ in range(3)]
    values = [
        psnr(synthesis.degrade(part, task, example_rng(0, i)), part) for i, part in enumerate(parts)
    ]
    assert low < min(values) and max(values) < high
    assert middle[0] < np.median(values) < middle[1]


def test_a_shaken_exposure_keeps_the_light_and_grows_with_its_length():
    for index in range(20):
        extents = []
        for length in (4.0, 12.0, 24.0):
            rng, same = example_rng(0, index), example_rng(0, index)
            kernel = synthesis.motion_kernel(rng, length)
            synthesis.motion_kernel(same)
            assert rng.random() == same.random()  # the length changes no other draw
            assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
            middle = kernel.shape[0] // 2
            places = np.stack(np.mgrid[: 2 * middle + 1, : 2 * middle + 1], -1) - middle
            mean = (kernel[..., None] * places).sum((0, 1))
            np.testing.assert_allclose(mean, 0, atol=1e-3)
            extents.append(np.sqrt((kernel * (places**2).sum(-1)).sum()))
            # A path of that length, curled up or not, stays within it.
            assert middle <= length + 2
        assert extents[0] < extents[1] < extents[2]


def test_blur_is_the_mean_of_shifted_pictures_and_reflects_borders(crop):
    grey = crop[:40, :50, :1]
    rng = example_rng(0, 5)
    blurred = synthesis.motion_blur(grey, rng, length=6.0)
    kernel = synthesis.motion_kernel(example_rng(0, 5), 6.0)
    margin = kernel.shape[0] // 2
    padded = np.pad(grey[..., 0], margin, mode="reflect")
    expected = sum(
        weight * padded[y : y + 40, x : x + 50] for (y, x), weight in np.ndenumerate(kernel)
    )
    np.testing.assert_allclose(blurred[..., 0], np.clip(expected, 0, 1), atol=1e-5)
    flat = np.full((9, 9, 3), 0.25, np.float32)
    np.testing.assert_allclose(synthesis.motion_blur(flat, rng), 0.25, atol=1e-5)
    noisy = synthesis.motion_blur(np.full((64, 64, 3), 0.5, np.float32), rng, sigma=2)
    assert noisy.std() * 255 == pytest.approx(2, abs=0.1)


def test_an_unknown_task_or_mode_is_refused(crop):
    with pytest.raises(InputError, match="noise, rain, haze, blur"):
        synthesis.degrade(crop, "snow", example_rng(0, 0))
    with pytest.raises(InputError, match="'uint8' or 'float'"):
        synthesis.gaussian_noise(crop, 25, example_rng(0, 0), "int")
