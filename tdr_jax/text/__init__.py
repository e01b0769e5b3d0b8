"""From words to vectors, and what words mean: instructions, sentence encoders, intents.

The public names of the package; modules in it import each other.
"""

from tdr_jax.degradations.vocabulary import STRENGTHS, TASKS
from tdr_jax.text.encoder import TextEncoder
from tdr_jax.text.instructions import bank_vectors, mixed_sentences, sentences
from tdr_jax.text.intent import understand

__all__ = [
    "STRENGTHS",
    "TASKS",
    "TextEncoder",
    "bank_vectors",
    "mixed_sentences",
    "sentences",
    "understand",
]
