"""Measuring an objective on examples that it does not learn from."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from tdr_jax import models
from tdr_jax.evaluate import tally

ROWS = 16  # examples that are measured at once


class HeldOut:
    """Means of what is measured of the same examples, with the same draws, at every visit.

    Args:
        measure: `(params, batch, rng, *frozen)` -> dict of scalars, each a mean over the batch.
        make: `make(n, size)`, example n as a dict of arrays; a function of its arguments alone.
        count: of examples: 0 to count - 1.
        size: of the examples.
        frozen: what `measure` takes beside.
        seed: of the draws.
    """

    def __init__(
        self, measure: Callable, make: Callable, count: int, size: int, frozen=(), seed: int = 0
    ):
        self.make, self.count, self.size = make, count, size
        self._measure, self._frozen, self._seed = jax.jit(measure), frozen, seed

    def run(self, params: models.Params) -> Iterator[tuple[str, float]]:
        """Yields (name, mean); of several processes each measures its share, and all call this.

        Args:
            params: the network's, on the host.
        """
        params = jax.device_put(params)
        mine = tally.Tally.empty()
        for first in range(ROWS * jax.process_index(), self.count, ROWS * jax.process_count()):
            numbers = range(first, min(first + ROWS, self.count))
            examples = [self.make(n, self.size) for n in numbers]
            batch = {name: np.stack([each[name] for each in examples]) for name in examples[0]}
            batch["row"] = np.arange(len(examples))
            rng = jax.random.fold_in(jax.random.key(self._seed), first)
            found = self._measure(params, batch, rng, *self._frozen)
            values = {f"of/{name}": [float(value)] for name, value in found.items()}
            mine = mine.merge(tally.of(number=[first], rows=[len(examples)], **values))
        # In the order of the examples, so that the sum does not depend on who measured what.
        whole = tally.over_hosts(mine)
        for name, values in whole.items():
            if name.startswith("of/"):
                yield name.removeprefix("of/"), float((values * whole["rows"]).sum() / self.count)
