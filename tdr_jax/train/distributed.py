"""Many processes as one, and the wish to stop."""

import os
import signal

import jax


def initialize() -> None:
    """Join the other processes of this run; on a single process, do nothing.

    A run is joined when `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say so,
    or when Slurm or Open MPI started more than one task, which jax detects by itself.

    Raises:
        RuntimeError: if the other processes cannot be reached.
    """
    tasks = os.environ.get("SLURM_NTASKS") or os.environ.get("OMPI_COMM_WORLD_SIZE") or "1"
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif int(tasks) > 1:
        jax.distributed.initialize()


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
        if jax.process_count() == 1 and _in_main_thread():
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


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
