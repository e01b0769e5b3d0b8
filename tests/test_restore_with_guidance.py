"""Guidance on its way to a guided network: by `Restorer`, by `tdr restore` and by `tdr eval`."""

import types

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.errors import InputError
from tdr_jax.evaluate import evaluate, protocols
from tdr_jax.infer import Restorer, memory
from tdr_jax.infer.pictures import open_guidance
from tests.support import stacks
from tests.support.sizes import SMALLEST

HEIGHT, WIDTH = 62, 61  # of most pictures here: padded to 64x64, which compiles once
CAT = data.chelsea()[100 : 100 + HEIGHT, 120 : 120 + WIDTH]
OTHER = data.chelsea()[104 : 104 + HEIGHT, 110 : 110 + WIDTH]  # the same scene, shifted


def guided(seen, channels=(3, 3)):
    """Adds half the guidance's mean to half the picture, and notes the shapes it is given."""

    def apply(params, images, guidance, method="__call__"):
        seen.append((images.shape, guidance.shape))
        if method == "confidence":
            return images[..., 0]
        return (images[..., : channels[1]] + guidance.mean()) / 2

    config = types.SimpleNamespace(multiple=8, channels=channels, guided=True)
    return types.SimpleNamespace(name="fake", config=config, apply=apply)


def blind():
    config = types.SimpleNamespace(multiple=8, channels=(3, 3))
    return types.SimpleNamespace(name="blind", config=config, apply=lambda params, x: x)


def test_guidance_is_needed_by_guided_networks_and_refused_by_others():
    with pytest.raises(InputError, match="fake restores with guidance; give a picture"):
        Restorer(guided([]), {})(CAT)
    for call in (Restorer(blind(), {}).__call__, Restorer(blind(), {}).confidence):
        with pytest.raises(InputError, match="blind takes no guidance; leave it out"):
            call(CAT, guidance=OTHER)
    restorer = Restorer(guided([]), {})
    for wrong in ("other.png", np.zeros((4, 4, 2)), np.full((4, 4, 3), np.nan), OTHER * 1.0):
        with pytest.raises(InputError, match="the guidance: image (is|holds)"):
            restorer(CAT, guidance=wrong)


def test_guidance_may_be_of_any_type():
    grey = OTHER[..., 1]
    kinds = [
        grey,
        grey[..., None],
        np.repeat(grey[..., None], 3, -1),
        grey.astype(np.uint16) * np.uint16(257),
        (grey / 255).astype(np.float32),
        Image.fromarray(grey),
        Image.fromarray(grey).convert("RGBA"),
    ]
    restorer = Restorer(guided([]), {})
    first, *others = (restorer(CAT, guidance=kind) for kind in kinds)
    expected = np.rint((CAT / 255 + grey.mean() / 255) / 2 * 255)
    assert np.abs(first - expected).max() <= 1
    for other in others:
        assert np.abs(other.astype(int) - first).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (512, 512), (300, 80)])
def test_small_guidance_is_given_as_it_is(size):
    given = np.random.default_rng(0).random((*size, 3), np.float32)
    np.testing.assert_array_equal(open_guidance(given, 1), given)


@pytest.mark.parametrize(
    "size, pixels, shrunk",
    [
        ((1200, 900), 1, (591, 443)),  # to 512 * 512 pixels at most
        ((1200, 900), 600 * 600, (692, 519)),
        ((2048, 1024), 2**30, (1448, 724)),  # to 1024 * 1024 pixels at most
        ((1, 5000), 1, (1, 2048)),  # a strip counts as one of 128 rows
    ],
)
def test_large_guidance_is_shrunk_in_its_proportions(size, pixels, shrunk):
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    found = open_guidance(np.broadcast_to(ramp, size), pixels)
    assert found.shape == (*shrunk, 3) and found.dtype == np.float32
    assert 0 <= found.min() and found.max() <= 1
    assert np.abs(found[0, :, 0] - np.linspace(0, 1, shrunk[1])).max() < 0.01


def test_every_tile_and_channel_sees_the_whole_guidance():
    seen, picture = [], data.astronaut()[:150, :170]
    restored = Restorer(guided(seen), {})(picture, guidance=OTHER, max_pixels=4096)
    assert {guidance for _, guidance in seen} == {(1, *OTHER.shape)}
    assert all(image[1] * image[2] <= 4096 for image, _ in seen)
    expected = (picture + OTHER.mean()) / 2
    assert np.abs(restored - expected).max() <= 1
    restored = Restorer(guided(seen, (1, 1)), {})(picture, guidance=OTHER, max_pixels=4096)
    assert np.abs(restored - expected).max() <= 1
    confidence = Restorer(guided(seen), {}).confidence(picture, OTHER, max_pixels=4096)
    assert confidence.shape == (150, 170) and confidence.dtype == np.float32
    assert np.abs(confidence - picture[..., 0] / 255).max() < 1e-5
