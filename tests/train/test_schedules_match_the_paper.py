"""The learning rate follows the published recipe, as it is written and as it is really run."""

import numpy as np
import pytest

from configs import common
from tdr_jax.errors import InputError
from tdr_jax.train import optim

STEPS_PER_EPOCH = 26405
# Epoch -> rate of the reference's training script, measured by running its scheduler and hook.
EXECUTED = {
    0: 0.0,
    1: 0.0,
    2: 1.43e-5,
    14: 1.857e-4,
    15: 2e-4,
    16: 2e-4,
    62: 1.48e-4,
    100: 6.25e-5,
    149: 1.1e-7,
    151: 0.0,
}


def schedule(name, total=150 * STEPS_PER_EPOCH, **changes):
    config = common.get_config().optim
    config.schedule = name
    config.update(changes)
    return optim.make_schedule(config, total)


@pytest.mark.parametrize("within", [0, STEPS_PER_EPOCH - 1])
def test_the_executed_schedule_matches_the_measured_table(within):
    rate = schedule("executed")
    for epoch, expected in EXECUTED.items():
        got = float(rate(epoch * STEPS_PER_EPOCH + within))
        # The table has three significant digits, the smallest entry two.
        assert got == pytest.approx(expected, rel=5e-3 if expected > 1e-6 else 5e-2, abs=1e-12)


def test_the_written_schedule_is_the_executed_one_an_epoch_earlier():
    written, executed = schedule("paper"), schedule("executed")
    epochs = np.arange(0, 160) * STEPS_PER_EPOCH
    np.testing.assert_array_equal(written(epochs), executed(epochs + STEPS_PER_EPOCH))
    assert float(written(0)) == 0.0
    assert float(written(STEPS_PER_EPOCH)) == pytest.approx(2e-4 / 14, rel=1e-6)
    assert float(written(15 * STEPS_PER_EPOCH)) == pytest.approx(2e-4, rel=1e-6)
    # Half way down the cosine, which runs from epoch 15 to epoch 150.
    assert float(written(82 * STEPS_PER_EPOCH)) == pytest.approx(1.0116e-4, rel=1e-3)
    assert float(written(150 * STEPS_PER_EPOCH)) == pytest.approx(0, abs=1e-12)


def test_the_stepwise_schedule_rises_falls_and_ends_at_its_floor():
    rate = schedule("cosine", total=1000, lr=1e-3, warmup=100, end=0.1)
    np.testing.assert_allclose(rate(np.array([0, 49, 99])), [1e-5, 5e-4, 1e-3], rtol=1e-5)
    np.testing.assert_allclose(rate(np.array([100, 550, 1000])), [1e-3, 5.5e-4, 1e-4], rtol=1e-5)
    np.testing.assert_allclose(rate(np.array([2000])), [1e-4], rtol=1e-5)


def restarts(**changes):
    cycles = {"periods": (60, 140), "restart_weights": (1.0, 0.5), "eta_mins": (3e-4, 1e-6)}
    return schedule("cosine_restarts", 200, lr=2e-4, **cycles | changes)


def test_restarting_cosines_follow_their_formula_to_the_last_step_of_each_cycle():
    rate = restarts()
    for start, length, weight, eta in ((0, 60, 1.0, 3e-4), (60, 140, 0.5, 1e-6)):
        t = np.arange(1, length + 1)  # step 60 is the last of the first cycle, as published
        expected = eta + weight * 0.5 * (2e-4 - eta) * (1 + np.cos(np.pi * t / length))
        np.testing.assert_allclose(rate(start + t), expected, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(rate(np.array([0, 200, 900])), [2e-4, 1e-6, 1e-6], rtol=1e-4)
    constant = restarts(eta_mins=(2e-4, 1e-6), restart_weights=(1.0, 1.0))
    np.testing.assert_allclose(constant(np.arange(61)), 2e-4, rtol=1e-6)


def test_cycles_that_do_not_belong_together_are_refused():
    for wrong in ({"periods": (200,)}, {"eta_mins": ()}, {"periods": (0, 200)}):
        with pytest.raises(InputError, match="one number for each cycle"):
            restarts(**wrong)
    with pytest.raises(InputError, match="one number for each cycle"):
        restarts(periods=(), restart_weights=(), eta_mins=())


def test_the_cosine_of_epochs_changes_once_an_epoch_as_sfnets_does():
    import torch

    # torch's own cosine, begun after three epochs of warm-up: what SFNet's wrapper runs.
    model = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([model], lr=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=30 - 3, eta_min=1e-6)
    expected = [1e-4 / 3, 2e-4 / 3, 1e-4]
    for _ in range(3, 30):
        expected.append(adam.param_groups[0]["lr"])
        adam.step()
        cosine.step()
    rate = schedule(
        "cosine_epochs", lr=1e-4, warmup_epochs=3, max_epochs=30, end=0.01, steps_per_epoch=7
    )
    for within in (0, 6):
        np.testing.assert_allclose(rate(np.arange(30) * 7 + within), expected, rtol=1e-4)


def test_a_schedule_of_another_name_is_refused():
    with pytest.raises(
        InputError,
        match="'consine'.*'constant', 'cosine', 'paper', 'executed', 'cosine_epochs', 'cosine_res",
    ):
        schedule("consine")


@pytest.mark.parametrize(("decay", "theirs"), [(0.01, "AdamW"), (0.0, "Adam")])
def test_the_optimiser_takes_the_steps_that_torch_takes(decay, theirs):
    import jax.numpy as jnp
    import optax
    import torch

    config = common.get_config().optim
    config.update({"schedule": "constant", "lr": 1e-2, "clip": 0.0, "weight_decay": decay})
    rng = np.random.default_rng(0)
    start = rng.standard_normal((5, 7)).astype(np.float32)
    grads = rng.standard_normal((6, 5, 7)).astype(np.float32)

    make_theirs, theirs = getattr(torch.optim, theirs), torch.nn.Parameter(torch.tensor(start))
    torch_adam = make_theirs([theirs], lr=1e-2)  # every other setting is torch's default
    optimiser, _ = optim.make(config, total_steps=6)
    ours = {"w": jnp.asarray(start)}
    state = optimiser.init(ours)
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        torch_adam.step()
        updates, state = optimiser.update({"w": jnp.asarray(grad)}, state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "field, value", [("no_decay", "biass$"), ("lr_of", (("a", 0.1), ("^b", 0)))]
)
def test_an_expression_that_matches_no_parameter_is_refused(field, value):
    config = common.get_config().optim
    config[field] = value
    optimiser, _ = optim.make(config, total_steps=1)
    said = rf"config.optim.{field} has '(biass\$|\^b)', which matches none of 2 .*a.weight, a.bias"
    with pytest.raises(InputError, match=said):
        optimiser.init({"a.weight": np.zeros(3), "a.bias": np.zeros(3)})


def test_clipping_and_decay_reach_only_what_the_config_names():
    import jax.numpy as jnp

    config = common.get_config().optim
    config.update({"schedule": "constant", "lr": 1.0, "clip": 1.0, "no_decay": r"bias$"})
    optimiser, _ = optim.make(config, total_steps=1)
    params = {"a.weight": jnp.full(3, 2.0), "a.bias": jnp.full(3, 2.0)}
    nothing = {name: jnp.zeros(3) for name in params}
    updates, _ = optimiser.update(nothing, optimiser.init(params), params)
    np.testing.assert_allclose(updates["a.weight"], -0.01 * 2.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["a.bias"], 0.0)

    # Adam hides a gradient's size, its second moment does not: (1 - b2) times the clipped square.
    grads = {"a.weight": jnp.full(3, 30.0), "a.bias": jnp.full(3, 40.0)}
    _, state = optimiser.update(grads, optimiser.init(params), params)
    second = [leaf for leaf in __import__("jax").tree.leaves(state) if leaf.shape == (3,)]
    norm = np.sqrt(3 * 30.0**2 + 3 * 40.0**2)
    largest = max(float(leaf.max()) for leaf in second[2:])
    assert largest == pytest.approx(0.001 * (40.0 / norm) ** 2, rel=1e-5)
