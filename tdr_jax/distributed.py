"""The processes of one run: joining them, what they tell each other, and the wish to stop."""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
import time

import jax
import numpy as np

from tdr_jax.errors import InputError, TryAgain

LIMIT = 300.0  # seconds in which the processes of a run must have come
HELLO = "tdr_jax"


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
        TryAgain: the other processes did not come within LIMIT seconds.
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
        if processes > 1:
            _meet(coordinator, processes, process, LIMIT)
        jax.distributed.initialize(coordinator, processes, process)
    elif _scheduled():
        jax.distributed.initialize()


def _checked(given, where: str) -> tuple[str, int, int]:
    address, *numbers = given
    try:
        processes, process = (int(number) for number in numbers)
    except (TypeError, ValueError):
        processes = process = -1
    port = str(address).rpartition(":")[2] if ":" in str(address) else ""
    if not port.isdigit() or not 0 <= process < processes:
        values = ", ".join("nothing" if value is None else str(value) for value in given)
        raise InputError(
            f"{where} are {values}; give all three: host:port of process 0, the number of "
            "processes, and this one's from 0 on"
        )
    return address, processes, process


# What starts several processes -> the variable that counts them, a process's rank, from which on
# a process is certainly one of several, the others that jax needs, and what gives them all.
SCHEDULERS = {
    "Slurm": (
        "SLURM_NTASKS",
        "SLURM_PROCID",
        1,  # 0 stands in the job's own script too
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID"),
        "start it by srun",
    ),
    "Open MPI": (
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        0,
        ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_LOCAL_RANK"),
        "give --coordinator, --num_processes and --process_id",
    ),
}


def _scheduled() -> bool:
    """Whether a scheduler that jax can read started more than one process.

    A shell within an allocation has only some of its variables: what is started there is alone,
    and is told so.

    Raises:
        InputError: this process is one of several that cannot find each other.
    """
    env = os.environ
    for name, (count, rank, several, others, remedy) in SCHEDULERS.items():
        if _number(count) > 1:
            missing = [variable for variable in (rank, *others) if not env.get(variable)]
            if not missing:
                return True
            said = f"{count} is {env[count]}, but {name}'s {missing[0]} is missing"
            if _number(rank, -1) >= several:
                raise InputError(f"{said}: processes of one run cannot find each other; {remedy}")
            said += f": this process runs alone; for several, {remedy}"
            print(f"warning: {said}", file=sys.stderr, flush=True)
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        if importlib.util.find_spec("kubernetes") is None:
            raise InputError(
                "an indexed job of Kubernetes is joined by the package kubernetes; pip install "
                "it, or give --coordinator, --num_processes and --process_id"
            )
        return True
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or _number("MEGASCALE_NUM_SLICES") > 1


def _number(variable: str, without: int = 0) -> int:
    """The number that a variable of the environment is, or begins with."""
    found = re.match(r"\d+", os.environ.get(variable, ""))
    return int(found[0]) if found else without


def _meet(coordinator: str, processes: int, process: int, limit: float) -> None:
    """Wait until all processes are here; jax itself would end them with a stack trace.

    Process 0 listens where jax will, and lets all go when every other one has said its number.

    Raises:
        InputError: process 0 cannot listen there.
        TryAgain: some did not come, which process 0 names; or process 0 did not.
    """
    host, _, port = coordinator.rpartition(":")
    host, end = host.strip("[]"), time.monotonic() + limit
    if process == 0:
        _call_the_roll(int(port), processes, end, limit)
        return
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.sendall(f"{HELLO} {process}\n".encode())
                line.settimeout(max(1.0, end - time.monotonic()))
                if line.recv(2) == b"go":
                    return
        except OSError:
            pass  # not there yet, or it began again
        if time.monotonic() > end:
            raise TryAgain(
                f"process {process} of {processes}: process 0 did not come to {coordinator} within "
                f"{limit:g} s; look whether it runs, and whether that address is its own"
            )
        time.sleep(0.2)


def _call_the_roll(port: int, processes: int, end: float, limit: float) -> None:
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} ({error.strerror}); give another one to all"
        ) from error
    here: dict[int, socket.socket] = {}
    with listener, contextlib.ExitStack() as lines:
        while missing := sorted(set(range(1, processes)) - set(here)):
            listener.settimeout(max(0.01, end - time.monotonic()))
            try:
                line, _ = listener.accept()
                lines.enter_context(line)
                line.settimeout(5)
                said = line.recv(64).decode(errors="replace").split()
            except TimeoutError:
                said = []
            if len(said) == 2 and said[0] == HELLO and said[1].isdigit():
                here[int(said[1])] = line
            if missing and time.monotonic() > end:
                some = ", ".join(map(str, missing[:10])) + ", ..." * (len(missing) > 10)
                raise TryAgain(
                    f"of {processes} processes {len(missing)} did not come within {limit:g} s: "
                    f"{some}; look at their output"
                )
        for line in here.values():
            with contextlib.suppress(OSError):
                line.sendall(b"go")


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
