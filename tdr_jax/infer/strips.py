"""A picture of any size in bounded memory, by horizontal strips, as if it were restored whole.

The features of a picture are kept where a stage of the network begins, between the halves of a
block and where it ends; what is many times as large, inside the blocks, exists for a strip at a
time, which is computed with the rows of its neighbours that its filters look at. What a network
asks about the whole picture is first summed over all strips, and then used by each: channel
attention, gates and pooled means are exact, which tiles cannot be.

Where a network stops and how far it looks is found by tracing it, once (`passes`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, PyTree

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.images.arrays import round_up
from tdr_jax.infer import passes
from tdr_jax.infer.passes import Kept, Pass, Stage
from tdr_jax.nn import extent, points

WORK = 2**28  # bytes for what exists of a strip alone: more is no faster
PIECES = 16  # of what is kept on an accelerator, where every piece is a call


class Features:
    """Kept features as pieces of equally many rows, which are given up one by one.

    Args:
        kept: what they are.
        rows: of a piece.
        count: of pieces; the last may reach beyond the picture.
    """

    def __init__(self, kept: Kept, rows: int, count: int):
        self.kept, self.rows = kept, rows
        self.pieces: list[Any] = [None] * count

    def put(self, first: int, values: Any) -> None:
        """Keep values (1, rows of several pieces, w, c) from that piece on."""
        for index in range(min(values.shape[1] // self.rows, len(self.pieces) - first)):
            self.pieces[first + index] = values[:, index * self.rows : (index + 1) * self.rows]

    def window(self, first: int, count: int, halo: int) -> Any:
        """Return the rows of some pieces and `halo` more on both sides; zeros beyond the ends."""
        top, end = first * self.rows - halo, (first + count) * self.rows + halo
        low, high = max(top, 0), min(end, len(self.pieces) * self.rows)
        parts = []
        for index in range(low // self.rows, -(-high // self.rows)):
            start = index * self.rows
            parts.append(self.pieces[index][:, max(low - start, 0) : high - start])
        xp = np if isinstance(parts[0], np.ndarray) else jnp
        above, below = (
            xp.zeros((1, missing, *parts[0].shape[2:]), parts[0].dtype)
            for missing in (low - top, end - high)
        )
        return xp.concatenate([above, *parts, below], 1)

    def forget(self, end: int) -> None:
        """Give up the pieces before that one."""
        self.pieces[: max(end, 0)] = [None] * len(self.pieces[: max(end, 0)])


class Strips:
    """A network's programs for strips of pictures.

    Args:
        network: whose `heeds_extent`.
        params: its flat dict of parameters.
        devices: the `rows.Rows` over which each strip is cut, or None.

    Raises:
        InputError: the network cannot be cut.
    """

    def __init__(self, network, params: dict[str, Any], devices: Any = None):
        check_network(network)
        self.network, self.devices = network, devices
        self.count = 1 if devices is None else devices.mesh.size
        self.params = {name: np.asarray(value) for name, value in params.items()}
        self.picture = Kept(1, network.config.channels[0], np.dtype(np.float32))

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """Through the network; a stage has its own, through each of its blocks."""
        return tuple(passes.of_network(self.network, self.params, self.count))

    @cached_property
    def placed(self) -> dict:
        """The parameters on the device."""
        return self.place(self.params)

    def place(self, params: PyTree) -> PyTree:
        """Give each device the whole of some parameters."""
        return jax.device_put(params) if self.devices is None else self.devices.place(params)

    def stored(self, height: int, width: int) -> int:
        """Return how many bytes all features take at most that are kept at once."""
        alive, most = {0: self.picture.bytes}, 0.0
        for index, each in enumerate(self.passes):
            most = max(most, sum(alive.values()))
            for number in self.last_read(index):  # piece by piece, while others are made
                alive.pop(number)
            if each.made:
                alive[len(self.made(index))] = each.made.bytes
            most = max(most, sum(alive.values()))
        return int(most * height * width)

    def least(self, height: int, width: int) -> int:
        """Return the fewest bytes that a picture of these sides can be restored with."""
        unit = self.unit(height)
        work = max(self.work(each, scale, 1, unit, width) for each, scale, _ in self.all())
        kept = 0 if separate_memory() else self.stored(round_up(height, unit), width)
        return kept + int(work)

    def __call__(
        self,
        pixels: Float32[np.ndarray, "h w c"],
        *others: Float32[np.ndarray, "..."],
        limit: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float32[np.ndarray, "h w d"]:
        """Restore a picture.

        Args:
            pixels: in [0, 1], of sides that are multiples of what the network needs.
            *others: a sentence vector (e,), where the network takes one.
            limit: bytes for intermediate results, those that are kept and those of a strip; if it
                is less than `least`, as much as that is used.
            progress: called as progress(strips done, strips in all passes).

        Returns:
            What the network gives, not clipped.
        """
        return _Run(self, pixels, others, limit, progress)()

    def made(self, end: int) -> list[Kept]:
        """The features that there are before the pass of that number, the picture first."""
        return [self.picture, *(each.made for each in self.passes[:end] if each.made)]

    def last_read(self, index: int) -> list[int]:
        """Which features the pass of that number reads and none after it."""
        later = {number for each in self.passes[index + 1 :] for number in each.needs}
        return [number for number in self.passes[index].needs if number not in later]

    def all(self) -> Iterator[tuple[Pass, int, int]]:
        """All passes, the scale of the features that their rows are of, and how often each is."""
        for each in self.passes:
            yield each, 1, 1
            for inner in each.stage.passes if each.stage else ():
                yield inner, each.made.scale, each.stage.depth

    def unit(self, height: int, pieces: int | None = None) -> int:
        """How many rows of the picture a piece of what is kept stands for: the fewest, or many."""
        multiple = self.network.config.multiple * self.count
        return max(2 * multiple, round_up(-(-height // pieces), multiple) if pieces else 0)

    def work(self, each: Pass, scale: int, pieces: int, unit: int, width: int) -> float:
        """How many bytes exist at once while some pieces go through a pass."""
        return each.work * (pieces * unit // scale + 2 * each.halo) * (width // scale)


class _Run:
    """The restoration of one picture."""

    def __init__(self, strips: Strips, pixels, others, limit: int, progress):
        self.strips, self.progress = strips, progress
        self.height, self.width, _ = pixels.shape
        self.others = tuple(jnp.asarray(other)[None] for other in others)
        stored, separate = strips.stored(self.height, self.width), separate_memory()
        # Features go to the host's memory where the device has its own, which they would fill.
        self.on_device = separate and 2 * stored < limit
        self.unit = strips.unit(self.height, PIECES if self.on_device else None)
        self.count = -(-self.height // self.unit)
        self.room = limit if separate and not self.on_device else limit - stored
        self.room = self.room if separate else min(self.room, WORK)
        self.done = 0
        self.total = sum(self._groups(p, scale)[1] * times for p, scale, times in strips.all())
        missing = self.count * self.unit - self.height
        picture = self._features(strips.picture)
        picture.put(0, pixels[None, : self.height // self.unit * self.unit])
        if missing:
            rest = pixels[self.height - self.unit + missing :]
            picture.put(self.count - 1, np.pad(rest, ((0, missing), (0, 0), (0, 0)))[None])
        self.kept: list[Features | None] = [picture]

    def __call__(self) -> np.ndarray:
        strips, totals = self.strips, []
        self.progress(0, self.total)
        for index, each in enumerate(strips.passes):
            program = _network_program(
                strips.network, tuple(strips.made(index)), each.needs, each.halo
            )
            sources, last = (
                [self.kept[i] for i in n] for n in (each.needs, strips.last_read(index))
            )
            given = strips.placed, self.others, tuple(totals)
            results = self._sweep(program, given, each, 1, sources, last)
            if each.kind == "total":
                totals.append(_sum(results))
            elif each.kind == "done":
                break
            else:
                made, context = self._keep(each.made, results)
                self.kept = [None if kept in last else kept for kept in self.kept]
                self.kept.append(self._through(each.stage, made, context))
        return self._gather(results)

    def _through(self, stage: Stage, x: Features, context: tuple) -> Features:
        """Run the blocks of a stage."""
        for index in range(stage.depth):
            own = [leaf[index] for leaf in jax.tree.leaves(stage.params)]
            own = self.strips.place(jax.tree.unflatten(jax.tree.structure(stage.params), own))
            totals: list = []
            resumed = False
            for each in stage.passes:
                program = _block_program(stage.graphdef, resumed, each.halo)
                given = own, context, tuple(totals)
                last = [] if each.kind == "total" else [x]
                results = self._sweep(program, given, each, x.kept.scale, [x], last)
                if each.kind == "total":
                    totals.append(_sum(results))
                else:
                    x, _ = self._keep(x.kept, results)
                    resumed = True
        return x

    def _sweep(self, program, given, each: Pass, scale: int, sources, last):
        """Yield what the program makes of every group of pieces, and the group's first piece.

        Of what no pass reads after this one the pieces are given up that no group needs any more.
        """
        (params, beside, totals), devices = given, self.strips.devices
        high, wide = (np.array([side // scale], np.int32) for side in (self.height, self.width))
        pieces, groups = self._groups(each, scale)
        for first in range(0, groups * pieces, pieces):
            windows = tuple(
                source.window(first, pieces, each.halo * scale // source.kept.scale)
                for source in sources
            )
            if devices is not None:
                windows = tuple(devices.put(window)[0] for window in windows)
            top = np.int32(first * self.unit // scale - each.halo)
            with contextlib.nullcontext() if devices is None else jax.set_mesh(devices.mesh):
                result = program(params, windows, beside, totals, top, high, wide)
            yield first, result
            for source in last:
                above = -(-each.halo * scale // self.unit)
                source.forget(first + pieces - above)
            self.done += 1
            self.progress(self.done, self.total)

    def _groups(self, each: Pass, scale: int) -> tuple[int, int]:
        """How many pieces go through a pass together, and how many times."""
        one, two = (self.strips.work(each, scale, n, self.unit, self.width) for n in (1, 2))
        pieces = 1 + max(0, int((self.room - one) // (two - one)))
        groups = -(-self.count // min(pieces, self.count))
        return -(-self.count // groups), groups

    def _features(self, kept: Kept) -> Features:
        return Features(kept, self.unit // kept.scale, self.count)

    def _keep(self, kept: Kept, results) -> tuple[Features, tuple]:
        """Keep what the strips give, and what the blocks of a stage read beside, once."""
        made, beside = self._features(kept), ()
        for first, (value, context) in results:
            made.put(first, value if self.on_device else np.asarray(value))
            beside = context
        return made, beside

    def _gather(self, results) -> np.ndarray:
        channels = self.strips.network.config.channels[1]
        restored = np.empty((self.height, self.width, channels), np.float32)
        for first, (value, _) in results:
            target = restored[first * self.unit :][: value.shape[1]]
            target[:] = np.asarray(value)[0, : len(target)]
        return restored


def _sum(results) -> Any:
    """The sums over all strips, added up in float64."""
    total = None
    for _, (part, _) in results:
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda x: x.astype(np.float32), total)


def separate_memory() -> bool:
    """Whether the device has a memory of its own, beside the host's."""
    return jax.default_backend() != "cpu"


def check_network(network: models.Network) -> None:
    """Raise InputError unless the network can be run strip by strip."""
    if not network.heeds_extent:
        raise InputError(
            f"network {network.name} cannot be run strip by strip; restore whole pictures or tiles"
        )


@functools.lru_cache(maxsize=256)
def _network_program(network, kept: tuple[Kept, ...], needs: tuple[int, ...], halo: int):
    """Prepare the way from kept features to the next point of a network."""

    def run(params, windows, others, totals, top, height, width):
        given = dict(zip(needs, windows, strict=True))
        first, scale = windows[0], kept[needs[0]].scale
        sides = tuple(side * scale for side in first.shape[1:3])
        # What is not needed is there all the same, and no part of the program.
        features = [
            given.get(i, jnp.zeros((1, *(s // k.scale for s in sides), k.channels), k.dtype))
            for i, k in enumerate(kept)
        ]
        here = extent.Extent(sides, height, width, top, (halo, sides[0] - halo))
        reached = passes.until(
            lambda: network.apply(params, features[0], *others), features[1:], totals, here
        )
        return _own(reached, here)

    return jax.jit(run)


@functools.lru_cache(maxsize=256)
def _block_program(graphdef, resumed: bool, halo: int):
    """Prepare the way from a block's input, or its half, to its next point."""

    def run(params, windows, context, totals, top, height, width):
        (x,) = windows
        sides = x.shape[1:3]
        here = extent.Extent(sides, height, width, top, (halo, sides[0] - halo))
        block = nnx.merge(graphdef, params)
        return _own(passes.until(lambda: block(x, *context), [x] * resumed, totals, here), here)

    return jax.jit(run)


def _own(reached: points.Reached, here: extent.Extent):
    """The part of a sum, or the strip's own rows; and what the blocks of a stage read beside."""
    if reached.kind == "total":
        return reached.value, ()
    scale = here.scale(reached.value.shape[1])
    first, end = (row // scale for row in here.own)
    return reached.value[:, first:end], reached.stage[2] if reached.stage else ()
