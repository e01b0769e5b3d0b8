"""Programs that a test puts in the place of those of a cluster, and linters beside Python."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

# A program that writes down what it was called with.
RECORD = """
import json, os, sys
record = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
with open(os.environ["RECORDS"], "a") as file:
    file.write(json.dumps(record) + "\\n")
"""

# Arguments of train.py: two steps of a real network, as small as it can be.
SMALL_RUN = (
    "--config=configs/backbone.py:name=nafnet,task=denoise,size=small,data=examples/photos/train",
    "--config.network.overrides.width=2",
    "--config.network.overrides.enc_blk_nums=(1,)",
    "--config.network.overrides.middle_blk_num=1",
    "--config.network.overrides.dec_blk_nums=(1,)",
    "--config.data.stages=((2, 16, 2),)",
    "--config.log_every=1",
)


DEVICES = "--xla_force_host_platform_device_count"


def on_devices(count: int) -> dict[str, str]:
    """The environment of a program for which the CPU stands for so many devices."""
    flags = re.sub(rf"{DEVICES}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return os.environ | {"XLA_FLAGS": f"{flags} {DEVICES}={count}".strip()}


class Programs:
    """A folder that comes first on PATH.

    Args:
        folder: an empty one.
        monkeypatch: pytest's.
    """

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.records = folder / "records.jsonl"
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("RECORDS", str(self.records))

    def put(self, name: str, lines: str) -> None:
        """Add a program, written in Python."""
        program = self.folder / name
        program.write_text(f"#!{sys.executable}\n{lines}")
        program.chmod(0o755)

    def told(self) -> list[dict]:
        """The arguments and the environment of every call of a program that is `RECORD`."""
        if not self.records.exists():
            return []
        return [json.loads(line) for line in self.records.read_text().splitlines()]


def lint(program: str, *arguments, text: str | None = None) -> str:
    """What a linter that pip put beside Python says of a file, or of `text`; "" if all is well."""
    # Python's own folder need not be on PATH.
    command = [Path(sys.executable).with_name(program), *arguments]
    ended = subprocess.run(command, input=text, capture_output=True, text=True)
    return (ended.stdout + ended.stderr) if ended.returncode else ""
