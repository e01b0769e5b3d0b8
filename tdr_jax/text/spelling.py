"""Typing mistakes put right, so that an encoder sees words that it knows."""

import collections
import re
import string
from collections.abc import Iterable
from pathlib import Path

LEAST = 4  # letters of a word that is looked at
# The words of the sentences that the shipped head was fitted to; scripts/make_minilm_tasks.py
# writes them beside it, so that nobody who restores a picture has to read all of the sentences.
TYPED = Path(__file__).parents[1] / "assets" / "wordings" / "typed.txt"


def words_of(sentences: Iterable[str]) -> list[str]:
    """Returns the words of sentences in lower case, the commonest first."""
    counts = collections.Counter(re.findall("[a-z]+", " ".join(sentences).lower()))
    return [word for word, _ in counts.most_common()]


class Spelling:
    """Replaces unknown words by known ones that are one mistake away.

    Args:
        vocabulary: words in lower case, the commonest first.
        typed: likewise, of what people type: known too, and the likelier replacements.
    """

    def __init__(self, vocabulary: Iterable[str], typed: Iterable[str]):
        typed = list(typed)
        known = set(typed)
        order = typed + [word for word in vocabulary if word.isalpha() and word not in known]
        self._rank = {word: i for i, word in enumerate(order) if len(word) >= LEAST - 1}

    @classmethod
    def of(cls, tokenizer) -> "Spelling":
        """Returns a Spelling that knows the whole words of a tokenizer and those of `TYPED`.

        Args:
            tokenizer: a BERT's, whose numbers go by how common words are.
        """
        vocabulary = tokenizer.get_vocab()
        typed = TYPED.read_text(encoding="utf-8").split()
        return cls(sorted(vocabulary, key=vocabulary.get), typed)

    def __call__(self, sentence: str) -> str:
        """Puts the words of a sentence right.

        Args:
            sentence: in English.

        Returns:
            the sentence with its unknown words of four letters or more replaced. A word stays as it
            is if it is known, or if no known word is one swap, missing, doubled or wrong letter
            away.
        """
        return re.sub(rf"[A-Za-z]{{{LEAST},}}", lambda match: self._word(match[0]), sentence)

    def _word(self, word: str) -> str:
        lower = word.lower()
        if lower in self._rank:
            return word
        near = [other for other in _one_away(lower) if other in self._rank]
        # People seldom miss the first letter.
        return min(near, key=lambda o: (o[0] != lower[0], self._rank[o]), default=word)


def _one_away(word: str) -> set[str]:
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    dropped = {a + b[1:] for a, b in cuts if b}
    wrong = {a + c + b[1:] for a, b in cuts if b for c in string.ascii_lowercase}
    missing = {a + c + b for a, b in cuts for c in string.ascii_lowercase}
    return (swapped | dropped | wrong | missing) - {word}
