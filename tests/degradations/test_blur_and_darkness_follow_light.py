"""Shake, motion, defocus and low light: of light that adds up, seeded, in the ranges they name."""

import numpy as np
import pytest
import skimage.data

from tdr_jax.degradations import camera, optics
from tdr_jax.degradations.draws import example_rng

MAKERS = {
    optics.shake: {"length": 9.0},
    optics.motion: {"length": 9.0},
    optics.defocus: {"radius": 3.0},
    optics.defocus_depth: {"radius": 3.0},
    camera.low_light: {"stops": 3.0},
}
FLAT = np.full((40, 52, 3), 0.5, np.float32)


@pytest.fixture(scope="module")
def crop():
    return skimage.data.astronaut()[60:124, 180:260].astype(np.float32) / 255


def star(size=61):
    """One pixel of light in the dark."""
    image = np.zeros((size, size, 3), np.float32)
    image[size // 2, size // 2] = 1
    return image


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_each_is_a_function_of_its_generator(make, crop):
    before = crop.copy()
    made = [make(crop, example_rng(3, n)) for n in range(4)]
    np.testing.assert_array_equal(make(crop, example_rng(3, 0)), made[0])
    np.testing.assert_array_equal(crop, before)
    for n, image in enumerate(made):
        assert image.dtype == np.float32 and image.shape == crop.shape
        assert 0 <= image.min() and image.max() <= 1
        assert all(np.abs(image - other).max() > 2e-3 for other in made[:n])
    grey = make(crop[:17, :16, :1], example_rng(3, 0))
    assert grey.shape == (17, 16, 1) and np.isfinite(grey).all()
    # What is given instead of drawn leaves the other draws as they are.
    ours, theirs = example_rng(3, 1), example_rng(3, 1)
    make(crop, ours), make(crop, theirs, **MAKERS[make])
    assert ours.random() == theirs.random()


@pytest.mark.parametrize("make", [*MAKERS][:4], ids=lambda make: make.__name__)
def test_blur_keeps_what_is_flat_and_the_light_of_what_is_not(make):
    np.testing.assert_allclose(make(FLAT, example_rng(0, 0)), FLAT, atol=1e-5)
    # Pictures blended by depth keep it where the depth is flat alone.
    for n in range(3) if make is not optics.defocus_depth else ():
        light = optics.to_light(make(star(), example_rng(0, n))).sum()
        assert light == pytest.approx(3, rel=0.1)  # a shift by parts of a pixel loses a little
    # Half light, half dark is half the light, which is more than half the value.
    frames = [np.zeros_like(FLAT), np.ones_like(FLAT)]
    np.testing.assert_allclose(optics.averaged(frames), 0.5 ** (1 / 2.2), rtol=1e-5)


@pytest.mark.parametrize(
    ("blades", "area"),
    [(0, np.pi), (3, 3 * 3**0.5 / 4), (6, 3 * 3**0.5 / 2), (8, 2 * 2**0.5)],
)
def test_an_aperture_has_its_form(blades, area):
    for radius in (2.0, 5.5):
        kernel = optics.aperture(radius, blades=blades, turn=0.3)
        assert kernel.sum() == pytest.approx(1, abs=1e-5) and kernel.shape[0] % 2
        # Inside, where pixels are whole, it is one over its area.
        assert 1 / kernel.max() == pytest.approx(area * radius**2, rel=0.06)
        at = np.arange(len(kernel)) - len(kernel) // 2
        assert np.abs([kernel.sum(0) @ at, kernel.sum(1) @ at]).max() < 0.05
    assert optics.aperture(1.0, blades=6).shape == (3, 3)


def test_a_point_out_of_focus_is_the_aperture():
    seen = optics.to_light(optics.defocus(star(), example_rng(0, 0), radius=4.0, blades=0))
    np.testing.assert_allclose(seen[26:35, 26:35, 0], optics.aperture(4.0), atol=1e-5)


def test_depth_leaves_one_distance_sharp_and_none_softer_than_the_radius(crop):
    for n in range(3):
        soft = optics.defocus_depth(crop, example_rng(1, n), radius=5.0, blades=0)
        error = np.abs(soft - crop).mean(-1)
        most = np.abs(optics.defocus(crop, example_rng(1, n), radius=5.0, blades=0) - crop)
        assert np.quantile(error, 0.02) < 2e-3
        assert error.mean() < most.mean()
    whole = optics.defocus_depth(crop, example_rng(1, 0), guide=crop)
    np.testing.assert_array_equal(whole, optics.defocus_depth(crop, example_rng(1, 0)))


def test_a_shaken_path_is_as_long_as_it_is_told():
    for n in range(20):
        path = optics.trajectory(example_rng(2, n), length=20.0)
        assert path.shape == (optics.STEPS, 3)
        assert np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum() == pytest.approx(20)
        np.testing.assert_allclose(path.mean(0), 0, atol=1e-9)
        assert np.ptp(path[:, 2]) <= optics.ROLL
    drawn = [optics.trajectory(example_rng(2, n)) for n in range(40)]
    lengths = [np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum() for path in drawn]
    assert optics.PATHS[0] <= min(lengths) < 8 and 26 < max(lengths) <= optics.PATHS[1]


def test_a_still_picture_does_not_move(crop, monkeypatch):
    monkeypatch.setattr(optics, "ZOOM", 0.0)
    monkeypatch.setattr(optics, "ROLL", 0.0)
    monkeypatch.setattr(optics, "TRAVELS", (0.0, 0.0))
    np.testing.assert_allclose(optics.motion(crop, example_rng(0, 0), length=0), crop, atol=1e-5)
    # A pan of 8 pixels smears a point over 8.
    seen = optics.to_light(optics.motion(star(), example_rng(0, 1), length=8.0))[..., 0]
    rows, columns = np.nonzero(seen > 1e-4)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(8, abs=2)


def test_low_light_leaves_the_share_that_its_stops_say(monkeypatch):
    monkeypatch.setattr(camera, "CONTRAST", (0.0, 0.0))  # the tone curve darkens what is dark
    for stops in (1.0, 3.0):
        shares = []
        for n in range(8):
            dark = camera.low_light(FLAT, example_rng(4, n), stops=stops)
            np.testing.assert_allclose(dark * 255, np.rint(dark * 255), atol=1e-4)
            shares.append(np.mean((dark / 0.5) ** 2.2))
        assert np.mean(shares) == pytest.approx(2**-stops, rel=0.1)  # the cast is 8 % at most
    dark = [camera.low_light(FLAT, example_rng(4, n)).mean() for n in range(30)]
    assert 0.01 < min(dark) < 0.15 < max(dark) < 0.35
