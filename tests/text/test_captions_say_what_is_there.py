"""Captions name the colours, the light and the state of a picture, each word one token."""

import json
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import transformers

from tdr_jax import models, weights
from tdr_jax.data.latents import KINDS
from tdr_jax.diffusion import pipeline
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb
from tdr_jax.text import captions
from tests.support.sizes import SMALLEST

STATES = ("clean", "noise", "rain", "haze", "blur")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions") / "tokenizer"
    captions.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return pipeline.load_tokenizer(folder)


def filled(*levels, side=32):
    return np.full((side, side, 3), levels, np.float32) / 255


def words(picture, state="clean"):
    """What stands behind the template."""
    caption = captions.describe(picture, state)
    start = f"{captions.TEMPLATE} "
    assert caption.startswith(start)
    return caption.removeprefix(start).split(" ")


@pytest.mark.parametrize("state", STATES)
def test_twenty_words_follow_the_template_each_one_token(tokenizer, state):
    random = np.random.default_rng(0)
    for side in (4, 30, 64):
        picture = random.random((side, side + 1, 3), np.float32)
        assert len(words(picture, state)) == 20
        caption = captions.describe(picture, state)
        ids = tokenizer(caption)["input_ids"]
        assert len(ids) == 1 + 4 + 20 + 1
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
        assert captions.describe(picture.copy(), state) == caption


def test_every_word_that_can_be_written_is_one_token_of_its_own(tokenizer):
    vocabulary = captions.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary) > 140 + 15 + 5
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in vocabulary]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == len(vocabulary)


def test_the_tokenizer_loads_in_transformers_and_spells_every_other_word(folder, tokenizer):
    for loaded in (
        transformers.CLIPTokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        tokenizer,
    ):
        assert loaded.model_max_length == 77
        assert len(loaded) == len(loaded.get_vocab())
        for text in ("a photo of a zebra", "naïve 42 %, “quoted” 猫", "darkblue dark blue"):
            ids = loaded(text)["input_ids"]
            assert ids[0] == loaded.bos_token_id and ids[-1] == loaded.eos_token_id
            assert loaded.unk_token_id not in ids[1:-1]
            back = loaded.decode(ids, skip_special_tokens=True)
            assert back.replace(" ", "") == text.replace(" ", "").lower()
        padded = loaded("red", padding="max_length")["input_ids"]
        assert len(padded) == 77 and set(padded[2:]) == {loaded.eos_token_id}
        assert loaded("RED")["input_ids"] == loaded("red")["input_ids"]


def test_the_text_tower_has_a_row_for_every_token(tokenizer):
    config = models.build("tdr-tiny/text_encoder").config
    assert config.vocab_size == len(tokenizer) == len(tokenizer.get_vocab())
    assert set(tokenizer.get_vocab().values()) == set(range(len(tokenizer)))
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.max_position_embeddings == tokenizer.model_max_length


@pytest.mark.parametrize(
    "levels, colour",
    [
        ((255, 0, 0), "red"),
        ((0, 0, 255), "blue"),
        ((250, 3, 2), "red"),
        ((255, 255, 255), "white"),
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        ((255, 255, 0), "yellow"),
        ((0, 128, 0), "green"),
    ],
)
def test_colours_are_named(levels, colour):
    assert words(filled(*levels))[:16] == [colour] * 16


def test_places_are_named_row_by_row():
    picture = filled(255, 255, 255, side=40)
    picture[:10, 30:] = (1, 0, 0)  # top right
    picture[10:20, :10] = (0, 0, 1)  # second row, left
    picture[30:, 10:20] = (0, 0, 0)  # bottom, second
    expected = ["white"] * 16
    expected[3], expected[4], expected[13] = "red", "blue", "black"
    assert words(picture)[:16] == expected


def test_a_place_is_named_by_its_mean():
    board = np.indices((32, 32)).sum(0) % 2
    picture = np.where(board[..., None], (1.0, 0, 0), (1.0, 1.0, 0)).astype(np.float32)
    mean = np.array([[[1, 0.5, 0]]], np.float32)
    assert words(picture)[:16] == words(np.tile(mean, (4, 4, 1)))[:16] == ["darkorange"] * 16


def test_light_goes_from_dark_to_glaring():
    found = [words(filled(*[level] * 3))[16] for level in (5, 45, 90, 128, 180, 250)]
    assert found == ["dark", "dim", "dusky", "plain", "bright", "glaring"]


def test_contrast_goes_from_flat_to_strong():
    def half(difference):
        picture = filled(128, 128, 128)
        picture[:16] += difference
        picture[16:] -= difference
        return words(picture)[17]

    assert [half(d) for d in (0.0, 0.14, 0.22, 0.4)] == ["flat", "soft", "clear", "strong"]


def test_texture_goes_from_smooth_to_harsh():
    random = np.random.default_rng(0)
    noise = random.standard_normal((64, 64, 1)).astype(np.float32)
    found = [words(filled(128, 128, 128, side=64) + sigma * noise)[18] for sigma in TEXTURES]
    assert found == ["smooth", "fine", "grainy", "rough", "harsh"]


TEXTURES = (0.002, 0.015, 0.03, 0.06, 0.2)  # neighbours differ by 1.13 sigma on average


def test_the_last_word_says_what_is_wrong():
    assert [words(filled(9, 9, 9), state)[19] for state in STATES] == [
        "clean",
        "noisy",
        "rainy",
        "hazy",
        "blurry",
    ]
    assert set(STATES) <= set(KINDS)  # the names that examples have


def test_nothing_but_the_state_changes_with_the_state():
    picture = np.random.default_rng(1).random((32, 32, 3), np.float32)
    assert len({tuple(words(picture, state)[:19]) for state in STATES}) == 1


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.*cannot be written") as refused:
        captions.write_tokenizer(tmp_path / "file" / "tokenizer")
    assert "\n" not in str(refused.value)


# `tdr restore --panel`, then examples with captions, in a process where neither ran before.
RESTORED_THEN_CAPTIONED = """
import json, sys
from PIL import ImageColor
from configs import tdr_towers
from tdr_jax import cli, images
from tdr_jax.data import latents, sources

model, photo, out = sys.argv[1:]
assert cli.main(["restore", photo, "-o", out, "--model", model, "--panel"]) == 0
assert any(isinstance(colour, tuple) for colour in ImageColor.colormap.values())
data = tdr_towers.get_config("part=unet,data=x,vae=x").data
source = sources.Pictures([images.read_rgb(photo)])
make = latents.LatentExamples(source, data, 0, wanted="caption", encode=str.split)
print(json.dumps(make(0, 32)["ids"]))
"""


def test_captions_are_written_after_a_panel_was_drawn(tmp_path):
    network = models.build("nafnet", **SMALLEST["nafnet"])
    model = weights.save(tmp_path / "model", network, network.init(0))
    photo = tmp_path / "cat.png"
    write_rgb(photo, skimage.data.chelsea()[100:164, 120:184])
    given = [sys.executable, "-c", RESTORED_THEN_CAPTIONED, model, photo, tmp_path / "out.png"]
    told = subprocess.run(list(map(str, given)), capture_output=True, text=True, check=True)
    words = json.loads(told.stdout.splitlines()[-1])
    assert len(words) == 4 + 20 and set(words) <= set(captions.vocabulary())
