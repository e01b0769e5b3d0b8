"""Runs of a sweep as processes of this machine, a few at a time."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.runtime import STOPPED
from tdr_jax.sweeps import locks, outcome, plan

POLL = 0.1  # seconds between two looks at the processes


def launch(runs: Sequence[plan.Run], folder: Path, parallel: int = 1) -> int:
    """Start what is not finished and wait until it is; SIGTERM and Ctrl-C have the runs save first.

    Args:
        runs: of the sweep.
        folder: of the sweep.
        parallel: how many run at once.

    Returns:
        0 if all runs are finished, 1 if some failed, 75 if some were stopped: the same command goes
        on with them.

    Raises:
        InputError: another sweep is at work in the folder, or it holds runs with other settings;
            nothing was started.
    """
    if parallel < 1:
        raise InputError(f"--parallel is {parallel}; give a number of at least 1")
    if not Path("train.py").is_file():
        raise InputError("train.py: not in this folder; call tdr sweep from the project's")
    with locks.take_sweep(folder), _Asked() as asked:
        outcome.refuse_others(runs)
        return _Crew(runs, parallel).work(asked)


class _Asked:
    """Counts the requests to stop; handlers that were there before come back at the end."""

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.count = 0

    def __enter__(self):
        self._before = [signal.signal(number, self._notice) for number in self.signals]
        return self

    def __exit__(self, *_):
        for number, handler in zip(self.signals, self._before, strict=True):
            signal.signal(number, handler)

    def _notice(self, *_):
        self.count += 1


class _Started:
    """A process of ours. It inherits the run's lock and so holds it even after we are killed."""

    def __init__(self, run: plan.Run, lock):
        self.run = run
        (run.workdir / outcome.STATUS).unlink(missing_ok=True)
        with lock, (run.workdir / outcome.LOG).open("ab") as log:
            # A session of its own: Ctrl-C on the terminal is for us alone, and we pass it on.
            self._process = subprocess.Popen(
                run.command(sys.executable),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
            locks.sign(lock, self._process.pid)

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        status = self._process.poll()
        if status is not None:
            (self.run.workdir / outcome.STATUS).write_text(f"{status}\n")
        return status

    def send(self, number: int) -> None:
        self._process.send_signal(number)


class _Found:
    """A process that a sweep left behind when it was killed."""

    def __init__(self, run: plan.Run):
        self.run = run
        self._lock = run.workdir / locks.RUN

    def poll(self) -> int | None:
        """As for a process of ours; how it ended is not known, and the run says if it finished."""
        return None if locks.is_held(self._lock) else STOPPED

    def send(self, number: int) -> None:
        pid = locks.holder(self._lock)
        if pid and locks.is_held(self._lock):
            os.kill(pid, number)


class _Crew:
    """The runs at work, those that wait, and what became of the others."""

    def __init__(self, runs: Sequence[plan.Run], parallel: int):
        self.runs, self.parallel = runs, parallel
        self.waiting = deque(run for run in runs if not outcome.result(run))
        self.working: list[_Started | _Found] = []
        self.failed = 0
        done = len(runs) - len(self.waiting)
        _say(f"{len(runs)} runs, {done} finished before" if done else f"{len(runs)} runs")

    def work(self, asked: _Asked) -> int:
        self._find()
        told = 0
        while self.working or (self.waiting and not asked.count):
            while self.waiting and len(self.working) < self.parallel and not asked.count:
                self._start(self.waiting.popleft())
            if asked.count > told:
                # Whoever asks again does not want to wait for the save.
                number = signal.SIGKILL if told else signal.SIGTERM
                told = asked.count
                for process in self.working:
                    process.send(number)
                _say(f"stopping: waiting for {len(self.working)} to save")
            for process in list(self.working):
                status = process.poll()
                if status is not None:
                    self.working.remove(process)
                    self._end(process, status, asked)
            time.sleep(POLL)
        left = sum(not outcome.result(run) for run in self.runs)
        _say(f"{len(self.runs) - left} of {len(self.runs)} runs are finished")
        if self.failed and not asked.count:
            return 1
        if left:
            _say("the same command goes on with the others")
        return STOPPED if left else 0

    def _find(self):
        for run in list(self.waiting):
            if locks.is_held(run.workdir / locks.RUN):
                self.waiting.remove(run)
                self.working.append(_Found(run))
                self._tell(run, "still running, started by a sweep that was killed")

    def _start(self, run):
        lock = locks.take(run.workdir / locks.RUN)
        if lock is None:
            self.working.append(_Found(run))
            return
        step = outcome.last_step(run)
        self.working.append(_Started(run, lock))
        self._tell(run, f"goes on after step {step}" if step else "started")

    def _end(self, process, status, asked):
        run = process.run
        if outcome.result(run):
            self._tell(run, f"finished, step {run.steps}")
        elif asked.count and status in (0, STOPPED, -signal.SIGTERM, -signal.SIGKILL):
            self._tell(run, f"stopped, step {outcome.last_step(run)}")
        elif isinstance(process, _Found):
            self.waiting.appendleft(run)
        elif status in (0, STOPPED):  # somebody asked this one to save and end
            self._tell(run, f"stopped, step {outcome.last_step(run)}")
        else:
            self.failed += 1
            log = run.workdir / outcome.LOG
            line = outcome.last_line(run)
            self._tell(run, f"failed ({outcome.ending(status)}): {line} [{log}]")

    def _tell(self, run, what):
        _say(f"[{self.runs.index(run) + 1}/{len(self.runs)}] {run.name}: {what}")


def _say(line: str) -> None:
    print(line, flush=True)
