"""Following a run while it runs: finite or not, how fast, how far."""

import math
import time
from collections.abc import Callable

from tdr_jax.train.writers import Writer

COUNTS = ("damaged",)  # metrics that are added up over the steps, not averaged


class Progress:
    """Reads each step's metrics one step late, so that the devices never wait for the host.

    Args:
        writer: gets every `log_every` steps the means of the metrics (the sums of COUNTS), and
            beside them `step_seconds`, `images_per_second` and `mfu`, the part of the devices' peak
            that the arithmetic of the steps took, where both are known.
        log_every: in steps.
        start, total: finished steps now and at the end of the run.
        show: draw the bar (on a terminal) or print a line every `log_every` steps (elsewhere).
        saved: tells the step of the newest checkpoint, None where there is none.
        peak: FLOP/s of all devices together, None where it is not known.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        log_every: int,
        start: int,
        total: int,
        show: bool,
        saved: Callable[[], int | None],
        peak: float | None = None,
    ):
        from tqdm import tqdm

        # disable=None: a bar in a log file is a mess.
        self._bar = tqdm(
            initial=start,
            total=total,
            unit="step",
            dynamic_ncols=True,
            disable=None if show else True,
        )
        self._lines = show and self._bar.disable
        self._writer = writer
        self._log_every = log_every
        self._total = total
        self._saved = saved
        self.peak = peak
        self._in_flight = None
        self._paused = 0.0
        self._compiling = True
        self._start_interval()

    def push(self, step: int, metrics, images: int, flops: float = 0.0) -> None:
        """Take over the metrics of a step that was just dispatched, and settle the one before.

        Args:
            step: the number of finished steps once this one is done.
            metrics: dict of scalars still on the device.
            images: pictures in its batch.
            flops: that it takes; 0 where nobody counted.

        Raises:
            FloatingPointError: if the step before was not finite.
        """
        self.settle()
        self._in_flight = step, metrics, images, flops

    def settle(self) -> None:
        """Wait for the step in flight, check it and write it.

        Raises:
            FloatingPointError: names the step whose loss or gradient was not finite.
        """
        if self._in_flight is None:
            return
        (step, metrics, images, flops), self._in_flight = self._in_flight, None
        metrics = {name: float(value) for name, value in metrics.items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                raise FloatingPointError(self._explain(name, metrics[name], step))
        if self._compiling:  # the first step is no measure of speed
            self._compiling = False
            self._began = time.perf_counter()
        else:
            self._images += images
            self._flops += flops
            self._timed += 1
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._bar.update()
        if step % self._log_every == 0 or step == self._total:
            self._write(step)

    def pause(self) -> None:
        """Do not count what comes next (evaluation, saving) as training time; `resume` ends it."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        self._began += time.perf_counter() - self._paused

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _explain(self, name, value, step):
        saved = self._saved()
        last = "nothing was saved before" if saved is None else f"the last good one is step {saved}"
        return (
            f"{name} is {value} at step {step}; no checkpoint of it is kept, {last}; "
            "a lower config.optim.lr or a config.optim.clip above 0 may keep it finite"
        )

    def _write(self, step):
        means = {
            name: total if name in COUNTS else total / self._steps
            for name, total in self._sums.items()
        }
        text = f"loss {means['loss']:.4f}"
        if self._timed:
            seconds = (time.perf_counter() - self._began) / self._timed
            rate = self._images / self._timed / seconds
            means |= {"step_seconds": seconds, "images_per_second": rate}
            text += f"  {rate:.1f} images/s"
            if self.peak and self._flops:
                means["mfu"] = self._flops / self._timed / seconds / self.peak
                text += f"  MFU {means['mfu']:.1%}"
        if means.get("damaged"):
            text += f"  {means['damaged']:.0f} replaced"
        self._writer.write_scalars(step, means)
        self._bar.set_postfix_str(text)
        if self._lines:
            left = f"  {_clock((self._total - step) * seconds)} left" if self._timed else ""
            print(f"step {step}/{self._total}  {text}{left}", flush=True)
        self._start_interval()

    def _start_interval(self):
        self._began = time.perf_counter()
        self._images = self._timed = self._steps = 0
        self._flops = 0.0
        self._sums = {}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
