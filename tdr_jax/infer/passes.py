"""Where a network stops for what it asks about the whole picture, and how far it looks between.

Both are found by tracing the network from point to point (`nn.points`): no network is described
here, and nothing is compiled.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tdr_jax import models
from tdr_jax.analysis import memory, reach
from tdr_jax.images.arrays import round_up
from tdr_jax.nn import backend, extent, points

SIDE = 256  # of the picture that is traced, about


@dataclasses.dataclass(frozen=True)
class Kept:
    """Features that are kept: a pixel of them stands for scale x scale of the picture."""

    scale: int
    channels: int
    dtype: Any

    @property
    def bytes(self) -> float:
        """For each pixel of the picture."""
        return self.channels * jnp.dtype(self.dtype).itemsize / self.scale**2


@dataclasses.dataclass(frozen=True)
class Pass:
    """One way over all strips, up to a point of the network or of a block.

    Attributes:
        kind: "total", "half", "stage" or "done".
        needs: which of the kept features it reads, by number; the picture is 0.
        halo: how many rows it reads above and below a strip, of the picture or of the block.
        work: bytes for each pixel of the strip and its halo, of the picture or of the block.
        made: the features that it gives.
        stage: what is to be done with them.
    """

    kind: str
    needs: tuple[int, ...]
    halo: int
    work: float
    made: Kept | None = None
    stage: "Stage | None" = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """Equal blocks: the graph of one, the parameters of all, and the passes through one."""

    graphdef: Any
    params: Any
    depth: int
    passes: tuple[Pass, ...]


def of_network(network: models.Network, params: dict[str, Any], devices: int = 1) -> Iterator[Pass]:
    """Trace a network from point to point.

    Args:
        network: whose `heeds_extent`.
        params: NumPy arrays; the passes through its stages hold those of the blocks.
        devices: over which a strip is cut: halos are multiples of their number.

    Yields:
        what is done with the strips, in order.
    """
    config = network.config
    side = round_up(SIDE, config.multiple)
    text = [jnp.zeros((1, config.text_dim))] if network.takes_sentence else []
    kept = [Kept(1, config.channels[0], np.float32)]
    totals: list = []
    while True:
        shapes = [
            jax.ShapeDtypeStruct((1, side // k.scale, side // k.scale, k.channels), k.dtype)
            for k in kept
        ]

        def call(features, totals, text=text):
            return until(
                lambda: network.apply(params, features[0], *text),
                features[1:],
                totals,
            )

        program, reached = _trace(call, shapes, totals)
        inputs, rows = reach.rows(program, side)
        needs = tuple(i for i in inputs if i < len(kept))
        halo = round_up(rows, config.multiple * devices)
        work = memory.peak(program.jaxpr) / side**2 + 2 * sum(kept[i].bytes for i in needs)
        if reached.kind == "total":
            totals.append(reached.value)
            yield Pass("total", needs, halo, work)
            continue
        if reached.kind == "done":
            yield Pass("done", needs, halo, work)
            return
        shape = reached.value.shape
        made = Kept(side // shape[1], shape[3], reached.value.dtype)
        stage = _stage(reached, devices)
        yield Pass("stage", needs, halo, work, made, stage)
        kept.append(made)


def _stage(reached: points.Reached, devices: int) -> Stage:
    """What is to be done with the features that come to a stage."""
    graphdef, params, context = reached.stage
    params = jax.tree.map(np.asarray, params)
    leaves, tree = jax.tree.flatten(params)
    if not len(leaves[0]):
        return Stage(graphdef, params, 0, ())
    one = tuple(jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves)
    x, *beside = (jax.ShapeDtypeStruct(y.shape, y.dtype) for y in (reached.value, *context))
    passes = _block_passes(graphdef, tree, one, x, tuple(beside), devices)
    return Stage(graphdef, params, len(leaves[0]), passes)


@functools.lru_cache(maxsize=256)
def _block_passes(graphdef, tree, leaves, x, context, devices: int) -> tuple[Pass, ...]:
    """Trace a block from point to point: of its parameters and inputs the shapes are given."""
    _, height, width, channels = x.shape
    passes, totals, resumed, kind = [], [], False, ""
    while kind != "done":

        def call(inputs, totals, resumed=resumed):
            params, x, *context = inputs
            block = nnx.merge(graphdef, params)
            return until(lambda: block(x, *context), [x] * resumed, totals)

        inputs = [jax.tree.unflatten(tree, leaves), x, *context]
        program, found = _trace(call, inputs, totals)
        kind = found.kind
        _, rows = reach.rows(program, height)
        work = memory.peak(program.jaxpr) / (height * width) + 2 * channels * x.dtype.itemsize
        passes.append(Pass(kind, (0,), round_up(rows, devices), work))
        if kind == "total":
            totals.append(found.value)
        resumed |= kind == "half"
    return tuple(passes)


def _trace(call, shapes, totals):
    """The program up to the next point, with convolutions as such; and the point, in shapes."""
    found = []

    def program(features, totals):
        found.append(call(features, totals))
        return found[0].value

    with backend.compiling_for("gpu"):
        traced, value = jax.make_jaxpr(program, return_shape=True)(shapes, totals)
    found[0].value = value
    return traced, found[0]


def until(
    call: Callable, features: Sequence, totals: Sequence, here: extent.Extent | None = None
) -> points.Reached:
    """Compute up to the first point for which nothing is given, or to the end.

    Args:
        call: without arguments.
        features, totals: what is given, see `points.replaying`.
        here: where the picture lies in the features.

    Returns:
        the point; of the end the kind is "done" and the value what `call` gave.
    """
    within = extent.within(here) if here else contextlib.nullcontext()
    with within, points.replaying(features, totals):
        try:
            return points.Reached("done", call())
        except points.Reached as reached:
            return reached
