"""Square pictures to see and to draw: functions of the seed and the number, of one window."""

import numpy as np
import pytest

from configs import common
from tdr_jax.data import latents, places, sources
from tdr_jax.degradations.vocabulary import TASKS
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb

SEEN, CLEAN = "clip_image", "clip_image_clean"  # names of what the vision tower sees
SIZES = [(48, 120), (120, 48), (90, 90)]  # height, width: landscape, portrait, square
NEAR = 1.5  # pixels: levels are whole, and are rounded twice


def settings(**fields):
    """The data part of a config: upright squares, left clean."""
    data = common.get_config().data
    data.tasks, data.weights, data.dihedral = ("clean",), (1.0,), (0,)
    for name, value in fields.items():
        data[name] = value
    return data


def make(pictures, wanted="same", view=24, seed=0, encode=None, **fields):
    source = pictures if hasattr(pictures, "paths") else sources.Pictures(pictures)
    return latents.LatentExamples(
        source, settings(**fields), seed, wanted=wanted, view=view, encode=encode
    )


def ramp(height, width, blue=128):
    """A picture that tells where each of its pixels lies: two levels a pixel, red to the right."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 2 * y, np.full_like(x, blue)], -1).astype(np.uint8)


def window(picture):
    """Left, top, right and bottom edge in pixels of the `ramp` that a [0, 1] picture is cut from.

    A line is put through the levels away from the edges, where resizing bends it.
    """
    side = len(picture)
    assert picture.shape == (side, side, 3)
    levels = picture.astype(np.float64) * 255 / 2
    middle = slice(side // 8, side - side // 8)
    at = np.arange(side)[middle] + 0.5

    def edges(values):
        slope, start = np.polyfit(at, values[middle], 1)
        return start + 0.5, start + 0.5 + slope * side

    left, right = edges(levels[middle, :, 0].mean(0))
    top, bottom = edges(levels[:, middle, 1].mean(1))
    return np.array([left, top, right, bottom])


@pytest.mark.parametrize("wanted", latents.WANTED)
def test_an_example_is_a_function_of_its_number(wanted):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(3)]
    fields = dict(
        tasks=("noise", "rain", "haze", "blur"),
        weights=(1.0,) * 4,
        dihedral=tuple(range(8)),
        cover=(0.5, 1.0),
        oversample=(1.0, 3.0),
    )

    def fresh(seed=0):
        encode = lambda caption: np.frombuffer(caption.encode()[:30], np.uint8)  # noqa: E731
        return make(pictures, wanted, seed=seed, encode=encode, **fields)

    first, again, other = fresh(), fresh(), fresh(seed=1)
    made = {n: first(n, 16) for n in (0, 5, 70)}
    for n in (70, 0, 5):  # in another order, by another object
        example = again(n, 16)
        assert example.keys() == made[n].keys()
        for name, array in example.items():
            np.testing.assert_array_equal(array, made[n][name])
            assert array.dtype == made[n][name].dtype
    pixels = "clip_image" if wanted == "views" else "target"
    assert not np.array_equal(made[0][pixels], made[5][pixels])
    assert not np.array_equal(made[0][pixels], other(0, 16)[pixels])
    expected = {
        "target": {"target"},
        "views": {"clip_image", "clip_image_other_crop", "clip_image_other_state"},
        "caption": {"target", "ids"},
        "same": {"clip_image", "target"},
        "pair": {"clip_image", "clip_image_clean", "target"},
    }[wanted]
    for example in made.values():
        assert example.keys() == expected | {"kind"}
        assert example["kind"].dtype == "int32" and latents.KINDS[example["kind"]] in TASKS
        for name in expected - {"ids"}:
            array, side = example[name], 16 if name == "target" else 24
            assert array.dtype == "float32" and array.shape == (side, side, 3)
            assert array.max() <= 1 and array.min() >= (-1 if name == "target" else 0)
        if "target" in example:
            assert example["target"].min() < 0  # in [-1, 1], not in [0, 1]


@pytest.mark.parametrize("cover, oversample", [((), (1, 1)), ((0.4, 0.8), (1, 1)), ((1,), (1, 3))])
@pytest.mark.parametrize("height, width", SIZES)
def test_what_is_seen_and_drawn_is_one_square_of_the_picture(height, width, cover, oversample):
    squared = make([ramp(height, width)], cover=cover, oversample=oversample)
    places = []
    for n in range(24):
        example = squared(n, 32)
        drawn, seen = window(example["target"] / 2 + 0.5), window(example[SEEN])
        np.testing.assert_allclose(drawn, seen, atol=NEAR)
        left, top, right, bottom = drawn
        # As wide as high: neither side is stretched, and nothing lies outside.
        assert abs((right - left) - (bottom - top)) < NEAR
        assert min(left, top) > -NEAR and right < width + NEAR and bottom < height + NEAR
        # Nor is it almost black: blue is the level that it was.
        np.testing.assert_allclose(example["target"][..., 2], 128 / 127.5 - 1, atol=1e-5)
        np.testing.assert_allclose(example[SEEN][..., 2], 128 / 255, atol=1e-5)
        places.append(drawn)
    left, top, right, bottom = np.array(places).T
    sides, short = right - left, min(height, width)
    if not cover:
        np.testing.assert_allclose(sides, 32, atol=NEAR)
    elif len(cover) == 1:
        np.testing.assert_allclose(sides, short, atol=NEAR)
    else:
        assert 0.4 * short - 1 < sides.min() < 0.55 * short
        assert 0.65 * short < sides.max() < 0.8 * short + 1
    # They come from everywhere: either side is gone through whole.
    for start, length in ((left, width), (top, height)):
        room = length - sides
        if room.min() > 8:
            assert (start / room).min() < 0.25 and (start / room).max() > 0.75


@pytest.mark.parametrize("height, width", [(20, 100), (100, 20), (30, 30)])
def test_pictures_smaller_than_the_square_give_their_middle(height, width):
    squared = make([ramp(height, width)], view=16)
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    for n in range(3):
        example = squared(n, 48)
        for picture in (example["target"] / 2 + 0.5, example[SEEN]):
            expected = [left, top, left + short, top + short]
            np.testing.assert_allclose(window(picture), expected, atol=NEAR)


def test_whole_levels_come_through_unchanged():
    picture = ramp(32, 80)
    example = make([picture], view=32)(3, 32)
    left, top, right, bottom = np.rint(window(example[SEEN])).astype(int)
    cut = picture[top:bottom, left:right]
    np.testing.assert_array_equal(np.rint(example[SEEN] * 255), cut)
    np.testing.assert_allclose(example["target"], cut / 127.5 - 1, atol=1e-6)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folders of pairs: as a `ramp`, the degraded ones with less blue."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, blue in (("lq", 40), ("hq", 200)):
        (folder / name).mkdir()
        for i, (height, width) in enumerate(SIZES):
            write_rgb(folder / name / f"{i}.png", ramp(height, width, blue))
    return (str(folder / "lq"), str(folder / "hq"), "rain", 1)


def blue(picture):
    return round(float(picture[..., 2].mean() * 255))


def squares_of(pairs, **fields):
    data = settings(pairs=(pairs,), tasks=("noise",), **fields)
    source = places.from_config(data)
    return lambda wanted: latents.LatentExamples(source, data, 0, wanted=wanted, view=24)


@pytest.mark.parametrize("cover", [(), (0.4, 0.9)])
def test_both_pictures_of_a_pair_give_one_window(pairs, cover):
    turns = tuple(range(8))
    upright, turned = (squares_of(pairs, cover=cover, dihedral=t)("pair") for t in ((0,), turns))
    changed = 0
    for n in range(8):
        example = upright(n, 32)
        assert latents.KINDS[example["kind"]] == "rain"
        drawn = example["target"] / 2 + 0.5
        sides = [blue(picture) for picture in (example[SEEN], example[CLEAN], drawn)]
        assert sides == [40, 200, 200]
        for picture in (example[SEEN], example[CLEAN]):
            np.testing.assert_allclose(window(picture), window(drawn), atol=NEAR)
        other = turned(n, 32)
        np.testing.assert_array_equal(other[SEEN][..., :2], other[CLEAN][..., :2])
        changed += not np.array_equal(other[SEEN], example[SEEN])
    assert changed > 4


def test_a_mixture_of_pairs_gives_both_sides(pairs):
    found = {"rain": 0, "clean": 0}
    mixed = squares_of(pairs)("same")
    for n in range(40):
        example = mixed(n, 32)
        kind = latents.KINDS[example["kind"]]
        found[kind] += 1
        drawn = example["target"] / 2 + 0.5
        assert blue(example[SEEN]) == blue(drawn) == {"rain": 40, "clean": 200}[kind]
        np.testing.assert_allclose(window(example[SEEN]), window(drawn), atol=NEAR)
    assert min(found.values()) > 8


def test_tasks_are_drawn_as_often_as_their_weights_say():
    tasks, weights = ("clean", "noise", "blur", "haze"), (1.0, 4.0, 0.0, 3.0)
    squared = make([ramp(12, 16)], "target", tasks=tasks, weights=weights, sigma_range=(20.0, 50.0))
    grey = ramp(12, 16)
    count = 600
    kinds = []
    for n in range(count):
        example = squared(n, 12)
        kinds.append(latents.KINDS[example["kind"]])
        levels = np.rint((example["target"] / 2 + 0.5) * 255)
        whole = [np.array_equal(levels, grey[:, x : x + 12]) for x in range(5)]
        assert any(whole) == (kinds[-1] == "clean")
    for task, weight in zip(tasks, weights, strict=True):
        share = weight / sum(weights)
        spread = 4 * np.sqrt(share * (1 - share) / count)
        assert abs(kinds.count(task) / count - share) <= spread


def test_the_clean_picture_of_a_restoration_is_clean():
    squared = make([ramp(40, 70)], "pair", tasks=("noise",), sigma_range=(50.0, 50.0), view=32)
    example = squared(0, 32)
    noise = (example[SEEN] - example[CLEAN])[..., 2] * 255
    assert 40 < noise.std() < 60
    np.testing.assert_array_equal(example["target"], example[CLEAN] * np.float32(2) - 1)
    same = make([ramp(40, 70)], tasks=("noise",), sigma_range=(50.0, 50.0), view=32)(0, 32)
    np.testing.assert_array_equal(same[SEEN], example[SEEN])  # one draw, whatever is wanted
    np.testing.assert_array_equal(same["target"], same[SEEN] * np.float32(2) - 1)


def test_pictures_in_other_colours_are_seen_and_drawn_in_the_same():
    picture, options = ramp(40, 70), dict(tasks=("rain",), view=40)
    plain, some = (make([picture], "pair", color_jitter=share, **options) for share in (0.0, 0.5))
    changed = 0
    for n in range(40):
        before, after = plain(n, 40), some(n, 40)
        np.testing.assert_array_equal(after["target"], after[CLEAN] * np.float32(2) - 1)
        if np.array_equal(before["target"], after["target"]):
            np.testing.assert_array_equal(before[SEEN], after[SEEN])
            continue
        changed += 1
        # Rain adds light, wherever it falls: to the other colours too.
        assert (after[SEEN] - after[CLEAN]).mean() > 0
        wrong = (after[SEEN] - after[CLEAN]) - (before[SEEN] - before[CLEAN])
        assert np.abs(wrong).mean() < 0.1
    assert 10 < changed < 30


@pytest.mark.parametrize("tasks", [("clean", "noise"), ("noise",), ("clean", "noise", "noise")])
def test_a_view_is_shown_in_another_state_too(tasks):
    weights = (1.0,) * len(tasks)
    fields = dict(tasks=tasks, weights=weights, sigma_range=(20.0, 20.0), cover=(1,))
    squared = make([ramp(60, 110)], "views", view=32, **fields)
    kinds = set()
    for n in range(8):
        example = squared(n, 48)
        kinds.add(latents.KINDS[example["kind"]])
        noisy, clean = example[SEEN], example["clip_image_other_state"]
        if latents.KINDS[example["kind"]] == "clean":
            noisy, clean = clean, noisy
        assert clean[..., 2].std() < 0.01 < 0.03 < noisy[..., 2].std()  # the ramp has no blue
        np.testing.assert_allclose(window(noisy), window(clean), atol=8)  # the same crop
    assert kinds == set(tasks)


def test_views_of_pairs_in_another_state_are_the_other_side(tmp_path):
    for side, picture in (("lq", ramp(60, 60) // 2), ("hq", ramp(60, 60))):
        (tmp_path / side).mkdir()
        write_rgb(tmp_path / side / "one.png", picture)
    pairs = sources.Pairs(tmp_path / "lq", tmp_path / "hq", "haze")
    fields = dict(tasks=("haze",), cover=(1,))
    squared = latents.LatentExamples(pairs, settings(**fields), 0, wanted="views", view=32)
    for n in range(8):
        example = squared(n, 48)
        ratio = example["clip_image_other_state"].sum() / example[SEEN].sum()
        wanted = 0.5 if latents.KINDS[example["kind"]] == "clean" else 2
        np.testing.assert_allclose(ratio, wanted, rtol=0.05)


def test_a_clean_picture_is_a_pair_with_itself():
    example = make([ramp(40, 70)], "pair", tasks=("clean",), view=32)(0, 32)
    np.testing.assert_array_equal(example[SEEN], example[CLEAN])
    assert latents.KINDS[example["kind"]] == "clean"


def test_views_are_crops_of_one_square():
    fields = dict(tasks=("clean", "noise"), weights=(1.0, 0.0), cover=(1,))
    squared = make([ramp(60, 110)], "views", view=32, **fields)
    for n in range(6):
        example = squared(n, 48)
        first, second = window(example[SEEN]), window(example["clip_image_other_crop"])
        assert not np.allclose(first, second, atol=2)
        for left, top, right, bottom in (first, second):
            assert 0.6 * 60 - 2 < right - left < 60 + 1
            assert abs((right - left) - (bottom - top)) < NEAR
        assert max(first[0], second[0]) < min(first[2], second[2])


@pytest.mark.parametrize(
    "wanted, fields, line",
    [
        ("same", dict(tasks=("clean", "snow"), weights=(1.0, 1.0)), "no task 'snow'.*clean, noise"),
        ("views", dict(tasks=("clean",), weights=(1.0,)), "'clean' alone; views need pictures in"),
        ("same", dict(weights=(1.0, 2.0)), r"data.weights \(1.0, 2.0\) must hold one number"),
        ("same", dict(weights=(0.0,)), "one of them above 0"),
        ("same", dict(tasks=("clean", "noise"), weights=(2.0, -1.0)), "data.weights"),
        ("same", dict(tasks=(), weights=()), "data.weights"),
        ("same", dict(cover=(0.0, 0.5)), r"data.cover is \(0.0, 0.5\); give .*\(0, 1\]"),
        ("same", dict(cover=(0.5, 1.5)), "data.cover is"),
        ("same", dict(cover=(0.9, 0.5)), "data.cover is"),
        ("same", dict(oversample=(0.5, 1.0)), r"data.oversample is \(0.5, 1.0\); give .* >= 1"),
        ("same", dict(oversample=(3.0, 2.0)), "data.oversample is"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(wanted, fields, line):
    with pytest.raises(InputError, match=line) as refused:
        make([ramp(20, 20)], wanted, **fields)
    assert "\n" not in str(refused.value)


def test_a_word_that_is_no_kind_of_example_is_refused():
    with pytest.raises(ValueError, match="no examples of kind 'both'; there are target, views"):
        make([ramp(20, 20)], "both")
