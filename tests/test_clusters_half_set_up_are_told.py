"""What a scheduler left in the environment never ends in a traceback, and nobody waits for ever."""

import socket
import threading

import pytest

from tdr_jax import distributed
from tdr_jax.errors import InputError, TryAgain

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-4]"}
STEP = {"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_LOCALID": "0"}


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of a scheduler, and takes away those of the machine."""

    def set_to(variables):
        for name in list(distributed.os.environ):
            if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JOB_")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    "variables, missing",
    [
        (ALLOCATION, "SLURM_PROCID"),  # a shell of salloc, an editor's remote session
        (ALLOCATION | {"SLURM_PROCID": "0"}, "SLURM_STEP_NODELIST"),  # sbatch's own script
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_a_process_outside_of_a_step_runs_alone_and_says_so(
    environment, capsys, variables, missing
):
    environment(variables)
    distributed.initialize()
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and f"{missing} is missing: this process runs alone" in said


def test_processes_that_cannot_find_each_other_are_refused(environment):
    environment({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"})
    with pytest.raises(InputError, match="OMPI_MCA_orte_hnp_uri is missing.*give --coordinator"):
        distributed.initialize()
    environment(ALLOCATION | {"SLURM_PROCID": "3"})
    with pytest.raises(InputError, match="SLURM_STEP_NODELIST is missing.*start it by srun"):
        distributed.initialize()


@pytest.mark.parametrize("value", ["", "many", "1"])
def test_strange_counts_are_no_cluster(environment, value):
    environment({"SLURM_NTASKS": value, "MEGASCALE_NUM_SLICES": value})
    distributed.initialize()


def test_a_whole_step_is_joined(environment, monkeypatch):
    environment(ALLOCATION | STEP | {"SLURM_PROCID": "0"})
    joined = []
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda *a: joined.append(a))
    distributed.initialize()
    assert joined == [()]


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def test_all_go_when_all_are_here():
    address, gone = f"localhost:{free_port()}", []

    def come(process):
        distributed._meet(address, 3, process, 20)
        gone.append(process)

    threads = [threading.Thread(target=come, args=(process,)) for process in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(gone) == [0, 1, 2]


def test_who_does_not_come_is_named():
    address = f"localhost:{free_port()}"
    early = threading.Thread(
        target=lambda: pytest.raises(TryAgain, distributed._meet, address, 4, 2, 1)
    )
    early.start()
    with pytest.raises(TryAgain, match=r"of 4 processes 2 did not come within 1 s: 1, 3; look at"):
        distributed._meet(address, 4, 0, 1)
    early.join()
    with pytest.raises(TryAgain, match=r"process 1 of 4: process 0 did not come to localhost"):
        distributed._meet(address, 4, 1, 0.3)
