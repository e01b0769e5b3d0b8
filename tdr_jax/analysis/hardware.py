"""TPUs that programs are compiled for without one: what they hold and how fast they are."""

import dataclasses
import importlib.util
import os

from tdr_jax.analysis import flops
from tdr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, from Google's data sheets.

    Attributes:
        kind: jax's `device_kind`.
        memory: bytes a second to and from HBM.
        links: bytes a second that leave it for other chips, over all its links together.
    """

    kind: str
    memory: float
    links: float

    @property
    def arithmetic(self) -> float:
        """FLOP/s in bfloat16."""
        return flops.PEAKS[self.kind]


# The sheets count links in both directions, in bits.
CHIPS = {
    "v4": Chip("TPU v4", 1228e9, 2400e9 / 16),
    "v5e": Chip("TPU v5 lite", 819e9, 1600e9 / 16),
    "v5p": Chip("TPU v5", 2765e9, 4800e9 / 16),
    "v6e": Chip("TPU v6 lite", 1640e9, 3584e9 / 16),
}


def prepare() -> None:
    """Tells libtpu that no TPU is there, before JAX starts: it would look for one for minutes."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def slice_of(topology: str) -> tuple[Chip, list]:
    """Describes the devices of a TPU slice.

    Args:
        topology: such as "v5e:16x16".

    Returns:
        what each chip is, and descriptions of all devices, to compile for.

    Raises:
        InputError: there is no such slice, or libtpu is not installed.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not shape:
        raise InputError(
            f"--topology is {topology!r}; give a kind of TPU and the shape of a slice, such as "
            f"v5e:16x16; kinds: {', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu, which compiles for TPUs, is not installed; pip install 'tdr-jax[tpu]'"
        )
    import jax
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(topology, "tpu")
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise InputError(f"--topology={topology}: {reason.splitlines()[0]}") from None
    return CHIPS[name], list(found.devices)
