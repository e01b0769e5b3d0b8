"""Commands one after the other in a process of several devices.

`python -m tests.support.commands < words.json`; `run` starts it. A process for each command would
spend most of its time on importing.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from typing import NamedTuple

from tests.support.programs import on_devices


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def run(commands, devices: int, cache) -> list[Ended]:
    """Runs `tdr` with each list of words.

    Args:
        commands: lists of words.
        devices: that the CPU stands for.
        cache: a folder for what the commands keep.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.commands"],
        input=json.dumps([list(map(str, words)) for words in commands]),
        env=on_devices(devices) | {"TDR_CACHE": os.fspath(cache)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Ended(*ended) for ended in json.loads(done.stdout)]


def _run(words: list[str]) -> Ended:
    from tdr_jax import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words)
    return Ended(status, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    print(json.dumps(list(map(_run, json.load(sys.stdin)))))
