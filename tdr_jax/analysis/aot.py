"""The training step compiled for TPUs that are not there, and what it will need of each of them."""

import dataclasses
import re
import time

import jax

from tdr_jax.analysis import flops, hardware, hlo
from tdr_jax.analysis.plan import Plan, amount
from tdr_jax.errors import InputError
from tdr_jax.nn import backend

# How the compiler says what it would need and what there is.
_ROOM = re.compile(r"\(?([\d.]+\w)\)? (?:of|exceeds available HBM) \(?([\d.]+\w)")


@dataclasses.dataclass(frozen=True)
class Report:
    """What one step needs of each chip.

    Attributes:
        plan, chip: of what was compiled.
        seconds: that compiling took, lowering included.
        held: kind -> bytes, the intermediate results and the program too.
        peak: bytes at the fullest moment, as the compiler counts them.
        useful: FLOPs of a step that loss and gradient need, recomputation left out; of one chip.
        cost: of the program, loops times their trips.
        counted_once: bytes that XLA's own analysis tells: it takes the body of a loop once, and
            counts what goes to and from fast memory too.
        text: of the program.
    """

    plan: Plan
    chip: hardware.Chip
    seconds: float
    held: dict[str, int]
    peak: int
    useful: float
    cost: hlo.Cost
    counted_once: float
    text: str

    @property
    def times(self) -> dict[str, float]:
        """Seconds that a step takes at least: of arithmetic, of memory and of links."""
        return {
            "arithmetic": self.cost.flops / self.chip.arithmetic,
            "memory": self.cost.traffic / self.chip.memory,
            "links": _sent(self.cost.collectives, self.plan.layout.mesh.size) / self.chip.links,
        }

    def __str__(self) -> str:
        cost, examples = self.cost, self.plan.examples
        own = examples / self.plan.layout.mesh.size
        times = self.times
        limit = max(times, key=times.get)
        mfu = self.useful / self.chip.arithmetic / times[limit]
        lines = [
            f"compiled in {self.seconds:.0f} s",
            "",
            "bytes of each chip",
            *(_line(kind, self.held[kind]) for kind in self.held if self.held[kind]),
            _line("at the fullest moment", self.peak),
            "",
            "a step, on each chip",
            f"{_line('arithmetic', cost.flops, 'FLOP')}, "
            f"{amount(self.useful, 'FLOP')} without recomputation",
            f"{_line('memory traffic', cost.traffic)}, {amount(cost.traffic / own)} an example",
            f"{_line('  by XLA', self.counted_once)}, {amount(self.counted_once / own)} an "
            "example: every loop once, fast memory too",
            *(_line(kind, size) for kind, size in sorted(cost.collectives.items())),
            *[f"  {cost.unknown} loops of unknown length count once"][: cost.unknown],
            "",
            "a step takes at least, by each for itself (roofline)",
            *(f"  {what:22s}{1e3 * seconds:9.2f} ms" for what, seconds in times.items()),
            "",
            f"bound by {limit}: {1e3 * times[limit]:.2f} ms a step, {examples / times[limit]:,.0f} "
            f"examples a second on all chips, MFU {mfu:.1%} at most",
        ]
        return "\n".join(lines)


def compiled(plan: Plan, chip: hardware.Chip) -> Report:
    """Compiles a step.

    Args:
        plan: of a run over the devices of a slice.
        chip: what each of them is.

    Raises:
        InputError: it does not fit into the memory of a chip.
    """
    layout, start = plan.layout, time.monotonic()
    arguments = (
        _placed(plan.state, layout.of(plan.state)),
        _placed(plan.batch, layout.by_example),
        *_placed(plan.objective.frozen, layout.replicated),
    )
    with backend.compiling_for("tpu"):
        lowered = plan.step.lower(*arguments)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or "hbm" not in str(error).lower():
            raise
        raise InputError(_too_large(plan, chip, str(error))) from None
    seconds = time.monotonic() - start
    memory, text = program.memory_analysis(), program.as_text()
    given = plan.objective
    useful = flops.of_step(given.loss, plan.state.params, plan.batch, given.frozen)
    return Report(
        plan,
        chip,
        seconds,
        plan.held
        | {
            "intermediate results": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        },
        memory.peak_memory_in_bytes,
        useful / layout.mesh.size,
        hlo.Program(text).cost,
        program.cost_analysis()["bytes accessed"],
        text,
    )


def _placed(tree, shardings):
    """Shapes that know where their arrays will lie."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _too_large(plan: Plan, chip: hardware.Chip, message: str) -> str:
    """What does not fit, and what would help."""
    found = _ROOM.search(message)
    needs = f"{found[1]}B of {found[2]}B" if found else "more memory than there is"
    sizes = {kind: size for kind, size in plan.held.items() if size}
    parts = ", ".join(f"{kind} {amount(size)}" for kind, size in sizes.items())
    settings = plan.objective.network.config
    hints = ["fewer examples a chip", "a larger config.accumulate"]
    if plan.layout.mesh.shape["fsdp"] == 1:
        hints.append("config.mesh.fsdp=0")
    if getattr(settings, "remat", "full") in ("none", False):
        hints.insert(0, "config.network.overrides.remat=full")
    if getattr(settings, "dtype", "bfloat16") == "float32":
        hints.insert(0, "config.network.overrides.dtype=bfloat16")
    return (
        f"a step of {plan.objective.network.name} needs {needs} on each {chip.kind} ({parts}, "
        f"the rest is of intermediate results); try {', '.join(hints)}"
    )


def _sent(collectives, devices: int) -> float:
    """Bytes that leave each chip: sums go round twice, as parts and as results."""
    share = (devices - 1) / devices
    return share * sum(
        size * (2 if kind == "all-reduce" else 1) for kind, size in collectives.items()
    )


def _line(what: str, size: float, unit: str = "B") -> str:
    number, unit = amount(size, unit).split()
    return f"  {what:22s}{number:>9s} {unit}"
