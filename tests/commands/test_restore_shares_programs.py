"""`tdr restore` compiles few programs for many sizes, and restores several pictures at once."""

import json

import numpy as np
import pytest
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.commands import sizes
from tdr_jax.infer import Restorer, buckets
from tests.support.sizes import SMALLEST

SIZES = [(30, 41), (33, 44), (41, 30), (28, 40), (35, 37)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = models.build("nafnet", **SMALLEST["nafnet"])
    rng = np.random.default_rng(0)  # beta and gamma start at zero, where blocks do nothing
    params = {k: x + 0.1 * rng.standard_normal(x.shape) for k, x in network.init(0).items()}
    return weights.save(tmp_path_factory.mktemp("model"), network, params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    for index, (height, width) in enumerate(SIZES):
        images.write_rgb(path / f"{index}.png", data.chelsea()[:height, :width])
    (path / "damaged.png").write_bytes(b"no picture")
    return path


def test_a_folder_of_many_sizes_is_restored_by_few_programs(model, folder, tmp_path, capsys):
    network, _ = weights.load(model)
    before = buckets.program(network)._cache_size()
    words = ["restore", folder, "--model", model, "--json"]
    for name, more in (("alone", []), ("together", ["--batch", 3, "--memory", "1GB"])):
        assert cli.main([*map(str, [*words, "-o", tmp_path / name, *more])]) == 1
        said = capsys.readouterr()
        assert said.err.count("tdr: error:") == 1 and "damaged.png" in said.err
        assert f"restored {len(SIZES)} of {len(SIZES) + 1}; 1 failed" in said.err
        records = [json.loads(line) for line in said.out.splitlines()]
        assert [r["status"] for r in records].count("restored") == len(SIZES)
    # One array for all sizes; of one picture, and of three.
    assert buckets.program(network)._cache_size() - before <= 3
    restorer = Restorer.from_pretrained(model)
    for index in range(len(SIZES)):
        picture = images.read_rgb(folder / f"{index}.png")
        expected = restorer(picture).astype(int)
        for name in ("alone", "together"):
            restored = images.read_rgb(tmp_path / name / f"{index}.png")
            assert np.abs(restored - expected).max() <= 1  # of what rounds either way
        assert not np.array_equal(restored, picture)


def test_what_does_not_go_together_is_refused(model, folder, tmp_path, capsys):
    words = ["restore", folder, "-o", tmp_path / "out", "--model", model]
    for more, said in (
        (["--batch", 0], "--batch is 0"),
        (["--batch", 2, "--rows", 2], "--batch does not go with --rows"),
        (["--memory", "much"], "memory is 'much'"),
        (["--memory", "1GB", "--max-pixels", 9999], "give one"),
    ):
        assert cli.main([*map(str, [*words, *more])]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sizes_are_told_as_pictures_are_seen(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[sizes.ORIENTATION] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(tmp_path / "plain.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8bad")
    told = [sizes.of(tmp_path / f"{name}.jpg") for name in ("turned", "plain", "bad")]
    assert told == [(30, 20), (20, 30), None]


def test_batches_are_even_and_what_goes_alone_stays_alone():
    a, b = (8, 8), (8, 16)
    assert sizes.in_batches([a, b, a, a, None, a, b], 3) == [[0, 2], [1, 6], [3, 5], [4]]
    assert sizes.in_batches([a, a, None], 1) == [[0], [1], [2]]
