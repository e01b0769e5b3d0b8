"""From words to vectors, and what words mean: instructions, sentence encoders, intents."""

from tdr_jax.text.encoder import (
    STRENGTHS,
    TASKS,
    TextEncoder,
    bank_vectors,
    checked,
    folder_of,
    mixed_sentences,
    sentences,
    understand,
)

__all__ = [
    "STRENGTHS",
    "TASKS",
    "TextEncoder",
    "bank_vectors",
    "checked",
    "folder_of",
    "mixed_sentences",
    "sentences",
    "understand",
]
