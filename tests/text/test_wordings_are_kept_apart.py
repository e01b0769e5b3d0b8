"""Wordings are many, held-out families are in no other part, typing mistakes are as said."""

import collections
import re

import pytest

from tdr_jax import text
from tdr_jax.degradations.vocabulary import MEANINGS
from tdr_jax.errors import InputError
from tdr_jax.text import phrasings


def plain(sentence):
    return " ".join(re.findall("[a-z0-9]+", sentence.lower()))


def counts(part):
    single = [w.meanings[0] for w in phrasings.part(part) if len(w.meanings) == 1]
    return collections.Counter(single)


def test_there_are_enough_sentences_of_each_meaning():
    assert MEANINGS == ("noise", "rain", "haze", "blur", "low light", "none")
    training, held_out = counts("training"), counts("held_out")
    for meaning in MEANINGS[:-1]:
        assert training[meaning] >= 120 and held_out[meaning] >= 40
    assert training["none"] >= 200 and held_out["none"] >= 80
    for part in phrasings.PARTS:
        named = [w.meanings for w in phrasings.part(part)]
        assert all(1 <= len(m) <= 3 and set(m) <= set(MEANINGS) for m in named)
        assert not any("none" in m and len(m) > 1 for m in named)


def test_no_family_and_no_sentence_is_in_two_parts():
    homes = collections.defaultdict(set)
    for part in phrasings.PARTS:
        for wording in phrasings.part(part):
            homes[wording.family].add(part)
            homes["sentence: " + plain(wording.sentence)].add(part)
    assert [name for name, parts in homes.items() if len(parts) > 1] == []


def test_no_sentence_means_two_things():
    meant = collections.defaultdict(set)
    for part in phrasings.PARTS:
        for wording in phrasings.part(part):
            meant[plain(wording.sentence)].add(wording.meanings)
    assert [sentence for sentence, meanings in meant.items() if len(meanings) > 1] == []


def test_the_instruction_bank_is_part_of_training():
    known = {w.sentence: w.meanings for w in phrasings.part("training")}
    for task in text.TASKS:
        for strength in (None, *text.STRENGTHS):
            for sentence in text.sentences(task, strength):
                assert known[sentence] == (task.replace("_", " "),)


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="no part 'test' of the wordings; use one of training"):
        phrasings.part("test")


def distance(a, b):
    """Damerau and Levenshtein's: edits, swaps of neighbours among them."""
    rows = {(-1, -1): 0}
    rows |= {(i, -1): i + 1 for i in range(len(a))} | {(-1, j): j + 1 for j in range(len(b))}
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = min(rows[i - 1, j] + 1, rows[i, j - 1] + 1, rows[i - 1, j - 1] + (x != y))
            if i and j and x == b[j - 1] and a[i - 1] == y:
                best = min(best, rows[i - 2, j - 2] + 1)
            rows[i, j] = best
    return rows[len(a) - 1, len(b) - 1]


def test_one_or_two_mistakes_and_none_in_short_words():
    made = collections.Counter()
    for wording in phrasings.part("held_out"):
        before, after = wording.sentence.split(" "), phrasings.mistyped(wording.sentence).split(" ")
        assert len(before) == len(after)
        wrong = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
        made[len(wrong)] += 1
        for x, y in wrong:
            assert len(re.sub("[^A-Za-z']", "", x)) > 3 and distance(x, y) == 1, (x, y)
            assert x[0] == y[0] or not x[0].isalnum()
    assert set(made) <= {0, 1, 2} and made[0] < 10 and min(made[1], made[2]) > 100


def test_mistakes_are_a_function_of_sentence_and_seed():
    sentences = [w.sentence for w in phrasings.part("held_out")]
    first = [phrasings.mistyped(s, 1) for s in sentences]
    assert first == [phrasings.mistyped(s, 1) for s in sentences]
    assert sum(a != b for a, b in zip(first, map(phrasings.mistyped, sentences), strict=True)) > 200
    assert phrasings.mistyped("not so red") == "not so red"
