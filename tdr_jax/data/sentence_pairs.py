"""Pairs of sentences that a text encoder is fine-tuned with: functions of the seed and a number."""

import numpy as np

from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.vocabulary import MEANINGS
from tdr_jax.text import phrasings


class SentencePairs:
    """Pairs of sentences with how alike they are; pair n is a function of seed and n.

    Args:
        wordings: `Wording`s to draw from; all `MEANINGS` must be among them.
        tokenizer: of the encoder, see `tdr_jax.text`.
        seed: of every draw.
        typos: share of sentences with typing mistakes.
        lower: whether sentences become lower case before they are cut into tokens.
    """

    def __init__(self, wordings, tokenizer, seed: int, *, typos: float, lower: bool = False):
        self._tokenizer, self._lower = tokenizer, lower
        self._seed, self._typos = seed, typos
        ids = tokenizer([wording.sentence for wording in wordings])["input_ids"]
        self._sized = list(zip(wordings, map(len, ids), strict=True))
        self._groups: dict[int, tuple[list, list]] = {}

    def __call__(self, n: int, length: int) -> dict[str, np.ndarray]:
        """Makes a pair.

        Args:
            n: its number.
            length: tokens of a sentence; longer ones are not drawn, shorter ones padded.

        Returns:
            `tokens` int32 and `mask` bool (2, length), `meaning` float32 (2, 6), the shares of
            both, and `label` float32, their likeness. Half of the pairs mean the same.
        """
        rng = example_rng(self._seed, n)
        groups = self._fitting(length)
        group = _draw(groups, rng)
        other = group if rng.random() < 0.5 else _draw(groups, rng)
        pair = [g[rng.integers(len(g))] for g in (group, other)]
        sentences = [phrasings.varied(wording.sentence, rng, self._typos) for wording in pair]
        if self._lower:
            sentences = [sentence.lower() for sentence in sentences]
        ids = self._tokenizer(sentences, truncation=True, max_length=length)["input_ids"]
        tokens, mask = np.zeros((2, length), np.int32), np.zeros((2, length), bool)
        for row, sentence in enumerate(ids):
            tokens[row, : len(sentence)], mask[row, : len(sentence)] = sentence, True
        meaning = np.stack([phrasings.shares(wording.meanings) for wording in pair])
        return {
            "tokens": tokens,
            "mask": mask,
            "meaning": meaning,
            "label": phrasings.likeness(meaning[0], meaning[1]),
        }

    def _fitting(self, length: int) -> tuple[list, list]:
        """Sentences by what they mean, one meaning and mixtures; half a sentence may mean nothing.

        A meaning of which no sentence is short enough keeps all of them, and they are cut.
        """
        if length not in self._groups:
            groups: dict[tuple[str, ...], list[phrasings.Wording]] = {}
            for wording, size in self._sized:
                if size <= length:
                    groups.setdefault(wording.meanings, []).append(wording)
            single = [
                groups.pop((name,), None) or [w for w, _ in self._sized if w.meanings == (name,)]
                for name in MEANINGS
            ]
            self._groups[length] = single, list(groups.values())
        return self._groups[length]


def _draw(groups, rng) -> list[phrasings.Wording]:
    """Tasks as often as each other, "none", the widest, twice; one time in eight a mixture."""
    single, mixed = groups
    if mixed and rng.random() < 0.125:
        return mixed[rng.integers(len(mixed))]
    return single[min(rng.integers(len(single) + 1), len(single) - 1)]
