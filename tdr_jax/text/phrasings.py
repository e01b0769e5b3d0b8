"""What people type, by what it asks for: the sentences that a text encoder is fine-tuned with.

The files in `assets/wordings` hold families of phrasing, each with sentences for every meaning. A
family is in one part only: "training", "calibration" (kept from training, for settings), or
"held_out", which no training and no choice sees.
"""

import functools
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tdr_jax import text
from tdr_jax.degradations.synthesis import example_rng
from tdr_jax.errors import InputError

# What a sentence can ask for; "none" is anything else, and nothing.
MEANINGS = (*(task.replace("_", " ") for task in text.TASKS), "none")
PARTS = ("training", "calibration", "held_out")
NEIGHBOURS = {  # on the rows of the usual English keyboard
    letter: row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, letter in enumerate(row)
}
_FOLDER = Path(__file__).parents[1] / "assets" / "wordings"


class Wording(NamedTuple):
    """A sentence, what it asks for (one of `MEANINGS`, or two or three), and its family."""

    sentence: str
    meanings: tuple[str, ...]
    family: str


@functools.cache
def part(name: str) -> tuple[Wording, ...]:
    """Returns the sentences of one part; "training" has those of the instruction bank too.

    Args:
        name: one of `PARTS`.

    Raises:
        InputError: unknown part.
    """
    if name not in PARTS:
        raise InputError(f"no part {name!r} of the wordings; use one of {', '.join(PARTS)}")
    found = list(_parse((_FOLDER / f"{name}.txt").read_text(encoding="utf-8")))
    return tuple(found + list(_bank())) if name == "training" else tuple(found)


def _parse(content: str):
    family, meanings = "", ()
    for line in filter(None, content.splitlines()):
        if line.startswith("== "):
            family, meanings = line[3:], ()
        elif line.startswith("-- "):
            meanings = tuple(sorted(line[3:].split(" + "), key=MEANINGS.index))
        elif not line.startswith("#"):
            yield Wording(line, meanings, family)


def _bank():
    """The instruction bank's sentences, as families."""
    for task in text.TASKS:
        for strength in (None, *text.STRENGTHS):
            for sentence in text.sentences(task, strength):
                yield Wording(sentence, (task.replace("_", " "),), f"bank, {strength or 'plain'}")
    for tasks, sentence in text.mixed_sentences():
        yield Wording(sentence, tuple(task.replace("_", " ") for task in tasks), "bank, mixed")


def shares(meanings: tuple[str, ...]) -> np.ndarray:
    """Returns the part that each of `MEANINGS` has in a sentence: float32 (6,), of sum 1."""
    return np.array([(name in meanings) / len(meanings) for name in MEANINGS], np.float32)


def mixed_vectors(encoder, tasks) -> dict[tuple[str, str], np.ndarray]:
    """Returns the vectors of the training sentences that ask for two of the tasks.

    Args:
        encoder: a `tdr_jax.text.TextEncoder`.
        tasks: some of `tdr_jax.text.TASKS`.

    Returns:
        (task, task), in the order of `TASKS`, -> float32 (number of sentences, encoder.dim).
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for wording in part("training"):
        named = tuple(meaning.replace(" ", "_") for meaning in wording.meanings)
        if len(named) == 2 and set(named) <= set(tasks):
            groups.setdefault(named, []).append(wording.sentence)
    return {named: encoder.cached(sentences) for named, sentences in groups.items()}


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns how alike meanings are: the cosine of their shares.

    1 for the same, 0 for others, and for instance 0.71 for "rain" and "rain and noise".

    Args:
        one, other: (..., 6), as `shares` gives them.
    """
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return ((one * other).sum(-1) / norms).astype(np.float32)


def mistyped(sentence: str, seed: int = 0) -> str:
    """Returns the sentence with one or two typing mistakes, a function of both arguments.

    Letters are swapped, dropped, doubled, or replaced by a neighbour on the keyboard, in words of
    at least four letters; a sentence without such words stays as it is.
    """
    return typos(sentence, example_rng(seed, zlib.crc32(sentence.encode())))


def typos(sentence: str, rng: np.random.Generator) -> str:
    """As `mistyped`, with mistakes drawn from a generator."""
    words = sentence.split(" ")
    long = [i for i, word in enumerate(words) if len(word.strip(".,;:!?'\"()")) > 3]
    long = [i for i in long if words[i].strip(".,;:!?'\"()").replace("'", "").isalpha()]
    count = min(len(long), int(rng.integers(1, 3)))
    for i in rng.permutation(long)[:count]:
        words[i] = _typo(words[i], rng)
    return " ".join(words)


def _typo(word: str, rng: np.random.Generator) -> str:
    letters = [i for i, letter in enumerate(word) if letter.isalpha()]
    # The first letter is seldom the wrong one.
    i = int(rng.choice(letters[1:-1]))
    kind = rng.integers(4)
    if kind == 0 and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    near = NEIGHBOURS.get(word[i].lower(), word[i])
    return word[:i] + near[rng.integers(len(near))] + word[i + 1 :]


def varied(sentence: str, rng: np.random.Generator, share: float) -> str:
    """Returns the sentence as somebody in a hurry might type it.

    Args:
        sentence: as it is written in the file.
        rng: decides what happens to it.
        share: of sentences with typing mistakes.
    """
    if rng.random() < 0.4:
        sentence = sentence.rstrip(".!?").lower() or sentence  # "???" is all it says
    if rng.random() < 0.3:
        sentence = sentence.replace("'", "")
    if rng.random() < 0.1:
        first, last = (("please ", ""), ("", " please"), ("hey ", ""), ("", " thanks"))[
            rng.integers(4)
        ]
        sentence = first + sentence + last
    return typos(sentence, rng) if rng.random() < share else sentence


class Pairs:
    """Pairs of sentences with how alike they are; pair n is a function of seed and n.

    Args:
        wordings: to draw from; all `MEANINGS` must be among them.
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
        sentences = [varied(wording.sentence, rng, self._typos) for wording in pair]
        if self._lower:
            sentences = [sentence.lower() for sentence in sentences]
        ids = self._tokenizer(sentences, truncation=True, max_length=length)["input_ids"]
        tokens, mask = np.zeros((2, length), np.int32), np.zeros((2, length), bool)
        for row, sentence in enumerate(ids):
            tokens[row, : len(sentence)], mask[row, : len(sentence)] = sentence, True
        meaning = np.stack([shares(wording.meanings) for wording in pair])
        return {
            "tokens": tokens,
            "mask": mask,
            "meaning": meaning,
            "label": likeness(meaning[0], meaning[1]),
        }

    def _fitting(self, length: int) -> tuple[list, list]:
        """Sentences by what they mean, one meaning and mixtures; half a sentence may mean nothing.

        A meaning of which no sentence is short enough keeps all of them, and they are cut.
        """
        if length not in self._groups:
            groups: dict[tuple[str, ...], list[Wording]] = {}
            for wording, size in self._sized:
                if size <= length:
                    groups.setdefault(wording.meanings, []).append(wording)
            single = [
                groups.pop((name,), None) or [w for w, _ in self._sized if w.meanings == (name,)]
                for name in MEANINGS
            ]
            self._groups[length] = single, list(groups.values())
        return self._groups[length]


def _draw(groups, rng) -> list[Wording]:
    """Tasks as often as each other, "none", the widest, twice; one time in eight a mixture."""
    single, mixed = groups
    if mixed and rng.random() < 0.125:
        return mixed[rng.integers(len(mixed))]
    return single[min(rng.integers(len(single) + 1), len(single) - 1)]
