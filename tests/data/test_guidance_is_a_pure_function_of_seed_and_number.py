"""Guidance: the same for a seed and a number, of the kind asked for, turned as its crop."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from tdr_jax.data import guidance, pipeline, sources, turns
from tdr_jax.data.guidance import KINDS, Guidance
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb, write_rgb
from tdr_jax.images.folders import list_pictures

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
MADE = ("view", "part", "other")


def settings(*kinds, **changes):
    given = {"kinds": kinds, "weights": (1.0,) * len(kinds), "path": "", "size": 48}
    return ConfigDict(given | changes)


def data(**changes):
    given = common.get_config().data
    given.update({"tasks": ("noise",), "weights": (1.0,), "stages": ((100, 32, 6),)} | changes)
    return given


@pytest.fixture(scope="module")
def photos():
    return sources.Pictures([read_rgb(path)[:160, :200] for path in list_pictures(PHOTOS)])


def take(count, source, options, seed=1, vectors=None, guided=True, **where):
    made = Guidance(source, settings(*MADE), seed) if guided else None
    batches = pipeline.batches(source, options, vectors=vectors, seed=seed, guidance=made, **where)
    return list(islice(batches, count))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_guidance_repeats_for_a_seed_on_any_host_and_from_any_step(photos):
    whole, other = take(4, photos, data()), take(4, photos, data(), seed=2)
    for one, again in zip(whole[2:], take(2, photos, data(), step=2), strict=True):
        assert_equal(one, again)
    hosts = [take(4, photos, data(), process_index=i, process_count=2) for i in range(2)]
    for k, batch in enumerate(whole):
        assert_equal(batch, {key: np.concatenate([h[k][key] for h in hosts]) for key in batch})
        assert batch["guidance"].shape == (6, 48, 48, 3)
        assert batch["guidance"].dtype == "float32" and batch["kind"].dtype == "int32"
        assert 0 <= batch["guidance"].min() and batch["guidance"].max() <= 1
        assert not np.array_equal(batch["guidance"], other[k]["guidance"])
    kinds = np.concatenate([batch["kind"] for batch in whole])
    assert {KINDS[kind] for kind in kinds} == set(MADE)


def test_everything_else_in_an_example_is_as_it_is_without_guidance(photos):
    vectors = {"noise": np.eye(5, dtype=np.float32)}
    for options in (data(), data(channels=1)):
        for with_it, without in zip(
            take(2, photos, options, vectors=vectors),
            take(2, photos, options, vectors=vectors, guided=False),
            strict=True,
        ):
            assert with_it.keys() - without.keys() == {"guidance", "kind"}
            assert_equal({key: with_it[key] for key in without}, without)
            assert with_it["guidance"].shape[-1] == 3


def located(crop, guidance):
    """The smallest mean absolute difference of a crop from any window of the guidance."""
    rows, columns = (b - a + 1 for a, b in zip(crop.shape[:2], guidance.shape[:2], strict=True))
    found = [
        np.abs(guidance[y : y + len(crop), x : x + len(crop)] - crop).mean()
        for y in range(rows)
        for x in range(columns)
    ]
    return min(found), int(np.argmin(found))


def ramp(height=160, width=200):
    """A photograph that tells every place apart: row, column, and a texture."""
    y, x = np.mgrid[:height, :width]
    texture = np.random.default_rng(0).integers(0, 256, (height, width))
    return np.stack([y, x, texture], -1).astype(np.uint8)


def test_a_part_shows_nothing_of_the_crop_where_there_is_room():
    source = sources.Pictures([ramp()])
    make = pipeline.Examples(
        source, data(dihedral=(0,)), None, 0, Guidance(source, settings("part"), 0)
    )
    places = set()
    for n in range(60):
        example = make(n, 32)
        crop, part = (np.rint(example[key] * 255).astype(int) for key in ("clean", "guidance"))
        (y, x), (top, left) = crop[0, 0, :2], part[0, 0, :2]
        assert np.array_equal(part, ramp()[top : top + 48, left : left + 48])
        assert top + 48 <= y or y + 32 <= top or left + 48 <= x or x + 32 <= left
        places.add((top, left))
    assert len(places) > 50
    # Without room it keeps as far away as it can, and small photographs grow.
    small = ramp(64, 64)
    for _ in range(5):
        cut = guidance.part(small, 48, (0, 0, 32, 32), np.random.default_rng(0))
        assert tuple(cut[0, 0, :2]) == (16, 16)
    assert guidance.part(ramp(30, 40), 48, None, np.random.default_rng(0)).shape == (48, 48, 3)


def test_a_view_shows_the_crop_shifted_scaled_tilted_and_recoloured(photos, monkeypatch):
    picture = photos[0]["image"]
    window = (70, 90, 32, 32)
    crop = picture[70:102, 90:122].astype(np.float32) / 255
    views = [guidance.view(picture, 64, window, np.random.default_rng(i)) for i in range(8)]
    assert len({view.tobytes() for view in views}) == 8
    assert all(view.shape == (64, 64, 3) and view.dtype == "float32" for view in views)
    # Exactly the crop again, somewhere, once nothing but the shift is left.
    for name in ("SCALE", "GAIN", "GAMMA"):
        monkeypatch.setattr(guidance, name, (1.0, 1.0))
    monkeypatch.setattr(guidance, "TILT", 0.0)

    class Even:
        """Shifts by whole pixels."""

        def __init__(self, shift):
            self.shift = shift

        def random(self, count):
            return np.concatenate(
                [np.full(2, 0.5), 0.5 + np.array(self.shift) / 32, np.full(6, 0.5)]
            )

    for shift in ((0, 0), (3, -5), (-16, 16)):
        view = guidance.view(picture, 64, window, Even(shift))
        difference, place = located(crop, view)
        assert difference < 1e-6
        assert divmod(place, 33) == (16 - shift[0], 16 - shift[1])
    # At the border of the photograph it shows what is there, not a reflection.
    corner = guidance.view(picture, 64, (0, 0, 32, 32), Even((0, 0)))
    np.testing.assert_allclose(corner, picture[:64, :64].astype(np.float32) / 255, atol=1e-6)


def test_other_guidance_comes_from_another_photograph_even_of_repeated_ones():
    flat = [np.full((60, 60, 3), 40 * i, np.uint8) for i in range(3)]
    source = sources.Concat((sources.Pictures(flat), 4))
    make = pipeline.Examples(source, data(), None, 0, Guidance(source, settings("other"), 0))
    seen = set()
    for n in range(40):
        example = make(n, 32)
        pair = tuple(np.rint(example[key][0, 0, 0] * 255 / 40) for key in ("clean", "guidance"))
        assert pair[0] != pair[1]
        seen.add(pair)
    assert len(seen) == 6
    with pytest.raises(InputError, match="'other' needs another picture than 0"):
        alone = sources.Pictures(flat[:1])
        Guidance(alone, settings("other"), 0)(0, 0, "0", flat[0], (0, 0, 32, 32), 0)


def test_made_guidance_is_turned_with_its_crop_and_files_are_not(tmp_path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "given").mkdir()
    write_rgb(tmp_path / "clean" / "a.png", ramp())
    write_rgb(tmp_path / "given" / "a.png", ramp(48, 48))
    source = sources.Folder(tmp_path / "clean")
    for how in range(8):
        for kind, path in (("part", ""), ("file", str(tmp_path / "given"))):
            made = Guidance(source, settings(kind, path=path), 0)
            example = pipeline.Examples(source, data(dihedral=(how,)), None, 0, made)(0, 32)
            upright = pipeline.Examples(source, data(dihedral=(0,)), None, 0, made)(0, 32)
            expected = upright["guidance"]
            if kind == "part":
                expected = turns.dihedral(expected, how)
            np.testing.assert_array_equal(example["guidance"], expected)


def test_files_are_found_by_the_names_of_pictures_pairs_and_scenes(tmp_path):
    def folder(name, *stems, size=(40, 40)):
        (tmp_path / name).mkdir()
        for i, stem in enumerate(stems):
            write_rgb(tmp_path / name / f"{stem}.png", np.full((*size, 3), 10 * (i + 1), np.uint8))
        return str(tmp_path / name)

    hazy = folder("hazy", "0001_0.8_0.2", "0001_1_0.1", "0002_0.8_0.2")
    rainy = folder("rainy", "rain-1", "rain-2")
    source = sources.Concat(
        (sources.Pairs(hazy, folder("clear", "0001", "0002"), "haze"), 1),
        (sources.Pairs(rainy, folder("gt", "norain-1", "norain-2"), "rain"), 3),
    )
    assert source.names == [
        "0001_0.8_0.2.png", "0001_1_0.1.png", "0002_0.8_0.2.png", "rain-1.png", "rain-2.png",
    ]  # fmt: skip
    given = folder("given", "0001", "0002", "norain-1", "norain-2", size=(48, 48))
    made = Guidance(source, settings("file", path=given), 0)
    levels = []
    for index in range(len(source)):
        item = source[index]
        found = made(index, index, item["name"], item["clean"], (0, 0, 32, 32), 3)
        assert KINDS[found["kind"]] == "file"
        levels.append(round(float(found["guidance"][0, 0, 0]) * 255))
    assert levels == [10, 10, 20, 30, 40, 30, 40, 30, 40]
    (tmp_path / "given" / "0001.png").unlink()
    missing = "given: no guidance for 0001_0.8_0.2.png, 0001_1_0.1.png;"
    with pytest.raises(InputError, match=missing):
        Guidance(source, settings("file", path=given), 0)


def test_larger_files_give_the_place_of_the_crop_and_smaller_ones_grow():
    whole = ramp()
    for window in ((64, 84, 32, 32), (0, 0, 32, 32), (128, 168, 32, 32)):
        cut = guidance.at_crop(whole, 48, window, whole.shape[:2])
        top, left = cut[0, 0, :2]
        assert (top, left) == (
            np.clip(window[0] - 8, 0, 160 - 48),
            np.clip(window[1] - 8, 0, 200 - 48),
        )
    # Half as large a picture: the same place in it.
    cut = guidance.at_crop(whole, 48, (128, 168, 32, 32), (320, 400))
    assert tuple(cut[0, 0, :2]) == (72 - 24, 92 - 24)
    assert guidance.at_crop(whole[:20, :30], 48, (0, 0, 32, 32), (20, 30)).shape == (48, 48, 3)


@pytest.mark.parametrize(
    "given, message",
    [
        (settings("sketch"), "no guidance of kind 'sketch'.*use some of file, view, part, other"),
        (settings(), r"weights \(\) must hold one number >= 0 for each of"),
        (settings("view", weights=(1.0, 1.0)), "must hold one number >= 0 for each of"),
        (settings("view", weights=(0.0,)), "one of them above 0"),
        (settings("view", size=0), "size is 0; give a side in pixels"),
        (settings("file"), "path is ''.*give both a folder and the kind 'file'"),
        (settings("view", path="given"), "path is 'given'.*give both"),
        (settings("file", path="nowhere"), "nowhere is not a folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(photos, given, message):
    with pytest.raises(InputError, match=message):
        Guidance(photos, given, 0)
