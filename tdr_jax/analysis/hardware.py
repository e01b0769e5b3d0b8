"""Devices: how fast they are, and TPUs that programs are compiled for without one."""

import dataclasses
import importlib.util
import os

import jax

from tdr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, from its maker's data sheet.

    Attributes:
        kind: jax's `device_kind`.
        arithmetic: FLOP/s, dense, in bfloat16.
        memory: bytes a second to and from HBM; 0 where no program is compiled ahead of time.
        links: bytes a second that leave it for other chips, over all its links together; 0
            likewise.
    """

    kind: str
    arithmetic: float
    memory: float = 0.0
    links: float = 0.0


# The sheets count links in both directions, in bits.
CHIPS = (
    Chip("TPU v4", 275e12, 1228e9, 2400e9 / 16),
    Chip("TPU v5 lite", 197e12, 819e9, 1600e9 / 16),
    Chip("TPU v5", 459e12, 2765e9, 4800e9 / 16),
    Chip("TPU v5p", 459e12, 2765e9, 4800e9 / 16),
    Chip("TPU v6 lite", 918e12, 1640e9, 3584e9 / 16),
    Chip("NVIDIA A100-SXM4-40GB", 312e12),
    Chip("NVIDIA A100-SXM4-80GB", 312e12),
    Chip("NVIDIA H100 80GB HBM3", 989e12),
    Chip("NVIDIA H100 PCIe", 756e12),
    Chip("NVIDIA H200", 989e12),
    Chip("NVIDIA B200", 2250e12),
)
SLICES = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


def chip(kind: str) -> Chip | None:
    """What is known of a device by jax's `device_kind`; None of others, as CPUs are."""
    return next((each for each in CHIPS if each.kind == kind), None)


def peak(each: float = 0.0) -> float | None:
    """FLOP/s of all devices of this run together.

    Args:
        each: of one of them; 0 for what `CHIPS` says of its kind.

    Returns:
        the sum, or None for a kind that is not in there.
    """
    if not each:
        known = chip(jax.devices()[0].device_kind)
        each = known.arithmetic if known else 0.0
    return each * jax.device_count() or None


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
    if name not in SLICES or not shape:
        raise InputError(
            f"--topology is {topology!r}; give a kind of TPU and the shape of a slice, such as "
            f"v5e:16x16; kinds: {', '.join(SLICES)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu, which compiles for TPUs, is not installed; pip install 'tdr-jax[tpu]'"
        )
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(topology, "tpu")
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise InputError(f"--topology={topology}: {reason.splitlines()[0]}") from None
    return chip(SLICES[name]), list(found.devices)
