"""Networks that do something simple to a picture, with what a real one tells of itself."""

import dataclasses
import types
from collections.abc import Callable

from tdr_jax.models import Capabilities


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by what it is, as a closure is
class FakeNetwork(Capabilities):
    """What it takes hangs on its config alone, as with a real one."""

    apply: Callable
    config: types.SimpleNamespace
    name: str = "fake"


def fake(apply, channels=(3, 3), multiple=8, name="fake", **config) -> FakeNetwork:
    """Makes one of a function of parameters and pictures, and further fields of its config."""
    config = types.SimpleNamespace(multiple=multiple, channels=channels, **config)
    return FakeNetwork(apply, config, name)
