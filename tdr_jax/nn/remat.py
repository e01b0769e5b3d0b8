"""What a block keeps for the backward pass, which computes the rest of it again.

- none (or False): everything.
- full (or True): the block's inputs alone.
- halves: what stands between its attention and its feed-forward too.
- dots: the results of its matrix products too; norms, activations and depthwise filters are
  computed again.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from tdr_jax.nn import points
from tdr_jax.nn.typing import Array

_HALF, _PRODUCT = "half", "product"
_POLICIES = {
    "full": None,
    "halves": jax.checkpoint_policies.save_only_these_names(_HALF),
    # The products of `ops` have gradients of their own, inside which the second does not look.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(_HALF, _PRODUCT),
        jax.checkpoint_policies.dots_saveable,
    ),
}
NAMES = ("none", *_POLICIES)
_SWITCHES = {"false": "none", "true": "full"}


def name_of(remat: bool | str) -> str:
    """Returns the policy's name.

    Args:
        remat: one of `NAMES`, or a switch, which may be written out.

    Raises:
        ValueError: there is no such policy.
    """
    name = _SWITCHES.get(str(remat).lower(), remat)
    if name not in NAMES:
        raise ValueError(f"remat is {remat!r}; there are: {', '.join(NAMES)}, True and False")
    return name


def half(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Marks what stands between the two halves of a block."""
    return checkpoint_name(points.half(x), _HALF)


def product(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks the result of a matrix product."""
    return checkpoint_name(x, _PRODUCT)


def apply(remat: bool | str, function: Callable) -> Callable:
    """Returns the function with that policy for its backward pass."""
    name = name_of(remat)
    return function if name == "none" else jax.checkpoint(function, policy=_POLICIES[name])
