"""Random numbers by name: one generator an example, one sequence of it for each purpose.

The order of the fields of what `draw` fills is the order in which numbers come from the generator.
A new name goes to the end, and none is taken away: whoever went on with a run would get others.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tdr_jax.degradations.vocabulary import KINDS, TASKS

# The independent sequences of an example's generator, far enough apart for each to grow.
CHOICES = 0  # its discrete choices
DEGRADATION = 1  # and, from here on, one for each task, in the order of TASKS: see `task_rng`
JITTER = 64  # other light and colours
RECIPES = 2**12  # of the layers of a recipe, see `layer_rng`
GUIDANCE = 2**16
REPLACEMENT = 2**24  # of a picture, by its place: others in place of one that cannot be read
SHUFFLE = 2**32  # of an epoch instead of an example: the order of the pictures
MIXTURE = 2**40  # of a block of examples: which of several sources each is from


def example_rng(seed, index, stream=0):
    """Gives the random generator of one example.

    Args:
        seed: int, the run's seed; taken modulo 2**64.
        index: int >= 0, the global number of the example.
        stream: int >= 0, which of the example's independent sequences (one for the crop, one for
            each degradation), so that leaving one out does not change the others.

    Returns:
        A `numpy.random.Generator` over Philox keyed by (seed, index): no state is shared between
        examples, so neither their order nor the number of hosts matters.
    """
    key = np.array([seed % 2**64, index], np.uint64)
    # The counter counts in its lowest word; the highest one separates the streams.
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@lru_cache(maxsize=4)
def order(seed, epoch, count):
    """Gives the order in which an epoch goes through pictures.

    Args:
        seed: int, the run's seed.
        epoch: its number, from 0.
        count: how many pictures there are.

    Returns:
        int64 (count,), a permutation.
    """
    return example_rng(seed, epoch, SHUFFLE).permutation(count)


def index_of(source, seed, n):
    """Says which item of a source example n of a run shows.

    Args:
        source: see `tdr_jax.data.sources`; one that has `draw` says it itself, as `Mixture` does.
        seed, n: see `example_rng`.

    Returns:
        index of an item: every one once in an epoch, in a new order.
    """
    if hasattr(source, "draw"):
        return source.draw(seed, n)
    epoch, place = divmod(n, len(source))
    return int(order(seed, epoch, len(source))[place])


def task_rng(seed, index, task):
    """Gives the random generator of one degradation of an example.

    Args:
        seed, index: see `example_rng`.
        task: one of `vocabulary.TASKS`.

    Returns:
        A `numpy.random.Generator`.
    """
    return example_rng(seed, index, DEGRADATION + TASKS.index(task))


def layer_rng(seed, index, kind, again=0):
    """Gives the random generator of one layer of a recipe in an example of training.

    Args:
        seed, index: see `example_rng`.
        kind: one of `vocabulary.KINDS`.
        again: how many layers of this kind stand before it.

    Returns:
        A `numpy.random.Generator`.
    """
    return example_rng(seed, index, RECIPES + 64 * again + list(KINDS).index(kind))


def named_rng(seed, name, index, stream=0):
    """Gives the random generator of one picture under a damage that has a name.

    Args:
        seed: int.
        name: of what is done, such as "noise25"; each has generators of its own.
        index: int >= 0, the place of the picture in its sorted folder.
        stream: see `example_rng`.

    Returns:
        A `numpy.random.Generator`.
    """
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return example_rng(int.from_bytes(key, "little"), index, stream)


def draw(kind, rng):
    """Draws a number for each name, evenly from [0, 1).

    Args:
        kind: a NamedTuple whose fields are `float`, or NamedTuples of such fields, whose numbers
            come in their place.
        rng: `numpy.random.Generator`.

    Returns:
        a `kind` of float64.
    """
    return _filled(kind, iter(rng.random(_count(kind))))


def pick(options, number):
    """Returns one of the options: all are equally likely for an even number in [0, 1)."""
    return options[int(number * len(options))]


class Place(NamedTuple):
    """Where a window lies in a picture, or something in a window."""

    row: float
    column: float


def _count(kind) -> int:
    return sum(1 if of is float else _count(of) for of in kind.__annotations__.values())


def _filled(kind, numbers):
    fields = kind.__annotations__.values()
    return kind(*(next(numbers) if of is float else _filled(of, numbers) for of in fields))
