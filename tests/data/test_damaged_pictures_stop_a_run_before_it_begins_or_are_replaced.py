"""A picture that cannot be read is found before step 0, or another is taken: always the same."""

import pickle
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from configs import common
from tdr_jax.data import pipeline, sources, steady
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb, write_rgb
from tdr_jax.images.headers import size_of


def config(**changes):
    data = common.get_config().data
    data.update(tasks=("noise",), weights=(1.0,), stages=((1, 8, 6),), **changes)
    return data


def batches(source, count, step=0, **changes):
    options = {"vectors": None, "seed": 1, "step": step}
    return list(islice(pipeline.batches(source, config(**changes), **options), count))


@pytest.fixture
def folder(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 3), np.uint8)
    for i, picture in enumerate(pictures):
        picture[..., 0] = 30 * i + 10  # by which each is known
        write_rgb(tmp_path / f"{i}.png", picture)
    return tmp_path


def truncate(path, left=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])


def test_nothing_changes_where_nothing_is_damaged(folder):
    plain = batches(sources.Folder(folder), 3)
    steadily = steady.of_config(sources.Folder(folder), config(on_damaged="skip"))
    for one, other in zip(plain, batches(steadily, 3, on_damaged="skip"), strict=True):
        assert not other.pop("damaged").any()
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_replaced_told_once_and_counted(folder, caplog, workers):
    source = steady.Steady(sources.Folder(folder, cache_mb=0))
    before = batches(source, 4, on_damaged="skip")
    truncate(folder / "3.png")
    found = batches(source, 4, on_damaged="skip", workers=workers)
    (line,) = caplog.messages
    assert "3.png: the picture is damaged" in line and "another picture is taken" in line
    # 24 examples are three epochs of eight pictures: each of them meets the damaged one.
    assert sum(batch["damaged"].sum() for batch in found) == 3
    for one, other in zip(before, found, strict=True):
        changed = (one["clean"] != other["clean"]).any((1, 2, 3))
        np.testing.assert_array_equal(changed, other["damaged"] == 1)
        assert not (other["clean"][..., 0] == np.float32(100) / np.float32(255)).any()
    # Another host, or a run that was resumed, takes the same in its place.
    resumed = batches(pickle.loads(pickle.dumps(source)), 2, step=2, on_damaged="skip")
    for one, other in zip(found[2:], resumed, strict=True):
        np.testing.assert_array_equal(one["clean"], other["clean"])


def test_outside_of_batches_it_is_told_once_too(folder, caplog):
    (folder / "0.png").write_bytes(b"")
    source = steady.Steady(sources.Folder(folder))
    first, again = source[0], source[0]
    assert first["name"] == again["name"] != "0.png" and first["image"].shape == (12, 16, 3)
    assert len(caplog.messages) == 1 and "0.png: the file is empty" in caplog.messages[0]
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="1.png: the file is empty.*none of 100 others"):
        steady.Steady(sources.Folder(folder))[1]


def test_a_folder_is_checked_before_it_is_used(folder, caplog):
    source = sources.Folder(folder)
    assert steady.of_config(source, config()) is source
    truncate(folder / "2.png")
    (folder / "5.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2.png: the picture is damaged.*\(and 1 more\); .*skip"):
        steady.of_config(source, config())
    steadily = steady.of_config(source, config(on_damaged="skip"))
    assert ["2.png" in line or "5.png" in line for line in caplog.messages] == [True, True]
    assert steadily[2]["name"] not in ("2.png", "5.png") and len(caplog.messages) == 2
    for wrong in ({"on_damaged": "leave"}, {"check": "some"}):
        with pytest.raises(InputError, match="config.data.(on_damaged is 'leave'|check is 'some')"):
            steady.of_config(source, config(**wrong))


def test_pairs_are_checked_for_their_sizes(folder):
    for name in ("in", "gt"):
        write_rgb(folder / name / "1.png", np.zeros((8, 8, 3), np.uint8))
        write_rgb(folder / name / "2.png", np.zeros((8, 8 if name == "in" else 9, 3), np.uint8))
    source = sources.Pairs(folder / "in", folder / "gt", "rain")
    (line,) = steady.check(source.files)
    assert "in/2.png 8x8 but" in line and "gt/2.png 9x8; a pair must have one size" in line
    both = sources.Concat((source, 2), (sources.Folder(folder / "gt"), 1))
    assert list(both.files) == [*source.files, *sources.Folder(folder / "gt").files]


def test_damage_inside_a_file_is_found_where_all_are_decoded(folder):
    content = bytearray((folder / "4.png").read_bytes())
    content[len(content) // 2] ^= 255  # within the pixels, both ends as they were
    (folder / "4.png").write_bytes(content)
    files = sources.Folder(folder).files
    assert steady.check(files) == []
    (line,) = steady.check(files, every=True)
    assert "4.png: the picture is damaged" in line


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tif", ".ppm"])
def test_headers_tell_what_decoding_tells(tmp_path, suffix):
    path = tmp_path / f"cat{suffix}"
    Image.fromarray(photos.chelsea()[:60, :90]).save(path)
    assert size_of(path) == (90, 60)
    # What stands behind the picture does not make it damaged.
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    assert size_of(path) == (90, 60) and read_rgb(path).shape == (60, 90, 3)
    if suffix != ".tif":
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=f"cat{suffix}"):
            size_of(path)


def test_headers_tell_upright_sizes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.fromarray(photos.chelsea()[:60, :90]).save(tmp_path / name, exif=exif)
        assert size_of(tmp_path / name) == (60, 90) == read_rgb(tmp_path / name).shape[1::-1]
