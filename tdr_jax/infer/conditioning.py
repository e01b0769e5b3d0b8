"""What goes into a network beside the picture: whether it fits, and prompts as one vector."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from tdr_jax.errors import InputError

if TYPE_CHECKING:  # the parsers of commands import this, and need no JAX
    from tdr_jax import models

AUTO = "auto"  # the prompt that stands for what the picture shows


def vector(
    encoder: Any, prompts: Sequence[str], strength: float = 1.0
) -> Float32[np.ndarray, " dim"]:
    """Turns prompts that are to be fulfilled together into one condition.

    Args:
        encoder: anything with `.encode(list of str) -> float32 (n, dim)`.
        prompts: one sentence or several.
        strength: from 0 to 1, for a network that has learnt it (`config.text_strength`).

    Returns:
        The mean of the sentences' vectors times the strength, as in training.
    """
    vectors = np.asarray(encoder.encode([prompt.strip() for prompt in prompts]), np.float32)
    return np.float32(strength) * vectors.mean(0)


def check_prompt(network: "models.Network", prompt: str | Sequence[str] | None) -> None:
    """Raises InputError unless there is a prompt that says something where one is needed."""
    if not network.takes_sentence:
        if prompt is not None:
            raise InputError(f"network {network.name} takes no sentence; leave the prompt out")
        return
    given = [prompt] if isinstance(prompt, str) or prompt is None else list(prompt)
    if not all(isinstance(each, str) and each.strip() for each in given):
        raise InputError(f'the prompt is {prompt!r}; say what to do, such as "remove the noise"')
    if len(given) > 1 and AUTO in given:
        raise InputError(f'the prompt "{AUTO}" stands alone; leave the others out')


def check_guidance(network: "models.Network", guidance: Any) -> None:
    """Raises InputError unless there is guidance, whatever it is, just where it is needed."""
    if network.takes_guidance and guidance is None:
        raise InputError(
            f"network {network.name} restores with guidance; give a picture for that too "
            "(--guidance)"
        )
    if guidance is not None and not network.takes_guidance:
        raise InputError(f"network {network.name} takes no guidance; leave it out")


def check_views(network: "models.Network", right: Any) -> None:
    """Raises InputError unless there is a right view just where one is needed."""
    if network.takes_two_views and right is None:
        raise InputError(
            f"network {network.name} restores from two views; give the right one as well (--right)"
        )
    if right is not None and not network.takes_two_views:
        raise InputError(
            f"network {network.name} restores from one picture; leave the right view out"
        )


def check_strength(strength: float) -> None:
    """Raises InputError unless the strength lies in [0, 1]."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it must lie between 0 and 1")
