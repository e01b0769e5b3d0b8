"""How much arithmetic a training step is, counted in its trace: nothing is compiled."""

import dataclasses
import math

import jax

from tdr_jax.analysis import jaxpr
from tdr_jax.models import Network


def of_step(loss, params, batch, frozen=()) -> float:
    """Count the FLOPs that one step needs, those that are done again to save memory left out.

    Args:
        loss: what is differentiated, see `tdr_jax.objectives.base.Objective`.
        params: what it is differentiated by, arrays or shapes.
        batch: the whole batch, arrays or shapes.
        frozen: what else the loss takes.

    Returns:
        FLOPs of the matrix products and convolutions of the loss and its gradient; XLA's own count
        takes the body of a loop once, however often it runs.
    """
    plain = _without_remat(loss)

    def step(params, batch, *frozen):
        rng = jax.random.key(0)
        return jax.value_and_grad(plain, has_aux=True)(params, batch, rng, *frozen)

    size = len(next(iter(batch.values())))
    rows = {"row": jax.ShapeDtypeStruct((size,), "int32")}
    return count(jax.make_jaxpr(step)(params, batch | rows, *frozen).jaxpr)


def count(program) -> float:
    """FLOPs of the matrix products and convolutions of a program, a product and a sum as two."""
    total = 0.0
    for equation in program.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[d] for d in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            produced = math.prod(equation.outvars[0].aval.shape)
            total += 2.0 * produced * math.prod(kernel) / outputs
        else:
            inner = [count(part) for part in jaxpr.inner(equation)]
            if name == "scan":
                total += parameters["length"] * sum(inner)
            else:
                total += max(inner, default=0.0) if name == "cond" else sum(inner)
    return total


class Counter:
    """The FLOPs of a step, counted once for each shape of batches.

    Args:
        loss, params, frozen: see `of_step`.
    """

    def __init__(self, loss, params, frozen):
        self._loss, self._params, self._frozen = loss, params, frozen
        self._known = {}

    def __call__(self, batch) -> float:
        """FLOPs of a step with this batch, arrays or shapes."""
        key = tuple((name, value.shape) for name, value in batch.items())
        if key not in self._known:
            self._known[key] = of_step(self._loss, self._params, batch, self._frozen)
        return self._known[key]


def _without_remat(value):
    """A loss with every network in it as it is when nothing is computed twice."""
    if isinstance(value, Network):
        return value.replace(remat=False) if getattr(value.config, "remat", False) else value
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **{k: _without_remat(v) for k, v in fields.items()})
