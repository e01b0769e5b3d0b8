"""Pictures that cannot be read: found before a run begins, and replaced while it goes on.

A picture is replaced by another of its source, a function of its place alone: all hosts, and a run
that was resumed, take the same one.
"""

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tdr_jax.data.sources import Concat, views_of
from tdr_jax.degradations.draws import REPLACEMENT, example_rng
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb
from tdr_jax.images.headers import size_of

STOP, SKIP = "stop", "skip"
DAMAGED, WHY = "damaged", "why"  # of examples: whether a picture was replaced, and why
CHECKS = ("headers", "all")
THREADS = 8
TRIES = 100  # others that are tried in place of a picture

_log = logging.getLogger(__name__)
_watching: contextvars.ContextVar[list | None] = contextvars.ContextVar("watching", default=None)


class Steady:
    """A source that goes on where a picture cannot be read.

    Args:
        source: see `tdr_jax.data.sources`.
        known: why pictures cannot be read, as far as that was told already.

    An item that cannot be made is another of the same source, with the other's name. Why is told to
    the log once a picture, or to who watches, see `watch`.

    Raises:
        InputError: at `[i]`, if none of many others can be read either.
    """

    def __init__(self, source, known=()):
        self.source, self._told = source, set(known)

    @property
    def names(self):
        return self.source.names

    @property
    def views(self):
        return views_of(self.source)

    @property
    def root(self):
        return getattr(self.source, "root", None)

    @property
    def task(self):
        return getattr(self.source, "task", None)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        try:
            return self.source[index]
        except InputError as error:
            why = str(error)
        watching = _watching.get()
        if watching is not None:
            watching.append("" if why in self._told else why)
        elif why not in self._told:
            tell(why)
            self._told.add(why)
        rng = example_rng(0, index, REPLACEMENT)
        for other in rng.integers(len(self), size=TRIES).tolist():
            with contextlib.suppress(InputError):
                return self.source[other]
        raise InputError(f"{why}; and none of {TRIES} others can be read in its place")


def tell(why: str) -> None:
    """Says of a picture that it is replaced."""
    _log.warning("%s; another picture is taken in its place", why)


@contextlib.contextmanager
def watch() -> Iterator[list[str]]:
    """Yields a list to which is added why a picture was replaced, which nobody else tells then.

    What was told before is added as "".
    """
    found: list[str] = []
    token = _watching.set(found)
    try:
        yield found
    finally:
        _watching.reset(token)


def watched(make: Callable[[int, int], dict], data) -> Callable[[int, int], dict]:
    """Gives a `make(n, size)` whose examples also say whether a picture was replaced, and why.

    Args:
        make: makes an example.
        data: the `data` part of a config; where its `on_damaged` is not "skip", `make` is given.
    """
    if data.get("on_damaged", STOP) != SKIP:
        return make

    def make_one(n, size):
        with watch() as replaced:
            example = make(n, size)
        return example | {
            DAMAGED: np.float32(bool(replaced)),
            WHY: np.array("\n".join(filter(None, replaced))),
        }

    return make_one


def telling(batches: Iterable[dict], data) -> Iterator[dict]:
    """Gives batches of such examples and tells of each picture once, whichever process met it."""
    return _telling(batches) if data.get("on_damaged", STOP) == SKIP else iter(batches)


def _telling(batches: Iterable[dict]) -> Iterator[dict]:
    told: set[str] = set()
    for batch in batches:
        for why in "\n".join(batch.pop(WHY)).split("\n"):
            if why and why not in told:
                tell(why)
                told.add(why)
        yield batch


def check(files, *, every: bool = False) -> list[str]:
    """Looks over picture files before they are used.

    Args:
        files: tuples of the paths of each example, which must have one size.
        every: decode all of them; else their headers and ends are read, see `images.headers`.

    Returns:
        what is wrong, a line an example.
    """

    def attempt(path: Path, decode: bool = every) -> tuple[int, int] | str:
        try:
            return read_rgb(path).shape[1::-1] if decode else size_of(path)
        except InputError as error:
            return str(error)

    examples = list(files)
    paths = list(dict.fromkeys(path for example in examples for path in example))
    with ThreadPoolExecutor(THREADS) as pool:
        seen = dict(zip(paths, pool.map(attempt, paths), strict=True))
    wrong = []
    for example in examples:
        found = {path: seen[path] for path in example}
        if len(set(found.values())) > 1 and not every:  # a header may lie; pixels do not
            found = {path: attempt(path, True) for path in example}
        told = [what for what in found.values() if isinstance(what, str)]
        if not told and len(set(found.values())) > 1:
            sizes = [f"{path} {width}x{height}" for path, (width, height) in found.items()]
            told = [f"{' but '.join(sizes)}; a pair must have one size"]
        wrong += told
    return list(dict.fromkeys(wrong))


def of_config(source, data):
    """Checks a source before step 0, and sees to it that it can be gone on with.

    Args:
        source: see `tdr_jax.data.sources`; with `files`, where it reads any.
        data: the `data` part of a config: `on_damaged`, "stop", or "skip" to take another picture
            in place of each that cannot be read; `check`, "headers", or "all" to decode every
            picture.

    Returns:
        the source, or one that replaces pictures.

    Raises:
        InputError: a field is another, or pictures cannot be used and it is to stop.
    """
    on_damaged = data.get("on_damaged", STOP)
    if on_damaged not in (STOP, SKIP):
        raise InputError(f"config.data.on_damaged is {on_damaged!r}; use {STOP!r} or {SKIP!r}")
    if on_damaged == STOP:
        refuse_damaged(source, data)
        return source
    if isinstance(source, Concat):  # each picture is replaced by one of its own kind
        source.sources = [of_config(part, data) for part in source.sources]
        return source
    wrong = _check(source, data)
    for why in wrong:
        tell(why)
    return Steady(source, wrong)


def refuse_damaged(source, data):
    """Checks a source whose pictures must all be there.

    Args:
        source, data: see `of_config`; `on_damaged` does not matter.

    Raises:
        InputError: pictures cannot be used.
    """
    wrong = _check(source, data)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"{wrong[0]}{more}; `tdr data check` names all that is wrong, and "
            f"--config.data.on_damaged={SKIP} takes others in place of those to train on"
        )


def _check(source, data) -> list[str]:
    checked = data.get("check", CHECKS[0])
    if checked not in CHECKS:
        raise InputError(f"config.data.check is {checked!r}; use one of {', '.join(CHECKS)}")
    return check(getattr(source, "files", ()), every=checked == "all")
