"""A folder of its own for what a test module's commands keep."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Gives TDR_CACHE to each module that imports this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
