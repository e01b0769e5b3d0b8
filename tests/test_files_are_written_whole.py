"""What is written is there whole or not at all, and what was there before stays until then."""

import os

import pytest

from tdr_jax import disk
from tdr_jax.errors import InputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_what_was_there_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    disk.write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), disk.replacing(path) as (partial,):
        partial.write_text("half")
        assert list(tmp_path.glob(disk.PARTIAL)) == [partial]
        raise KeyboardInterrupt
    assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_several_files_take_their_places_together(tmp_path):
    weights, config = tmp_path / "new" / "weights", tmp_path / "new" / "config.json"
    with disk.replacing(weights, config) as partials:
        for partial in partials:
            partial.write_text("whole")
            partial.chmod(0o600)
        assert not weights.exists()
    assert names(tmp_path / "new") == ["config.json", "weights"]
    (tmp_path / "plain").touch()
    assert weights.stat().st_mode == (tmp_path / "plain").stat().st_mode  # as the umask says


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "folder"
    for name in ("first", "second"):
        with disk.replacing_folder(folder) as made:
            (made / name).touch()
    assert names(folder) == ["second"]
    with pytest.raises(ValueError), disk.replacing_folder(folder) as made:
        (made / "third").touch()
        raise ValueError
    assert names(folder) == ["second"] and names(tmp_path) == ["folder"]


def test_what_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a.txt: cannot be written .*; give another place"):
        disk.write_text(tmp_path / "file" / "a.txt", "")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device"):
        disk.write_json(tmp_path / "b.json", {})
    assert names(tmp_path) == ["file"]
