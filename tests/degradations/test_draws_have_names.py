"""Named draws are the generator's numbers, in the order in which the names stand."""

from typing import NamedTuple

import numpy as np
import pytest

from tdr_jax.degradations.draws import (
    DEGRADATION,
    Place,
    draw,
    example_rng,
    pick,
    task_rng,
)
from tdr_jax.degradations.vocabulary import TASKS


class Choices(NamedTuple):
    first: float
    place: Place
    last: float


def test_names_come_in_the_order_of_the_numbers():
    drawn = draw(Choices, example_rng(3, 14))
    numbers = example_rng(3, 14).random(4)
    assert (drawn.first, *drawn.place, drawn.last) == tuple(numbers)
    assert isinstance(drawn.place, Place) and isinstance(drawn.last, np.float64)


def test_a_name_at_the_end_changes_no_other():
    class More(NamedTuple):
        first: float
        place: Place
        last: float
        new: float

    assert draw(More, example_rng(1, 2))[:3] == draw(Choices, example_rng(1, 2))


def test_each_degradation_has_a_sequence_of_its_own():
    numbers = [task_rng(0, 5, task).random() for task in TASKS]
    assert numbers == [example_rng(0, 5, DEGRADATION + i).random() for i in range(len(TASKS))]
    assert len({*numbers, example_rng(0, 5).random()}) == len(TASKS) + 1


@pytest.mark.parametrize("number, option", [(0.0, "a"), (0.33, "a"), (0.34, "b"), (0.999, "c")])
def test_options_are_equally_likely(number, option):
    assert pick("abc", number) == option
