"""A run of `tdr guide` that was killed half-way ends, started again, as one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support import stacks

ROOT = Path(__file__).resolve().parents[2]
COUNT = 7


def begin(folder, out):
    """Starts the command; its batches are long enough for a kill between the first and last."""
    command = [sys.executable, "-m", "tdr_jax.cli", "guide", folder / "in", "-o", out]
    command += ["--model", folder / "stack", "--steps", 40, "--batch", 2]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT)


def finished(out) -> int:
    try:
        return len(json.loads((out / "manifest.json").read_text())["files"])
    except FileNotFoundError:
        return 0


def contents(out) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path):
    stacks.make(tmp_path / "stack")
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(COUNT):
        picture = random.integers(0, 256, (30 + i, 50 - i, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / ("deeper" if i % 2 else ".") / f"{i}.png")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert begin(tmp_path, whole).wait() == 0

    process = begin(tmp_path, broken)
    while not finished(broken):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = finished(broken)
    assert 0 < done < COUNT
    # What a kill in the middle of writing leaves, and a picture that the manifest misses.
    (broken / ".tdr-1-abcd.part").write_bytes(b"half")
    (broken / ".manifest.json.1").write_bytes(b"{")
    for name in list(json.loads((broken / "manifest.json").read_text())["files"])[:1]:
        data = (broken / name).read_bytes()
        (broken / name).write_bytes(data[: len(data) // 2])

    assert begin(tmp_path, broken).wait() == 0
    assert contents(broken) == contents(whole)
    assert len(contents(whole)) == COUNT + 1
