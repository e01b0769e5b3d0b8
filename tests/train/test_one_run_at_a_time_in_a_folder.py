"""A run's folder is held by one run; it is free again when that run has ended, however it did."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time

import pytest

from tdr_jax.errors import InputError, TryAgain
from tdr_jax.train import lock
from tdr_jax.train.workdir import Workdir

BEAT, PATIENCE = 0.05, 0.5


def take(folder):
    return lock.Lock(folder, beat=BEAT, patience=PATIENCE)


def foreign(folder, **changes):
    """Signs the folder for a run of another host."""
    holder = lock.Holder("token", "elsewhere", 12, "345", **changes)
    (folder / lock.LOCK).write_text(json.dumps(dataclasses.asdict(holder)))


def test_the_second_run_leaves_and_says_who_is_there(tmp_path):
    first = take(tmp_path)
    with pytest.raises(InputError, match=rf"another run is at work there, process {os.getpid()} o"):
        take(tmp_path)
    first.check()
    first.release()
    assert not list(tmp_path.iterdir())
    take(tmp_path).release()


def test_a_killed_run_of_this_host_is_followed_at_once(tmp_path):
    hold = f"from tdr_jax.train import lock; lock.Lock(lock.Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", f"{hold}; lock.os._exit(9)"])
    assert done.returncode == 9 and (tmp_path / lock.LOCK).exists()
    begin = time.monotonic()
    lock.Lock(tmp_path).release()  # with a patience of half a minute for those of other hosts
    assert time.monotonic() - begin < 5


def test_a_run_of_another_host_is_alive_while_it_signs(tmp_path):
    foreign(tmp_path)
    begin = time.monotonic()
    held = take(tmp_path)
    assert time.monotonic() - begin >= PATIENCE
    # The one that was taken for dead wakes up, and signs again.
    foreign(tmp_path, beat=7)
    while not held.lost_to:
        time.sleep(BEAT)
    with pytest.raises(TryAgain, match="process 12 on elsewhere took this run over"):
        held.check()
    held.release()
    assert lock.Holder(**json.loads((tmp_path / lock.LOCK).read_text())).host == "elsewhere"


def test_a_lock_that_a_full_disk_cut_off_holds_nobody_up(tmp_path):
    (tmp_path / lock.LOCK).write_text('{"token": "a')
    take(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be written .*; give another --workdir"):
        with Workdir(tmp_path / "file").held():
            pass


@pytest.mark.parametrize("steps, kept", [((), "no step is saved yet"), ((5, 10), "step 10 is sa")])
def test_a_disk_that_fails_names_the_last_good_checkpoint(tmp_path, steps, kept):
    for step in steps:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(TryAgain, match=f"No space left on device; {kept}"):
        with Workdir(tmp_path).held():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_killed_run_was_writing_is_cleared_and_nothing_else(tmp_path):
    good = tmp_path / "panels" / "5.png"
    good.parent.mkdir()
    good.write_bytes(b"good")
    (tmp_path / "panels" / ".tdr-7-ab.part").write_bytes(b"half")
    with Workdir(tmp_path).held():
        assert [path.name for path in good.parent.iterdir()] == ["5.png"]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="wrong"), Workdir(tmp_path / "run").held():
        raise InputError("wrong")
    assert not (tmp_path / "run").exists()
