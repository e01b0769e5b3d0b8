"""What the training loop asks of an objective, and what those of this package have in common."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float, Float32, PRNGKeyArray, PyTree, Shaped

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks

# Examples lie along the first axis of every array of a batch.
Batch = dict[str, Shaped[Array, "b ..."]]
Frozen = PyTree[Float[Array, "..."]]  # parameters that do not learn, of one network or by network
Shapes = dict[str, jax.ShapeDtypeStruct]
Scalars = dict[str, Float32[Array, ""]]
Measured = tuple[Float32[Array, ""], Scalars]  # a loss, and metrics beside it


class Evaluator(Protocol):
    """Measures parameters while a run trains."""

    def run(self, params: models.Params) -> Iterator[tuple[str, float]]:
        """Yields (name, value); where a run has several processes, all of them call this.

        Args:
            params: whole arrays, on the host.
        """
        ...


class Objective(Protocol):
    """What is trained, on what, and how it is measured and written.

    Attributes:
        network: what learns; has `name`, `size` (how many numbers learn), `init(seed)` and
            `abstract_params()`.
        frozen: what the loss takes after the key: parameters that do not learn.
    """

    network: Any
    frozen: tuple

    def initial_params(self) -> models.Params:
        """Where training starts: flat dict, dotted name -> array, float32."""
        ...

    def loss(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray, *frozen: Frozen
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""] | models.Params]]:
        """What is made small; a pure function, or a frozen dataclass that is called like one.

        Args:
            params: what learns.
            batch: examples; `row`, int32 (b,), is the place of each of them in the whole batch,
                for draws that do not depend on how the batch is cut.
            rng: the step's key.
            *frozen: see above.

        Returns:
            A mean over examples; and metrics. Among them `batch_stats` may be a dict of entries of
            the parameters that the network counts instead of learning, with their new values.
        """
        ...

    def predict(self, params: models.Params, batch: Batch, *frozen: Frozen) -> Any:
        """What the network answers to a batch, without any draw."""
        ...

    def batches(self, step: int) -> Iterator[Batch]:
        """This process's part of batch `step` and those after: functions of their number."""
        ...

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch of a stage looks like, examples in the first axis."""
        ...

    def evaluators(self) -> tuple[Evaluator, ...]:
        """What is measured every `config.eval_every` steps; none where the config gives no data."""
        ...

    def panel(self, params: models.Params, batch: Batch) -> Float32[np.ndarray, "h w 3"]:
        """A picture of what a batch becomes.

        Args:
            params: whole on each device.
            batch: global arrays.

        Returns:
            In [0, 1].
        """
        ...

    def export(self, params: models.Params, step: int) -> Path:
        """Writes what was learnt into the run's folder, and says where."""
        ...


class ConfiguredObjective:
    """What objectives made of a config share; each adds what is its own.

    Args:
        config: with the fields of `configs/common.py`.
        workdir: folder of the run.
        weights: see `objectives.make`.

    Raises:
        InputError: a field does not fit.
    """

    frozen: tuple = ()
    encoder: Any = None  # a `tdr_jax.text.TextEncoder` that exported weights are to name
    no_panel = ""  # why there is no picture to show, where there is none

    def __init__(self, config, workdir: Path, *, weights: bool = True):
        self.config, self.workdir, self.weights = config, workdir, weights
        networks.check_lengths(config)
        if config.panel_every and self.no_panel:
            raise InputError(
                f"config.panel_every is {config.panel_every}, but objective {config.objective!r} "
                f"has no pictures to show: {self.no_panel}; set it to 0"
            )

    def initial_params(self) -> models.Params:
        """From scratch, or the weights that the config names."""
        return networks.initial_params(self.config, self.network)

    def stream(self, make: Callable[[int, int], dict], step: int) -> Iterator[Batch]:
        """This process's part of the batches from `step` on, of examples `make(n, size)`."""
        from tdr_jax.data import pipeline

        return pipeline.stream(
            make,
            self.config.data,
            step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def evaluators(self) -> tuple[Evaluator, ...]:
        """None."""
        return ()

    def measure(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray, *frozen: Frozen
    ) -> Scalars:
        """What `held_out.HeldOut` tells of a batch: the loss and its metrics."""
        loss, metrics = self.loss(params, batch, rng, *frozen)
        return {"loss": loss, **metrics}

    def export(self, params: models.Params, step: int) -> Path:
        """Writes `weights.safetensors`."""
        from tdr_jax import weights

        path = self.workdir / "weights.safetensors"
        # The encoder whose vectors it learnt from; batches of one's own may come without.
        encoder = vars(self).get("encoder")
        weights.save(path, self.network, jax.device_get(params), encoder=encoder)
        return path


PANEL_ROWS = 4


def first_rows(batch: Batch, name: str) -> Float32[np.ndarray, "n h w c"]:
    """The pictures that a panel shows: the first of this process's first device.

    Args:
        batch: JAX arrays.
        name: of the pictures.

    Returns:
        `PANEL_ROWS` of them, or as many as there are.
    """
    return np.asarray(batch[name].addressable_shards[0].data)[:PANEL_ROWS]


def side_by_side(
    columns: Sequence[Float32[Array, "n h w 3"]],
) -> Float32[np.ndarray, "n*h _ 3"]:
    """Puts columns of pictures into one picture.

    Args:
        columns: about [0, 1].

    Returns:
        The columns from left to right, clipped to [0, 1].
    """
    rows = np.concatenate(columns, axis=2)
    return np.clip(rows.reshape(-1, *rows.shape[2:]), 0, 1)
