"""Traces of a few steps, for TensorBoard's profile page, xprof or Perfetto."""

from pathlib import Path

import jax

from tdr_jax.errors import InputError


class Profile:
    """Records what the devices do in some steps, in `workdir/profile`.

    Args:
        steps: "100:110" for the ten steps after step 100, or "" for none.
        workdir: the run's folder.

    Raises:
        InputError: `steps` is no such range.
    """

    def __init__(self, steps: str, workdir):
        self._folder = Path(workdir) / "profile"
        self._first = self._last = -1
        self._recording = False
        if steps:
            first, _, last = steps.partition(":")
            if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
                raise InputError(f"--profile {steps} is no range of steps; give one like 100:110")
            self._first, self._last = int(first), int(last)

    def begin(self, step: int) -> None:
        """Called before a step with the number of finished ones."""
        # A run that goes on within the range records what is left of it.
        if not self._recording and self._first <= step < self._last:
            jax.profiler.start_trace(self._folder)
            self._recording = True

    def end(self, step: int, metrics) -> None:
        """Called after a step with the number of finished ones and what it gave."""
        if self._recording and step == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes what was recorded."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
