"""The training loop."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from tdr_jax.errors import InputError
from tdr_jax.train import assemble, jobs, optim, sharding
from tdr_jax.train.checkpoint import Checkpoints
from tdr_jax.train.distributed import Stop
from tdr_jax.train.progress import Progress
from tdr_jax.train.state import State, create, make_step


def run(config, workdir, *, batches: Callable[[int], Iterator] | None = None) -> State:
    """Train what the config describes, or go on with the run that `workdir` holds.

    Args:
        config: an `ml_collections.ConfigDict` with the fields of `configs/common.py`.
        workdir: folder of the run: `checkpoints/`, `metrics.jsonl`, `hparams.json`, `panels/`,
            `tensorboard/` where that extra is installed, and at the end `weights.safetensors` and
            `result.json`.
        batches: for data of one's own: called with the number of finished steps, gives the batches
            from there on, as `tdr_jax.data.pipeline.batches` does.

    Returns:
        the final state; that of the last finished step if the run was asked to stop.

    Raises:
        InputError: if a field of the config does not fit.
        FloatingPointError: at the first step whose loss or gradient is not finite; names the step.
            Nothing is saved then: the newest checkpoint is the last good one.
    """
    workdir = Path(workdir)
    job = jobs.make(config, workdir)
    network = job.network
    total = sum(steps for steps, _, _ in config.data.stages)
    optimiser, schedule = optim.make(config.optim, total)
    mesh = sharding.make_mesh()
    everywhere = sharding.replicated(mesh)
    train_step = make_step(
        job.task,
        optimiser,
        schedule,
        seed=config.seed,
        ema_decay=config.ema,
        sharding=everywhere,
        accumulate=config.accumulate,
    )
    frozen = jax.device_put(job.frozen, everywhere)

    with contextlib.ExitStack() as stack:
        # Restore: the newest checkpoint of this run, or the beginning.
        checkpoints = Checkpoints(workdir, every=config.save_every, keep=config.keep)
        stack.callback(checkpoints.close)
        if checkpoints.latest is None:
            params = job.initial_params()
        else:
            params = network.init(config.seed)  # for their shapes
        fresh = create(params, optimiser, ema_decay=config.ema, sharding=everywhere)
        state = checkpoints.restore(fresh)
        start = int(state.step)
        if start > total:
            raise InputError(
                f"{workdir} holds step {start}, but config.data.stages end at step {total}; "
                "give longer stages or another --workdir"
            )
        if batches is None:
            data, evaluator = job.batches(start), job.evaluator()
        else:
            data, evaluator = batches(start), None

        # Describe.
        lead = jax.process_index() == 0
        writer, measured = assemble.make_writer(workdir, start)
        stack.callback(writer.close)
        progress = Progress(
            writer,
            log_every=config.log_every,
            start=start,
            total=total,
            show=lead,
            saved=lambda: checkpoints.latest,
        )
        stack.callback(progress.close)
        if lead:
            progress.say(assemble.describe(network, mesh, start, total, workdir))
            writer.write_hparams(config.to_dict())

        stop = stack.enter_context(Stop())
        for step in range(start, total + 1):
            stopping, ending = stop.asked(step), step == total
            every = ending or (config.eval_every and step % config.eval_every == 0)
            evaluate = evaluator and lead and every and 0 < step and not stopping
            save = stopping or ending or checkpoints.due(step)
            if evaluate or save:
                progress.settle()  # nothing that is not finite gets further than this
                progress.pause()

            # Evaluate, unless a run that stopped here has done so.
            if evaluate and not measured.has(step, "eval/"):
                scores = evaluator.run(jax.device_get(state.best_params))
                writer.write_scalars(step, {f"eval/{name}": score for name, score in scores})

            # Save. What was measured up to here goes to disk first: a run that starts again from
            # this checkpoint must find it.
            if save:
                writer.flush()
                checkpoints.save(step, state)
            if evaluate or save:
                progress.resume()
            if stopping or ending:
                break

            # Next batch.
            examples = next(data)
            batch = sharding.put_batch(examples, mesh)

            # Step.
            state, metrics = train_step(state, batch, *frozen)

            # Write: the metrics of the step before, while this one runs.
            progress.push(step + 1, metrics, len(next(iter(batch.values()))))
            if config.panel_every and (step + 1) % config.panel_every == 0:
                writer.write_images(step + 1, {"panel": job.panel(state, batch)})

        if ending and lead:
            path = job.export(state)
            assemble.write_result(workdir, total, path)
            progress.say(f"trained {total} steps; the weights are in {path}")
        elif lead:
            progress.say(
                f"stopped by {stop.reason}; step {step} of {total} is saved, "
                "the same command goes on from there"
            )
    return state
