"""One compilation cache and one cache of sentence vectors for the whole run of the tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, for compiling ahead, looks for TPUs aloud

import jax
import pytest

from tests.support import torchvision_shim  # noqa: F401 (before transformers looks for torchvision)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """Points both caches at a folder of this run: no test sees what another run left behind."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("TDR_CACHE", str(folder))
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def quick_to_compile():
    """For modules whose time goes into compiling what then runs for a moment: slower machine code.

    `pytestmark = pytest.mark.usefixtures("quick_to_compile")`.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
