"""Saving a run and going on with it: Orbax checkpoints in `workdir/checkpoints`."""

from pathlib import Path

import jax

from tdr_jax.errors import InputError
from tdr_jax.train.state import State


class Checkpoints:
    """The checkpoints of one run, saved every so many steps, the newest few kept.

    A checkpoint is written under a temporary name and renamed when it is whole, so a save that is
    interrupted leaves the earlier ones as they were; what it left behind is removed at the start.

    Args:
        workdir: the run's folder.
        every: save when the number of finished steps is a multiple of this.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, workdir, *, every: int, keep: int):
        from orbax.checkpoint import v1 as ocp

        when = ocp.training.save_decision_policies
        which = ocp.training.preservation_policies
        # Orbax's own defaults save whenever idle and keep everything.
        self._orbax = ocp.training.Checkpointer(
            Path(workdir).resolve() / "checkpoints",
            save_decision_policy=when.AnySavePolicy(
                [when.FixedIntervalPolicy(every), when.PreemptionCheckpointingPolicy()]
            ),
            preservation_policy=which.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def restore(self, state: State) -> State:
        """Load the newest checkpoint.

        Args:
            state: a fresh state; gives names, shapes, dtypes and shardings.

        Returns:
            the saved state, bit for bit and placed as `state` is; `state` itself if nothing has
            been saved yet.

        Raises:
            InputError: if the checkpoint holds other names or shapes than `state`.
        """
        if self.latest is None:
            return state
        wanted = _flat(state)
        saved = self._orbax.metadata(self.latest).metadata
        _check_same(saved, wanted, self._orbax.directory / str(self.latest))
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in wanted.items()
        }
        loaded = self._orbax.load(self.latest, abstract)
        structure = jax.tree.structure(state)
        return jax.tree.unflatten(structure, [loaded[name] for name in wanted])

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after `step` finished steps and is not there yet."""
        return step > 0 and step != self.latest and self._orbax.should_save(step)

    def save(self, step: int, state: State) -> None:
        """Save `state` now, unless this very step is saved already.

        Args:
            step: the number of finished steps, a host integer equal to `state.step`.
            state: what to save. Blocks until it is on disk: the next step donates these arrays.
        """
        if step != self.latest:
            self._orbax.save(step, _flat(state), force=True)

    @property
    def latest(self) -> int | None:
        """The newest saved step, None if there is none."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def close(self) -> None:
        """Finish what is being written."""
        self._orbax.close()


def _flat(state: State) -> dict[str, jax.Array]:
    # One flat dict of names, as params are: no container class ends up in the file, and a mismatch
    # can be told in names.
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


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
