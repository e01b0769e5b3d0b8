"""Numbers do not depend on how many devices and processes measure, nor on who measures what."""

import numpy as np
import pytest

from tdr_jax.errors import InputError
from tdr_jax.evaluate import tally
from tdr_jax.infer import spread
from tests.support import over_devices


@pytest.fixture(scope="module")
def rows():
    return over_devices.measure()


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("devices", [3, 4])
def test_odd_counts_and_sizes_give_the_numbers_of_one_device(rows, devices, ensemble):
    one, many = (rows[f"{count} {ensemble}"] for count in (1, devices))
    assert [name for name, *_ in many] == [str(i) for i in range(11)]
    assert [name for name, *_ in one] == [name for name, *_ in many]
    np.testing.assert_allclose(
        [scores for _, *scores in many], [scores for _, *scores in one], atol=1e-5
    )


def test_eight_ways_are_all_different_and_come_back():
    seen = []

    def restore(group):
        seen.extend(inputs[0] for inputs in group)
        return [inputs[0] + inputs[1].mean() for inputs in group]

    picture = np.random.default_rng(0).random((3, 5, 3), np.float32)
    vector = np.ones(4, np.float32)
    (answer,) = spread.in_eight_ways(restore)([(picture, vector)])
    np.testing.assert_allclose(answer, picture + 1, rtol=1e-6)
    assert len({(each.shape, each.tobytes()) for each in seen}) == 8


def test_the_mean_over_eight_ways_undoes_what_goes_one_way(rows):
    assert rows["1 True"] != rows["1 False"]
    picture = np.zeros((4, 4, 1), np.float32)
    picture[1:3, 1:3] = 1  # symmetric
    (answer,) = spread.in_eight_ways(lambda group: [np.roll(x, 1, 1) for (x,) in group])(
        [(picture,)]
    )
    np.testing.assert_allclose(answer, np.rot90(answer), atol=1e-7)
    np.testing.assert_allclose(answer, answer[::-1], atol=1e-7)


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="devices is 99"):
        spread.Spread(None, {}, 99)


def test_tallies_merge_in_any_order_without_losing_a_digit(monkeypatch):
    values = 30 + np.random.default_rng(0).random(7)
    parts = [
        tally.of(number=[i], psnr=[values[i]], name=[f"{i}.png"], prompt=[None]) for i in range(7)
    ]
    whole, turned = tally.Tally.empty(), tally.Tally.empty()
    for i in range(7):
        whole, turned = whole.merge(parts[i]), turned.merge(parts[(3 * i) % 7])
    for found in (whole, turned):
        columns = found.compute()["examples"]
        assert columns["psnr"].dtype == np.float64
        np.testing.assert_array_equal(columns["psnr"], values)
        assert columns["name"].tolist() == [f"{i}.png" for i in range(7)]

    # Two processes, one of which had nothing to measure.
    sent = []
    monkeypatch.setattr(tally.distributed, "gather", lambda data: [data, b"{}"])
    columns = tally.over_hosts(turned)
    np.testing.assert_array_equal(columns["psnr"], values)
    assert columns["prompt"].tolist() == [None] * 7 and not sent
