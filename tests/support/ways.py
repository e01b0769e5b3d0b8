"""Ways through the house: which files of the package work enters, and how often it climbs.

`python -m tests.support.ways restore|auto|train` tells the way of a photograph through
`tdr restore`, with a sentence or without one, and that of a batch from its config to the gradient.

A file counts as entered once a function of it runs, methods, comprehensions and what JAX traces
included, networks (`models/`, `nn/`) like all others; code that runs because a module is imported
does not count, the package's lazy names among it, nor what other threads do. `Way.stations` leaves
out `nn/`, the parts that one network is made of, and `images/codecs/`, those of a file format.

A climb is a pair of files (caller, callee), counted once however often the one calls the other, in
which the callee lies on a higher floor than the caller, or on the same floor in a file that waits
for the caller already. The caller is the nearest file of the package among those that wait: what
JAX or NumPy call back was called by who called them. Floors are the layers of the house, from the
ground up.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import tdr_jax

ROOT = Path(tdr_jax.__file__).parent
PARTS = ("nn/", "images/codecs/")
# From the ground up; a package stands for all files in it that are not named themselves.
FLOORS = (
    ("errors", "runtime", "disk", "distributed", "__init__"),
    ("degradations",),
    ("images",),
    ("nn",),
    ("models",),
    ("diffusion",),
    ("convert",),
    ("text",),
    ("weights",),
    ("data",),
    tuple(f"analysis/{name}" for name in ("flops", "hardware", "hlo", "jaxpr", "memory", "reach")),
    ("infer",),
    ("evaluate",),
    ("objectives",),
    ("train",),
    ("analysis",),
    ("sweeps",),
    ("commands",),
    ("cli", "app"),
)


@dataclasses.dataclass
class Way:
    """What was entered, in the order of entering, and the pairs of files that climb.

    Attributes:
        files: relative to the package, such as "infer/restorer.py".
        climbs: (caller, callee).
    """

    files: list[str] = dataclasses.field(default_factory=list)
    climbs: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def stations(self) -> list[str]:
        """The files without those of `nn/` and `images/codecs/`."""
        return [name for name in self.files if not name.startswith(PARTS)]

    def __str__(self) -> str:
        """Returns the two lists as text."""
        lines = [f"{len(self.files)} files, {len(self.stations)} of them stations"]
        lines += [f"  {name}" for name in self.files]
        lines += [f"{len(self.climbs)} climbs", *(f"  {a} -> {b}" for a, b in self.climbs)]
        return "\n".join(lines)


def floor(name: str) -> int:
    """Returns the floor of a file, counted from the ground.

    Args:
        name: relative to the package, with forward slashes.

    Raises:
        KeyError: the plan has no room for it.
    """
    stem = name.removesuffix(".py").removesuffix("/__init__")
    for part in (stem, stem.split("/")[0]):
        for number, rooms in enumerate(FLOORS):
            if part in rooms:
                return number
    raise KeyError(f"{name} lies in no room of the house")


@contextlib.contextmanager
def followed() -> Iterator[Way]:
    """Follows what this thread does inside the block.

    Yields:
        the Way, which grows as the block runs.
    """
    way = Way()
    prefix = str(ROOT) + "/"
    edges: set[tuple[str, str]] = set()

    def look(frame, event, _):
        if event != "call" or not frame.f_code.co_filename.startswith(prefix):
            return
        waiting = []  # files of the package that wait, the nearest first
        above = frame
        while above is not None:
            if above.f_code.co_filename.startswith(prefix):
                if above.f_code.co_name in ("<module>", "__getattr__"):  # an import
                    return
                waiting.append(above.f_code.co_filename.removeprefix(prefix))
            above = above.f_back
        callee = waiting.pop(0)
        if callee not in way.files:
            way.files.append(callee)
        edge = (waiting[0] if waiting else callee, callee)
        if edge[0] == callee or edge in edges:
            return
        rise = floor(callee) - floor(edge[0])
        if rise > 0 or (rise == 0 and callee in waiting):
            edges.add(edge)
            way.climbs.append(edge)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield way
    finally:
        sys.setprofile(before)


def of_restore(picture: Path, target: Path, *options: str) -> Way:
    """Follows a photograph from `tdr restore` to the file written.

    Args:
        picture: a file.
        target: to be written.
        *options: of the command, such as "--prompt", "remove the noise".
    """
    import argparse

    from tdr_jax.commands import restore

    parser = argparse.ArgumentParser()
    restore.add_arguments(parser)
    args = parser.parse_args([str(picture), "-o", str(target), *options])
    with followed() as way:
        assert restore.run(args) == 0
    return way


def of_a_batch(config, workdir: Path) -> Way:
    """Follows a batch from the config of a run to its gradient.

    The way holds what makes the objective, its first batch (in this thread), the parameters to
    start from, and the loss and its gradient; not what compiles, updates, saves or tells.

    Args:
        config: of a run, such as `configs.quickstart.get_config()`.
        workdir: an empty folder.
    """
    import jax

    from tdr_jax import objectives

    config.data.workers = 0
    with followed() as way:
        objective = objectives.make(config, workdir)
        params = objective.initial_params()
        batch = next(iter(objective.batches(0)))
        key = jax.random.key(0)
        frozen = objective.frozen
        loss = lambda params: objective.loss(params, batch, key, *frozen)[0]  # noqa: E731
        jax.eval_shape(jax.grad(loss), params)
    return way


def _main(what: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if what == "train":
            from configs import quickstart

            print(of_a_batch(quickstart.get_config(), Path(folder)))
            return
        from PIL import Image

        noise = Image.effect_noise((64, 48), 60)  # so that "auto" finds something
        Image.merge("RGB", [noise] * 3).save(Path(folder, "in.png"))
        options = ["--prompt", "auto" if what == "auto" else "remove the noise"]
        print(of_restore(Path(folder, "in.png"), Path(folder, "out.png"), *options))


if __name__ == "__main__":
    _main(*sys.argv[1:])
