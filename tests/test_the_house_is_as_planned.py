"""The ways through the package stay short, and its files can be read at a sitting.

Who may import whom is checked by import-linter; this is what it cannot see.
"""

from pathlib import Path

import numpy as np
import pytest

import tdr_jax
from configs import common
from tdr_jax import models, weights
from tdr_jax.images.files import write_rgb
from tests.support import ways
from tests.support.sizes import SMALLEST

PHOTOS = Path(__file__).parents[1] / "examples" / "photos" / "test"


@pytest.mark.parametrize("prompt, most", [("remove the noise", 24), ("auto", 23)])
def test_a_photograph_enters_few_files_and_calls_nobody_above(tmp_path, prompt, most):
    rng = np.random.default_rng(0)
    write_rgb(tmp_path / "in.png", rng.integers(0, 256, (16, 24, 3), np.uint8))
    network = models.build("textpromptir-tiny")
    model = weights.save(tmp_path / "model", network, network.init(0)).parent
    options = ["--model", str(model), "--prompt", prompt]
    way = ways.of_restore(tmp_path / "in.png", tmp_path / "out.png", *options)
    assert len(way.stations) <= most, way
    assert len(way.climbs) <= 6, way


def test_a_batch_enters_few_files_from_config_to_gradient(tmp_path):
    config = common.get_config()
    config.network.name = "nafnet"
    config.network.overrides.update(SMALLEST["nafnet"])
    config.data.path = str(PHOTOS)
    config.data.stages = ((1, 32, 2),)
    way = ways.of_a_batch(config, tmp_path)
    assert len(way.stations) <= 16, way
    assert len(way.climbs) <= 6, way


def test_no_file_is_longer_than_450_lines():
    files = Path(tdr_jax.__file__).parent.rglob("*.py")
    lengths = {str(path): len(path.read_text().splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > 450} == {}
