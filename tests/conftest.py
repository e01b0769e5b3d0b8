"""What every test stands on: one cache of compiled programs, quick compilation, nothing left over.

The default suite keeps every promise at sizes that compile in seconds, with XLA's optimisations
left out. `--full` runs the tests marked `full` instead, at published sizes and compiled as for use.
"""

import gc
import os
import shlex
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

CACHE = "TDR_CACHE"
STARTED = "TDR_TESTS_STARTED"  # set by the first process; its workers use the same cache
OPTIMISE = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# The fusion emitters take half of the time that XLA needs for a program, optimised or not, and
# cutting a program for LLVM's threads a twelfth. The kernels are those that `train` and `generate`
# choose: no test sees others because one ran before.
QUICK_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_experimental_ynn_fusion_type="
)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the full-size checks, and only these")


def pytest_configure(config):
    """Sets the environment before anything imports JAX; programs that tests start inherit it."""
    if STARTED not in os.environ:
        os.environ[STARTED] = os.environ[CACHE] = tempfile.mkdtemp(prefix="tdr-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(STARTED), ignore_errors=True))
    quick = not config.getoption("--full")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, for compiling ahead, looks for TPUs
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ[STARTED], "xla")),
        # Those of single operations compile as fast as they are written and read.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        OPTIMISE: str(int(quick)),
        "XLA_FLAGS": QUICK_FLAGS if quick else "",
        # What the package and tensorboardX set where they are imported or first used.
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "CRC32C_SW_MODE": "auto",
    }
    if quick:  # threads of PyTorch's that wait for each other spin, and workers share the cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Tracing makes objects by the million; collecting them as often as Python does is a fifth of
    # the time of tests that trace.
    gc.set_threshold(200_000, 50, 1000)
    from jaxtyping import install_import_hook

    from tests.support import (
        checked,
        torchvision_shim,  # noqa: F401 (before transformers looks for it)
    )

    # From here on, these rooms' functions hold arrays against their signatures.
    install_import_hook(checked.ROOMS, f"{checked.__name__}.{checked.arrays.__name__}")


def pytest_collection_modifyitems(config, items):
    full = config.getoption("--full")
    chosen = [item for item in items if bool(item.get_closest_marker("full")) == full]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def pytest_collection_finish():
    """What was imported stays: no collection of garbage walks through it again."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter, config):
    """A line for each failure: how to run that test again, alone."""
    options = " --full" if config.getoption("--full") else ""
    if seed := config.getoption("randomly_seed", None):
        options += f" --seed {seed}"
    for outcome in ("failed", "error"):
        for report in terminalreporter.getreports(outcome):
            command = f"python3 scripts/run.py test{options} {shlex.quote(report.nodeid)}"
            terminalreporter.write_line(f"again: {command}")


def _state() -> dict:
    """What a test could leave changed for those after it."""
    import cv2  # noqa: F401 (its import sets LD_LIBRARY_PATH)
    import jax
    from PIL import ImageFile

    # `chips.prepare` tells libtpu once a process that there is no TPU.
    passing = ("PYTEST_CURRENT_TEST", "TPU_", "ALLOW_MULTIPLE_LIBTPU_LOAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(passing)}
    return {
        "environment": environment,
        "jax.config": dict(jax.config.values),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)],
        "truncated pictures": ImageFile.LOAD_TRUNCATED_IMAGES,
    }


def _unchanged():
    before = _state()
    yield
    for kind, value in _state().items():
        was = before[kind]
        if isinstance(value, dict):
            value, was = (
                {k: x.get(k) for k in {*value, *was} if value.get(k) != was.get(k)}
                for x in (value, was)
            )
        assert value == was, f"left behind in {kind}: {value}, which was {was}"


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_a_module():
    """No fixture of a module changes what the next module sees."""
    yield from _unchanged()


@pytest.fixture(autouse=True)
def nothing_left_by_a_test(nothing_left_by_a_module):
    """No test changes what the next one sees, and all draw the same numbers in any order."""
    import torch

    torch.manual_seed(0)
    yield from _unchanged()


@pytest.fixture
def unchecked():
    """For tests of what functions themselves say about arrays that their signatures refuse."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def optimised():
    """For modules that compute more than they compile: all of XLA's optimisations.

    `pytestmark = pytest.mark.usefixtures("optimised")`, or as an argument.
    """
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPTIMISE, "0")
        before = jax.config.values["jax_disable_most_optimizations"]
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", before)
