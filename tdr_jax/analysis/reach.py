"""How far a program looks up and down in pictures, told from its trace."""

import math
from collections.abc import Sequence
from fractions import Fraction

from jax.extend.core import ClosedJaxpr, Jaxpr

from tdr_jax.analysis import jaxpr

# Of the inputs that something hangs on, each with how far from its own rows it looks.
Reaches = dict[int, Fraction]
INSIDE = -1  # stands among them for what the program makes of nothing


def rows(program: ClosedJaxpr, height: int) -> tuple[list[int], int]:
    """Tell which inputs a result hangs on, and how far above and below its rows it looks.

    Args:
        program: traced with convolutions as such, see `nn.backend.compiling_for`. Its results are
            NHWC, or sums over H.
        height: of the pictures in rows; features of fewer rows stand for the same.

    Returns:
        the inputs by number, and the rows of a picture, rounded up: those of the inputs, or of what
        the program makes itself.

    Raises:
        ValueError: it holds an operation of which this is not known.
    """
    starts: list[Reaches] = [{index: Fraction(0)} for index in range(len(program.jaxpr.invars))]
    found = _merged(_walk(program.jaxpr, starts, height))
    return sorted(found.keys() - {INSIDE}), math.ceil(max(found.values()))


def _walk(program: Jaxpr, starts: Sequence[Reaches], height: int) -> list[Reaches]:
    known = dict(zip(program.invars, starts, strict=True))

    def of(atom) -> Reaches:
        return (
            {INSIDE: Fraction(0)}
            if hasattr(atom, "val")
            else known.get(atom, {INSIDE: Fraction(0)})
        )

    for equation in jaxpr.live(program):
        inputs = [of(atom) for atom in equation.invars]
        subprograms = list(jaxpr.inner(equation))
        if equation.primitive.name == "conv_general_dilated":
            own = _of_convolution(equation, height)
            outputs = [_merged([{i: reach + own for i, reach in inputs[0].items()}, inputs[1]])]
        elif subprograms and any(each.keys() - {INSIDE} for each in inputs):
            if len(subprograms) > 1 or len(subprograms[0].invars) != len(inputs):
                raise ValueError(f"how far {equation.primitive.name} looks is not known")
            outputs = _walk(subprograms[0], inputs, height)
        else:
            outputs = [_merged([*inputs, {INSIDE: Fraction(0)}])] * len(equation.outvars)
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in program.outvars]


def _merged(several: Sequence[Reaches]) -> Reaches:
    keys = {key for each in several for key in each}
    return {key: max(each.get(key, Fraction(0)) for each in several) for key in keys}


def _of_convolution(equation, height: int) -> Fraction:
    """How far beyond the rows that a row of the result stands for, in rows of the picture."""
    params, (x, kernel) = equation.params, (atom.aval.shape for atom in equation.invars)
    axis, taps = params["dimension_numbers"].lhs_spec[2], params["dimension_numbers"].rhs_spec[2]
    size = (kernel[taps] - 1) * params["rhs_dilation"][0]
    above = params["padding"][0][0]
    below = size - above - (params["window_strides"][0] - 1)
    return max(above, below, 0) * Fraction(height, x[axis])
