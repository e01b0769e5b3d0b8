"""How much memory a network needs for each pixel, told from its trace: nothing is compiled."""

import jax
from jax.extend.core import Jaxpr

from tdr_jax.analysis import jaxpr

SIDE = 256  # of the traced picture: large enough that what does not grow with it hardly counts


def bytes_per_pixel(network) -> float:
    """Estimate the memory that a forward pass needs beside the parameters, by liveness.

    Every intermediate result counts from where it is made to where it is last used. The compiler
    fuses some of them away and keeps others longer: for the published networks that is
    between two fifths more (SFNet) and half less (the Restormer family) than estimated.

    A guided network is given guidance as large as the picture. What is alive at once grows at most
    in proportion to both, so that this bounds the need with smaller guidance as well.

    Args:
        network: a Network that restores pictures.

    Returns:
        bytes a pixel of the picture.
    """
    multiple = network.config.multiple
    side = -(-SIDE // multiple) * multiple
    inputs = network.abstract_inputs(side)
    trace = jax.make_jaxpr(network.apply)(network.abstract_params(), *inputs)
    return peak(trace.jaxpr) / side**2


def peak(program: Jaxpr) -> int:
    """Return the most bytes alive at once among the results of a program's equations."""
    last, equations = {}, jaxpr.live(program)
    for place, equation in enumerate(equations):
        last |= {var: place for var in jaxpr.variables(equation.invars)}
    last |= {var: len(equations) for var in jaxpr.variables(program.outvars)}
    alive = most = 0
    sizes = {}
    for place, equation in enumerate(equations):
        made = {var: _size(var) for var in equation.outvars}
        inner = max((peak(sub) for sub in jaxpr.inner(equation)), default=0)
        most = max(most, alive + max(inner, sum(made.values())))
        sizes |= {var: size for var, size in made.items() if last.get(var, -1) > place}
        for var in jaxpr.variables(equation.invars):
            if last[var] == place:
                sizes.pop(var, None)
        alive = sum(sizes.values())
    return most


def _size(var) -> int:
    return var.aval.size * var.aval.dtype.itemsize
