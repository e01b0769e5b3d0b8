"""`Restorer` gives each network what it takes: a sentence or none, grey, colour or two views."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

from tdr_jax import models, text, weights
from tdr_jax.analysis import memory
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer
from tests.support.fakes import fake
from tests.support.sizes import DUAL_PIXEL, GREY, GUIDED, SMALLEST

CAT = data.chelsea()[100:130, 120:167]  # 30x47: a multiple of nothing


def halving(shapes, channels=(3, 3)):
    """Halves its first channels and notes what it is given."""

    def apply(params, images):
        shapes.append(images.shape)
        return 0.5 * images[..., : channels[1]]

    return Restorer(fake(apply, channels), {})


@pytest.mark.parametrize("name", SMALLEST)
def test_networks_without_words_restore_a_picture_of_any_size(name, tmp_path, monkeypatch):
    network = models.build(name, **SMALLEST[name])
    path = weights.save(tmp_path, network, network.init(0))

    def never(*args):
        raise AssertionError("nothing reads a sentence here")

    monkeypatch.setattr(text.TextEncoder, "from_pretrained", never)
    restorer = Restorer.from_pretrained(path)
    restored = restorer(CAT)
    assert restored.shape == CAT.shape and restored.dtype == np.uint8
    mode = "constant" if name == "nafnet" else "reflect"  # as the reference continues pictures
    more = [(0, -side % network.config.multiple) for side in CAT.shape[:2]]
    padded = np.pad(CAT, (*more, (0, 0)), mode=mode)
    np.testing.assert_array_equal(restorer(padded)[:30, :47], restored)
    assert not np.array_equal(restored, CAT)  # the network did take part
    with pytest.raises(InputError, match=f"{name} takes no sentence"):
        restorer(CAT, "please remove the noise")


def test_a_sentence_is_neither_missing_nor_superfluous():
    encoder = types.SimpleNamespace(dim=4, encode=lambda texts: np.ones((len(texts), 4)))
    prompted = fake(lambda params, images, vectors: images, text_dim=4)
    with pytest.raises(InputError, match="say what to do"):
        Restorer(prompted, {}, encoder)(CAT)
    with pytest.raises(InputError, match="needs a text encoder"):
        Restorer(prompted, {})
    with pytest.raises(InputError, match="leave the encoder out"):
        Restorer(fake(lambda params, images: images), {}, encoder)


def test_networks_that_restore_no_pictures_are_refused():
    with pytest.raises(InputError, match="bert is no network that restores pictures"):
        Restorer(models.build("bert"), {})
    with pytest.raises(InputError, match="2 channels of 4"):
        Restorer(fake(lambda params, images: images, channels=(4, 2)), {})


def test_a_grey_network_sees_grey_once_and_colour_channel_by_channel():
    grey, shapes = CAT[..., 0], []
    restorer = halving(shapes, channels=(1, 1))
    expected = np.rint(grey / 2)
    for picture in (grey, grey[..., None], np.repeat(grey[..., None], 3, -1)):
        calls = []
        restored = restorer(picture, progress=lambda *at, calls=calls: calls.append(at))
        assert restored.shape == picture.shape and calls == [(0, 1), (1, 1)]
        planes = restored.reshape(30, 47, -1)
        np.testing.assert_array_equal(planes, np.broadcast_to(expected[..., None], planes.shape))
    image = restorer(Image.fromarray(grey))
    assert image.mode == "L"
    np.testing.assert_array_equal(image, expected)
    calls = []
    restored = restorer(CAT, progress=lambda *at: calls.append(at))
    np.testing.assert_array_equal(restored, np.rint(CAT / 2))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert set(shapes) == {(1, 32, 48, 1)}  # one program serves them all


def test_a_grey_network_restores_colour_in_tiles_too():
    picture = data.astronaut()[:150, :170]
    restored = halving([], channels=(1, 1))(picture, max_pixels=4096)
    assert np.abs(restored - picture / 2).max() <= 0.5 + 1e-3


def test_two_views_go_in_side_by_side_and_the_left_comes_out():
    seen, right = [], CAT[::-1].copy()

    def apply(params, images):
        seen.append(images.shape)
        return (images[..., :3] + images[..., 3:]) / 2

    restorer = Restorer(fake(apply, channels=(6, 3)), {})
    mean = np.rint((CAT.astype(np.float32) + right) / 2)
    assert np.abs(restorer(CAT, right=right) - mean).max() <= 1
    deep = restorer(CAT.astype(np.uint16) * np.uint16(257), right=Image.fromarray(right))
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - mean).max() <= 1
    assert set(seen) == {(1, 32, 48, 6)}
    with pytest.raises(InputError, match="give the right one"):
        restorer(CAT)
    with pytest.raises(InputError, match="right view is 47x29, but the left one 47x30"):
        restorer(CAT, right=right[1:])
    with pytest.raises(InputError, match="leave the right view out"):
        halving([])(CAT, right=right)


@pytest.mark.parametrize("name, config", [("nafnet", GREY), ("restormer", DUAL_PIXEL)])
def test_real_networks_of_other_channels_restore(name, config):
    network = models.build(name, **config)
    restorer = Restorer(network, network.init(0))
    views = {"right": CAT[::-1]} if config is DUAL_PIXEL else {}
    restored = restorer(CAT, **views)
    assert restored.shape == CAT.shape and not np.array_equal(restored, CAT)


def test_the_estimate_of_memory_is_near_the_compilers():
    network = models.build("nafnet", **SMALLEST["nafnet"])
    picture = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    program = jax.jit(network.apply).lower(network.abstract_params(), picture).compile()
    needed = program.memory_analysis().temp_size_in_bytes / 128**2
    assert 0.7 * needed < memory.bytes_per_pixel(network) < 2 * needed


def test_the_estimate_of_memory_counts_guidance():
    network = models.build("guided", backbone="nafnet", **GUIDED)
    pictures = [jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)] * 2
    program = jax.jit(network.apply).lower(network.abstract_params(), *pictures).compile()
    needed = program.memory_analysis().temp_size_in_bytes / 256**2
    estimate = memory.bytes_per_pixel(network)
    assert 0.7 * needed < estimate < 2 * needed, (needed, estimate)
    assert estimate > memory.bytes_per_pixel(models.build("nafnet", **SMALLEST["nafnet"]))


def test_heavier_networks_get_smaller_tiles(monkeypatch):
    sizes = {}
    for name, config in {"small": SMALLEST["restormer"], "published": {}}.items():
        sizes[name] = Restorer(models.build("restormer", **config), {}).max_pixels
    assert sizes["small"] > 2 * sizes["published"]
    assert 2**18 < sizes["published"] < 2**20

    picture, shapes = np.zeros((300, 400, 3), np.uint8), []
    for need, tiled in ((20_000, False), (40_000, True)):
        monkeypatch.setattr(memory, "bytes_per_pixel", lambda network, need=need: need)
        halving(shapes)(picture)
        assert (shapes[-1] != (1, 304, 400, 3)) == tiled
        assert shapes[-1][1] * shapes[-1][2] * need <= 3 * 2**30
