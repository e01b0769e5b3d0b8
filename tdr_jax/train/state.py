"""What training carries from step to step, and the step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tdr_jax.nn import backend
from tdr_jax.train import optim
from tdr_jax.train.config import length
from tdr_jax.train.sharding import Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that must be saved to go on exactly where a run stopped.

    Attributes:
        step: int32 scalar, the number of finished steps; also the index of the next batch.
        params: flat dict, dotted name -> float32 array.
        opt_state: the optimiser's own tree.
        ema: exponential moving average of `params`, same names; an empty dict where it is off.
    """

    step: jax.Array
    params: dict[str, jax.Array]
    opt_state: Any
    ema: dict[str, jax.Array]

    @property
    def best_params(self) -> dict[str, jax.Array]:
        """The parameters to evaluate and to ship: the average where there is one."""
        return self.ema or self.params


def create(
    params, optimiser: optax.GradientTransformation, *, ema_decay: float, layout: Layout | None
) -> State:
    """Make the state before the first step.

    Args:
        params: flat dict of the network's initial parameters, any float dtype, the same in every
            process.
        optimiser: from `optim.make`.
        ema_decay: 0 for no average.
        layout: which part of it each device holds; None for the one device that `params` are on.

    Returns:
        a `State` whose arrays are its own: the caller's `params` survive the donation of a step.

    Raises:
        InputError: a rule of the layout or a group of the optimiser matches no parameter.
    """

    def make(params):
        own = {name: jnp.array(value, jnp.float32, copy=True) for name, value in params.items()}
        ema = {name: jnp.array(value, copy=True) for name, value in own.items()}
        opt_state = optimiser.init(own)
        return State(jnp.zeros((), jnp.int32), own, opt_state, ema if ema_decay else {})

    if layout is None:
        return make(params)
    layout.check(params)
    # Compiled, so that no device ever holds the whole of what is cut.
    shardings = layout.of(jax.eval_shape(make, params))
    return jax.jit(make, out_shardings=shardings)(layout.put(params))


def from_config(
    config, loss: Callable, layout: Layout | None
) -> tuple[optax.GradientTransformation, Callable]:
    """Make the optimiser and the step that a config asks for.

    Args:
        config: an `ml_collections.ConfigDict` with the fields of `configs/common.py`.
        loss, layout: as in `make_step`.

    Returns:
        the optimiser, as `create` takes it, and what `make_step` returns.

    Raises:
        InputError: the optimiser's fields do not fit.
    """
    optimiser, schedule = optim.make(config.optim, length(config))
    step = make_step(
        loss,
        optimiser,
        schedule,
        seed=config.seed,
        ema_decay=config.ema,
        layout=layout,
        accumulate=config.accumulate,
    )
    return optimiser, step


def make_step(
    loss: Callable,
    optimiser: optax.GradientTransformation,
    schedule: Callable,
    *,
    seed: int,
    ema_decay: float,
    layout: Layout | None = None,
    accumulate: int = 1,
) -> Callable:
    """Compile one training step.

    Args:
        loss: `loss(params, batch, rng, *frozen) -> (loss, metrics)`, see
            `tdr_jax.objectives.base.Objective`; batch has `row` beside what the data gave.
        optimiser: from `optim.make`.
        schedule: step -> learning rate, reported among the metrics.
        seed: every draw of step k comes from fold_in(seed, k).
        ema_decay: decay of the moving average; 0 for none.
        layout: which part of the state each device holds; None for a single device.
        accumulate: parts the batch is cut into; their gradients are averaged one after another,
            which costs the memory of one part.

    Returns:
        step(state, batch, *frozen) -> (state, metrics): the state that goes in is donated; frozen
        are the parameters that the loss takes and that are not trained. Metrics are
        float32 scalars, with `loss`, `grad_norm` (before clipping) and `lr` beside the loss's own;
        and `damaged`, how many examples had a picture replaced, where the batch says so.
    """

    def step(state: State, batch, *frozen) -> tuple[State, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = jax.value_and_grad(loss, has_aux=True)
        whole = layout.all_gather(state.params) if layout else state.params

        def measure(part):
            with backend.batch_over(layout.mesh if layout else None):
                values, grads = gradient(whole, part, rng, *frozen)
            return values, layout.shard(grads) if layout else grads

        batch = dict(batch)
        damaged = batch.pop("damaged", None)
        batch = batch | {"row": jnp.arange(len(next(iter(batch.values()))))}
        (measured, metrics), grads = _accumulated(measure, batch, accumulate)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        # Running statistics replace what the optimiser, its decay too, made of them. The average
        # takes them as they are: they are averages over steps already, and a count stays whole.
        batch_stats = metrics.pop("batch_stats", {})
        params = optax.apply_updates(state.params, updates) | batch_stats
        ema = average(state.ema, params, state.step, ema_decay) | batch_stats if ema_decay else {}
        metrics = {
            **metrics,
            "loss": measured,
            "grad_norm": optax.tree.norm(grads),
            "lr": jnp.asarray(schedule(state.step), jnp.float32),
        }
        if damaged is not None:
            metrics["damaged"] = damaged.sum()
        state = State(state.step + 1, params, opt_state, ema)
        if layout:
            state = layout.shard(state)
            metrics = jax.lax.with_sharding_constraint(metrics, layout.replicated)
        return state, metrics

    return jax.jit(step, donate_argnums=0)


def _accumulated(measure: Callable, batch, parts: int):
    """The mean of `measure` over equal parts of a batch, one after another."""
    if parts == 1:
        return measure(batch)
    # Part j takes the rows j, j + parts, ...: each device keeps the rows that it has.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, measure(part)), None

    first = jax.tree.map(lambda x: x[0], cut)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, first))
    total, _ = jax.lax.scan(add, zeros, cut)
    return jax.tree.map(lambda x: x / parts, total)


def average(ema, params, step, decay: float):
    """Move the average one step towards the parameters.

    Args:
        ema, params: flat dicts of equal names and shapes.
        step: int32 scalar, the number of steps finished before this one.
        decay: in (0, 1).

    Returns:
        the new average, d * ema + (1 - d) * params with d = min(decay, (1 + step) / (10 + step)):
        the warm-up lets the average leave the random start behind, so no debiasing is needed.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return {name: d * ema[name] + (1 - d) * params[name] for name in params}
