import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from configs import common
from tdr_jax import cli, models, text, weights
from tdr_jax.commands.eval import run_config
from tdr_jax.data import sources
from tdr_jax.degradations.draws import named_rng
from tdr_jax.degradations.synthesis import rain
from tdr_jax.errors import InputError
from tdr_jax.evaluate import (
    Restoration,
    Setting,
    evaluate,
    protocols,
    report,
)
from tdr_jax.images.files import read_rgb, write_rgb
from tdr_jax.infer import core
from tdr_jax.models import Capabilities
from tests.support.caches import own_cache  # noqa: F401 (a fixture)

PHOTOS = {
    "b.png": data.chelsea()[20:87, 30:127],  # 97x67: neither side a multiple of 16
    "a.png": data.astronaut()[60:108, 200:264],
    "sub/c.png": data.chelsea()[100:148, 100:164],
}


@dataclasses.dataclass(frozen=True)
class Words:
    """A text encoder that remembers nothing but the length of a sentence."""

    dim: int = 4

    def encode(self, sentences):
        return np.array([[len(s), 0, 0, 0] for s in sentences], np.float32)

    cached = encode


@dataclasses.dataclass(frozen=True)
class Fake(Capabilities):
    """A network that scales its input: 1 is the identity."""

    scale: float = 1.0
    multiple: int = 8
    name: str = "fake"

    @property
    def config(self):
        return types.SimpleNamespace(multiple=self.multiple, text_dim=4, channels=(3, 3))

    def apply(self, params, images, vectors):
        assert images.shape[0] == 1 and vectors.shape == (1, 4)
        assert images.shape[1] % 16 == images.shape[2] % 16 == 0
        return images * self.scale + params["offset"]


PARAMS = {"offset": np.float32(0)}


@pytest.fixture
def folder(tmp_path):
    for name, photo in PHOTOS.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rgb(path, photo)
    return tmp_path / "photos"


@pytest.fixture
def pairs(tmp_path):
    """Pairs whose degraded picture is exactly half as bright."""
    for name, photo in PHOTOS.items():
        dark = photo // 2
        for side, picture in (("degraded", dark), ("clean", dark * 2)):
            path = tmp_path / "pairs" / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rgb(path, picture)
    return tmp_path / "pairs"


def fake_rows(source, settings=("noise25", "rain", "haze"), network=Fake(), **options):  # noqa: B008
    return evaluate(network, PARAMS, Words(), source, settings, **options)


def test_pictures_are_cropped_in_the_middle_to_multiples_of_16():
    image = np.arange(67 * 97).reshape(67, 97, 1)
    crop = protocols.center_crop(image)
    np.testing.assert_array_equal(crop, image[1:65, 0:96])
    np.testing.assert_array_equal(protocols.center_crop(image, 40), image[17:49, 32:64])
    with pytest.raises(InputError, match="97x15"):
        protocols.center_crop(image[:15])


def test_noise_is_that_of_the_papers_and_added_after_the_crop(folder):
    """Whole levels of 1/255, truncated, so about half a level darker than the clean picture."""
    for example in protocols.examples(folder, Setting.parse("noise25")):
        levels = example.degraded.astype(np.float64) * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert example.degraded.shape == example.clean.shape
        middle = (example.clean > 0.3) & (example.clean < 0.7)
        spread = (levels - 255 * example.clean)[middle]
        assert 23.5 < spread.std() < 26.5
        assert -1.5 < spread.mean() < 0.5


def test_examples_depend_on_seed_task_sigma_and_place_only(folder):
    def degraded(setting, source=folder, **options):
        found = protocols.examples(source, Setting.parse(setting), **options)
        return {e.name: e.degraded for e in found}

    first = degraded("noise25")
    assert list(first) == ["a.png", "b.png", "sub/c.png"]
    # The same pictures in memory, asked for one by one and backwards: not a stream but a function.
    source = sources.Pictures([PHOTOS[name] for name in first])
    for index in (2, 0, 1):
        (example,) = protocols.examples(source, Setting.parse("noise25"), start=index, limit=1)
        np.testing.assert_array_equal(example.degraded, first[list(first)[index]])
    for other in (degraded("noise15"), degraded("noise25", seed=1), degraded("rain")):
        assert all(not np.array_equal(first[name], other[name]) for name in first)
    # a.png and sub/c.png have one size, and still different noise.
    clean = {e.name: e.clean for e in protocols.examples(folder, Setting.parse("noise25"))}
    noise = [np.round(255 * (first[n] - clean[n])) for n in ("a.png", "sub/c.png")]
    assert not np.array_equal(*noise)
    # Other words, equal pictures.
    wrong = degraded("noise25@haze")
    assert all(np.array_equal(first[name], wrong[name]) for name in first)


def test_degradations_come_about_in_the_order_given(folder):
    setting = Setting.parse("rain+noise25")
    assert (setting.name, setting.asked) == ("rain+noise25", "rain+noise")
    assert Setting.parse("rain+noise25@rain+noise").name == "rain+noise25"
    assert Setting.parse("haze+noise15@auto").name == "haze+noise15@auto"
    clean = np.full((64, 64, 3), 100, np.uint8)
    (example,) = protocols.examples([clean], setting)
    # The camera adds its noise to the rain that fell: rain alone makes nothing darker.
    assert (setting.task, setting.over.task) == ("noise", "rain")
    assert example.degraded.mean() > example.clean.mean() + 0.02
    assert example.degraded.min() < example.clean.min() - 0.1
    (rainy,) = protocols.examples([clean], Setting.parse("rain"))
    assert rainy.degraded.min() >= rainy.clean.min()
    # The other way round, each layer draws what it draws alone.
    turned = Setting.parse("noise25+rain")
    assert (turned.name, turned.asked) == ("noise25+rain", "noise+rain")
    (noisy,) = protocols.examples([clean], Setting.parse("noise25"))
    (both,) = protocols.examples([clean], turned)
    wet = rain(noisy.degraded, named_rng(0, "rain", 0))
    np.testing.assert_array_equal(both.degraded, wet)
    for wrong in ("rain+clean", "rain+noise25float"):
        with pytest.raises(InputError, match="goes with nothing else"):
            Setting.parse(wrong)


def test_three_degradations_are_asked_for_in_a_sentence_each(folder):
    (row,) = evaluate(Fake(), PARAMS, Words(), folder, ["blur+noise25+haze+jpeg30"], limit=2)
    assert row.setting == "blur+noise25+haze+jpeg30"
    for score in row.scores:
        rest = score.prompt
        for task in ("blur", "noise", "haze"):
            (found,) = {s for s in text.sentences(task) if rest.startswith(s)} or {None}
            rest = rest.removeprefix(found).strip()
        assert not rest


def test_clean_pictures_are_asked_something_and_never_count_as_infinite(folder, pairs):
    (row,) = evaluate(Fake(), PARAMS, Words(), folder, ["clean@noise"])
    assert row.psnr == row.input_psnr == 100 and row.gain == 0
    with pytest.raises(InputError, match="no words of its own"):
        evaluate(Fake(), PARAMS, Words(), folder, ["clean"])
    with pytest.raises(InputError, match="needs clean pictures"):
        evaluate(Fake(), PARAMS, Words(), pairs, ["clean@noise"])


def test_a_mixture_is_asked_about_in_sentences_that_name_both(folder):
    row = evaluate(Fake(), PARAMS, Words(), folder, ["rain+noise25"])[0]
    bank = {s for tasks, s in text.mixed_sentences() if set(tasks) == {"rain", "noise"}}
    assert {score.prompt for score in row.scores} <= bank


def test_listing_order_of_the_file_system_does_not_matter(folder, monkeypatch):
    expected = report.to_json(fake_rows(folder, limit=2))
    import os

    walk = os.walk

    def backwards(top):
        for root, folders, files in walk(top):
            folders.sort(reverse=True)
            yield root, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert report.to_json(fake_rows(folder, limit=2)) == expected


def test_scores_are_those_of_unquantised_clipped_floats(folder):
    network = Fake(scale=1.3)
    (row,) = fake_rows(folder, ["noise25"], network)
    examples = list(protocols.examples(folder, Setting.parse("noise25")))
    assert row.pictures == len(examples) == 3
    for example, scores in zip(examples, row.scores, strict=True):
        restored = np.clip(example.degraded * np.float32(1.3), 0, 1).astype(np.float64)
        clean = example.clean.astype(np.float64)
        assert scores.name == example.name
        expected = peak_signal_noise_ratio(clean, restored, data_range=1)
        assert abs(scores.psnr - expected) < 1e-5
        expected = structural_similarity(clean, restored, data_range=1, channel_axis=2)
        assert abs(scores.ssim - expected) < 1e-6
    assert abs(row.psnr - np.mean([s.psnr for s in row.scores])) < 1e-9


def test_the_identity_gains_nothing_and_the_perfect_network_everything(folder, pairs):
    for row in fake_rows(folder):
        assert row.gain == 0.0
        assert row.psnr == row.input_psnr and row.ssim == row.input_ssim
    (row,) = fake_rows(pairs, "low_light", Fake(scale=2.0))
    assert row.psnr == np.inf and abs(row.ssim - 1) < 1e-12
    assert 3 < row.input_psnr < 20 and row.gain == np.inf
    rows = json.loads(report.to_json([row]))["rows"]
    assert rows[0]["psnr"] == rows[0]["gain"] == "inf"
    assert "| low_light | 3 | inf / 1.0000 |" in report.markdown([row])


def test_markdown_and_json_tell_the_same(folder, tmp_path):
    rows = fake_rows(folder, network=Fake(scale=0.9), wrong_prompt="rain")
    paths = report.write(rows, tmp_path / "new" / "out", {"seed": 0})
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == [
        "table.json",
        "table.md",
    ]
    table, document = paths[0].read_text().splitlines(), json.loads(paths[1].read_text())
    names = ["noise25", "rain", "haze", "noise25@rain", "haze@rain"]
    assert [row["setting"] for row in document["rows"]] == names
    lines = document["rows"] + [{"setting": "average", "pictures": "", **document["average"]}]
    for line, row in zip(table[2:], lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == [
            row["setting"],
            str(row["pictures"]),
            f"{row['psnr']:.2f} / {row['ssim']:.4f}",
            f"{row['input_psnr']:.2f} / {row['input_ssim']:.4f}",
            f"{row['gain']:+.2f}",
        ]
    # The average is the plain mean of the rows with the right words.
    right = [row["psnr"] for row in document["rows"][:3]]
    assert abs(document["average"]["psnr"] - np.mean(right)) < 1e-12


def test_sentences_come_from_the_bank_or_from_the_prompt(folder):
    drawn, wrong = fake_rows(folder, ["noise25"], wrong_prompt="haze")
    assert all(s.prompt in text.sentences("noise") for s in drawn.scores)
    assert all(s.prompt in text.sentences("haze") for s in wrong.scores)
    assert len({s.prompt for s in drawn.scores}) > 1
    assert fake_rows(folder, ["noise25"])[0] == drawn
    (fixed,) = fake_rows(folder, ["noise25"], prompt="Make it clean, please")
    assert {s.prompt for s in fixed.scores} == {"Make it clean, please"}
    assert fixed.input_psnr == drawn.input_psnr


def test_one_picture_shape_is_compiled_once(folder):
    network = Fake(scale=0.7)
    fake_rows(folder, network=network)
    assert core.program(network)._cache_size() == 2  # three pictures, two shapes


def test_panels_show_input_restored_and_clean(folder, tmp_path):
    fake_rows(folder, ["noise25"], Fake(scale=0.5), panels=tmp_path / "panels")
    panel = read_rgb(tmp_path / "panels" / "noise25" / "0002_c.jpg") / 255.0
    example = list(protocols.examples(folder, Setting.parse("noise25")))[2]
    height, width = example.clean.shape[:2]
    assert panel.shape[1] == 3 * width + 8
    strip = panel[-height:]
    assert np.abs(strip[:, :width] - example.degraded).mean() < 0.02
    assert np.abs(strip[:, width + 4 : 2 * width + 4] - 0.5 * example.degraded).mean() < 0.02
    assert np.abs(strip[:, -width:] - example.clean).mean() < 0.02


def test_training_sees_the_numbers_of_the_table(folder):
    network = Fake(scale=0.9)
    evaluator = Restoration(network, Words(), folder, ("noise25", "haze"), limit=2)
    got = dict(evaluator.run(PARAMS))
    for row in fake_rows(folder, ("noise25", "haze"), network, limit=2):
        for name in ("psnr", "ssim", "gain"):
            assert got.pop(f"{row.setting}/{name}") == getattr(row, name)
    assert not got


def test_unusable_input_is_named(folder, pairs, tmp_path):
    def refused(match, *args, **options):
        with pytest.raises(InputError, match=match):
            fake_rows(*args, **options)

    refused("snow", folder, ["snow"])
    refused("noiseless", folder, ["noiseless"])
    refused("once", folder, ["rain", "rain"])
    refused("come in pairs", pairs, ["noise25"])
    refused("cannot be made without its sigma", folder, ["noise"])
    refused("right above", pairs.parent, ["noise25"])
    refused("multiples of 64", folder, network=Fake(multiple=64))
    refused(r"a.png \(noise25\): .* NaN", folder, network=Fake(scale=float("nan")))
    (tmp_path / "small").mkdir()
    write_rgb(tmp_path / "small" / "dot.png", PHOTOS["a.png"][:9])
    refused("dot.png.*64x9", tmp_path / "small")
    (pairs / "clean" / "a.png").unlink()
    refused("no clean picture for a.png", pairs, ["rain"])
    write_rgb(pairs / "clean" / "a.png", PHOTOS["a.png"][:32])
    refused("64x48.*64x32", pairs, ["rain"])


def test_command_measures_a_network_end_to_end(folder, pairs, tmp_path, capsys):
    network = models.build("textpromptir-tiny")
    weights.save(tmp_path / "tiny", network, network.init(0))
    for unlike in (folder / "b.png", pairs / "degraded" / "b.png"):
        unlike.unlink()  # what is left has one size: one program to compile
    base = ["eval", "--model", str(tmp_path / "tiny"), "--limit", "2"]
    out = ["-o", str(tmp_path / "out"), "--panels", str(tmp_path / "panels")]
    one = ["--data", str(folder), "--tasks", "noise25,haze", "--wrong-prompt", "haze"]
    assert cli.main([*base, *one, *out]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out == table
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert document["about"]["network"] == "textpromptir-tiny"
    rows = {row["setting"]: row for row in document["rows"]}
    assert list(rows) == ["noise25", "haze", "noise25@haze"]
    assert len(list((tmp_path / "panels").glob("*/*.jpg"))) == 6
    # Even untrained, the network hears the words.
    assert rows["noise25"]["input_psnr"] == rows["noise25@haze"]["input_psnr"]
    assert rows["noise25"]["psnr"] != rows["noise25@haze"]["psnr"]

    sides = ["--degraded", str(pairs / "degraded"), "--clean", str(pairs / "clean")]
    assert cli.main([*base, *sides, "--task", "low_light"]) == 0
    assert "| low_light | 2 |" in capsys.readouterr().out

    # eval.py measures the weights that a run left in its folder, whole pictures, all of them.
    weights.save(tmp_path / "run" / "weights.safetensors", network, network.init(0))
    config = common.get_config()
    config.eval_data.update(path=str(folder), settings=("noise25",), limit=1, size=32)
    (row,) = run_config(config, tmp_path / "run")
    assert row.psnr == rows["noise25"]["psnr"]
    assert (tmp_path / "run" / "eval" / "table.json").exists()


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "{photos}", "--model", "no-such-model"], "no-such-model"),
        (["--data", "{photos}", "--tasks", "snow25"], "snow25"),
        (["--data", "{photos}", "--task", "rain"], "--tasks rain"),
        (["--data", "{pairs}"], "--task"),
        (["--degraded", "{pairs}/degraded"], "--clean"),
        (["--data", "{photos}", "--limit", "0"], "limit"),
        (["--data", "{photos}", "-o", "{photos}/a.png"], "a.png"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(arguments, names, folder, pairs, capsys, tmp_path):
    network = models.build("textpromptir-tiny")
    weights.save(tmp_path / "tiny", network, jax.tree.map(np.ones_like, network.init(0)))
    arguments = [a.format(photos=folder, pairs=pairs) for a in arguments]
    assert cli.main(["eval", "--model", str(tmp_path / "tiny"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith("tdr: error: ") and names in err


def test_the_entry_script_names_a_wrong_folder_in_one_line(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "eval.py", "--config", "configs/common.py", "--workdir", tmp_path]
    done = subprocess.run(
        [*command, "--data", tmp_path / "nowhere"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("eval.py: error: ") and "nowhere" in done.stderr
