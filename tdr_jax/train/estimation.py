"""The job of training the degradation estimator."""

from pathlib import Path

import jax

from tdr_jax.data import degradation_labels, pipeline
from tdr_jax.degradations.vocabulary import ESTIMATED
from tdr_jax.errors import InputError
from tdr_jax.objectives.estimate import Estimate
from tdr_jax.train import assemble


class Estimation:
    """A network that tells what is wrong with pictures; see `tdr_jax.train.jobs`.

    Args:
        config: see `data.degradation_labels`; `data.tasks` are among what is looked for.
        workdir: folder of the run.
    """

    frozen = ()

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.network = assemble.network(config)
        if self.network.kind != "DegradationEstimator":
            raise InputError(
                f"config.objective is 'estimate', but {self.network.name} is no estimator; set "
                "config.network.name to degradation-estimator"
            )
        self._check()
        self.task = Estimate(self.network)

    def initial_params(self):
        return assemble.initial_params(self.config, self.network)

    def batches(self, step: int):
        source = assemble.source(self.config.data)
        return pipeline.stream(
            degradation_labels.LabelledExamples(source, self.config.data, self.config.seed),
            self.config.data,
            step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def shapes(self, batch: int, crop: int):
        """What a whole batch looks like, examples in the first axis."""
        return {
            "degraded": jax.ShapeDtypeStruct((batch, crop, crop, 3), "float32"),
            "present": jax.ShapeDtypeStruct((batch, len(ESTIMATED)), "float32"),
            "sigma": jax.ShapeDtypeStruct((batch,), "float32"),
        }

    def evaluator(self):
        return None

    def export(self, params, step: int) -> Path:
        return assemble.export(self.workdir, self.network, params)

    def _check(self) -> None:
        """Refuse fields that do not fit, with an InputError."""
        data = self.config.data
        if unknown := [task for task in data.tasks if task not in ESTIMATED]:
            raise InputError(
                f"config.data.tasks has {unknown[0]!r}; the estimator looks for "
                f"{', '.join(ESTIMATED)}"
            )
        if data.pairs:
            raise InputError("config.data.pairs: the estimator learns from clean pictures only")
        if data.channels != 3:
            raise InputError(f"config.data.channels is {data.channels}; the estimator sees colour")
        if self.config.panel_every:
            raise InputError("config.panel_every: an estimate is no picture; set it to 0")
