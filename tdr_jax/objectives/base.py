"""What the loop trains, by `config.objective`.

A job has `network` (with `init`, `abstract_params`, `name` and `size`), `task`, `frozen` (a tuple
of what the task's loss takes after the key), and the methods `initial_params()`, `batches(step)`,
`shapes(batch, crop)`, `evaluator()`, `panel(params, batch)` and `export(params, step)`.
"""

import dataclasses
import functools
from pathlib import Path

import jax

from tdr_jax.errors import InputError
from tdr_jax.train import assemble

OBJECTIVES = (
    "restore",
    "guided",
    "contrast",
    "reconstruct",
    "denoise",
    "i2t",
    "tr",
    "text_encoder",
    "estimate",
)


def make(config, workdir, *, weights: bool = True, devices: int | None = None):
    """Builds the job of a config.

    Args:
        config: with the fields of `configs/common.py`.
        workdir: folder of the run, for what is exported and what is kept.
        weights: False for a job to be compiled or looked at only: frozen networks that are not
            there have their published architectures, and shapes instead of parameters.
        devices: that the batch is cut over; by default all of all processes.

    Raises:
        InputError: a field does not fit.
    """
    workdir = Path(workdir)
    if config.accumulate < 1:
        raise InputError(f"config.accumulate is {config.accumulate}; give 1 for whole batches")
    devices = devices or jax.device_count()
    for _, _, batch in config.data.stages if config.accumulate > 1 else ():
        if batch % (config.accumulate * devices):
            raise InputError(
                f"a batch of {batch} in config.data.stages does not divide into "
                f"config.accumulate={config.accumulate} parts for {devices} devices"
            )
    if config.objective == "restore":
        return Restoration(config, workdir)
    if config.objective == "guided":
        return Guided(config, workdir, weights=weights)
    if config.objective == "estimate":
        from tdr_jax.train import estimation

        return estimation.Estimation(config, workdir)
    if config.objective == "text_encoder":
        from tdr_jax.train import language

        return language.TextEncoder(config, workdir)
    if config.objective not in OBJECTIVES:
        raise InputError(
            f"config.objective is {config.objective!r}; give one of {', '.join(OBJECTIVES)}"
        )
    from tdr_jax.train import words

    return words.JOBS[config.objective](config, workdir, weights=weights)


class Restoration:
    """A network that restores pictures, prompted or not."""

    frozen = ()

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.network = assemble.network(config)
        self.task = assemble.task(config, self.network)
        if config.accumulate > 1 and assemble.has_statistics(self.network):
            raise InputError(
                f"config.accumulate is {config.accumulate}, but {self.network.name} normalises by "
                "the statistics of its whole batch; set it to 1"
            )
        self._predict = jax.jit(self.task.predict)

    def initial_params(self):
        return assemble.initial_params(self.config, self.network)

    def batches(self, step: int):
        return assemble.examples(self.config, self.network, self._encoder, step)

    def shapes(self, batch: int, crop: int):
        """What a whole batch looks like, examples in the first axis."""
        given, made = self.network.config.channels
        found = {
            "degraded": jax.ShapeDtypeStruct((batch, crop, crop, given), "float32"),
            "clean": jax.ShapeDtypeStruct((batch, crop, crop, made), "float32"),
            "task": jax.ShapeDtypeStruct((batch,), "int32"),
        }
        if self.network.takes_sentence:
            width = self.network.config.text_dim
            found["vector"] = jax.ShapeDtypeStruct((batch, width), "float32")
        return found

    def evaluator(self):
        return assemble.evaluator(self.config, self.network, self._encoder)

    def panel(self, params, batch):
        return assemble.panel(self._predict, params, batch)

    def export(self, params, step: int) -> Path:
        return assemble.export(self.workdir, self.network, params, self._encoder)

    @functools.cached_property
    def _encoder(self):
        return assemble.text_encoder(self.config, self.network)


class Guided(Restoration):
    """A network that restores pictures with guidance beside them."""

    def __init__(self, config, workdir: Path, *, weights: bool = True):
        super().__init__(config, workdir)
        if config.eval_data.path:
            raise InputError(
                f"config.eval_data.path is {config.eval_data.path}, but objective 'guided' is not "
                "evaluated in training; set it to '' and use tdr eval --guidance afterwards"
            )
        selector, params = assemble.selector(config, weights=weights)
        if selector is not None:
            self.task = dataclasses.replace(self.task, selector=selector)
            self.frozen = (params,)

    def initial_params(self):
        return assemble.around_base(self.config, super().initial_params())

    def batches(self, step: int):
        return assemble.examples(
            self.config, self.network, self._encoder, step, guidance=self.config.guidance
        )

    def shapes(self, batch: int, crop: int):
        side = self.config.guidance.size
        guidance = jax.ShapeDtypeStruct((batch, side, side, 3), "float32")
        return super().shapes(batch, crop) | {"guidance": guidance}

    def evaluator(self):
        return None
