"""What README and model card say of the shipped weights holds on the photographs of the project."""

from pathlib import Path

import numpy as np
import pytest

from tdr_jax import weights
from tdr_jax.data.guidance import view
from tdr_jax.degradations.synthesis import gaussian_noise
from tdr_jax.evaluate import evaluate, metrics
from tdr_jax.images.files import read_rgb
from tdr_jax.infer.restorer import GUIDED_MODEL, Restorer
from tdr_jax.text.encoder import TextEncoder

pytestmark = pytest.mark.usefixtures("optimised")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def rows():
    network, params = weights.load("textpromptir-compact")
    encoder = TextEncoder.from_pretrained()
    photos = EXAMPLES / "photos" / "test"  # none of them was trained on
    settings = "noise25,noise50,rain,haze,noise25@haze"
    # Cropped to one size, so that one program serves them all.
    table = evaluate(network, params, encoder, photos, settings, size=256)
    return {row.setting: row for row in table}


@pytest.mark.parametrize(
    "setting, gain", [("noise25", 7.0), ("noise50", 9.0), ("rain", 3.0), ("haze", 3.0)]
)
def test_shipped_weights_gain_what_is_promised(rows, setting, gain):
    assert rows[setting].gain >= gain


def test_the_words_decide(rows):
    assert rows["noise25"].psnr - rows["noise25@haze"].psnr > 3


def test_free_sentences_steer_too_and_the_wrong_one_leaves_the_noise():
    restorer = Restorer.from_pretrained("textpromptir-compact")
    noisy = read_rgb(EXAMPLES / "damaged" / "noisy_moose.png")
    original = read_rgb(EXAMPLES / "photos" / "test" / "moose.jpg")
    top, left = ((a - b) // 2 for a, b in zip(original.shape[:2], noisy.shape[:2], strict=True))
    clean = original[top : top + noisy.shape[0], left : left + noisy.shape[1]]
    noisy, clean = noisy[:256, :256], clean[:256, :256]  # for the program of the other tests

    def error(prompt):
        restored = restorer(noisy, prompt=prompt)
        assert restored.dtype == np.uint8 and restored.shape == noisy.shape
        return np.square(restored.astype(float) - clean).mean()

    own_words = error("could you get rid of all that grain in my shot?")
    assert own_words < 0.3 * np.square(noisy.astype(float) - clean).mean()
    assert error("remove the haze") > 2 * own_words


def test_shipped_files_are_small():
    folder = weights.ASSETS / "textpromptir-compact"
    assert (folder / weights.FILE_NAME).stat().st_size <= 20e6


def test_the_guided_network_removes_noise_and_more_with_another_shot_of_the_scene():
    restorer = Restorer.from_pretrained(GUIDED_MODEL)
    moose, other = (
        read_rgb(EXAMPLES / "photos" / "test" / name)[:256, :256]
        for name in ("moose.jpg", "sunset_by_aitzol_berasategi.jpg")
    )
    clean = moose.astype(np.float32) / 255
    shot = view(moose, 256, (0, 0, 256, 256), np.random.default_rng(1))
    for sigma, gain in ((15, 7.0), (50, 11.0)):
        noisy = gaussian_noise(clean, sigma, np.random.default_rng(0), "float").clip(0, 1)

        def score(picture, clean=clean):
            return metrics.psnr(np.asarray(picture)[None], clean[None])[0]

        right, wrong = (score(restorer(noisy, guidance=picture)) for picture in (shot, other))
        assert min(right, wrong) - score(noisy) >= gain
        assert right - wrong >= 0.1
