"""The training step compiled for TPUs that are not there, and what it will need of each of them."""

import dataclasses
import re
import time

import jax

from tdr_jax.errors import InputError
from tdr_jax.models import backend
from tdr_jax.train import chips, flops, hlo
from tdr_jax.train.outline import Outline


@dataclasses.dataclass(frozen=True)
class Report:
    """What one step needs of each chip.

    Attributes:
        outline, chip: of what was compiled.
        seconds: that compiling took, lowering included.
        held: kind -> bytes, the intermediate results and the program too.
        peak: bytes at the fullest moment, as the compiler counts them.
        useful: FLOPs of a step that loss and gradient need, recomputation left out; of one chip.
        cost: of the program, loops times their trips.
        counted_once: bytes that XLA's own analysis tells, which counts the body of a loop once.
    """

    outline: Outline
    chip: chips.Chip
    seconds: float
    held: dict[str, int]
    peak: int
    useful: float
    cost: hlo.Cost
    counted_once: float

    @property
    def times(self) -> dict[str, float]:
        """Seconds that a step takes at least: of arithmetic, of memory and of links."""
        return {
            "arithmetic": self.cost.flops / self.chip.arithmetic,
            "memory": self.cost.traffic / self.chip.memory,
            "links": _sent(self.cost.collectives, self.outline.layout.mesh.size) / self.chip.links,
        }

    def __str__(self) -> str:
        cost, examples = self.cost, self.outline.examples
        each = cost.traffic * self.outline.layout.mesh.size / examples
        once = self.counted_once * self.outline.layout.mesh.size / examples
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
            f"  {'arithmetic':22s}{cost.flops / 1e12:9.3f} TFLOP, "
            f"{self.useful / 1e12:.3f} without recomputation",
            f"{_line('memory traffic', cost.traffic)}, {each / 1e9:.2f} a picture "
            f"({once / 1e9:.2f} if every loop ran once, as XLA counts)",
            *(_line(kind, size) for kind, size in sorted(cost.collectives.items())),
            "",
            "seconds of a step at the least, each for itself (roofline)",
            *(f"  {what:22s}{seconds:9.4f}" for what, seconds in times.items()),
            "",
            f"bound by {limit}: {times[limit]:.4f} s a step, {examples / times[limit]:,.0f} "
            f"pictures a second on all chips, MFU {mfu:.1%} at most",
        ]
        return "\n".join(lines)


def compiled(outline: Outline, chip: chips.Chip) -> Report:
    """Compiles a step.

    Args:
        outline: of a run over the devices of a slice.
        chip: what each of them is.

    Raises:
        InputError: it does not fit into the memory of a chip.
    """
    layout, start = outline.layout, time.monotonic()
    arguments = (
        _placed(outline.state, layout.of(outline.state)),
        _placed(outline.batch, layout.by_example),
        *_placed(outline.job.frozen, layout.everywhere),
    )
    with backend.compiling_for("tpu"):
        lowered = outline.step.lower(*arguments)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(_too_large(outline, chip, str(error))) from None
    seconds = time.monotonic() - start
    memory = program.memory_analysis()
    job = outline.job
    useful = flops.of_step(job.task, outline.state.params, outline.batch, job.frozen)
    return Report(
        outline,
        chip,
        seconds,
        outline.held
        | {
            "intermediate results": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        },
        memory.peak_memory_in_bytes,
        useful / layout.mesh.size,
        hlo.Program(program.as_text()).cost,
        program.cost_analysis()["bytes accessed"],
    )


def _placed(tree, shardings):
    """Shapes that know where their arrays will lie."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _too_large(outline: Outline, chip: chips.Chip, message: str) -> str:
    """What does not fit, and what would help."""
    found = re.search(r"[Uu]sed ([\d.]+\w) of ([\d.]+\w)", message)
    needs = f"{found[1]} of {found[2]}" if found else "more memory than there is"
    sizes = {kind: size for kind, size in outline.held.items() if size}
    parts = ", ".join(f"{kind} {size / 1e9:.2f} GB" for kind, size in sizes.items())
    settings = outline.job.network.config
    hints = ["fewer examples a chip", "a larger config.accumulate"]
    if outline.layout.mesh.shape["fsdp"] == 1:
        hints.append("config.mesh.fsdp=0")
    if getattr(settings, "remat", "full") in ("none", False):
        hints.insert(0, "config.network.overrides.remat=full")
    if getattr(settings, "dtype", "bfloat16") == "float32":
        hints.insert(0, "config.network.overrides.dtype=bfloat16")
    return (
        f"a step of {outline.job.network.name} needs {needs} on each {chip.kind} ({parts}, the "
        f"rest is of intermediate results); try {', '.join(hints)}"
    )


def _sent(collectives, devices: int) -> float:
    """Bytes that leave each chip: sums go round twice, as parts and as results."""
    share = (devices - 1) / devices
    return share * sum(
        size * (2 if kind == "all-reduce" else 1) for kind, size in collectives.items()
    )


def _line(what: str, size: float) -> str:
    return f"  {what:22s}{size / 1e9:9.3f} GB"
