"""Measuring networks without words, in grey, of two views, and with the noise of their papers."""

import dataclasses
import json
import types

import numpy as np
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from configs import common
from tdr_jax import cli, models, weights
from tdr_jax.commands.eval import run_config
from tdr_jax.errors import InputError
from tdr_jax.evaluate import (
    Restoration,
    Setting,
    evaluate,
    protocols,
    report,
)
from tdr_jax.images.files import read_rgb, write_rgb
from tdr_jax.models import Capabilities
from tests.support.sizes import GREY

PHOTOS = {"a.png": data.astronaut()[60:108, 200:264], "b.png": data.chelsea()[100:151, 100:165]}


@dataclasses.dataclass(frozen=True)
class Wordless(Capabilities):
    """A network that takes no sentence and scales the first channels of its input."""

    scale: float = 1.0
    channels: tuple = (3, 3)
    name: str = "wordless"

    @property
    def config(self):
        return types.SimpleNamespace(multiple=8, channels=self.channels)

    def apply(self, params, images):
        assert images.shape == (1, 48, 64, self.channels[0])
        return images[..., : self.channels[1]] * self.scale


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for name, photo in PHOTOS.items():
        write_rgb(tmp_path / "photos" / name, photo)
    return tmp_path / "photos"


@pytest.fixture
def views(tmp_path):
    """left/, right/ and clean/, the left views half as bright as the clean pictures."""
    for name, photo in PHOTOS.items():
        pictures = {"left": photo // 2, "right": photo // 4, "clean": photo // 2 * 2}
        for side, picture in pictures.items():
            (tmp_path / "views" / side).mkdir(parents=True, exist_ok=True)
            write_rgb(tmp_path / "views" / side / name, picture)
    return tmp_path / "views"


def rows_of(source, settings, network=Wordless(), **options):  # noqa: B008
    return evaluate(network, {}, None, source, settings, **options)


def luma(photo):
    """BT.601 in whole levels, as OpenCV and Pillow make it of colour."""
    exact = photo.astype(np.float64) @ [0.299, 0.587, 0.114]
    return np.floor(exact + 0.5)[..., None].astype(np.uint8)


def test_rows_without_words_have_no_sentence(folder):
    rows = rows_of(folder, ["noise25", "rain", "haze", "blur"])
    assert [row.setting for row in rows] == ["noise25", "rain", "haze", "blur"]
    assert all(scores.prompt is None for row in rows for scores in row.scores)
    assert all(row.gain == 0 and row.input_psnr < 40 for row in rows)
    first = json.loads(report.to_json(rows))["rows"][0]["scores"][0]
    assert first["prompt"] is None and first["name"] == "a.png"


def test_words_are_refused_where_nothing_hears_them(folder):
    for options in ({"prompt": "remove the noise"}, {"wrong_prompt": "haze"}):
        with pytest.raises(InputError, match="wordless takes no sentence"):
            rows_of(folder, ["noise25"], **options)
    with pytest.raises(InputError, match="row noise25@haze"):
        rows_of(folder, ["noise25@haze"])


def test_grey_is_made_first_then_degraded_then_compared_on_one_channel(folder):
    network = Wordless(0.9, channels=(1, 1))
    for setting in ("noise25", "rain", "haze", "blur"):
        (row,) = rows_of(folder, [setting], network)
        found = protocols.examples(folder, Setting.parse(setting), channels=(1, 1))
        for example, scores in zip(found, row.scores, strict=True):
            assert example.degraded.shape == example.clean.shape == (48, 64, 1)
            restored = np.clip(example.degraded * np.float32(0.9), 0, 1).astype(np.float64)[..., 0]
            clean = example.clean.astype(np.float64)[..., 0]
            assert abs(scores.psnr - peak_signal_noise_ratio(clean, restored, data_range=1)) < 1e-5
            expected = structural_similarity(clean, restored, data_range=1)
            assert abs(scores.ssim - expected) < 1e-6
    (example, _) = protocols.examples(folder, Setting.parse("noise25"), channels=(1, 1))
    np.testing.assert_allclose(example.clean * 255, luma(PHOTOS["a.png"]), atol=1)
    assert np.mean(np.round(example.clean * 255) == luma(PHOTOS["a.png"])) > 0.99


def test_a_picture_that_is_grey_already_stays_as_it_is():
    grey = np.repeat(PHOTOS["a.png"][..., :1], 3, -1)
    (example,) = protocols.examples([grey], Setting("noise", 25), channels=(1, 1))
    np.testing.assert_array_equal(np.round(example.clean * 255), grey[..., :1])


def test_float_noise_is_that_of_the_denoising_papers(folder):
    """Drawn from NumPy's generator of seed 0 anew for each file, exact and not clipped."""
    for channels in ((3, 3), (1, 1)):
        setting = Setting.parse("noise50float")
        for example in protocols.examples(folder, setting, seed=7, channels=channels):
            np.random.seed(0)
            expected = example.clean.copy()
            expected += np.random.normal(0, 50 / 255.0, expected.shape)
            np.testing.assert_array_equal(example.degraded, expected)
            assert example.degraded.dtype == np.float32 and example.degraded.min() < 0
    rows = rows_of(folder, ["noise25", "rain"], noise="float")
    assert [row.setting for row in rows] == ["noise25float", "rain"]
    clipped = rows_of(folder, ["noise25", "rain"])
    assert rows[1] == clipped[1] and rows[0].input_psnr != clipped[0].input_psnr
    with pytest.raises(InputError, match="uint8, float"):
        rows_of(folder, ["noise25"], noise="exact")
    with pytest.raises(InputError, match="once"):
        rows_of(folder, ["noise25", "noise25float"], noise="float")


def test_two_views_are_measured_against_the_clean_picture(views, folder, tmp_path):
    network = Wordless(2.0, channels=(6, 3))
    for source in (views, tuple(views / side for side in ("left", "right", "clean"))):
        (row,) = rows_of(source, ["blur"], network, panels=tmp_path / "panels")
        assert row.psnr == np.inf and 3 < row.input_psnr < 20
    (first, _) = protocols.examples(views, Setting("blur"), channels=(6, 3))
    assert first.degraded.shape == (48, 64, 6) and first.clean.shape == (48, 64, 3)
    left, right = (read_rgb(views / side / "a.png") for side in ("left", "right"))
    stacked = np.concatenate([left, right], -1).astype(np.float32) / 255
    np.testing.assert_allclose(first.degraded, stacked, atol=1e-6)
    panel = read_rgb(tmp_path / "panels" / "blur" / "0000_a.jpg") / 255
    assert np.abs(panel[-48:, :64] - left / 255).mean() < 0.02
    with pytest.raises(InputError, match="2 views, but the network takes 1"):
        rows_of(views, ["blur"])
    with pytest.raises(InputError, match="1 views, but the network takes 2"):
        rows_of(folder, ["blur"], network)


def test_training_measures_networks_without_words_too(folder):
    for channels in ((3, 3), (1, 1)):
        network = Wordless(0.9, channels)
        scores = dict(Restoration(network, None, folder, ("noise25float",)).run({}))
        (row,) = rows_of(folder, ["noise25float"], network)
        assert scores["noise25float/psnr"] == row.psnr


def test_the_command_and_the_script_measure_a_network_without_words(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TDR_CACHE", "off")
    network = models.build("nafnet", **GREY)
    weights.save(tmp_path / "run" / "weights.safetensors", network, network.init(0))
    model = str(tmp_path / "run" / "weights.safetensors")
    base = ["eval", "--model", model, "--data", str(folder), "--tasks", "noise25"]
    assert cli.main([*base, "--noise", "float", "-o", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out
    assert "| noise25float | 2 |" in table
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert document["about"]["encoder"] is None
    assert document["about"]["protocol"].startswith("grey")
    for words in (["--prompt", "denoise"], ["--wrong-prompt", "haze"], ["--right", str(folder)]):
        assert cli.main([*base, *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1
        assert ("takes no sentence" in err) == (words[0] != "--right")

    config = common.get_config()
    config.encoder = ""
    config.eval_data.update(path=str(folder), settings=("noise25float",))
    (row,) = run_config(config, tmp_path / "run")
    assert row.psnr == document["rows"][0]["psnr"]


def test_the_command_takes_left_right_and_clean_folders(views, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TDR_CACHE", "off")
    monkeypatch.setattr(weights, "load", lambda name: (Wordless(2.0, channels=(6, 3)), {}))
    sides = {"--degraded": "left", "--right": "right", "--clean": "clean"}
    words = [word for option, side in sides.items() for word in (option, str(views / side))]
    assert cli.main(["eval", "--model", "any", *words, "--task", "blur"]) == 0
    assert "| blur | 2 | inf / 1.0000 |" in capsys.readouterr().out
