"""Joining the processes of a run, and the wish to stop."""

import os
import signal
import threading

import jax

from tdr_jax.errors import InputError

STOPPED = (
    75  # exit status of a run that was asked to stop and is saved: start it again (EX_TEMPFAIL)
)


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
