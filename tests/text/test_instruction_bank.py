"""The bank says enough, in different words; its vectors separate the tasks; its cache is sound."""

import functools
import itertools
import logging
import re

import numpy as np
import pytest

from tdr_jax import text
from tdr_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("optimised")

# Words that say nothing about the degradation: without them near-duplicates become equal.
FILLER = frozenset(
    "a an the this that it its is i my me to of in on and or please can could would you your "
    "photo picture image photograph shot frame snapshot capture".split()
)
FREE = {
    "noise": [
        "get rid of all the grain in my photo",
        "there's so much sensor noise, could you clean it",
        "denoise the picture please",
        "my ISO was too high and now it's speckled",
        "I hate these noisy pixels",
    ],
    "rain": [
        "take the raindrops out",
        "it rained during our hike, edit the rain out of the photo",
        "please remove all rain streaks",
        "no rain in this picture please",
        "the downpour covers the house",
    ],
    "haze": [
        "can you remove the fog",
        "the mountains are hidden in mist, clear it",
        "dehaze",
        "too much smog over the city",
        "make this hazy landscape clear",
    ],
    "blur": [
        "sharpen this blurry picture",
        "my camera shook, fix the motion blur",
        "the picture is out of focus",
        "deblur it",
        "I want crisp sharp edges",
    ],
    "low_light": [
        "brighten this up",
        "the photo was taken at night and is too dark",
        "it's underexposed, fix the exposure",
        "I can't see anything in the dark, add light",
        "make the dim room brighter",
    ],
}
EVERY = [
    ((task, strength), sentence)
    for task in text.TASKS
    for strength in (None, *text.STRENGTHS)
    for sentence in text.sentences(task, strength)
] + [((tasks, "mixed"), sentence) for tasks, sentence in text.mixed_sentences()]


def content(sentence):
    return frozenset(re.findall("[a-z]+", sentence.lower())) - FILLER


@pytest.fixture(scope="module")
def minilm():
    """The encoder, which computes a list of sentences when it is asked for the first time."""
    encoder = text.TextEncoder.from_pretrained("minilm")
    compute = functools.cache(lambda *texts: type(encoder)._compute(encoder, list(texts)))
    encoder._compute = lambda texts: compute(*texts).copy()
    return encoder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TDR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sentences"


def forget(encoder):
    """Empties the encoder's memory, as a new process would find it."""
    encoder._memory.clear()
    encoder._tables.clear()


def test_every_task_has_enough_sentences():
    assert text.TASKS == ("noise", "rain", "haze", "blur", "low_light")
    for task in text.TASKS:
        assert len(set(text.sentences(task))) >= 50
        for strength in ("mild", "strong"):
            assert len(set(text.sentences(task, strength=strength))) >= 12
    assert len({sentence for _, sentence in text.mixed_sentences()}) >= 30


def test_mixed_sentences_name_two_or_three_tasks_and_cover_every_pair():
    named = [tasks for tasks, _ in text.mixed_sentences()]
    for tasks in named:
        assert 2 <= len(tasks) <= 3 and list(tasks) == [t for t in text.TASKS if t in tasks]
    assert set(itertools.combinations(text.TASKS, 2)) <= set(named)


def test_no_sentence_says_nearly_the_same_as_another():
    for (_, one), (_, other) in itertools.combinations(EVERY, 2):
        a, b = content(one), content(other)
        assert a and b
        assert len(a & b) / len(a | b) < 0.7, (one, other)


def test_tasks_strengths_and_mixtures_are_kept_apart():
    homes = {}
    for home, sentence in EVERY:
        homes.setdefault(" ".join(re.findall("[a-z]+", sentence.lower())), set()).add(home)
    assert [s for s, where in homes.items() if len(where) > 1] == []


def test_sentences_are_tidy_english():
    for _, sentence in EVERY:
        assert sentence == sentence.strip() and sentence.isascii() and "  " not in sentence
        assert sentence[0].isupper() and sentence[-1] in ".!?" and len(sentence) <= 100


def test_an_unknown_task_or_strength_is_refused():
    with pytest.raises(InputError, match="no task 'snow'.*low_light"):
        text.sentences("snow")
    with pytest.raises(InputError, match="no strength 'huge'"):
        text.sentences("rain", "huge")


def test_free_sentences_land_at_their_task(minilm, cache):
    bank = text.bank_vectors(minilm)
    known = {sentence for _, sentence in EVERY}
    centres = np.stack([bank[task].mean(0) for task in text.TASKS])
    centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    for task, free in FREE.items():
        assert not known & set(free)
        nearest = (minilm.encode(free) @ centres.T).argmax(-1)
        assert [(s, text.TASKS[i]) for s, i in zip(free, nearest, strict=True)] == [
            (s, task) for s in free
        ]


def test_strong_and_mild_sentences_land_at_their_task_as_a_whole(minilm, cache):
    centres = np.stack([v.mean(0) for v in text.bank_vectors(minilm).values()])
    for strength in text.STRENGTHS:
        for index, task in enumerate(text.TASKS):
            vectors = text.bank_vectors(minilm, [task], strength)[task]
            assert (vectors.mean(0) @ centres.T).argmax() == index


def test_the_cache_returns_the_same_vectors(minilm, cache, monkeypatch):
    forget(minilm)
    first = text.bank_vectors(minilm, ["rain", "haze"])
    assert first["rain"].shape == (len(text.sentences("rain")), 384)
    np.testing.assert_allclose(
        first["rain"], minilm.encode(text.sentences("rain")), rtol=0, atol=1e-6
    )
    assert len(list(cache.iterdir())) == 2  # two tables, nothing temporary
    forget(minilm)
    monkeypatch.setattr(minilm, "_compute", None)  # from here on only the cache can answer
    second = text.bank_vectors(minilm, ["rain", "haze"])
    for task in first:
        np.testing.assert_array_equal(first[task], second[task], strict=True)
    for file in cache.iterdir():
        file.unlink()
    assert text.bank_vectors(minilm, ["rain"])["rain"] is second["rain"]  # now from memory


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        _flip,
        lambda p: p.write_bytes(p.read_bytes()[:-900]),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("no table"),
        lambda p: np.savez(p, vectors=np.zeros((2, 384), np.float32)),
        lambda p: np.savez(p, vectors=np.full((58, 384), np.nan, np.float32)),
        lambda p: np.savez(p, other=np.zeros(3)),
    ],
    ids=["flipped", "cut", "empty", "text", "shape", "nan", "names"],
)
def test_a_damaged_cache_is_computed_anew(minilm, cache, caplog, spoil):
    forget(minilm)
    first = text.bank_vectors(minilm, ["blur"])["blur"]
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    spoil(path)
    forget(minilm)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(text.bank_vectors(minilm, ["blur"])["blur"], first)
    assert "anew" in caplog.text and str(path) in caplog.text
    forget(minilm)
    np.testing.assert_array_equal(text.bank_vectors(minilm, ["blur"])["blur"], first)
    assert len(path.read_bytes()) == len(whole) and list(cache.iterdir()) == [path]


def test_other_sentences_or_another_encoder_never_share_a_cache_entry(minilm, cache, monkeypatch):
    forget(minilm)
    minilm.cached(["remove the rain"])
    minilm.cached(["remove the rain", "clear the fog"])
    monkeypatch.setattr(minilm, "fingerprint", "0" * 64)
    minilm.cached(["remove the rain"])
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm(
    minilm, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TDR_CACHE", str(tmp_path / "file"))
    forget(minilm)
    assert minilm.cached(["remove the rain"]).shape == (1, 384)
    assert "TDR_CACHE" in caplog.text
