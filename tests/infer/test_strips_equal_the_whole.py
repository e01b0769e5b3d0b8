"""A picture restored strip by strip, or in an array that it does not fill, is as restored whole."""

import functools

import jax
import numpy as np
import pytest
from skimage import data

from tdr_jax import models
from tdr_jax.analysis import reach
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer, amounts, buckets, core
from tdr_jax.infer.strips import Strips
from tdr_jax.models import promptir
from tdr_jax.nn import backend, extent, ops
from tests.support.sizes import SMALLEST

NAMES = ("textpromptir-tiny", "restormer", "promptir", "nafnet", "drsformer")
QUICK = ("textpromptir-tiny", "nafnet")  # the others with --full, at the size of a photograph


def marked(*quick):
    """All networks, of which some are run without --full."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.full) for n in NAMES]


@functools.cache
def network_of(name):
    """A network whose parts all matter: what starts at zero is drawn too."""
    network = models.build(name, **SMALLEST.get(name, {}))
    rng = np.random.default_rng(0)
    params = {k: np.asarray(v) for k, v in network.init(0).items()}
    params = {k: v + 0.1 * rng.standard_normal(v.shape, np.float32) for k, v in params.items()}
    return network, params


def inputs_of(network, height, width, seed=0):
    """A photograph's rows, each pixel of which counts, and a sentence where one is read."""
    rng = np.random.default_rng(seed)
    photo = np.tile(data.chelsea(), (6, 4, 1))[:height, :width] / np.float32(255)
    photo = (photo + 0.1 * rng.standard_normal(photo.shape)).astype(np.float32)
    vector = 0.05 * rng.standard_normal(getattr(network.config, "text_dim", 0))
    return photo, *([vector.astype(np.float32)] if vector.size else [])


@functools.cache
def program_of(name):
    return jax.jit(network_of(name)[0].apply)


def whole(name, picture, *others):
    _, params = network_of(name)
    return np.asarray(program_of(name)(params, picture[None], *(each[None] for each in others)))[0]


@pytest.mark.parametrize("name", marked(*QUICK))
def test_strips_give_what_the_whole_gives(name):
    network, params = network_of(name)
    full = name not in QUICK
    multiple = network.config.multiple
    height, width = (1000, 1400) if full else (13 * multiple, 3 * multiple)
    picture, *others = inputs_of(network, height, width)
    strips = Strips(network, params)
    calls = []
    restored = strips(
        picture,
        *others,
        limit=strips.least(height, width),
        progress=lambda *at: calls.append(at),
    )
    expected = whole(name, picture, *others)
    assert np.abs(expected - picture).max() > 0.1
    assert np.abs(restored - expected).max() <= 1e-5 * np.abs(expected).max()
    assert len(calls) > 3 * len(strips.passes)  # several strips, not one
    assert calls[0] == (0, calls[-1][1]) and calls[-1][0] == calls[-1][1]


def in_array(name, pictures, others, size):
    """Restores pictures of several sizes at once, with what must not count around them."""
    network, params = network_of(name)
    laid = buckets.put(pictures, size)
    for index, picture in enumerate(pictures):
        laid[index, picture.shape[0] :] = laid[index, :, picture.shape[1] :] = 7
    vectors = [np.stack(each) for each in zip(*others, strict=True)]
    run = buckets.program(network)
    return np.asarray(run(params, laid, *buckets.sides(pictures), *vectors))


@pytest.mark.parametrize("name", marked("nafnet"))
def test_what_lies_around_a_picture_counts_for_nothing(name):
    multiple = network_of(name)[0].config.multiple
    sizes = [(3 * multiple, 2 * multiple), (2 * multiple, 3 * multiple)]
    inputs = [inputs_of(network_of(name)[0], *size, seed=7) for size in sizes]
    pictures, others = [each[0] for each in inputs], [each[1:] for each in inputs]
    answers = in_array(name, pictures, others, (4 * multiple, 3 * multiple))
    for answer, picture, beside in zip(answers, pictures, others, strict=True):
        height, width, _ = picture.shape
        expected = whole(name, picture, *beside)
        difference = np.abs(answer[:height, :width] - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max()


def test_prompts_are_stretched_over_the_picture_alone():
    pictures = np.random.default_rng(0).uniform(size=(2, 5, 4, 3)).astype(np.float32)
    heights, widths = np.array([6, 12]), np.array([16, 4])
    # Half the resolution, and from the row of the picture above the strip's own on.
    with extent.within(extent.Extent((16, 16), heights, widths, top=4)):
        strips = promptir.resize(pictures, 8, 8)
    for index, (height, width) in enumerate(zip(heights // 2, widths // 2, strict=True)):
        expected = promptir.resize(pictures[index : index + 1], height, width)[0, 2:]
        seen = strips[index, : height - 2, :width]
        np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_how_far_a_program_looks_is_told():
    def program(x, y, kernel):
        a = ops.depthwise(ops.depthwise(x, kernel), kernel[:3, :3], dilation=2)
        return a + y + extent.inside(x)

    x = jax.ShapeDtypeStruct((1, 32, 8, 3), np.float32)
    kernel = jax.ShapeDtypeStruct((5, 5, 3), np.float32)
    with backend.compiling_for("gpu"):
        traced = jax.make_jaxpr(program)(x, x, kernel)
    assert reach.rows(traced, 32) == ([0, 1, 2], 4)
    assert reach.rows(traced, 64) == ([0, 1, 2], 8)  # as features at half the resolution


def test_networks_that_look_at_the_border_are_refused():
    local = models.build("nafnet", **SMALLEST["nafnet"], train_size=(1, 3, 64, 64))
    for network in (local, models.build("sfnet", **SMALLEST["sfnet"])):
        with pytest.raises(InputError, match=f"{network.name} cannot be run strip by strip"):
            Strips(network, {})


@pytest.mark.parametrize(
    "text, expected",
    [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), (10**9, 10**9)],
)
def test_amounts_of_memory_are_read(text, expected):
    assert amounts.parse(text) == expected


@pytest.mark.parametrize("text", ["much", "4 GBB", "-1GB", "1..5G", "10kB", ""])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(InputError, match="memory is .*; give"):
        amounts.parse(text)


def test_fifty_pictures_of_thirty_sizes_need_six_programs():
    rng = np.random.default_rng(0)
    sizes = [tuple(8 * rng.integers(20, 130, 2)) for _ in range(30)]
    many = [sizes[i % 30] for i in range(50)]
    chosen = buckets.choose(many, 6)
    assert len(chosen) == 6
    assert all(buckets.fitting(chosen, *size) for size in many)
    wasted = sum(np.prod(buckets.fitting(chosen, *size)) for size in many)
    assert wasted < 1.5 * sum(map(np.prod, many))


def test_programs_for_thousands_of_sizes_are_chosen_at_once():
    sizes = {tuple(8 * side) for side in np.random.default_rng(0).integers(20, 130, (3000, 2))}
    chosen = buckets.choose(sizes, 6)
    assert len(chosen) <= 6 and all(buckets.fitting(chosen, *size) for size in sizes)


def test_programs_are_shared_only_where_that_pays():
    assert buckets.choose([(64, 64)] * 9) == {(64, 64): False}
    assert buckets.choose([(64, 64), (64, 48)], worth=10**6) == {(64, 64): True}
    assert buckets.choose([(64, 64), (64, 48)], worth=0) == {(64, 64): False, (64, 48): False}
    apart = buckets.choose([(64, 8), (8, 64)], most=1, largest=1000)
    assert apart == {(64, 8): False, (8, 64): False}


@pytest.fixture(scope="module")
def restorer():
    return Restorer(*network_of("nafnet"))


def test_pictures_of_many_sizes_share_programs(restorer):
    photos = [data.chelsea()[:h, :w] for h, w in [(30, 41), (33, 44), (28, 40), (35, 37)]]
    exact = [restorer(photo) for photo in photos]
    compiled = buckets.program(restorer.network)._cache_size()
    restorer.prepare([photo.shape[:2] for photo in photos])
    try:
        together = restorer.many(photos, [None] * 4, batch=3)  # three, then one thrice
        alone = [restorer(photo) for photo in photos]
    finally:
        restorer.buckets = {}
    assert buckets.program(restorer.network)._cache_size() == compiled + 2  # of three and of one
    for photo, expected, one, other in zip(photos, exact, together, alone, strict=True):
        assert expected.shape == photo.shape and not np.array_equal(expected, photo)
        assert np.abs(one.astype(int) - expected).max() <= 1  # of what rounds either way
        np.testing.assert_array_equal(one, other)


def test_large_pictures_go_by_strips_and_then_in_tiles(restorer, monkeypatch, caplog):
    picture = data.chelsea()[:64, :96]
    monkeypatch.setattr(core, "SMALL", 4096)
    expected = restorer(picture)
    sides = 64, 96

    def tried(memory):
        most = restorer._at_once(*sides, memory=memory)
        given = [np.zeros((*sides, 3), np.float32)]
        return [way for way, _ in restorer._ways("__call__", given, (), most, None, memory)]

    monkeypatch.setattr(core, "MIN_MAX_PIXELS", 1024)
    least = restorer._strips.least(*sides)
    tiles = [f"in tiles of {n} pixels" for n in (3072, 1536, 1024)]
    assert tried(10**9) == ["whole", "strip by strip", *tiles]
    assert tried(least)[0] == "strip by strip"
    assert tried(least // 8)[0].startswith("in tiles")

    def fail(*_, **__):
        raise MemoryError

    by_strips = restorer(picture, memory=least)
    assert np.abs(by_strips.astype(int) - expected).max() <= 1
    monkeypatch.setattr(restorer, "_strips", fail_but_tell(restorer._strips, fail))
    tiled = restorer(picture, memory=least)
    (record,) = caplog.records
    assert "not enough memory for 96x64 pixels" in record.message
    assert "trying again in tiles of" in record.message
    assert tiled.shape == picture.shape


def fail_but_tell(strips, fail):
    """Strips that know what they need and fail when they run."""

    class Failing:
        least = staticmethod(strips.least)
        __call__ = fail

    return Failing()
