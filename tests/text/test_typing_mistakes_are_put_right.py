"""Unknown words become known ones where one mistake is between them; known words stay."""

import pytest

from tdr_jax import text
from tdr_jax.text import phrasings
from tdr_jax.text.spelling import TYPED, Spelling, words_of

SENTENCES = ["remove the rain", "remove the haze", "denoise the photo", "sharpen it"]


@pytest.fixture(scope="module")
def spelling():
    return Spelling(["garden", "hazel", "raining", "phone"], words_of(SENTENCES))


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("rmeove the rain", "remove the rain"),  # swapped
        ("remve the rain", "remove the rain"),  # dropped
        ("removve the rain", "remove the rain"),  # doubled
        ("remobe the rain", "remove the rain"),  # a neighbour on the keyboard
        ("Denosie the photto, sharpn it!", "denoise the photo, sharpen it!"),
        ("the gardn", "the garden"),  # of the vocabulary
        ("the hazr", "the haze"),  # what is typed goes before the vocabulary's hazel
    ],
)
def test_one_mistake_is_put_right(spelling, wrong, right):
    assert spelling(wrong) == right


@pytest.mark.parametrize(
    "sentence", ["Remove the hazel!", "xylophone", "rmv it", "sharpenings", "12345 <3", ""]
)
def test_known_short_and_foreign_words_stay(spelling, sentence):
    assert spelling(sentence) == sentence


def test_the_words_that_ship_are_those_of_the_training_sentences_the_commonest_first():
    words = words_of(w.sentence for w in phrasings.part("training"))
    assert TYPED.read_text().split() == words, "changed; scripts/make_minilm_tasks.py writes them"
    assert words[0] == "the" and len(words) > 1000


def test_most_mistakes_in_unseen_sentences_are_put_right_and_few_are_made():
    tokenizer = text.TextEncoder.from_pretrained("minilm").tokenizer
    spelling = Spelling.of(tokenizer)
    sentences = [w.sentence for w in phrasings.part("calibration")]
    words = sum(len(s.split()) for s in sentences)
    spoilt = sum(
        a != b for s in sentences for a, b in zip(s.split(), spelling(s).split(), strict=True)
    )
    assert spoilt <= 0.02 * words
    mistyped = [phrasings.mistyped(s) for s in sentences]
    before = sum(
        a != b
        for s, m in zip(sentences, mistyped, strict=True)
        for a, b in zip(s.split(), m.split(), strict=True)
    )
    after = sum(
        a.lower() != b.lower()
        for s, m in zip(sentences, mistyped, strict=True)
        for a, b in zip(s.split(), spelling(m).split(), strict=True)
    )
    assert after - spoilt < 0.4 * before
