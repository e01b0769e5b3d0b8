"""What a network reads of prompts: one vector for one sentence or several, of any strength."""

from collections.abc import Sequence

import numpy as np


def vector(encoder, prompts: Sequence[str], strength: float = 1.0) -> np.ndarray:
    """Turns prompts that are to be fulfilled together into one condition.

    Args:
        encoder: anything with `.encode(list of str) -> float32 (N, dim)`.
        prompts: one sentence or several.
        strength: from 0 to 1, for a network that has learnt it (`config.text_strength`).

    Returns:
        float32 (dim,): the mean of the sentences' vectors times the strength, as in training.
    """
    vectors = np.asarray(encoder.encode([prompt.strip() for prompt in prompts]), np.float32)
    return np.float32(strength) * vectors.mean(0)
