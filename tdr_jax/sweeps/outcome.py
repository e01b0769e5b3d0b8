"""What the folder of a run tells: how far it is, and how it ended."""

import json
from pathlib import Path

from tdr_jax.errors import InputError
from tdr_jax.runtime import STOPPED
from tdr_jax.sweeps import locks
from tdr_jax.sweeps.plan import Run
from tdr_jax.train.changes import flat
from tdr_jax.train.workdir import HPARAMS, METRICS, RESULT

LOG = "log.txt"
STATUS = "status.txt"  # how the process of a run ended, from its end to the next start

# May change between two starts of a run: they decide how far it goes and what it writes, not what
# it learns.
FREE = {
    *(
        "data.stages",
        "data.workers",
        "data.cache_mb",
        "data.check",
        "log_every",
        "save_every",
        "keep",
    ),
    *("eval_every", "panel_every"),
}


def result(run: Run) -> dict | None:
    """The result of a finished run; None if it has not reached the step its config asks for."""
    found = _read_json(run.workdir / RESULT)
    return found if found and found["step"] == run.steps else None


def records(run: Run) -> list[dict]:
    """What the run has measured so far, a dict a step."""
    from tdr_jax.train.writers import read_jsonl

    return read_jsonl(run.workdir / METRICS)


def last_step(run: Run) -> int:
    """The last step of which there is a record, 0 if there is none."""
    return max((record["step"] for record in records(run)), default=0)


def state(run: Run) -> str:
    """In a word or two: finished, running, failed, unfinished or not started."""
    if result(run):
        return "finished"
    if locks.is_held(run.workdir / locks.RUN):
        return "running"
    try:
        status = int((run.workdir / STATUS).read_text())
    except (OSError, ValueError):
        return "unfinished" if (run.workdir / LOG).exists() else "not started"
    return "unfinished" if status in (0, STOPPED) else f"failed ({ending(status)})"


def ending(status: int) -> str:
    """How a process ended, from its exit status; a signal is negative, or 128 more in a shell."""
    import signal

    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"status {status}"


def last_line(run: Run) -> str:
    """The last line of the run's log that is not empty."""
    try:
        text = (run.workdir / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def refuse_others(runs) -> None:
    """Refuse to go on with a run that was begun with other settings.

    Args:
        runs: of the sweep.

    Raises:
        InputError: names the folder and the field.
    """
    for run in runs:
        held = flat(_read_json(run.workdir / HPARAMS) or {})
        wanted = flat(run.config.to_dict())
        for name in sorted(held.keys() & wanted.keys() - FREE):
            if held[name] != wanted[name]:
                raise InputError(
                    f"{run.workdir} holds a run with {name}={held[name]!r}, but the sweep asks for "
                    f"{wanted[name]!r}; give another --workdir, or remove that folder"
                )


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):  # hparams.json is cut off where its writer was killed
        return None
