"""The training loop."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from tdr_jax import distributed, objectives
from tdr_jax.analysis import flops, hardware
from tdr_jax.errors import InputError
from tdr_jax.train import changes, sharding, writers
from tdr_jax.train.checkpoint import Checkpoints
from tdr_jax.train.config import length
from tdr_jax.train.profile import Profile
from tdr_jax.train.progress import Progress
from tdr_jax.train.state import State, create, from_config
from tdr_jax.train.workdir import Workdir


def run(
    config, workdir, *, batches: Callable[[int], Iterator] | None = None, profile: str = ""
) -> State:
    """Train what the config describes, or go on with the run that `workdir` holds.

    Args:
        config: an `ml_collections.ConfigDict` with the fields of `configs/common.py`.
        workdir: folder of the run, on disk or in a bucket: `checkpoints/`, `metrics.jsonl`,
            `hparams.json`, `inputs.json`, `panels/`, `tensorboard/` where that extra is installed,
            and at the end `weights.safetensors` and `result.json`.
        batches: for data of one's own: called with the number of finished steps, gives the batches
            from there on, as `tdr_jax.data.pipeline.batches` does.
        profile: steps to trace, "100:110", into `workdir/profile`; "" for none.

    Returns:
        the final state; that of the last finished step if the run was asked to stop.

    Raises:
        InputError: if a field of the config does not fit, or differs from that of the run that it
            goes on with, see `changes.check`.
        TryAgain: the folder's disk is full or away, or another run took the folder over. What was
            saved last is there.
        FloatingPointError: at the first step whose loss or gradient is not finite; names the step.
            Nothing is saved then: the newest checkpoint is the last good one.
    """
    workdir = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(workdir.held())
        differs = changes.check(config, workdir)
        objective = objectives.make(config, workdir.local)
        network, total = objective.network, length(config)
        layout = sharding.make(config.mesh)
        optimiser, train_step = from_config(config, objective.loss, layout)
        frozen = layout.put(objective.frozen)
        arithmetic = flops.Counter(objective.loss, network.abstract_params(), frozen)

        # Restore: the newest checkpoint of this run, or the beginning.
        lead = distributed.is_lead()
        checkpoints = Checkpoints(workdir.path, every=config.save_every, keep=config.keep)
        stack.callback(checkpoints.close)
        if checkpoints.latest is None:
            params = objective.initial_params()
        else:
            params = network.init(config.seed)  # for their shapes
        fresh = create(params, optimiser, ema_decay=config.ema, layout=layout)
        state = checkpoints.restore(fresh)
        start = int(state.step)
        if start > total:
            raise InputError(
                f"{workdir.path} holds step {start}, but config.data.stages end at step {total}; "
                "give longer stages or another --workdir"
            )
        if batches is None:
            data, evaluators = objective.batches(start), objective.evaluators()
        else:
            data, evaluators = batches(start), ()

        # Describe.
        if lead:
            workdir.pull()
            stack.callback(workdir.push)
        writer, measured = writers.make(workdir.local, start)
        stack.callback(writer.close)
        progress = Progress(
            writer,
            log_every=config.log_every,
            start=start,
            total=total,
            show=lead,
            saved=lambda: checkpoints.latest,
            peak=hardware.peak(config.peak_tflops * 1e12),
        )
        stack.callback(progress.close)
        trace = Profile(profile, workdir.local)
        stack.callback(trace.close)
        if lead:
            begin = f"goes on after step {start} of {total}" if start else f"{total} steps"
            learns = f"{network.name}, {network.size:,} parameters"
            progress.say(f"{learns}, {layout.describe()}: {begin}, in {workdir.path}")
            for line in differs:
                progress.say(line)
            writer.write_hparams(config.to_dict())
            changes.remember(config, workdir.local)

        stop = stack.enter_context(distributed.Stop())
        for step in range(start, total + 1):
            stopping, ending = stop.asked(step), step == total
            every = ending or (config.eval_every and step % config.eval_every == 0)
            evaluate = evaluators and every and 0 < step and not stopping
            save = stopping or ending or checkpoints.due(step)
            if evaluate or save:
                progress.settle()  # nothing that is not finite gets further than this
                progress.pause()

            # Evaluate, unless a run that stopped here has done so. Every process takes its share.
            if evaluate and not distributed.lead_says(lead and measured.has(step, "eval/")):
                params = jax.device_get(layout.gather(state.best_params))
                scores = [score for evaluator in evaluators for score in evaluator.run(params)]
                writer.write_scalars(step, {f"eval/{name}": score for name, score in scores})

            # Save. What was measured up to here goes to disk first: a run that starts again from
            # this checkpoint must find it.
            if save:
                lock.check()
                writer.flush()
                if lead:
                    workdir.push()
                checkpoints.save(step, state)
            if evaluate or save:
                progress.resume()
            if stopping or ending:
                break

            # Next batch.
            examples = next(data)
            batch = layout.put_batch(examples)

            # Step.
            trace.begin(step)
            state, metrics = train_step(state, batch, *frozen)
            trace.end(step + 1, metrics)

            # Write: the metrics of the step before, while this one runs.
            work = arithmetic(batch) if progress.peak else 0.0
            progress.push(step + 1, metrics, len(next(iter(batch.values()))), work)
            if config.panel_every and (step + 1) % config.panel_every == 0:
                whole = layout.gather(state.best_params)
                writer.write_images(step + 1, {"panel": objective.panel(whole, batch)})

        checkpoints.wait()
        whole = layout.gather(state.best_params) if ending else None
        if ending and lead:
            exported = objective.export(whole, total)
            writers.write_result(workdir.local, total, exported)
            path = workdir.path / exported.relative_to(workdir.local)
            progress.say(f"trained {total} steps; the weights are in {path}")
        elif lead:
            progress.say(
                f"stopped by {stop.reason}; step {step} of {total} is saved, "
                "the same command goes on from there"
            )
    return state


def finished(config, state: State) -> bool:
    """Whether a run that gave this state is at its end, and was not asked to stop before."""
    return int(state.step) == length(config)
