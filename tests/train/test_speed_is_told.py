"""A run tells how much arithmetic it does a second, and records what its devices do."""

import jax
import jax.numpy as jnp
import pytest

from configs import common
from tdr_jax import models
from tdr_jax.analysis import flops
from tdr_jax.errors import InputError
from tdr_jax.objectives.restore import RestorationLoss
from tdr_jax.train import loop
from tdr_jax.train.profile import Profile
from tests.support.sizes import SMALLEST
from tests.support.small import photo_batches, records, small_config, small_network  # noqa: F401


def counted(function, *shapes):
    return flops.count(jax.make_jaxpr(function)(*map(jnp.zeros, shapes)).jaxpr)


def test_products_convolutions_loops_and_branches_are_counted():
    assert counted(jnp.matmul, (3, 5, 7), (7, 11)) == 2 * 3 * 5 * 7 * 11

    def conv(x, kernel, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    assert counted(conv, (2, 8, 8, 4), (3, 3, 4, 6)) == 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)
    depthwise = counted(lambda x, k: conv(x, k, 4), (2, 8, 8, 4), (3, 3, 1, 4))
    assert depthwise == 2 * (2 * 8 * 8 * 4) * 9

    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, None, length=6)[0]

    assert counted(repeated, (4, 4), (4, 4)) == 6 * 2 * 4**3

    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert counted(either, (4, 4), (4, 4)) == 2 * 2 * 4**3


def test_what_is_computed_twice_to_save_memory_counts_once():
    weights = common.get_config().loss
    batch = {
        name: jax.ShapeDtypeStruct((2, 16, 16, 3), "float32") for name in ("degraded", "clean")
    }
    found = {}
    for remat in (False, True):
        network = models.build("restormer", **SMALLEST["restormer"], remat=remat)
        loss = RestorationLoss(network, weights)
        found[remat] = flops.of_step(loss, network.abstract_params(), batch)
    assert found[True] == found[False]
    alone = jax.make_jaxpr(network.apply)(network.abstract_params(), batch["degraded"])
    # Each product has two in the backward pass, but for what nothing learnt comes before.
    assert 2.5 < found[True] / flops.count(alone.jaxpr) < 3.1


def test_the_part_of_the_peak_is_written_where_the_peak_is_known(tmp_path):
    config = small_config(6)
    loop.run(config, tmp_path / "unknown", batches=photo_batches)
    assert not any("mfu" in record for record in records(tmp_path / "unknown"))
    config.peak_tflops = 1e-3
    loop.run(config, tmp_path / "known", batches=photo_batches)
    *_, last = records(tmp_path / "known")
    pixels, width = 2 * 16 * 16, 8
    # Two convolutions, the first without a gradient for its input, and the gate.
    work = pixels * 2 * 9 * 3 * width * (2 + 3) + 2 * 2 * 4 * width * 2
    assert last["mfu"] == pytest.approx(work / last["step_seconds"] / 1e9)
    assert last["images_per_second"] == pytest.approx(2 / last["step_seconds"])


def test_a_trace_of_the_steps_asked_for_is_written(tmp_path):
    loop.run(small_config(6), tmp_path / "run", batches=photo_batches, profile="2:4")
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000


@pytest.mark.parametrize("steps", ["10", "10:", "a:b", "20:10", "-1:2"])
def test_a_range_that_is_none_is_refused(steps, tmp_path):
    with pytest.raises(InputError, match="is no range of steps; give one like 100:110"):
        Profile(steps, tmp_path)
