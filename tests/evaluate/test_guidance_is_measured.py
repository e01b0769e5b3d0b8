"""What guidance is worth: the pictures it is measured on, and the table that the script prints."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from scripts import measure_guided as guided
from tdr_jax import models, weights
from tdr_jax.data import sources
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb
from tests.support.sizes import GUIDED, SMALLEST

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_guided.py"
NAFNET = SMALLEST["nafnet"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        write_rgb(folder / f"{name}.png", getattr(skimage.data, name)()[:120, :160])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, and what is guided around it, both untrained: guidance changes nothing yet."""
    root = tmp_path_factory.mktemp("runs")
    base = models.build("nafnet", **NAFNET)
    whole = models.build("guided", backbone="nafnet", **GUIDED)
    params = base.init(3)
    inside = {f"base.{name}": value for name, value in params.items()}
    for name, network, values in (
        ("base", base, params),
        ("guided", whole, whole.init(0) | inside),
    ):
        (root / name).mkdir()
        weights.save(root / name / "weights.safetensors", network, values)
    return root


def test_pictures_repeat_for_a_seed_and_wrong_guidance_belongs_to_another(photos):
    source = sources.Folder(photos)
    options = dict(side=32, size=48, sigma=50)
    first, again = (guided.held_out(source, **options) for _ in range(2))
    other = guided.held_out(source, **options, seed=1)
    assert {name: value.shape for name, value in first.items()} == dict.fromkeys(
        ("clean", "degraded"), (3, 32, 32, 3)
    ) | dict.fromkeys(guided.KINDS, (3, 48, 48, 3))
    for name, value in first.items():
        assert value.dtype == "float32"
        np.testing.assert_array_equal(value, again[name])
        assert not np.array_equal(value, other[name])
    np.testing.assert_array_equal(first["shuffled"], first["view"][[1, 2, 0]])
    noise = (first["degraded"] - first["clean"]) * 255
    assert noise.std() == pytest.approx(50, rel=0.03)
    with pytest.raises(InputError, match="one photograph has no wrong guidance"):
        guided.held_out(sources.Pictures([skimage.data.rocket()]))


def test_the_table_has_a_row_for_each_kind_of_guidance(photos, runs, monkeypatch, capsys):
    command = f"x --data {photos} --base {runs}/base --unguided {runs}/base {runs}/base"
    command += f" --guided {runs}/guided {runs}/guided --side 32 --size 48"
    monkeypatch.setenv("XLA_FLAGS", "")  # which the script adds to
    monkeypatch.setattr(sys, "argv", [*command.split(), "--dinov2", "random:dinov2-tiny"])
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as where `python scripts/...` looks
    runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capsys.readouterr().out
    assert "3 photographs, crops of 32 pixels, guidance of 48, sigma 50 (14.15 dB), 2 runs" in out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[4:]]
    kinds = list(guided.KINDS)
    assert [row[1] for row in rows] == ["", "", *kinds, *(f"{k}, chosen window" for k in kinds)]
    # An untrained guided network is its base, whatever it is given.
    assert len({row[2] for row in rows}) == 1
    nothing = "+0.00 [+0.00, +0.00]"
    assert {row[3] for row in rows[2:]} == {nothing}
    assert [row[4] for row in rows[2:]] == [nothing, nothing, ""] * 2
    assert all(re.fullmatch(r"\d+\.\d\d, \d+\.\d\d", row[5]) for row in rows[1:])

    monkeypatch.setattr(sys, "argv", (command + f" --guided {runs}/guided").split())
    with pytest.raises(SystemExit, match="1 guided runs and 2 unguided ones"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
