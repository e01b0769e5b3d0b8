"""Several sources of which each gives its share of the examples, whatever its size."""

from functools import lru_cache

import numpy as np

from tdr_jax.data.sources import Concat
from tdr_jax.degradations.draws import MIXTURE, SHUFFLE, example_rng
from tdr_jax.errors import InputError

BLOCK = 2520  # examples in which every share is exact; divides by 1 to 10


class Mixture(Concat):
    """Several sources as one, from which examples are drawn by shares.

    Any run of examples holds of each source its share, one more or one less: batches and what hosts
    get of them are balanced. Each source goes through its own pictures, an epoch after the other.

    Args:
        *parts: (source, share) with shares > 0 of any sum.

    Raises:
        InputError: a share too small to come up.
    """

    def __init__(self, *parts):
        super().__init__(*((source, 1) for source, _ in parts))
        shares = np.array([share for _, share in parts], np.float64)
        exact = shares / shares.sum() * BLOCK
        # The largest remainders get what rounding down leaves.
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]] += 1
        if counts.min() < 1:
            raise InputError(
                f"shares {tuple(shares)}: the smallest is below 1 of {BLOCK} examples; leave it out"
            )
        self.counts = tuple(int(count) for count in counts)

    def draw(self, seed: int, n: int) -> int:
        """Says which item is shown by example n of a run: a pure function of both.

        Args:
            seed: of the run.
            n: int >= 0, the number of the example.

        Returns:
            index of an item.
        """
        block, place = divmod(n, BLOCK)
        part, rank = (int(of[place]) for of in _block(seed, block, self.counts))
        start = int(self.ends[part - 1]) if part else 0
        count = int(self.ends[part]) - start
        epoch, place = divmod(block * self.counts[part] + rank, count)
        return start + int(_order(seed, epoch, count, part)[place])


@lru_cache(maxsize=4)
def _block(seed, block, counts):
    """Of each example of a block: which source, and which of the source's examples in the block.

    Every source's examples lie one in each of as many equal stretches of the block, anywhere in it.
    """
    rng = example_rng(seed, block, MIXTURE)
    when = np.concatenate([(np.arange(count) + rng.random(count)) / count for count in counts])
    part = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(when, kind="stable")
    return part[order], rank[order]


@lru_cache(maxsize=32)
def _order(seed, epoch, count, part):
    return example_rng(seed, epoch, SHUFFLE + 1 + part).permutation(count)
