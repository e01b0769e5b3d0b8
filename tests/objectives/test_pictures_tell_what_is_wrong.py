"""Degradations are estimated from pictures of any size, and restored without a prompt."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import estimator as recipe
from tdr_jax import cli, images, models, objectives, weights
from tdr_jax.data import degradation_labels, sources
from tdr_jax.degradations.synthesis import degrade, gaussian_noise
from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.errors import InputError
from tdr_jax.evaluate import evaluate, metrics
from tdr_jax.images.files import read_rgb
from tdr_jax.images.folders import list_pictures
from tdr_jax.infer import blind
from tdr_jax.infer.restorer import Restorer
from tdr_jax.models import estimator
from tdr_jax.text.encoder import TextEncoder
from tdr_jax.train import loop
from tests.support.small import records

pytestmark = pytest.mark.usefixtures("optimised")

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
TEST = PHOTOS / "test"  # none of them was trained on


@pytest.fixture(scope="module")
def photos():
    return [read_rgb(path)[:320, :400] for path in list_pictures(PHOTOS)]


def small_config(**changes) -> ConfigDict:
    config = recipe.get_config(f"data={PHOTOS / 'train'}")
    config.network.overrides.widths = (16, 16, 16)
    config.data.stages = ((40, 32, 16),)
    config.log_every, config.ema = 1, 0.0
    config.optim.warmup = 5
    config.update_from_flattened_dict(changes)
    return config


def test_examples_say_what_was_done_to_them(photos):
    data = small_config().data
    make = degradation_labels.LabelledExamples(sources.Pictures(photos), data, seed=1)
    nothing = small_config(**{"data.p_absent": 1.0, "data.p_joint": 0.0}).data
    plain = degradation_labels.LabelledExamples(sources.Pictures(photos), nothing, seed=1)
    seen = set()
    for n in range(120):
        example, again, clean = make(n, 64), make(n, 64), plain(n, 64)
        np.testing.assert_array_equal(example["degraded"], again["degraded"])
        present = {name for name, value in zip(ESTIMATED, example["present"], strict=True) if value}
        seen.add(frozenset(present))
        difference = 255 * (example["degraded"] - clean["degraded"])
        assert not clean["present"].any() and clean["sigma"] == 0
        assert bool(present) == bool(np.abs(difference).max() > 0)
        assert bool(example["sigma"]) == ("noise" in present)
        # In whole levels, as files have them.
        np.testing.assert_allclose(example["degraded"] * 255 % 1 % 0.999, 0, atol=2e-3)
    assert {len(present) for present in seen} == {0, 1, 2}
    assert {name for present in seen for name in present} == set(ESTIMATED)


def test_the_estimator_learns_and_its_weights_come_back(tmp_path):
    config = small_config()
    loop.run(config, tmp_path)
    losses = [record["loss"] for record in records(tmp_path)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    found = blind.Estimator.from_pretrained(tmp_path / "weights.safetensors")
    assert set(found(np.zeros((40, 50, 3), np.uint8)).shares) == set(ESTIMATED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.tasks": ("noise", "low_light")}, "'low_light'; the estimator looks for"),
        ({"data.stages": ((1, 20, 4),)}, "takes multiples of 8"),
        ({"data.channels": 1}, "sees colour"),
        ({"panel_every": 5}, "an estimate is no picture"),
        ({"network.name": "nafnet"}, "is no estimator|no field"),
    ],
)
def test_what_an_estimator_cannot_learn_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        objectives.make(small_config(**changes), tmp_path)


@pytest.fixture(scope="module")
def drawn():
    network = models.build("degradation-estimator", widths=(8, 8, 8))
    return blind.Estimator(network, network.init(0))


def test_pictures_of_any_kind_are_looked_at(drawn, photos):
    for picture in (
        np.zeros((1, 1, 3), np.uint8),
        photos[0][:1],
        photos[0][..., 0],
        images.read_picture(list_pictures(PHOTOS)[0]).pixels,
        (photos[0] / 255).astype(np.float32),
    ):
        estimate = drawn(picture)
        assert all(0 <= share <= 1 for share in estimate.shares.values())
        assert np.isfinite(estimate.sigma)
    with pytest.raises(InputError, match="image is a str"):
        drawn("picture.png")
    with pytest.raises(InputError, match="an estimator is needed"):
        blind.Estimator(models.build("nafnet"), {})


def test_large_pictures_are_looked_at_in_windows_that_cost_no_more(drawn):
    rng = np.random.default_rng(0)
    tile = rng.random((blind.SIDE, blind.SIDE, 3), np.float32)
    alone = drawn(tile)
    repeated = drawn(np.tile(tile, (2, 3, 1)))
    for name in ESTIMATED:
        assert abs(alone.shares[name] - repeated.shares[name]) < 1e-5
    assert len(list(drawn._windows(np.broadcast_to(np.float32(0), (9000, 9000, 3))))) == 9


def test_histograms_hold_the_dark_channel_of_each_third(drawn):
    rng = np.random.default_rng(0)
    image = (rng.random((96, 64, 3)) * np.linspace(0.2, 1, 96)[:, None, None]).astype(np.float32)
    moments = np.asarray(drawn._moments(drawn.params, image[None]))[0]
    histograms = moments[2 * sum(drawn.network.config.widths) :].reshape(
        estimator.MAPS, estimator.BANDS, estimator.BINS
    )
    np.testing.assert_allclose(histograms.sum(-1), 1, rtol=1e-5)
    coarse = image.reshape(24, 4, 16, 4, 3).mean((1, 3))
    dark = coarse.min(-1).reshape(6, 4, 4, 4).min((1, 3))
    rows = np.linspace(0, 2, 6)
    parts = [np.maximum(1 - np.abs(rows - part), 0) for part in range(3)]
    wanted = [np.average(dark.mean(1), weights=part) for part in parts]
    found = histograms[0] @ np.linspace(0, 1, estimator.BINS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert found[0] < found[1] < found[2]


def test_good_pictures_are_shown_in_other_colours_too(photos):
    data = small_config(**{"data.p_absent": 1.0, "data.p_joint": 0.0}).data
    make = degradation_labels.LabelledExamples(sources.Pictures(photos), data, seed=1)
    plain = sources.Pictures([np.full((64, 64, 3), value, np.uint8) for value in range(10, 250)])
    flat = degradation_labels.LabelledExamples(plain, data, seed=1)
    shown = [np.ptp(flat(n, 32)["degraded"].mean((0, 1))) for n in range(200)]
    assert 0.3 < np.mean(np.array(shown) < 0.01) < 0.7  # grey, as it was, up to JPEG
    example = make(3, 64)["degraded"]
    assert example.dtype == np.float32 and 0 <= example.min() < example.max() <= 1


def test_what_is_found_is_what_is_asked_for():
    estimate = blind.Estimate({"noise": 0.9, "rain": 0.2, "haze": 0.98, "blur": 0.6}, 25.4)
    assert estimate.found() == ("haze", "noise", "blur")
    assert str(estimate) == "haze 0.98, noise 0.90 (sigma 25), blur 0.60"
    trained = models.build("textpromptir-tiny", trained_for=("noise", "rain"))
    assert blind.prompts(estimate, trained) == ("Remove the noise.",)
    assert len(blind.prompts(estimate, models.build("textpromptir-tiny"))) == 3
    assert str(blind.Estimate(dict.fromkeys(ESTIMATED, 0.1), 3.0)) == "nothing"


def test_haze_beside_noise_or_rain_has_to_be_certain():
    shares = {"noise": 0.1, "rain": 0.1, "haze": 0.9, "blur": 0.7}
    assert blind.Estimate(shares, 3.0).found() == ("haze", "blur")
    assert blind.Estimate(shares | {"haze": 0.57}, 3.0).found() == ("blur",)
    for task in ("noise", "rain"):
        beside = blind.Estimate(shares | {task: 0.8}, 3.0)
        assert "haze" not in beside.found() and task in beside.found()
        assert "haze" in blind.Estimate(shares | {task: 0.8, "haze": 0.99}, 3.0).found()


@pytest.mark.parametrize("task", ["noise", "rain", "haze"])
def test_the_shipped_estimator_knows_damage_it_has_not_seen(task):
    look = blind.shipped()
    for n, path in enumerate(list_pictures(TEST)):
        clean = read_rgb(path).astype(np.float32) / 255
        damaged = degrade(clean, task, np.random.default_rng(n), sigma=25)
        estimate = look(np.rint(damaged * 255).astype(np.uint8))
        assert task in estimate.found(("noise", "rain", "haze")), (path.name, estimate)
        if task == "noise":
            assert 18 < estimate.sigma < 34


@pytest.fixture(scope="module")
def compact():
    network, params = weights.load("textpromptir-compact")
    return network, params, TextEncoder.from_pretrained()


def test_blind_restoration_is_as_good_as_with_the_right_words(compact):
    settings = ["noise25", "rain", "haze"]
    options = dict(size=256)
    told = evaluate(*compact, TEST, settings, **options)
    blindly = evaluate(*compact, TEST, settings, prompt="auto", **options)
    for one, other in zip(told, blindly, strict=True):
        assert other.psnr > one.psnr - 0.3, (one.setting, one.psnr, other.psnr)


def test_clean_pictures_come_back_nearly_unchanged(compact):
    (row,) = evaluate(*compact, TEST, ["clean@auto"])
    assert min(score.psnr for score in row.scores) >= 38


@pytest.mark.parametrize("mixture", ["rain+noise25", "haze+noise25"])
def test_a_mixture_is_restored_better_than_by_a_single_prompt(compact, mixture):
    first, second = mixture.removesuffix("25").split("+")
    settings = [mixture, f"{mixture}@{first}", f"{mixture}@{second}"]
    both, *single = evaluate(*compact, TEST, settings, size=256)
    assert all(both.psnr > row.psnr + 0.5 for row in single)
    assert both.gain > 3


def test_a_shorter_condition_does_less(compact):
    network, params, encoder = compact
    restore = Restorer(network, params, encoder)
    clean = read_rgb(TEST / "moose.jpg")[:256, :256].astype(np.float32) / 255
    noisy = gaussian_noise(clean, 25, np.random.default_rng(0))
    ways = {
        strength: restore(noisy, "remove the noise", strength=strength)
        for strength in (0, 0.3, 0.6, 1)
    }
    np.testing.assert_array_equal(ways[0], noisy)
    left = [np.abs(picture - clean).mean() for picture in ways.values()]
    assert left == sorted(left, reverse=True)
    wanted = noisy + 0.6 * (clean - noisy)
    assert metrics.psnr(ways[0.6], wanted) > max(
        metrics.psnr(ways[other], wanted) for other in (0.3, 1)
    )


def test_several_prompts_are_one_wish(compact):
    restore = Restorer(*compact)
    clean = read_rgb(TEST / "moose.jpg")[:256, :256].astype(np.float32) / 255
    damaged = degrade(clean, "rain", np.random.default_rng(1))
    damaged = degrade(damaged, "noise", np.random.default_rng(2), sigma=25)
    both = metrics.psnr(restore(damaged, ["remove the rain", "remove the noise"]), clean)
    assert both > metrics.psnr(restore(damaged, "remove the rain"), clean)
    assert both > metrics.psnr(restore(damaged, "remove the noise"), clean)
    with pytest.raises(InputError, match="stands alone"):
        restore(damaged, ["auto", "remove the rain"])
    with pytest.raises(InputError, match="the prompt is"):
        restore(damaged, ["remove the rain", " "])


def test_the_command_says_what_it_found_and_leaves_good_pictures_alone(tmp_path, capsys):
    clean = read_rgb(TEST / "moose.jpg")[:256, :256]
    noisy = gaussian_noise(clean.astype(np.float32) / 255, 25, np.random.default_rng(0))
    (tmp_path / "in").mkdir()
    images.write_rgb(tmp_path / "in" / "clean.png", clean)
    images.write_rgb(tmp_path / "in" / "noisy.png", noisy)
    out = tmp_path / "out"
    assert cli.main(["restore", str(tmp_path / "in"), "-o", str(out), "--panel"]) == 0
    said = capsys.readouterr().err
    assert "clean.png: found nothing; left as it is" in said
    assert "noisy.png: found noise" in said and "(sigma 2" in said
    np.testing.assert_array_equal(read_rgb(out / "clean.png"), clean)
    with_words = tmp_path / "told.png"
    command = ["restore", str(tmp_path / "in" / "noisy.png"), "-o", str(with_words)]
    assert cli.main([*command, "--prompt", blind.PROMPTS["noise"]]) == 0
    np.testing.assert_array_equal(read_rgb(out / "noisy.png"), read_rgb(with_words))
