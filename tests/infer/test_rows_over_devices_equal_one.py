"""A picture whose rows are cut over devices is restored as by one, and nothing gathers it."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer, tiles
from tests.support.over_rows import measure
from tests.support.programs import on_devices
from tests.support.sizes import SMALLEST

# The devices of the lowest level have a row or two each, fewer than some filters look at.
JOBS = {
    "textpromptir-tiny": dict(height=128, width=64, devices=8),
    "promptir": dict(height=64, width=32, devices=8),
    "nafnet": dict(height=64, width=32, devices=8),
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
    params = {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in params.items()}
    return weights.save(tmp_path_factory.mktemp("model"), network, params)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    images.write_rgb(path, data.chelsea()[100:162, 120:181])
    return path


def tdr(words, cache, devices=4):
    """Runs `tdr` where there are so many devices; gives its standard error."""
    return subprocess.run(
        [sys.executable, "-m", "tdr_jax.cli", *map(str, words)],
        env=on_devices(devices) | {"TDR_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_restore_cuts_a_photograph(model, photo, tmp_path):
    out = tmp_path / "out.png"
    done = tdr(["restore", photo, "-o", out, "--model", model, "--rows", 4], tmp_path)
    assert done.returncode == 0, done.stderr
    # Four devices of four rows or a multiple: 64 rows, where one device would be given 64 too.
    picture, restored = images.read_rgb(photo), images.read_rgb(out)
    expected = Restorer.from_pretrained(model)(picture)
    difference = np.abs(restored.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2  # of what rounds either way
    assert not np.array_equal(restored, picture)


def test_tiles_are_cut_too(model, tmp_path):
    photo, out = tmp_path / "wide.png", tmp_path / "out.png"
    picture = data.coffee()[:128, :400]
    images.write_rgb(photo, picture)
    words = ["restore", photo, "-o", out, "--model", model, "--rows", 4, "--max-pixels", 16384]
    done = tdr(words, tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = [tiles.tile_shape(128, 400, 16384, 4, rows) for rows in (1, 4)]
    assert shapes[0] == shapes[1] and shapes[0][1] < 400  # the same tiles, and several
    expected = Restorer.from_pretrained(model)(picture, max_pixels=16384)
    difference = np.abs(images.read_rgb(out).astype(int) - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (100, 400), (4000, 3000), (4000, 17)])
def test_tiles_have_as_many_rows_for_each_device(rows, size):
    for most in (rows * 4096, rows * 2**19):
        tall, broad = tiles.tile_shape(*size, most, 16, rows)
        assert tall % (16 * rows) == 0 and broad % 16 == 0
        assert tall * broad <= max(most, 16 * rows * 16)
        assert tall <= tiles.padded(*size, 16, rows)[0]


def test_eval_cuts_pictures(model, photo, tmp_path):
    words = ["eval", "--model", model, "--data", photo.parent, "--tasks", "noise25"]
    tables = [
        tdr([*words, "-o", tmp_path / f"over{rows}", "--rows", rows], tmp_path).stdout
        for rows in (0, 3)  # 48 rows: 16 for each
    ]
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
