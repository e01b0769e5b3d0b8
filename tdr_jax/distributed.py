"""The processes of one run: joining them, what they tell each other, and the wish to stop."""

import os
import signal
import threading

import jax
import numpy as np

from tdr_jax.errors import InputError


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the other processes of this run; on a single process, do nothing.

    What is given here comes first, then `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, then what a scheduler says that started more than one process: Slurm, Open
    MPI, an indexed job of Kubernetes, or a TPU slice of several hosts, which jax reads by itself.

    Args:
        coordinator: "host:port" of process 0, the same in all processes.
        processes: their number.
        process: this one's number, from 0 on.

    Raises:
        InputError: only some of the three are given, or they do not fit.
        RuntimeError: if the other processes cannot be reached.
    """
    given = (coordinator, processes, process)
    where = "--coordinator, --num_processes, --process_id"
    if given == (None, None, None):
        where = "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        given = tuple(
            os.environ.get(name) or None for name in where.replace(" and", ",").split(", ")
        )
    if any(value is not None for value in given):
        coordinator, processes, process = _checked(given, where)
        jax.distributed.initialize(coordinator, processes, process)
    elif _scheduled():
        jax.distributed.initialize()


def _checked(given, where: str) -> tuple[str, int, int]:
    address, *numbers = given
    try:
        processes, process = (int(number) for number in numbers)
    except (TypeError, ValueError):
        processes = process = -1
    if not address or ":" not in str(address) or not 0 <= process < processes:
        values = ", ".join("nothing" if value is None else str(value) for value in given)
        raise InputError(
            f"{where} are {values}; give all three: host:port of process 0, the number of "
            "processes, and this one's from 0 on"
        )
    return address, processes, process


def _scheduled() -> bool:
    """Whether a scheduler that jax can read started more than one process."""
    env = os.environ
    tasks = env.get("SLURM_NTASKS") or env.get("OMPI_COMM_WORLD_SIZE") or "1"
    pods = "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
    return int(tasks) > 1 or pods or len(hosts) > 1 or slices > 1


# What they tell each other; a single process is alone with its answer and sends nothing.


def is_lead() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def lead_says(value: bool) -> bool:
    """What process 0 says, in all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def all_agree(value: bool) -> bool:
    """Whether all processes say yes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def gather(data: bytes) -> list[bytes]:
    """The bytes of every process, by its number, in all processes; they may differ in length."""
    if jax.process_count() == 1:
        return [data]
    from jax.experimental import multihost_utils

    lengths = multihost_utils.process_allgather(np.asarray(len(data)))
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]) for row, length in zip(rows, lengths, strict=True)]


class Stop:
    """Notices SIGTERM and Ctrl-C, so that the loop can save before it ends.

    Used as a context manager around the loop; the handlers that were there before come back at its
    end. A second Ctrl-C interrupts at once.
    """

    def __init__(self):
        self.reason = ""
        self._before = {}

    def __enter__(self):
        # Several processes must stop at one and the same step: there jax's own service listens to
        # the signal and agrees on the step. Handlers can be set from the main thread only.
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main_thread:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number, _frame):
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def asked(self, step: int) -> bool:
        """Whether the run is to stop after `step` finished steps; every process hears the same."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.reason = "SIGTERM"
        return bool(self.reason)
