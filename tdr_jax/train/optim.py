"""The optimiser and its learning-rate schedules."""

import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

from tdr_jax.errors import InputError
from tdr_jax.train.config import refuse_unmatched


def make(config, total_steps: int) -> tuple[optax.GradientTransformation, Callable]:
    """Build AdamW, which is Adam where `weight_decay` is 0, and its schedule.

    Args:
        config: `config.optim`: `lr`, `b1`, `b2`, `eps`, `weight_decay`, `no_decay` (a regular
            expression; parameters whose dotted name it finds are not decayed, "" decays all as
            torch does), `mu_dtype` (of the first moment), `clip` (largest global norm of the
            gradient, 0 for no clipping), `schedule` and the fields that schedule reads, and
            `lr_of`, ((regular expression, rate), ...): parameters whose name one finds, the first
            that does, follow the schedule of that rate in place of `lr`; a rate of 0 leaves them
            as they are.
        total_steps: length of the run, the end of the "cosine" schedule.

    Returns:
        the optimiser, and the schedule of `lr`: step -> learning rate.

    Raises:
        InputError: see `make_schedule`; or `lr_of` has a negative rate. The optimiser's `init`
            raises one for an expression that matches no parameter.
    """
    schedule = make_schedule(config, total_steps)

    def decayed(params):
        refuse_unmatched("optim.no_decay", [config.no_decay], params)
        return {name: not re.search(config.no_decay, name) for name in params}

    def adamw(schedule):
        return optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decayed if config.no_decay else None,
            mu_dtype=config.mu_dtype,
        )

    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    if not config.lr_of:
        return optax.chain(clip, adamw(schedule)), schedule

    if min(lr for _, lr in config.lr_of) < 0:
        raise InputError(f"config.optim.lr_of is {config.lr_of}; give rates of at least 0")
    patterns = [pattern for pattern, _ in config.lr_of]
    rates = [lr for _, lr in config.lr_of] + [config.lr]

    def groups(params):
        """The place of each parameter's rate among `rates`, by name; the last one is the rest's."""
        refuse_unmatched("optim.lr_of", patterns, params)
        return {
            name: next((i for i, p in enumerate(patterns) if re.search(p, name)), len(patterns))
            for name in params
        }

    def still(params):
        return {name: not rates[group] for name, group in groups(params).items()}

    each = {
        group: adamw(make_schedule(config, total_steps, lr)) if lr else optax.set_to_zero()
        for group, lr in enumerate(rates)
    }
    # What stays has no part in the norm that the gradient is cut to.
    frozen = optax.masked(optax.set_to_zero(), still)
    return optax.chain(frozen, clip, optax.partition(each, groups)), schedule


def make_schedule(config, total_steps: int, lr: float | None = None) -> Callable:
    """Build the schedule that `config.schedule` names.

    Args:
        config: `config.optim`: `schedule`, one of "constant", "cosine" (`warmup` steps, then down
            to `end` times `lr` at the end of the run), "paper" and "executed" (`warmup_epochs`,
            `max_epochs`, `steps_per_epoch`), "cosine_epochs" (those three and `end`),
            "cosine_restarts" (`periods`, `restart_weights`, `eta_mins`).
        total_steps: length of the run.
        lr: the rate in place of `config.lr`, or None.

    Returns:
        a function of the step (int, or int32 array) that gives the learning rate.

    Raises:
        InputError: for a schedule of another name, or restarts that do not belong together.
    """
    lr = config.lr if lr is None else lr
    if config.schedule == "constant":
        return lambda step: jnp.full(jnp.shape(step), lr, jnp.float32)
    if config.schedule == "cosine":
        return warmup_cosine(lr, config.warmup, total_steps, end=config.end)
    if config.schedule in ("paper", "executed"):
        return epoch_cosine(
            lr,
            config.warmup_epochs,
            config.max_epochs,
            config.steps_per_epoch,
            lag=1 if config.schedule == "executed" else 0,
        )
    if config.schedule == "cosine_epochs":
        by_epoch = warmup_cosine(lr, config.warmup_epochs, config.max_epochs, end=config.end)
        return lambda step: by_epoch(jnp.asarray(step) // config.steps_per_epoch)
    if config.schedule == "cosine_restarts":
        lengths = {len(config[field]) for field in ("periods", "restart_weights", "eta_mins")}
        if len(lengths) > 1 or not config.periods or min(config.periods) < 1:
            raise InputError(
                "config.optim.periods, restart_weights and eta_mins must hold one number for each "
                f"cycle, periods of at least 1; given {tuple(config.periods)}, "
                f"{tuple(config.restart_weights)} and {tuple(config.eta_mins)}"
            )
        return cosine_restarts(lr, config.periods, config.restart_weights, config.eta_mins)
    raise InputError(
        f"config.optim.schedule is {config.schedule!r}; give one of 'constant', 'cosine', "
        "'paper', 'executed', 'cosine_epochs', 'cosine_restarts'"
    )


def warmup_cosine(lr: float, warmup: int, total: int, *, end: float = 0.0) -> Callable:
    """Rise in a line for `warmup` steps, then fall along half a cosine to the last step.

    Args:
        lr: the peak.
        warmup: steps of the rise; step 0 already has lr / warmup, so no step is wasted.
        total: the step at which the floor is reached.
        end: the floor as a fraction of the peak.

    Returns:
        step -> learning rate.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rise = (step + 1) / max(warmup, 1)
        part = jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)
        fall = end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * part))
        return lr * jnp.where(step < warmup, rise, fall)

    return schedule


def epoch_cosine(
    lr: float, warmup_epochs: int, max_epochs: int, steps_per_epoch: int, *, lag: int = 0
) -> Callable:
    """Linear warm-up and cosine that change once an epoch, as TextPromptIR trains.

    In epoch e the rate is lr * e / (warmup_epochs - 1) while e < warmup_epochs, then
    lr / 2 * (1 + cos(pi * (e - warmup_epochs) / (max_epochs - warmup_epochs))), then 0.

    Args:
        lr: the peak.
        warmup_epochs, max_epochs: where the cosine starts and where it reaches 0.
        steps_per_epoch: steps in one pass over the data.
        lag: how many epochs late the rate arrives: 0 is the recipe as it is written; 1 is what the
            reference code runs, whose hook sets the rate of epoch e to that of e - 1, so that
            epochs 0 and 1 both train at rate 0.

    Returns:
        step -> learning rate.
    """

    def schedule(step):
        epoch = jnp.maximum(jnp.asarray(step) // steps_per_epoch - lag, 0)
        part = jnp.clip((epoch - warmup_epochs) / (max_epochs - warmup_epochs), 0, 1)
        rise = epoch / max(warmup_epochs - 1, 1)
        return lr * jnp.where(
            epoch < warmup_epochs, rise, 0.5 * (1 + jnp.cos(jnp.pi * part))
        ).astype(jnp.float32)

    return schedule


def cosine_restarts(lr: float, periods, restart_weights, eta_mins) -> Callable:
    """Several cosines one after another, each from the peak to a floor of its own.

    At step t of a cycle of T steps the rate is eta + w / 2 * (lr - eta) * (1 + cos(pi t / T)).
    A floor eta that equals lr keeps the cycle constant, one above lr makes it rise.

    Args:
        lr: the peak.
        periods: steps of each cycle. Its last step, t = T, still belongs to it.
        restart_weights: w of each cycle.
        eta_mins: eta of each cycle; None is the peak, whatever that is.

    Returns:
        step -> learning rate; after the last cycle its floor.

    Source: the schedule of MPRNet's, Restormer's and DRSformer's recipes.
    """
    ends = np.cumsum(periods)
    eta_mins = [lr if eta is None else eta for eta in eta_mins]
    spans, weights, floors = (
        jnp.asarray(values, jnp.float32) for values in (periods, restart_weights, eta_mins)
    )

    def schedule(step):
        step = jnp.asarray(step)
        cycle = jnp.minimum(jnp.searchsorted(jnp.asarray(ends), step), len(ends) - 1)
        since = (step - jnp.asarray(ends - np.asarray(periods))[cycle]).astype(jnp.float32)
        part = jnp.clip(since / spans[cycle], 0, 1)
        floor = floors[cycle]
        return floor + 0.5 * weights[cycle] * (lr - floor) * (1 + jnp.cos(jnp.pi * part))

    return schedule
