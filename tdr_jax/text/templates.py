"""Prompts in which one word stands for the words that are made of a picture."""

import re

import numpy as np

from tdr_jax.errors import InputError

TEMPLATE, PLACEHOLDER = "a photo of a S", "S"


def prepare(
    tokenizer,
    template: str = TEMPLATE,
    *,
    num_words: int,
    length: int = 77,
    placeholder: str = PLACEHOLDER,
) -> tuple[np.ndarray, int]:
    """Tokenises a prompt so that `models.mapper.inject` can put words into it.

    Args:
        tokenizer: CLIP's, of transformers.
        template: the prompt; the placeholder is a word of its own in it, once.
        num_words: how many words take the placeholder's place.
        length: tokens that the text tower reads.
        placeholder: the word that stands for the others.

    Returns:
        int32 (length,) token ids, start and end marks and padding included, the placeholder as one
        of them; and its position.

    Raises:
        InputError: the placeholder is not there or there twice, or the words do not fit in.
    """
    parts = re.split(rf"(?<!\w){re.escape(placeholder)}(?!\w)", template) if placeholder else []
    if len(parts) != 2:
        raise InputError(
            f"template {template!r} has {max(len(parts) - 1, 0)} times the word {placeholder!r}; "
            f"write it once where the picture's words belong, as in {TEMPLATE!r}"
        )
    before, after = (_tokens(tokenizer, part) for part in parts)
    needed = 1 + len(before) + num_words + len(after) + 1
    if num_words < 1 or needed > length:
        raise InputError(
            f"template {template!r} with {num_words} words takes {needed} tokens (start, "
            f"{len(before)} before, {num_words}, {len(after)} after, end); between 1 word and "
            f"{length} tokens are possible: shorten it or use fewer words"
        )
    start, end, *padding = empty(tokenizer, length)
    slot = (_tokens(tokenizer, placeholder) or [end])[0]  # any id would do: it is replaced
    ids = [start, *before, slot, *after, end, *padding][:length]
    return np.asarray(ids, np.int32), 1 + len(before)


def empty(tokenizer, length: int = 77) -> np.ndarray:
    """Tokenises the empty prompt.

    Args:
        tokenizer: CLIP's, of transformers.
        length: tokens that the text tower reads.

    Returns:
        int32 (length,) token ids: start and end marks, padded as the tokenizer pads.
    """
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True)["input_ids"]
    return np.asarray(ids, np.int32)


def _tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text.strip() else []
