"""How many examples had a picture replaced is a metric; the loss and its numbers know nothing."""

import jax.numpy as jnp
import numpy as np
import optax

from tdr_jax.train.progress import Progress
from tdr_jax.train.state import create, make_step


def test_a_step_counts_them_and_keeps_them_from_the_loss():
    def loss(params, batch, rng):
        assert set(batch) == {"x", "row"}
        value = ((params["w"] - batch["x"]) ** 2).mean()
        return value, {"square": value}

    optimiser, found = optax.sgd(0.1), []
    step = make_step(loss, optimiser, lambda step: 0.1, seed=0, ema_decay=0.0, accumulate=2)
    batch = {"x": jnp.arange(4.0)}
    for extra in ({}, {"damaged": jnp.array([1.0, 0.0, 1.0, 0.0])}):
        state = create({"w": jnp.zeros(())}, optimiser, ema_decay=0.0, layout=None)
        found.append(step(state, batch | extra))
    (plain, metrics), (replaced, counted) = found
    assert float(counted.pop("damaged")) == 2
    assert counted.keys() == metrics.keys()
    np.testing.assert_array_equal(plain.params["w"], replaced.params["w"])


class Kept:
    def __init__(self):
        self.records = {}

    def write_scalars(self, step, scalars):
        self.records[step] = scalars


def test_a_record_holds_how_many_there_were_since_the_last(capsys):
    writer = Kept()
    options = {"log_every": 3, "start": 0, "total": 6, "show": True, "saved": lambda: None}
    progress = Progress(writer, **options)
    for step, damaged in enumerate((1, 0, 2, 0, 0, 0), 1):
        progress.push(step, {"loss": 3.0, "grad_norm": 1.0, "damaged": damaged}, images=4)
    progress.settle()
    progress.close()
    assert [record["damaged"] for record in writer.records.values()] == [3, 0]
    assert [record["loss"] for record in writer.records.values()] == [3, 3]
    first, second = capsys.readouterr().out.splitlines()
    assert "3 replaced" in first and "replaced" not in second
