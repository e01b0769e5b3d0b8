"""How much memory a picture needs whole and strip by strip, as the compiler counts it.

    python scripts/measure_strips.py textpromptir --size 3000x4000 [--memory 5.2GB] [--whole]

Compiles the programs of every pass for a picture of that size, and adds what the most needy of them
takes to what is kept beside it; nothing is run, and no weights are read. `--whole` compiles the
program for the whole picture as well. Some minutes for large networks.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from tdr_jax import models
from tdr_jax.infer import amounts, strips


class Counted(strips._Run):
    """A restoration of which the programs are compiled, and not run."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.needs: dict[tuple, int] = {}
        self.results: dict[tuple, tuple] = {}

    def _sweep(self, program, given, each, scale, sources, last):
        """Yield zeros for the first group of pieces alone, for as long as shapes are new."""
        pieces, _ = self._groups(each, scale)
        windows = tuple(
            jax.ShapeDtypeStruct(
                (
                    1,
                    pieces * source.rows + 2 * each.halo * scale // source.kept.scale,
                    self.width // source.kept.scale,
                    source.kept.channels,
                ),
                source.kept.dtype,
            )
            for source in sources
        )
        (params, beside, totals), side = given, np.ones(1, np.int32)
        shapes = (leaf.shape for leaf in jax.tree.leaves((params, totals)))
        key = program, windows, tuple(shapes)
        if key not in self.needs:
            inputs = params, windows, beside, totals, np.int32(0), side, side
            need = program.lower(*inputs).compile().memory_analysis()
            read = sum(window.size * window.dtype.itemsize for window in windows)
            # What goes in lies in NumPy's memory and in JAX's.
            self.needs[key] = need.temp_size_in_bytes + need.output_size_in_bytes + 2 * read
            zeros = lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape)  # noqa: E731
            self.results[key] = jax.tree.map(zeros, jax.eval_shape(program, *inputs))
        yield 0, self.results[key]


def main() -> None:
    """Prints one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="one of models.names()")
    parser.add_argument("--size", default="3000x4000", help="height x width")
    parser.add_argument("--memory", help="limit of the strips (default: the least that will do)")
    parser.add_argument("--whole", action="store_true", help="compile for the whole picture too")
    args = parser.parse_args()
    network = models.build(args.name)
    shapes = network.abstract_params()
    multiple, channels = network.config.multiple, network.config.channels[0]
    height, width = (-(-int(side) // multiple) * multiple for side in args.size.split("x"))
    vectors = [np.zeros(network.config.text_dim, np.float32)] if network.takes_sentence else []

    zeros = {name: np.broadcast_to(np.float32(0), spec.shape) for name, spec in shapes.items()}
    cut = strips.Strips(network, zeros)
    limit = amounts.parse(args.memory) if args.memory else cut.least(height, width)
    picture = np.broadcast_to(np.float32(0), (height, width, channels))
    run = Counted(cut, picture, vectors, limit, lambda done, total: None)
    run()
    kept, need = cut.stored(height, width), max(run.needs.values())
    told = (f"{size / 1e9:.2f} GB" for size in (kept, need, limit))
    print("strips: {} kept and {} for a strip, of {}".format(*told))
    print(f"{len(run.needs)} programs, {run.total} parts in all passes", flush=True)
    if args.whole:
        images = jax.ShapeDtypeStruct((1, *picture.shape), jnp.float32)
        beside = [vector[None] for vector in vectors]
        need = jax.jit(network.apply).lower(shapes, images, *beside).compile().memory_analysis()
        bytes_ = need.temp_size_in_bytes + need.output_size_in_bytes + picture.size * 4
        print(f"whole: {bytes_ / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
