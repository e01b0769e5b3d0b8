"""What one run of a compiled program costs, read from its optimised text.

XLA's own `cost_analysis()` counts the body of a loop once, however often it runs, and a stage of a
network is a loop here. These counts take each loop times its trips. `Compiled.as_text()` gives the
program of one device, with every array's layout, padding and memory.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
# They name values or wait for them; their bytes are counted where they move.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "iota",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
}
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*)")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a value's type: `dims`, `bytes` with padding, and whether HBM holds it."""

    dims: tuple[int, ...]
    bytes: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self, key: str) -> list[str]:
        """The computations that an attribute such as `calls=` or `body=` names."""
        found = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.rest)
        if not found:
            return []
        return _NAME.findall(found[1]) if found[1] else [found[2]]

    @property
    def hbm(self) -> int:
        return sum(array.bytes for array in self.arrays if array.in_hbm)


@dataclasses.dataclass
class Cost:
    """Of one run on one device.

    Attributes:
        flops: of matrix products and convolutions; a multiplication and an addition are two.
        traffic: bytes read from and written to HBM: the operands and results of each instruction
            that runs, where they lie in HBM, with the padding of their layout. A slice counts what
            it takes, an update in place what it writes.
        collectives: kind -> bytes of the results (of the operands, for reduce-scatter).
        unknown: loops whose length is not in the program; they count once.
        by_instruction: (computation, instruction) -> traffic.
    """

    flops: float = 0.0
    traffic: float = 0.0
    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unknown: int = 0
    by_instruction: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: "Cost", times: float = 1) -> None:
        """Adds another cost, so many times."""
        self.flops += times * other.flops
        self.traffic += times * other.traffic
        self.unknown += other.unknown
        for mine, theirs in (
            (self.collectives, other.collectives),
            (self.by_instruction, other.by_instruction),
        ):
            for key, value in theirs.items():
                mine[key] += times * value


class Program:
    """A compiled program.

    Args:
        text: of `Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        here = None
        for line in text.splitlines():
            if line.endswith("{") and " -> " in line and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                here = self.computations.setdefault(name, {})
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif line.startswith("}"):
                here = None
            elif here is not None and (found := _LINE.match(line)):
                instruction = self._instruction(found[2], found[3], bool(found[1]))
                here[instruction.name] = instruction

    def _instruction(self, name: str, text: str, root: bool) -> Instruction:
        kind, rest = _split_type(text)
        opcode, _, rest = rest.strip().partition("(")
        inside, rest = _until_closed(rest)
        arrays = tuple(self._array(*found) for found in _ARRAY.findall(kind))
        return Instruction(
            name, arrays, opcode, tuple(_NAME.findall(inside)), f"{inside}){rest}", root
        )

    def _array(self, dtype: str, dims: str, layout: str) -> Array:
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        memory = re.search(r"S\((\d+)\)", layout)
        in_hbm = not memory or memory[1] == "0"
        return Array(sizes, _padded(sizes, layout) * _bits(dtype) // 8, in_hbm)

    @functools.cached_property
    def cost(self) -> Cost:
        """Of the whole program."""
        return self._computation(self.entry)

    @functools.cache  # noqa: B019 - a program lives as long as it is looked at
    def _computation(self, name: str) -> Cost:
        total = Cost()
        for instruction in self.computations[name].values():
            total.add(self._one(name, instruction))
        return total

    def _one(self, where: str, of: Instruction) -> Cost:
        cost, opcode = Cost(), of.opcode
        if opcode == "while":
            times = self._trip_count(of)
            cost.unknown = not times
            for part in of.called("body") + of.called("condition"):
                cost.add(self._computation(part), times or 1)
            return cost
        if opcode == "conditional":
            names = of.called("branch_computations") or (
                of.called("true_computation") + of.called("false_computation")
            )
            cost.add(max(map(self._computation, names), key=lambda each: each.traffic))
            return cost
        if opcode == "call":
            for part in of.called("to_apply"):
                cost.add(self._computation(part))
            return cost
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return cost
        cost.flops = self._flops(where, of)
        cost.traffic = self._traffic(where, of)
        if cost.traffic:
            cost.by_instruction[where, of.name] = cost.traffic
        self._count_collective(where, of, cost)
        return cost

    def _trip_count(self, loop: Instruction) -> int:
        """How often a loop runs; 0 where that is not known before it does."""
        if found := _TRIPS.search(loop.rest):
            return int(found[1])
        # A counter below a constant, in the condition.
        (condition,) = loop.called("condition")
        limits = [
            int(each.rest.split(")")[0])
            for each in self.computations[condition].values()
            if each.opcode == "constant" and re.match(r"\d+\)?", each.rest)
        ]
        return max(limits, default=0)

    # Bytes.

    def _traffic(self, where: str, of: Instruction) -> int:
        here = self.computations[where]
        if of.opcode == "fusion":
            (inner,) = of.called("calls")
            reads = sum(
                min(self._read(inner, place), here[name].hbm) if name in here else 0
                for place, name in enumerate(of.operands)
                if here[name].hbm
            )
            return reads + self._written(inner, of)
        if of.opcode.endswith("-start"):
            # The result names the operands too: what is read, and what is written elsewhere.
            moved = sum(here[name].hbm for name in of.operands if name in here)
            if of.opcode == "copy-start":
                return sum(array.bytes for array in of.arrays[:2] if array.in_hbm)
            if of.opcode in ("slice-start", "dynamic-slice-start", "async-start"):
                made = of.arrays[len(of.operands) : len(of.operands) + 1]
                size = sum(array.bytes for array in made)
                return size + sum(array.bytes for array in made if array.in_hbm)
            return 2 * moved
        return self._plain(here, of)

    def _plain(self, here, of: Instruction) -> int:
        if of.opcode in ("dynamic-slice", "slice", "gather"):
            source = here[of.operands[0]].hbm > 0
            return of.hbm + source * sum(array.bytes for array in of.arrays)
        if of.opcode == "dynamic-update-slice":
            update = here[of.operands[1]]
            return update.hbm + (of.hbm > 0) * sum(array.bytes for array in update.arrays)
        if of.opcode == "custom-call" and "AllocateBuffer" in of.rest:
            return 0
        return of.hbm + sum(here[name].hbm for name in of.operands if name in here)

    def _read(self, computation: str, place: int, beyond: Callable[[], float] | None = None):
        """Bytes that a fused computation reads of its parameter.

        Args:
            computation: its name.
            place: of the parameter.
            beyond: of what leaves the computation unread, the bytes that are read elsewhere.
        """
        here = self.computations[computation]
        (parameter,) = (
            each
            for each in here.values()
            if each.opcode == "parameter" and each.rest.split(")")[0] == str(place)
        )
        return self._read_of(computation, parameter.name, beyond)

    def _read_of(self, computation: str, name: str, beyond: Callable[[], float] | None) -> float:
        here, total = self.computations[computation], 0.0
        for user in here.values():
            for place, operand in enumerate(user.operands):
                if operand != name:
                    continue

                def onwards(user=user):
                    if user.root:
                        return beyond() if beyond else math.inf
                    return self._read_of(computation, user.name, beyond)

                if user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
                    total += sum(array.bytes for array in user.arrays)
                elif user.opcode == "dynamic-update-slice" and place == 0:
                    total += 0
                elif user.opcode in ("bitcast", "tuple", "get-tuple-element"):
                    total += onwards()
                elif user.opcode == "fusion":
                    total += self._read(user.called("calls")[0], place, onwards)
                else:
                    return math.inf  # all of it
        return total

    def _written(self, inner: str, of: Instruction) -> int:
        here = self.computations[inner]
        root = next(each for each in here.values() if each.root)
        parts = [here[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(parts) != len(of.arrays):
            return of.hbm
        return sum(
            min(array.bytes, self._update(inner, part))
            for array, part in zip(of.arrays, parts, strict=True)
            if array.in_hbm
        )

    def _update(self, computation: str, root: Instruction) -> float:
        """Bytes written by an update in place; infinity for what is written whole."""
        here = self.computations[computation]
        while root.opcode == "bitcast":
            root = here[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            return sum(array.bytes for array in here[root.operands[1]].arrays)
        if root.opcode == "fusion":
            (inner,) = root.called("calls")
            return self._update(inner, next(e for e in self.computations[inner].values() if e.root))
        return math.inf

    # Arithmetic.

    def _flops(self, where: str, of: Instruction) -> float:
        if of.opcode == "convolution":
            return _convolution_flops(self.computations[where], of)
        if of.opcode == "dot":
            here = self.computations[where]
            summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", of.rest)[1]
            left = here[of.operands[0]].arrays[0].dims
            length = math.prod(left[int(i)] for i in summed.split(",") if i)
            return 2.0 * math.prod(of.arrays[0].dims) * length
        inner = of.called("calls") if of.opcode in ("fusion", "async-start") else []
        return sum(self._flops_inside(name) for name in inner)

    @functools.cache  # noqa: B019
    def _flops_inside(self, name: str) -> float:
        return sum(self._flops(name, each) for each in self.computations[name].values())

    def _count_collective(self, where: str, of: Instruction, cost: Cost) -> None:
        kind = of.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            return
        here = self.computations[where]
        given = sum(a.bytes for name in of.operands if name in here for a in here[name].arrays)
        made = sum(array.bytes for array in of.arrays)
        if of.opcode.endswith("-start") and kind != "all-reduce":
            made -= given  # the result of a start holds its operands too
        cost.collectives[kind] += max(made, given) if kind == "reduce-scatter" else made


def _split_type(text: str) -> tuple[str, str]:
    """The type of an instruction and what follows it."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    inside, rest = _until_closed(text[1:])
    return inside, rest


def _until_closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes one opened before `text`, and behind it."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return text[: found.start()], text[found.end() :]
    return text, ""


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def _padded(dims: tuple[int, ...], layout: str) -> int:
    """Elements of an array, its tiles filled up."""
    order, _, tiles = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", tiles)
    if not tile or not dims:
        return math.prod(dims)
    sides = [int(side) for side in tile[1].split(",")]
    minor = [int(place) for place in order.split(",") if place]
    sizes = [dims[place] for place in reversed(minor)]
    if len(sides) > len(sizes):
        sizes = [1] * (len(sides) - len(sizes)) + sizes
    kept, last = sizes[: len(sizes) - len(sides)], sizes[len(sizes) - len(sides) :]
    filled = [-(-size // side) * side for size, side in zip(last, sides, strict=True)]
    return math.prod(kept) * math.prod(filled)


def _convolution_flops(here, of: Instruction) -> float:
    """Two for each pair of an input and a filter value that meet; padding meets nothing."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", of.rest)
    left, right, out = (here[of.operands[0]], here[of.operands[1]], of)
    inputs, filters, results = (
        dict(zip(names, each.arrays[0].dims, strict=True))
        for names, each in zip(labels.groups(), (left, right, out), strict=True)
    )
    window = dict(re.findall(r"(\w+)=([\w\-]+(?:x[\w\-]+)*)", _window(of.rest)))
    spatial = sorted(key for key in filters if key.isdigit())
    pairs = 1.0
    for place, key in enumerate(spatial):

        def field(name, default, place=place):
            return window[name].split("x")[place] if name in window else default

        low = int(re.match(r"-?\d+", field("pad", "0_0"))[0])
        pairs *= _meetings(
            inputs[key],
            filters[key],
            results[key],
            int(field("stride", 1)),
            low,
            int(field("lhs_dilate", 1)),
            int(field("rhs_dilate", 1)),
        )
    groups = re.search(r"batch_group_count=(\d+)", of.rest)
    batch = results["b"] if not groups else inputs["b"] / int(groups[1])
    return 2.0 * batch * filters["i"] * results["f"] * pairs


def _window(rest: str) -> str:
    found = re.search(r"window=\{([^}]*)\}", rest)
    return found[1] if found else ""


def _meetings(size, taps, results, stride, low, spread, dilation) -> int:
    """Pairs of a tap and an input value along one axis, over all results."""
    if (stride, low, spread, dilation) == (1, 0, 1, 1) and results + taps - 1 <= size:
        return taps * results
    reach = (size - 1) * spread + 1
    count = 0
    for tap in range(taps):
        # Results r with 0 <= r * stride + tap * dilation - low < reach, on the spread-out grid.
        count += sum(
            0 <= (at := r * stride + tap * dilation - low) < reach and at % spread == 0
            for r in range(results)
        )
    return count
