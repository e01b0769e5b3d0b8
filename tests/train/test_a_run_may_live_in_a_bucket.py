"""What a run writes beside its checkpoints reaches the bucket, and comes back from it."""

import pytest
from etils import epath

from tdr_jax.train.workdir import Workdir


@pytest.fixture
def bucket(tmp_path):
    """Makes the working folder of one run on another machine each time; its bucket is a folder."""

    def workdir(machine):
        workdir = Workdir("gs://bucket/run", scratch=tmp_path / machine)
        workdir.remote = epath.Path(tmp_path / "bucket")
        return workdir

    return workdir


def test_a_folder_on_disk_is_used_as_it_is(tmp_path):
    workdir = Workdir(tmp_path / "run")
    assert workdir.local == workdir.path == tmp_path / "run" and workdir.remote is None
    workdir.pull()
    workdir.push()
    assert not (tmp_path / "run").exists()


def test_another_machine_finds_what_the_first_one_wrote(bucket):
    first = bucket("one")
    first.pull()  # nothing yet
    (first.local / "panels").mkdir(parents=True)
    (first.local / "metrics.jsonl").write_text("1\n")
    (first.local / "panels" / "a.png").write_bytes(b"png")
    first.push()
    with (first.local / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    first.push()
    second = bucket("two")
    second.pull()
    assert second.local != first.local
    assert (second.local / "metrics.jsonl").read_text() == "1\n2\n"
    assert (second.local / "panels" / "a.png").read_bytes() == b"png"


def test_checkpoints_are_orbax_s_own_business_and_what_is_old_is_not_copied_again(bucket):
    workdir = bucket("one")
    for folder in ("checkpoints", "features0"):
        (workdir.local / folder).mkdir(parents=True)
        (workdir.local / folder / "big").write_bytes(b"x")
    (workdir.local / "hparams.json").write_text("{}")
    workdir.push()
    assert [entry.name for entry in workdir.remote.iterdir()] == ["hparams.json"]
    (workdir.remote / "hparams.json").unlink()
    workdir.push()
    assert not (workdir.remote / "hparams.json").exists()
    assert str(Workdir("gs://bucket/run").path) == "gs://bucket/run"
