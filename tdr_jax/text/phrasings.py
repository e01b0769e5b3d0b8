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

from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.vocabulary import MEANINGS, STRENGTHS, TASKS, spoken
from tdr_jax.errors import InputError
from tdr_jax.text import instructions

PARTS = ("training", "calibration", "held_out")
NEIGHBOURS = {  # on the rows of the usual English keyboard
    letter: row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, letter in enumerate(row)
}
_FOLDER = Path(__file__).parents[1] / "assets" / "wordings"


class Wording(NamedTuple):
    """A sentence that somebody might type.

    Attributes:
        sentence: in English.
        meanings: what it asks for: one of `MEANINGS`, or two or three, in their order.
        family: the name of its family of phrasing.
    """

    sentence: str
    meanings: tuple[str, ...]
    family: str


@functools.cache
def part(name: str) -> tuple[Wording, ...]:
    """Returns the sentences of one part.

    Args:
        name: one of `PARTS`.

    Returns:
        in the order of the file; "training" has those of the instruction bank behind them.

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
    for task in TASKS:
        for strength in (None, *STRENGTHS):
            for sentence in instructions.sentences(task, strength):
                yield Wording(sentence, (spoken(task),), f"bank, {strength or 'plain'}")
    for tasks, sentence in instructions.mixed_sentences():
        yield Wording(sentence, tuple(map(spoken, tasks)), "bank, mixed")


def shares(meanings: tuple[str, ...]) -> np.ndarray:
    """Returns the share that each of `MEANINGS` has in a sentence.

    Args:
        meanings: some of `MEANINGS`, each of which has as much as the others.

    Returns:
        float32 (6,) in [0, 1], of sum 1.
    """
    return np.array([(name in meanings) / len(meanings) for name in MEANINGS], np.float32)


def mixed_vectors(encoder, tasks) -> dict[tuple[str, str], np.ndarray]:
    """Returns the vectors of the training sentences that ask for two of the tasks.

    Args:
        encoder: a `tdr_jax.text.TextEncoder`.
        tasks: some of `tdr_jax.text.TASKS`.

    Returns:
        (task, task), in the order of `TASKS`, -> float32 (number of sentences, encoder.dim).
    """
    tasks = {spoken(task): task for task in tasks}
    groups: dict[tuple[str, ...], list[str]] = {}
    for wording in part("training"):
        named = tuple(tasks[meaning] for meaning in wording.meanings if meaning in tasks)
        if len(named) == len(wording.meanings) == 2:
            groups.setdefault(named, []).append(wording.sentence)
    return {named: encoder.cached(sentences) for named, sentences in groups.items()}


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns how alike meanings are: the cosine of their shares.

    Args:
        one, other: float32 (..., 6), as `shares` gives them.

    Returns:
        float32 (...) in [0, 1]: 1 for the same, 0 for others, and for instance 0.71 for "rain" and
        "rain and noise".
    """
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return ((one * other).sum(-1) / norms).astype(np.float32)


def mistyped(sentence: str, seed: int = 0) -> str:
    """Returns the sentence with one or two typing mistakes, a function of both arguments.

    Args:
        sentence: any.
        seed: of the mistakes.

    Returns:
        the sentence with letters swapped, dropped, doubled, or replaced by a neighbour on the
        keyboard, in words of at least four letters; one without such words stays as it is.
    """
    return typos(sentence, example_rng(seed, zlib.crc32(sentence.encode())))


def typos(sentence: str, rng: np.random.Generator) -> str:
    """Returns the sentence as `mistyped` does, with mistakes drawn from a generator.

    Args:
        sentence: any.
        rng: what decides where the mistakes are, and which.
    """
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
        share: of sentences with typing mistakes, from 0 to 1.

    Returns:
        the sentence: with small letters and without its full stop, without apostrophes, with a
        "please" or "thanks", or with typing mistakes; or as it was.
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
