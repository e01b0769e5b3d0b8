"""Points where a network's computation stops, for what is known only once all strips are there.

A picture that is too large for the memory goes through a network strip by strip. What a network
asks about the whole picture (`total`) is the sum over all strips, and filters look beyond the
strip's edge: into the features of its neighbours, which are kept where a stage begins, between the
halves of a block and where it ends. Under `replaying` the computation is taken up with what is
given for the first of these points, and ends at the first for which nothing is: with `Reached`.
Anywhere else the points let everything pass.
"""

import collections
import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

from jaxtyping import Float, PyTree, Shaped

from tdr_jax.nn.typing import Array

_GIVEN: contextvars.ContextVar[tuple[collections.deque, collections.deque] | None] = (
    contextvars.ContextVar("given", default=None)
)


class Reached(Exception):  # noqa: N818 (no error: the computation is to end here)
    """Where the computation has come to.

    Attributes:
        kind: "total", "half" or "stage".
        value: the strip's part of the sum, or features.
        stage: of a stage, its graph, its parameters (stacked blocks) and what its blocks read
            beside features.
    """

    def __init__(self, kind: str, value: PyTree, stage: tuple[Any, PyTree, tuple] | None = None):
        super().__init__(kind)
        self.kind, self.value, self.stage = kind, value, stage


@contextlib.contextmanager
def replaying(features: Iterable[PyTree], totals: Iterable[PyTree]) -> Iterator[None]:
    """Stops what is traced at the first point for which nothing is given.

    Args:
        features: (b, h, w, c) of the stages, or of the half of the one block, in their order.
        totals: in their order.
    """
    token = _GIVEN.set((collections.deque(features), collections.deque(totals)))
    try:
        yield
    finally:
        _GIVEN.reset(token)


def stopping() -> bool:
    """Whether what is traced now stops at points."""
    return _GIVEN.get() is not None


def total(sums: PyTree) -> PyTree:
    """Takes sums over a picture's pixels, which of a strip are those of its own, to the whole's."""
    return _pass("total", sums, 1)


def half(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Marks the features between the two halves of a block."""
    return _pass("half", x, 0)


def stage(
    graphdef: Any,
    params: PyTree,
    x: Float[Array, "b h w c"],
    context: tuple[Shaped[Array, "b ..."], ...],
) -> Float[Array, "b h w c"]:
    """Stands for blocks in a row: what is given for their result, or the point before them.

    Args:
        graphdef: of one block.
        params: of all blocks, stacked.
        x: what the first one reads.
        context: what all read beside.

    Raises:
        Reached: nothing is given.
    """
    return _pass("stage", x, 0, (graphdef, params, context))


def _pass(kind: str, value, which: int, *details):
    given = _GIVEN.get()
    if given is None:
        return value
    if given[which]:
        return given[which].popleft()
    raise Reached(kind, value, *details)
