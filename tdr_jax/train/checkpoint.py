"""Saving a run and going on with it: Orbax checkpoints in `workdir/checkpoints`."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from etils import epath

from tdr_jax import distributed
from tdr_jax.errors import InputError
from tdr_jax.train.state import State
from tdr_jax.train.workdir import CHECKPOINTS, DAMAGED

CHECKSUM = "checksum"
# Orbax logs a stack trace for each of its threads that meets a full disk; `wait` raises it anyway.
_QUIET = "_SignalingThread.run() raised an exception"
# What Orbax raises for files that are cut off, missing or changed.
DAMAGE = (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError)


class Checkpoints:
    """The checkpoints of one run, saved every so many steps, the newest few kept.

    A checkpoint is written under a temporary name and renamed when it is whole, so a save that is
    interrupted leaves the earlier ones as they were; what it left behind is removed at the start.

    Args:
        workdir: the run's folder, on disk or in a bucket (gs://...).
        every: save when the number of finished steps is a multiple of this.
        keep: how many of the newest checkpoints stay.
        say: prints a line.
    """

    def __init__(self, workdir, *, every: int, keep: int, say: Callable[[str], None] = print):
        from orbax.checkpoint import v1 as ocp

        self._say, self._writing = say, None
        logging.getLogger("absl").addFilter(_unheard)
        self._workdir = epath.Path(workdir).resolve()
        when = ocp.training.save_decision_policies
        which = ocp.training.preservation_policies
        # Orbax's own defaults save whenever idle and keep everything.
        self._orbax = ocp.training.Checkpointer(
            self._workdir / CHECKPOINTS,
            save_decision_policy=when.AnySavePolicy(
                [when.FixedIntervalPolicy(every), when.PreemptionCheckpointingPolicy()]
            ),
            preservation_policy=which.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def restore(self, state: State) -> State:
        """Load the newest checkpoint that can be read.

        One that cannot is said so, and put aside in `workdir/damaged`.

        Args:
            state: a fresh state; gives names, shapes, dtypes and shardings.

        Returns:
            the saved state, bit for bit and placed as `state` is; `state` itself if nothing has
            been saved yet.

        Raises:
            InputError: if the checkpoint holds other names or shapes than `state`, or if there are
                checkpoints and none of them can be read.
        """
        self.wait()
        steps = [checkpoint.step for checkpoint in self._orbax.checkpoints]
        for step in sorted(steps, reverse=True):
            try:
                loaded = self._load(step, state)
            except InputError:
                raise
            except DAMAGE:
                loaded = None
            if distributed.all_agree(loaded is not None):
                return loaded
            where = f"{self._workdir / CHECKPOINTS / str(step)} is damaged"
            if step == min(steps):
                raise InputError(
                    f"{where}, and no other checkpoint is left; put a good one there, or start "
                    "again with another --workdir"
                )
            if distributed.is_lead():
                self._say(f"{where}; it is now in damaged/, and the one before it is used")
                self._put_aside(step)
            distributed.barrier("a damaged checkpoint is put aside")
            self._orbax.reload()
        return state

    def _load(self, step: int, state: State) -> State:
        wanted = _flat(state)
        about = self._orbax.metadata(step)
        if about.metadata is None:
            raise ValueError("what it holds cannot be read")
        _check_same(about.metadata, wanted, self._orbax.directory / str(step))
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in wanted.items()
        }
        loaded = self._orbax.load(step, abstract)
        kept = (about.custom_metadata or {}).get(CHECKSUM)
        if kept is not None and kept != int(_checksum(loaded)):
            raise ValueError("its numbers are not those that were saved")
        structure = jax.tree.structure(state)
        return jax.tree.unflatten(structure, [loaded[name] for name in wanted])

    def _put_aside(self, step: int) -> None:
        folder = self._workdir / DAMAGED
        folder.mkdir(exist_ok=True)
        names = [str(step)] + [f"{step}.{n}" for n in range(2, 100)]
        free = next(name for name in names if not (folder / name).exists())
        (self._workdir / CHECKPOINTS / str(step)).rename(folder / free)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after `step` finished steps and is not there yet."""
        return step > 0 and step != self.latest and self._orbax.should_save(step)

    def save(self, step: int, state: State) -> None:
        """Save `state`, unless this very step is saved already.

        Args:
            step: the number of finished steps, a host integer equal to `state.step`.
            state: what to save. It is copied off the devices before this returns, so that the next
                step may reuse its memory, and written while training goes on. A save before it
                that is still being written is waited for.
        """
        self.wait()
        if step != self.latest:
            flat = _flat(state)
            with _disk_errors():
                self._writing = self._orbax.save_async(
                    step, flat, force=True, custom_metadata={CHECKSUM: int(_checksum(flat))}
                )

    def wait(self) -> None:
        """Wait until what is being written is whole.

        Raises:
            OSError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            with _disk_errors():
                writing.result()

    @property
    def latest(self) -> int | None:
        """The newest saved step, None if there is none."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def close(self) -> None:
        """Finish what is being written."""
        with _disk_errors():
            self.wait()
            self._orbax.close()


def _unheard(record: logging.LogRecord) -> bool:
    return _QUIET not in record.getMessage()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Raises what TensorStore says of a disk in a ValueError as the OSError that it was."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _flat(state: State) -> dict[str, jax.Array]:
    # One flat dict of names, as params are: no container class ends up in the file, and a mismatch
    # can be told in names.
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@jax.jit
def _checksum(flat: dict[str, jax.Array]) -> jax.Array:
    """A number, uint32, that any changed bit of the arrays changes, however they are sharded.

    Orbax does not notice changed bytes within an array. Sums of whole numbers do not depend on
    their order, so each device adds up what it has.
    """
    total = jnp.uint32(0)
    for name in sorted(flat):
        leaf = flat[name]
        unsigned = {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        place, stride = jnp.uint32(0), 1  # not by reshape, which would gather what is cut
        for dimension in reversed(range(leaf.ndim)):
            along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, dimension)
            place += jnp.uint32(stride % 2**32) * along
            stride *= leaf.shape[dimension]
        odd = 2 * place + 1  # no bit is lost in a product with such a number
        total = 31 * total + (bits * odd).sum(dtype=jnp.uint32)
    return total


def _check_same(saved, wanted, path) -> None:
    wrong = [f"{name} is missing" for name in wanted if name not in saved]
    wrong += [f"{name} is unknown" for name in saved if name not in wanted]
    wrong += [
        f"{name} is {tuple(saved[name].shape)} instead of {tuple(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in saved and tuple(saved[name].shape) != tuple(leaf.shape)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{path} was saved by a run with another network or optimiser: "
            f"{'; '.join(wrong[:3])}{more}; give another --workdir, or the config of that run"
        )
