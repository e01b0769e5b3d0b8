"""A place is a folder, a data set that was built, or several of them, wherever one is asked for."""

import numpy as np
import pytest

from configs import common
from tdr_jax import cli
from tdr_jax.data import places, sources
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb, write_rgb


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """photos/train and photos/test, a+b/, pairs/ with input/ and target/; built: mine and two."""
    root, rng = tmp_path_factory.mktemp("places"), np.random.default_rng(0)
    files = {"photos/train": 3, "photos/test": 2, "a+b": 1, "pairs/input": 2, "pairs/target": 2}
    for folder, count in files.items():
        for i in range(count):
            picture = rng.integers(0, 256, (16, 20, 3), np.uint8)
            write_rgb(root / folder / f"{i}.png", picture)
    build = ["data", "prepare", "paired"]
    sets = ["-o", str(root / "sets"), "--as"]
    assert cli.main([*build, str(root / "photos"), *sets, "mine"]) == 0
    assert cli.main([*build, str(root / "pairs"), *sets, "two", "--task", "rain"]) == 0
    return root


@pytest.fixture(autouse=True)
def where(root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(root / "sets"))


def test_a_split_is_chosen_by_what_it_is_for(root):
    train, test = (places.open_clean("tfds:mine", use=use) for use in ("train", "test"))
    assert (len(train), len(test)) == (3, 2)
    assert len(places.open_clean("tfds:mine/test", use="train")) == 2
    for name in ("sets/mine", "sets/mine/1.0.0", "sets/mine/train", "sets/mine/1.0.0/train"):
        assert len(places.open_clean(f"tfds:{root / name}")) == 3
    np.testing.assert_array_equal(train[1]["image"], read_rgb(root / "photos" / "train" / "1.png"))


def test_several_places_are_one_source_and_a_plus_may_be_part_of_a_name(root):
    folder = root / "photos" / "train"
    both = places.open_any(f"tfds:mine/test+{folder}")
    assert both.names == ["0.png", "1.png", "0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(both[4]["image"], read_rgb(folder / "2.png"))
    assert len(places.open_any(root / "a+b")) == 1
    assert len(places.open_clean(f"package:skimage+{folder}")) == 7
    with pytest.raises(InputError, match="some hold pairs, some clean pictures"):
        places.open_any(f"tfds:two+{folder}")


def test_a_folder_of_both_sides_is_pairs_where_any_pictures_will_do(root):
    folder, built = places.open_any(root / "pairs", task="rain"), places.open_any("tfds:two")
    assert built.task == "rain" and folder.names == built.names == ["0.png", "1.png"]
    for key in ("degraded", "clean"):
        np.testing.assert_array_equal(folder[1][key], built[1][key])
    assert isinstance(places.open_clean(root / "pairs"), sources.Folder)


def test_what_is_not_there_is_said_with_what_is(root, monkeypatch):
    with pytest.raises(InputError, match=r"no data set 'none' in .*sets \(there: mine, two\)"):
        places.open_clean("tfds:none")
    with pytest.raises(InputError, match="has no split 'val'; name one of its splits: /train"):
        places.open_clean("tfds:mine/val")
    monkeypatch.delenv("TFDS_DATA_DIR")
    place = places.located(f"tfds:mine+{root / 'a+b'}", "")
    assert place == f"tfds:mine+{root / 'a+b'}"
    assert len(places.open_clean(places.located("tfds:mine", str(root / "sets")))) == 3


def test_a_config_names_places(root):
    data = common.get_config().data
    data.update({"path": "tfds:mine", "tfds_dir": str(root / "sets"), "path_task": "noise"})
    data.pairs = (("tfds:two", "", "rain", 4), (str(root / "pairs"), "", "rain", 1))
    data.decoded = str(root / "kept")
    source = places.from_config(data)
    assert len(source) == 3 + 4 * 2 + 2
    assert [source[i].get("task") for i in (0, 3, 12)] == ["noise", "rain", "rain"]
    np.testing.assert_array_equal(source[3]["clean"], source[11]["clean"])
    assert list((root / "kept").glob("*/*.npy"))
    data.pairs = ((str(root / "photos" / "train"), "", "rain", 1),)
    with pytest.raises(InputError, match="holds clean pictures only; pairs are wanted"):
        places.from_config(data)


def test_a_contact_sheet_shows_a_place(root, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert cli.main(["data", "show", "tfds:two", "-o", str(sheet), "--count", "1"]) == 0
    assert "1 of 2" in capsys.readouterr().err
    picture = read_rgb(sheet).astype(int)
    first = read_rgb(root / "pairs" / "input" / "0.png")
    np.testing.assert_array_equal(picture[6:22, 6:26], first)  # small ones as they are
    np.testing.assert_array_equal(
        picture[6:22, 32:52], read_rgb(root / "pairs" / "target" / "0.png")
    )
    assert cli.main(["data", "show", "tfds:two", "-o", str(tmp_path / "sheet.xyz")]) == 2
    assert cli.main(["data", "show", "tfds:two", "-o", str(sheet), "--count", "0"]) == 2
