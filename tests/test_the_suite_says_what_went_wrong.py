"""The suite itself: what a test leaves behind is named, and what fails is told how to run again."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import os, jax, pytest

def test_that_leaves_a_variable_behind():
    os.environ["LEFT_BEHIND"] = "1"

def test_that_leaves_a_setting_behind():
    jax.config.update("jax_debug_nans", True)

@pytest.mark.parametrize("name", ["a b"])
def test_that_fails(name):
    raise ValueError

@pytest.mark.full
def test_at_full_size():
    pass
"""


def run(tmp_path, *options):
    """What pytest says of TESTS under the rules of this folder."""
    (tmp_path / "test_odd.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml"]
    command += ["-p", "tests.conftest", "--randomly-seed=7", *options, tmp_path / "test_odd.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_what_is_left_behind_and_what_fails_is_named(tmp_path):
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert "left behind in environment: {'LEFT_BEHIND': '1'}" in ended.stdout
    assert "left behind in jax.config: {'jax_debug_nans': True}" in ended.stdout
    again = {line for line in ended.stdout.splitlines() if line.startswith("again: ")}
    assert len(again) == 3
    (failed,) = (line for line in again if "test_that_fails" in line)
    assert failed.startswith("again: python3 scripts/run.py test --seed 7 '")
    assert failed.endswith("::test_that_fails[a b]'")  # quoted for a shell
    assert "1 deselected" in ended.stdout


def test_full_sizes_run_alone(tmp_path):
    ended = run(tmp_path, "--full")
    assert ended.returncode == 0, ended.stdout
    assert "1 passed, 3 deselected" in ended.stdout
