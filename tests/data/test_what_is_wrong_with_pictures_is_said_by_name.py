"""`tdr data check`: every fault is told by the name of its file, and good files are left alone."""

import json
import unicodedata

import numpy as np
import pytest
from skimage import data

from tdr_jax import cli
from tdr_jax.data import looks
from tdr_jax.images.files import read_rgb, write_rgb

PHOTOS = {"1": data.chelsea(), "2": data.coffee(), "3": data.rocket(), "4": data.astronaut()}
NFD = unicodedata.normalize("NFD", "é")


@pytest.fixture
def pictures(tmp_path):
    """A clean picture of each photograph and a darker one, 96x64."""
    for name, photo in PHOTOS.items():
        crop = photo[100:164, 150:246]
        write_rgb(tmp_path / "set" / "clean" / f"norain-{name}.png", crop)
        write_rgb(tmp_path / "set" / "degraded" / f"rain-{name}.png", crop // 2 + 9)
    return tmp_path / "set"


@pytest.fixture
def check(capsys):
    """Runs the command and gives the status and what was found."""

    def run(*words):
        status = cli.main(["data", "check", *map(str, words), "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def faults(found):
    return {
        (fault["kind"], *(f.split("/")[-1] for f in fault["files"])) for fault in found["faults"]
    }


def test_a_good_set_has_no_faults(pictures, check, capsys):
    status, found = check(pictures)
    assert status == 0 and not found["faults"] and not found["notes"]
    assert found["rule"] == "rain-N and norain-N" and found["counts"] == {"all": 4}
    assert found["sizes"] == {"96x64": 8}
    assert check(pictures / "degraded", pictures / "clean")[1]["pairs"] == found["pairs"]
    status, found = check(pictures / "clean")
    assert status == 0 and found["counts"] == {"all": 4}
    assert cli.main(["data", "check", str(pictures), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pair = f"{pictures}/degraded/rain-1.png\t{pictures}/clean/norain-1.png"
    assert pair in lines and lines[-1] == "no faults"


def test_every_kind_of_damage_is_told_by_name(pictures, check):
    degraded, clean = pictures / "degraded", pictures / "clean"
    (clean / "norain-1.png").rename(clean / "norain-9.png")  # renamed
    (degraded / "rain-2.png").write_bytes((degraded / "rain-2.png").read_bytes()[:-900])
    write_rgb(clean / "norain-3.png", np.swapaxes(PHOTOS["3"][100:164, 150:246], 0, 1))
    for folder, name in ((degraded, "rain-4.png"), (clean, "norain-4.png")):
        (folder / name).rename(folder / name.replace("4", NFD))
    write_rgb(degraded / "rain-7.png", PHOTOS["1"][:64, :96])
    write_rgb(clean / "norain-7.png", PHOTOS["1"][:64, :96])
    (clean / "norain-8.png").write_bytes(b"")
    status, found = check(pictures)
    assert status == 1 and faults(found) == {
        ("no partner", "rain-1.png"),
        ("no input", "norain-9.png"),
        ("damaged", "rain-2.png"),
        ("size", "rain-3.png", "norain-3.png"),
        ("spelling", f"rain-{NFD}.png"),
        ("spelling", f"norain-{NFD}.png"),
        ("unchanged", "rain-7.png", "norain-7.png"),
        ("damaged", "norain-8.png"),
        ("no input", "norain-8.png"),
    }
    told = {tuple(fault["files"]): fault["told"] for fault in found["faults"]}
    renamed = told[(str(degraded / "rain-1.png"),)]
    assert "norain-9.png looks like it, as if one was renamed" in renamed
    assert (
        "is 96x64, but its clean picture"
        in told[(str(degraded / "rain-3.png"), str(clean / "norain-3.png"))]
    )


def test_examples_that_are_there_twice_are_told_and_scenes_with_two_rains_only_noted(
    pictures, check
):
    degraded, clean = pictures / "degraded", pictures / "clean"
    for folder, name in ((degraded, "rain-5.png"), (clean, "norain-5.png")):
        (folder / name).write_bytes((folder / name.replace("5", "1")).read_bytes())
    write_rgb(degraded / "rain-6.png", PHOTOS["2"][100:164, 150:246] // 4)
    write_rgb(clean / "norain-6.png", PHOTOS["2"][100:164, 150:246])
    _, found = check(pictures)
    assert faults(found) == {("duplicate", "rain-5.png", "rain-1.png")}
    assert {tuple(f.split("/")[-1] for f in note["files"]) for note in found["notes"]} == {
        ("norain-1.png", "norain-5.png"),
        ("norain-2.png", "norain-6.png"),
    }


def test_pictures_of_a_test_among_those_of_training_are_found(pictures, check, tmp_path):
    tests = tmp_path / "tests"
    write_rgb(tests / "a.jpg", PHOTOS["2"][100:163, 151:246])  # cropped by a pixel, and saved anew
    write_rgb(tests / "b.png", PHOTOS["3"][100:164, 150:246])
    write_rgb(tests / "c.png", PHOTOS["4"][:64, :96])
    status, found = check(pictures / "clean", "--against", tests)
    assert status == 1
    assert faults(found) == {("leaked", "norain-2.png"), ("leaked", "norain-3.png")}
    assert "the same pixels" in found["faults"][1]["told"]
    # Even pictures have nothing by which they could be the same.
    even = looks.small(np.full((40, 50, 3), 90, np.uint8))
    assert not even.any()


def test_a_known_set_is_counted_and_what_is_missing_is_told(pictures, check, tmp_path):
    clean = tmp_path / "Kodak24"
    noise = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    for i, picture in enumerate(noise, 1):
        write_rgb(clean / f"kodim{i:02d}.png", np.kron(picture, np.ones((4, 4, 1), np.uint8)))
    status, found = check("kodak24", clean)
    assert (status, found["counts"]) == (0, {"test": 24}) and found["expected"] == {"test": 24}
    (clean / "kodim13.png").unlink()
    status, found = check("kodak24", clean)
    assert status == 1
    assert [fault["told"] for fault in found["faults"]] == ["test: 23 of 24; missing numbers: 13"]
    assert cli.main(["data", "check", "kodak24"]) == 2
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2


def test_files_are_told_apart_by_bytes_and_by_pixels(tmp_path):
    photo = PHOTOS["1"][:40, :50]
    write_rgb(tmp_path / "a.png", photo)
    write_rgb(tmp_path / "b.bmp", photo)
    (tmp_path / "c.png").write_bytes(b"no picture")
    paths = sorted(tmp_path.iterdir())
    seen, damaged = looks.look_at(paths)
    one, other = (seen[path] for path in paths[:2])
    assert one.pixels == other.pixels and one.content != other.content and one.size == (50, 40)
    assert list(damaged) == [paths[2]] and "c.png" in damaged[paths[2]]
    np.testing.assert_array_equal(one.small, looks.small(read_rgb(paths[0])))
    assert abs(float(np.linalg.norm(one.small.astype(np.float32))) - 1) < 1e-3
