"""The instruction bank: the sentences that restoration networks are trained with."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tdr_jax.degradations.vocabulary import STRENGTHS, TASKS
from tdr_jax.errors import InputError

_FILE = Path(__file__).parents[1] / "assets" / "instructions.json"


@functools.cache
def _bank() -> dict:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def sentences(task: str, strength: str | None = None) -> tuple[str, ...]:
    """Returns the bank's sentences that ask to undo one degradation.

    Args:
        task: one of `TASKS`.
        strength: None for sentences that say nothing of strength; "mild" or "strong" for those that
            do. The three sets share no sentence.

    Raises:
        InputError: unknown task or strength.
    """
    if task not in TASKS:
        raise InputError(f"no task {task!r} in the instruction bank; use one of {', '.join(TASKS)}")
    if strength not in (None, *STRENGTHS):
        raise InputError(f"no strength {strength!r}; use None, {' or '.join(STRENGTHS)}")
    return tuple(_bank()[task][strength or "plain"])


def mixed_sentences() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Returns the bank's sentences that ask to undo two or three degradations.

    Returns:
        (tasks, sentence) pairs, the tasks in the order of `TASKS`.
    """
    return tuple((tuple(tasks), sentence) for tasks, sentence in _bank()["mixed"])


def bank_vectors(
    encoder, tasks: Iterable[str] = TASKS, strength: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the vectors of the bank's sentences, from the cache when they are there.

    Args:
        encoder: a `tdr_jax.text.TextEncoder`.
        tasks: of `TASKS`.
        strength: as in `sentences`.

    Returns:
        task -> float32 (number of sentences, encoder.dim), rows in the order of `sentences`.

    Raises:
        InputError: unknown task or strength.
    """
    return {task: encoder.cached(sentences(task, strength)) for task in tasks}
