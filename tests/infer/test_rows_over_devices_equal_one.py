"""A picture whose rows are cut over devices is restored as by one, and nothing gathers it."""

import jax
import numpy as np
import pytest
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer, tiles
from tests.support.commands import run as commands_of
from tests.support.over_rows import measure
from tests.support.sizes import SMALLEST

# The devices of the lowest level have a row or two each, fewer than some filters look at.
JOBS = {
    "textpromptir-tiny": dict(height=128, width=64, devices=8),
    "promptir": dict(height=64, width=32, devices=8),
    "nafnet": dict(height=32, width=32, devices=8),
    "sfnet": dict(height=72, width=32, devices=3),  # whose halves end within a device
    "drsformer": dict(height=32, width=32, devices=4),
}
FULL = ("drsformer",)  # compiles for as long as three others
REACH = {"drsformer": 6, "sfnet": 2}  # rows that the widest filter looks up or down; 1 for others


def assert_equal_without_gathering(result, reach=1):
    assert result["difference"] <= 1e-5
    assert result["changed"] > 1e-3  # the network did take part
    moved = result["collectives"]
    assert set(moved) == {"all-reduce", "collective-permute"}
    assert max(height for _, height, *_ in moved["collective-permute"]) <= reach
    # Sums are of channels, or of pairs of them: none has rows and columns of the picture.
    assert all(np.prod(shape[:-2], dtype=int) <= 2 for shape in moved["all-reduce"])


@pytest.fixture(scope="module")
def measured(pytestconfig):
    """What each job gives, and a program that gathers, in one process of eight devices."""
    names = [n for n in JOBS if (n in FULL) == pytestconfig.getoption("--full")]
    jobs = [JOBS[n] | dict(name=n, overrides=SMALLEST.get(n, {})) for n in names]
    return dict(zip([*names, "gathered"], measure([*jobs, None], 8), strict=True))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full if n in FULL else ()) for n in JOBS]
)
def test_each_network_gives_what_one_device_gives(name, measured):
    assert_equal_without_gathering(measured[name], REACH.get(name, 1))


def test_a_program_that_gathers_is_found(measured):
    assert measured["gathered"] == {"all-gather": [[1, 8, 4, 3]]}


@pytest.mark.full
def test_four_million_pixels_over_eight_devices():
    (result,) = measure([dict(height=2048, width=2048, devices=8)], 8, timeout=3600)
    assert_equal_without_gathering(result)
    each, alone = result["memory"]
    assert each < alone / 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = models.build("nafnet", **SMALLEST["nafnet"])
    params = network.init(0)
    rng = np.random.default_rng(0)  # beta and gamma start at zero, where blocks do nothing
    params = {
        name: np.asarray(x) + 0.1 * rng.standard_normal(x.shape, np.float32)
        for name, x in params.items()
    }
    return weights.save(tmp_path_factory.mktemp("model"), network, params)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    images.write_rgb(path, data.chelsea()[100:162, 120:181])
    return path


@pytest.fixture(scope="module")
def ended(model, photo, tmp_path_factory):
    """Of commands that cut pictures over devices, how they ended, and the folder they wrote to."""
    folder = tmp_path_factory.mktemp("out")
    images.write_rgb(folder / "wide.png", data.coffee()[:128, :400])
    restore, evaluate = ["restore", "--model", model], ["eval", "--model", model]
    evaluate += ["--data", photo.parent, "--tasks", "noise25"]
    commands = {
        "photograph": [*restore, photo, "-o", folder / "out.png", "--rows", 4],
        "tiles": [*restore, folder / "wide.png", "-o", folder / "tiled.png", "--rows", 4]
        + ["--max-pixels", 16384],
        "eval over 0": [*evaluate, "-o", folder / "over0", "--rows", 0],
        "eval over 3": [*evaluate, "-o", folder / "over3", "--rows", 3],
    }
    found = commands_of(commands.values(), devices=4, cache=folder / "cache")
    return dict(zip(commands, found, strict=True)), folder


def test_restore_cuts_a_photograph(model, photo, ended):
    ended, folder = ended
    assert ended["photograph"].status == 0, ended["photograph"].err
    # Rows in pairs for four devices: 64 and 62 columns, by reflection, where one adds zeros.
    picture, restored = images.read_rgb(photo), images.read_rgb(folder / "out.png")
    padded = np.pad(picture, ((0, 2), (0, 1), (0, 0)), mode="reflect")
    expected = Restorer.from_pretrained(model)(padded)[:62, :61]
    difference = np.abs(restored.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2  # of what rounds either way
    assert not np.array_equal(restored, picture)


def test_tiles_are_cut_too(model, ended):
    ended, folder = ended
    assert ended["tiles"].status == 0, ended["tiles"].err
    shapes = [tiles.tile_shape(128, 400, 16384, 2, rows) for rows in (1, 4)]
    assert shapes[0] == shapes[1] and shapes[0][1] < 400  # the same tiles, and several
    picture = images.read_rgb(folder / "wide.png")
    expected = Restorer.from_pretrained(model)(picture, max_pixels=16384)
    difference = np.abs(images.read_rgb(folder / "tiled.png").astype(int) - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (100, 400), (4000, 3000), (4000, 17)])
def test_tiles_have_as_many_rows_for_each_device(rows, size):
    for most in (rows * 4096, rows * 2**19):
        tall, broad = tiles.tile_shape(*size, most, 16, rows)
        assert tall % (16 * rows) == 0 and broad % 16 == 0
        assert tall * broad <= max(most, 16 * rows * 16)
        assert tall <= tiles.padded(*size, 16, rows)[0]


def test_eval_cuts_pictures(ended):
    tables = [ended[0][f"eval over {rows}"].out for rows in (0, 3)]
    assert tables[0] == tables[1] and "noise25" in tables[0]


def refused(words, capsys):
    """Runs `tdr` in this process; gives the one line it says."""
    assert cli.main(list(map(str, words))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_more_devices_than_there_are(model, photo, tmp_path, capsys):
    count = jax.local_device_count() + 1
    remedy = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
    out = tmp_path / "out.png"
    for rows, said in ((count, remedy), (-1, "rows is -1")):
        words = ["restore", photo, "-o", out, "--model", model, "--rows", rows]
        assert said in refused(words, capsys)
        words = ["eval", "--model", model, "--data", photo.parent, "-o", out, "--rows", rows]
        assert said in refused(words, capsys)
        with pytest.raises(InputError, match="rows is"):
            Restorer.from_pretrained(model, rows=rows)
    assert not out.exists()


def test_tiles_too_small_for_the_devices(model, photo, tmp_path, capsys):
    words = ["restore", photo, "-o", tmp_path / "out.png", "--model", model]
    line = refused([*words, "--rows", 4, "--max-pixels", 8192], capsys)
    assert "at least 16384 over 4 devices" in line


@pytest.mark.parametrize(
    "name, overrides, said",
    [
        ("nafnet", SMALLEST["nafnet"] | dict(train_size=(1, 3, 64, 64)), "windows of the picture"),
        ("sfnet", SMALLEST["sfnet"] | dict(mode=("test", "GOPRO")), "windows of the picture"),
        ("guided", dict(backbone="nafnet", **SMALLEST["nafnet"]), "all of the guidance"),
    ],
)
def test_networks_that_look_across_rows_are_refused(name, overrides, said):
    network = models.build(name, **overrides)
    with pytest.raises(InputError, match=f"network {name} .*{said}.*leave rows out"):
        Restorer(network, {}, rows=2)


def test_no_rows_means_one_device(model):
    picture = data.chelsea()[:30, :47]
    expected = Restorer.from_pretrained(model)(picture)
    for rows in (None, 0, 1):
        restorer = Restorer.from_pretrained(model, rows=rows)
        np.testing.assert_array_equal(restorer(picture), expected)
