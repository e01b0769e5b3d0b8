"""Walking through traced programs."""

from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn


def inner(equation) -> Iterator[Jaxpr]:
    """The programs that an equation runs: a scan's body, a jitted or differentiable function."""
    for value in equation.params.values():
        yield from _programs(value)


def _programs(value):
    value = getattr(value, "jaxpr", value)  # of a closed program, the program itself
    if hasattr(value, "eqns"):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _programs(part)


def live(program: Jaxpr) -> list[JaxprEqn]:
    """The equations that the program's results hang on, in their order."""
    wanted, found = set(variables(program.outvars)), []
    for equation in reversed(program.eqns):
        if wanted & set(equation.outvars):
            wanted |= set(variables(equation.invars))
            found.append(equation)
    return found[::-1]


def variables(atoms) -> list:
    """Those of an equation's or program's inputs or results that are no constants."""
    return [atom for atom in atoms if not hasattr(atom, "val")]
