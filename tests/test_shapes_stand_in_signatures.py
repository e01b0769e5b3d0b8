"""Signatures tell shape and dtype of every array, and the tests hold the functions to it."""

import importlib
import inspect
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from tdr_jax import models
from tdr_jax.nn import attention, ops, pooling
from tests.support import checked

# What has no shape to tell, and why.
ALLOWED = {}


def modules():
    for room in checked.ROOMS:
        module = importlib.import_module(room)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{room}."):
            yield importlib.import_module(found.name)


def public():
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    if not method.startswith("_") or method == "__call__":
                        yield f"{module.__name__}.{name}.{method}", function
            elif callable(value):
                yield f"{module.__name__}.{name}", value


def faults(function) -> list[str]:
    if isinstance(function, property):
        function = function.fget
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(function):
        return []
    signature = inspect.signature(function)
    hints = {name: p.annotation for name, p in signature.parameters.items()}
    hints = {name: hint for name, hint in hints.items() if name not in ("self", "cls")}
    hints["what it returns"] = signature.return_annotation
    found = [
        f"{name} has no type" for name, hint in hints.items() if hint is inspect.Parameter.empty
    ]
    return found + [f"{name} has no shape" for name, hint in hints.items() if is_bare(hint)]


def is_bare(hint) -> bool:
    return hint in (jax.Array, np.ndarray) or any(map(is_bare, typing.get_args(hint)))


def test_every_public_function_tells_shapes():
    found = {name: problems for name, f in public() if (problems := faults(f))}
    lines = [f"{name}: {', '.join(problems)}" for name, problems in found.items()]
    assert not [line for line in lines if line.split(":")[0] not in ALLOWED], "\n".join(lines)
    assert not ALLOWED.keys() - found, "exceptions that are none"


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.gelu(jnp.arange(3)),  # of integers
        lambda: ops.matmul(jnp.ones((1, 2, 3)), jnp.ones((1, 4, 5))),  # one size twice
        lambda: jax.jit(pooling.spread, static_argnums=(1, 2))(jnp.ones((2, 3, 4)), 5, 5),
        lambda: attention.attend(*np.ones((3, 1, 2, 8), np.float32)),  # without heads
        lambda: models.build("nafnet").module()(jnp.ones((8, 8, 3))),  # no batch
    ],
)
def test_what_does_not_fit_a_signature_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
