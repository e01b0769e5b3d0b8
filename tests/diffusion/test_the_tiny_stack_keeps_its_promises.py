"""What docs and model card say of the shipped stack holds on photographs it was not trained on."""

from pathlib import Path

import numpy as np
import pytest

from scripts import measure_words as words
from tdr_jax import weights
from tdr_jax.images.files import read_rgb
from tdr_jax.infer.guide import Guide
from tdr_jax.text import captions

PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "photos"
KINDS = ("noise50", "rain", "haze")


@pytest.fixture(scope="module")
def guide():
    return Guide.from_pretrained("tdr-tiny")


@pytest.fixture(scope="module")
def pictures():
    """Five squares of each held-out photograph, clean and degraded."""
    squares = []
    for path in sorted((PHOTOS / "test").iterdir()):
        picture = read_rgb(path)
        side = min(picture.shape[:2])
        for part in range(5):  # along the longer side
            top, left = (round(part / 4 * (length - side)) for length in picture.shape[:2])
            squares.append(picture[top : top + side, left : left + side])
    return words.held_out(squares, KINDS, side=128)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_words_are_nearer_to_the_clean_pictures(guide, pictures, kind):
    wanted, _ = guide.words(pictures["clean"], restore=False)
    before, after = (words.words_error(said, wanted) for said in guide.words(pictures[kind]))
    assert words.estimate(after - before).high < 0


@pytest.mark.parametrize(
    "kinds, steps", [(("haze",), 5), pytest.param(KINDS, 10, marks=pytest.mark.full)]
)
def test_pictures_drawn_from_restored_words_are_nearer_to_the_clean_one(
    guide, pictures, kinds, steps
):
    clean = words.shrunk(pictures["clean"], guide.size[0])
    distance = words.feature_distance(guide)
    changes = []
    for kind in kinds:
        drawn = [
            guide(pictures[kind], steps=steps, sampler="dpm++", restore=restore)
            for restore in (False, True)
        ]
        before, after = (distance(each, clean) for each in drawn)
        changes.append(after - before)
    assert words.estimate(np.mean(changes, 0)).high < 0


@pytest.mark.parametrize("steps", [8, pytest.param(20, marks=pytest.mark.full)])
def test_a_picture_is_drawn_like_its_source(guide, steps):
    paths = sorted(PHOTOS.rglob("*.jpg"))
    side = guide.size[0]
    clean = words.held_out([read_rgb(path) for path in paths], (), side=256)["clean"]
    drawn = guide(clean, steps=steps, sampler="dpm++", restore=False)
    assert drawn.shape == (len(paths), side, side, 3) and drawn.std() > 0.1
    rank = words.rank(
        words.feature_distance(guide), drawn, words.shrunk(clean, side), among=len(paths)
    )
    assert (rank == 0).mean() > 3 / len(paths)  # three times chance


def test_its_words_have_names(guide, pictures):
    said, _ = guide.words(pictures["clean"][:1], restore=False)
    nearest = guide.nearest(said[0], k=1)
    assert len(nearest) == 20
    assert {name for ((name, _),) in nearest} & set(captions.vocabulary())
    assert np.isfinite([likeness for ((_, likeness),) in nearest]).all()


def test_the_stack_is_small():
    files = (weights.ASSETS / "tdr-tiny").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 40e6
