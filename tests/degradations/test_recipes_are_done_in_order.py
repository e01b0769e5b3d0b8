"""Recipes: read and spelt, done in the order given, each layer by draws of its own name."""

import numpy as np
import pytest
import skimage.data

from tdr_jax.degradations import camera, recipes, synthesis
from tdr_jax.degradations.draws import named_rng
from tdr_jax.degradations.vocabulary import KINDS, TASKS
from tdr_jax.errors import InputError


@pytest.fixture(scope="module")
def crop():
    return skimage.data.astronaut()[60:108, 180:244].astype(np.float32) / 255


def made(image, text, seed=0, index=0, **place):
    layers = recipes.parse(text)
    return recipes.apply(image, layers, recipes.generators(seed, layers, index), **place)


def test_names_are_read_and_spelt():
    layers = recipes.parse("blur+noise25+jpeg30+noise7.5float")
    assert layers == (
        ("blur", None, False),
        ("noise", 25.0, False),
        ("jpeg", 30.0, False),
        ("noise", 7.5, True),
    )
    assert [layer.task for layer in layers] == ["blur", "noise", "noise", "noise"]
    assert recipes.spell(layers) == "blur+noise25+jpeg30+noise7.5float"
    for kind in KINDS:
        assert recipes.spell(recipes.parse(kind)) == kind and KINDS[kind] in TASKS
    for wrong in ("", "snow", "noise-5", "noise25+", "blur9", "rainfloat", "jpeg101", "noiseinf"):
        with pytest.raises(InputError):
            recipes.parse(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_of_colour_and_of_grey(kind, crop):
    text = f"{kind}25" if kind == "noise" else kind
    image = made(crop, text)
    assert image.dtype == np.float32 and image.shape == crop.shape
    assert 0 <= image.min() and image.max() <= 1 and np.abs(image - crop).max() > 0.02
    np.testing.assert_array_equal(made(crop, text), image)
    assert made(crop[..., :1], text).shape == (*crop.shape[:2], 1)
    whole = np.abs(image * 255 - np.rint(image * 255)).max() < 1e-3
    assert whole == recipes.parse(text)[0].in_whole_levels


def test_layers_are_done_in_the_order_given_with_the_draws_of_their_names(crop):
    blurred = synthesis.motion_blur(crop, named_rng(5, "blur", 2))
    noisy = synthesis.gaussian_noise(blurred, 25, named_rng(5, "noise25", 2))
    saved = camera.jpeg(noisy, named_rng(5, "jpeg30", 2), quality=30)
    np.testing.assert_array_equal(made(crop, "blur+noise25+jpeg30", 5, 2), saved)
    np.testing.assert_array_equal(made(crop, "blur+noise25", 5, 2), _in_one_stream(crop))
    other = synthesis.gaussian_noise(crop, 25, named_rng(5, "noise25", 2))
    other = synthesis.motion_blur(other, named_rng(5, "blur", 2))
    np.testing.assert_array_equal(made(crop, "noise25+blur", 5, 2), other)
    # The second of a name draws anew.
    twice = synthesis.gaussian_noise(crop, 25, named_rng(0, "noise25", 0))
    twice = synthesis.gaussian_noise(twice, 25, named_rng(0, "noise25#2", 0))
    np.testing.assert_array_equal(made(crop, "noise25+noise25"), twice)


def _in_one_stream(crop):
    """Two of haze, rain, blur and noise in this order, as evaluation has always drawn them."""
    rng = named_rng(5, "blur+noise25", 2)
    return synthesis.gaussian_noise(synthesis.motion_blur(crop, rng), 25, rng)


def test_a_window_of_haze_is_that_of_the_whole(crop):
    part = (slice(8, 40), slice(16, 48))
    whole, window = made(crop, "haze"), dict(window=(8, 16, 32, 32), shape=crop.shape[:2])
    np.testing.assert_allclose(made(crop[part], "haze", **window), whole[part], atol=1e-6)
