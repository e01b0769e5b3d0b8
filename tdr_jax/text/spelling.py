"""Typing mistakes put right, so that an encoder sees words that it knows."""

import collections
import re
import string
from collections.abc import Iterable

LEAST = 4  # letters of a word that is looked at


class Spelling:
    """Replaces unknown words by known ones that are one mistake away.

    Args:
        vocabulary: words in lower case, the commonest first.
        sentences: what people type; their words are known too, and the likelier replacements.
    """

    def __init__(self, vocabulary: Iterable[str], sentences: Iterable[str]):
        typed = collections.Counter(re.findall("[a-z]+", " ".join(sentences).lower()))
        order = [word for word, _ in typed.most_common()]
        order += [word for word in vocabulary if word.isalpha() and word not in typed]
        self._rank = {word: i for i, word in enumerate(order) if len(word) >= LEAST - 1}

    @classmethod
    def of(cls, tokenizer, sentences: Iterable[str]) -> "Spelling":
        """Returns a Spelling that knows the whole words of a tokenizer.

        Args:
            tokenizer: a BERT's, whose numbers go by how common words are.
            sentences: what people type, see the class.
        """
        vocabulary = tokenizer.get_vocab()
        return cls(sorted(vocabulary, key=vocabulary.get), sentences)

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
