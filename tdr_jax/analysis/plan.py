"""What a run will hold and where, told before anything is computed."""

import dataclasses
import math
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from tdr_jax import objectives
from tdr_jax.errors import InputError
from tdr_jax.train import sharding
from tdr_jax.train.config import length
from tdr_jax.train.state import State, create, from_config


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will hold, laid out over devices, which need not be there.

    Attributes:
        objective: its frozen networks may be shapes.
        layout: see `tdr_jax.train.sharding`.
        state: shapes of the whole state.
        batch: shapes of a whole batch, examples in the first axis.
        step: the training step, of these.
        notes: what is not as the config says, a line each.
    """

    objective: objectives.Objective
    layout: sharding.Layout
    state: State
    batch: dict
    step: Callable
    notes: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """Of a whole batch."""
        return len(next(iter(self.batch.values())))

    @property
    def title(self) -> str:
        """The network and the mesh."""
        mesh = ", ".join(f"{axis} {size}" for axis, size in self.layout.mesh.shape.items())
        return f"{self.objective.network.name} on {self.layout.describe()}: {mesh}"

    @property
    def held(self) -> dict[str, int]:
        """Bytes of the arguments of a step on each device, by kind."""
        layout, state = self.layout, self.state
        return {
            "parameters": held(state.params, layout.of(state.params)),
            "moments": held(state.opt_state, layout.of(state.opt_state)),
            "average": held(state.ema, layout.of(state.ema)),
            "frozen networks": held(self.objective.frozen, layout.replicated),
            "batch": held(self.batch, layout.by_example),
        }

    def __str__(self) -> str:
        """The title, the tables of parameters and of the batch, and the bytes of each device."""
        sizes = [(kind, amount(size)) for kind, size in self.held.items()]
        return "\n\n".join(
            [
                self.title,
                parameters(self.state.params, self.layout),
                batch(self.batch, self.layout),
                table([("on each device", "bytes"), *sizes]),
                *self.notes,
            ]
        )


def make(config, devices: list, *, per_device: int = 0, rounded: bool = False) -> Plan:
    """Lays a run out.

    Args:
        config: an `ml_collections.ConfigDict` with the fields of `configs/common.py`. Of several
            stages the one with the most pixels is taken.
        devices: over which.
        per_device: examples of each in a step; 0 for the config's batch.
        rounded: whether a batch that the devices cannot share is rounded up to one that they can.

    Raises:
        InputError: the config does not fit.
    """
    layout = sharding.make(config.mesh, devices)
    multiple = len(devices) * config.accumulate
    if per_device < 0 or per_device % config.accumulate:
        raise InputError(
            f"{per_device} examples a device; give a multiple of config.accumulate="
            f"{config.accumulate}"
        )
    _, crop, asked = max(config.data.stages, key=lambda stage: stage[1] ** 2 * stage[2])
    size = per_device * len(devices) or asked
    notes = ()
    if size % multiple and rounded:
        size = math.ceil(size / multiple) * multiple
        parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
        notes = (
            f"a batch of {asked}, as in config.data.stages, is not for {len(devices)} devices"
            f"{parts}; this is of {size}",
        )
    elif size % len(devices):
        raise InputError(
            f"a batch of {size} in config.data.stages does not divide over {len(devices)} devices; "
            f"make it a multiple of {multiple}"
        )
    steps = length(config)
    config = config.copy_and_resolve_references()
    config.data.stages = ((steps, crop, size),)
    with tempfile.TemporaryDirectory() as folder:
        objective = objectives.make(config, folder, weights=False, devices=len(devices))
    optimiser, step = from_config(config, objective.loss, layout)
    layout.check(objective.network.abstract_params())
    state = jax.eval_shape(
        lambda params: create(params, optimiser, ema_decay=config.ema, layout=None),
        objective.network.abstract_params(),
    )
    return Plan(objective, layout, state, objective.shapes(size, crop), step, notes)


def parameters(params, layout) -> str:
    """The table of parameters, as `clu.parameter_overview` draws it.

    Args:
        params: flat dict of arrays or of their shapes.
        layout: see `tdr_jax.train.sharding`.

    Returns:
        a line each: name, shape, dtype, how many numbers, and the axis of the mesh that each
        dimension is sharded over; then their sum, whole and of one device.
    """
    from clu import parameter_overview

    shardings = layout.of(params)
    placed = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=shardings[name])
        for name, value in params.items()
    }
    overview = parameter_overview.get_parameter_overview(placed, include_stats="sharding")
    total = sum(math.prod(value.shape) for value in params.values())
    held = sum(
        math.prod(shardings[name].shard_shape(value.shape)) for name, value in params.items()
    )
    return f"{overview}\n{total:,} parameters, {held:,} on each device"


def batch(shapes, layout) -> str:
    """The table of a whole batch: name, dtype, shape, and the shape of what one device holds."""
    rows = [("batch", "dtype", "shape", "on a device")]
    for name, value in shapes.items():
        own = layout.by_example.shard_shape(value.shape)
        rows.append(
            (name, np.dtype(value.dtype).name, shape(value), "x".join(map(str, own)) or "1")
        )
    return table(rows)


def held(tree, shardings) -> int:
    """Bytes of a tree's arrays on one device.

    Args:
        tree: of arrays or of their shapes.
        shardings: the same tree of shardings, or one for all of it.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def amount(value: float, unit: str = "B") -> str:
    """Three digits and a decimal prefix, as 51.2 GB."""
    exponent = min(int(math.log10(value)) // 3, 4) if value >= 1 else 0
    scaled = value / 1000**exponent
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {' kMGT'[exponent].strip()}{unit}"


def shape(value) -> str:
    """3x3x48 for a shape of (3, 3, 48), 1 for a single number."""
    return "x".join(map(str, value.shape)) or "1"


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns side by side, numbers flush right; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [
        all(cell.replace(",", "").replace(".", "").isdigit() for cell in column)
        for column in zip(*rows[1:], strict=True)
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )
