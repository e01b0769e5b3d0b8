"""A data set that was built gives the pictures of its folder, byte for byte."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tdr_jax import cli
from tdr_jax.data import decoded, prepare, shards, sources
from tdr_jax.data.benchmarks import builders, layouts, table
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_rgb, write_rgb

RAIN = table.BENCHMARKS["rain100l"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rain100L's test split as PromptIR has it: JPEG and PNG, of several sizes."""
    root, rng = tmp_path_factory.mktemp("sets") / "Rain100L", np.random.default_rng(0)
    for i in range(12):
        for side, suffix in (("input", "jpg" if i % 2 else "png"), ("target", "png")):
            picture = rng.integers(0, 256, (16 + i, 24, 3), np.uint8)
            write_rgb(root / "test" / side / f"{i}.{suffix}", picture)
    return root


def records(folder):
    return {split: one.records for split, one in layouts.find(RAIN, folder).items()}


def raw(place, split="test"):
    """The examples of a built set as its files have them."""
    skip = tfds.decode.SkipDecoding()
    builder = tfds.builder_from_directory(place)
    return builder.as_data_source(split, decoders={"degraded": skip, "clean": skip})


def assert_equals(place, folder):
    given, wanted = raw(place), records(folder)["test"]
    assert len(given) == len(wanted)
    for i in reversed(range(len(wanted))):  # in any order
        views = [path.read_bytes() for path in wanted[i].files]
        assert [given[i]["degraded"], given[i]["clean"]] == views
        assert (given[i]["name"].decode(), given[i]["task"].decode()) == (wanted[i].name, "rain")


def test_a_built_set_has_the_bytes_of_its_folder(folder, tmp_path):
    told = []
    progress = lambda done, total: told.append((done, total))  # noqa: E731
    place = prepare.prepare(RAIN, records(folder), tmp_path, progress, shard_bytes=4000)
    assert place == tmp_path / "rain100l" / "1.0.0"
    assert len(list(place.glob("*.array_record-*"))) > 2
    assert told[0] == (0, 12) and told[-1] == (12, 12)
    assert_equals(place, folder)
    info = tfds.builder_from_directory(place).info
    assert "Rain100L" in info.description and info.homepage and info.citation
    # Decoded by tensorflow_datasets itself, for those who use it elsewhere.
    assert tfds.builder_from_directory(place).as_data_source("test")[0]["clean"].shape == (
        16,
        24,
        3,
    )


def test_pictures_come_as_from_the_folder(folder, tmp_path):
    place = prepare.prepare(RAIN, records(folder), tmp_path)
    built = shards.Shards(place, store=decoded.Memory(64))
    plain = sources.Pairs(folder / "test" / "input", folder / "test" / "target", "rain")
    assert built.names == plain.names
    for one in (built, pickle.loads(pickle.dumps(built))):  # as a worker process gets it
        for i in (5, 0, 11):
            given, wanted = one[i], plain[i]
            assert given.keys() == wanted.keys()
            assert all(np.array_equal(given[key], wanted[key]) for key in wanted)


def test_tensorflow_datasets_builds_the_same(folder, tmp_path):
    builder = builders.BUILDERS["rain100l"](data_dir=tmp_path)
    where = tfds.download.DownloadConfig(manual_dir=folder)
    builder.download_and_prepare(download_config=where)
    assert_equals(builder.data_dir, folder)
    assert shards.Shards(builder.data_dir, store=decoded.Memory(1)).names[:2] == ["0.png", "1.jpg"]


KILLED = """
import os, pathlib, signal, sys
from tdr_jax.data import prepare
from tdr_jax.data.benchmarks import layouts, table
rain = table.BENCHMARKS["rain100l"]
records = {split: one.records for split, one in layouts.find(rain, sys.argv[1]).items()}
def progress(done, total):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
prepare.prepare(rain, records, sys.argv[2], progress, shard_bytes=4000)
"""


def test_a_killed_build_goes_on_and_leaves_nothing_half(folder, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    hidden = tmp_path / "rain100l" / ".tdr-1.0.0.part"
    kept = json.loads((hidden / prepare.WRITTEN).read_text())
    before = {name: (hidden / name).stat().st_ino for name in kept}
    assert before and not hidden.with_name("1.0.0").exists()
    with pytest.raises(InputError, match="no data set 'rain100l' in"):
        shards.find("rain100l", tmp_path)
    told = []
    progress = lambda done, total: told.append(done)  # noqa: E731
    place = prepare.prepare(RAIN, records(folder), tmp_path, progress, shard_bytes=4000)
    assert told[0] > 0  # what was whole is not written again
    assert {name: (place / name).stat().st_ino for name in kept} == before
    assert_equals(place, folder)
    assert os.listdir(place.parent) == ["1.0.0"]


def test_a_file_that_changed_is_written_again(folder, tmp_path):
    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(RAIN, records(folder), tmp_path, stop, shard_bytes=4000)
    first = folder / "test" / "target" / "0.png"
    write_rgb(first, 255 - read_rgb(first))
    place = prepare.prepare(RAIN, records(folder), tmp_path, shard_bytes=4000)
    assert_equals(place, folder)
    with pytest.raises(InputError, match="made of other files"):
        first.touch()
        prepare.prepare(RAIN, records(folder), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0.png: the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "0.png: .*not a picture|0.png: the picture is damaged"),
        (None, "input/0.png is 24x16 but .*target/0.png is 24x20; a pair must have one size"),
    ],
)
def test_a_damaged_picture_is_named_and_nothing_is_built(folder, tmp_path, content, message):
    for side in ("input", "target"):
        (tmp_path / "in" / "test" / side).mkdir(parents=True)
        for i in (0, 1):
            picture = next((folder / "test" / side).glob(f"{i}.*"))
            (tmp_path / "in" / "test" / side / picture.name).write_bytes(picture.read_bytes())
    target = tmp_path / "in" / "test" / "target" / "0.png"
    if content is None:
        write_rgb(target, np.zeros((20, 24, 3), np.uint8))
    else:
        target.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare.prepare(RAIN, records(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out" / "rain100l" / "1.0.0").exists()


def test_two_builds_at_once_are_refused(folder, tmp_path):
    def again(done, total):
        with pytest.raises(InputError, match="is being written by another process"):
            prepare.prepare(RAIN, records(folder), tmp_path)

    prepare.prepare(RAIN, records(folder), tmp_path, again, shard_bytes=2**20)


def test_the_command_says_what_there_is_and_what_is_missing(folder, tmp_path, capsys):
    args = ["data", "prepare", "rain100l", str(folder), "-o", str(tmp_path)]
    for _ in range(2):
        assert cli.main(args) == 0
        said = capsys.readouterr().err
        assert "Rain100L train: not there" in said
        assert "Rain100L test: 12 of 100 examples by input/{path} and target/{path}" in said
    assert cli.main([*args[:2], "rain100", *args[3:]]) == 2
    assert "no data set 'rain100' is known; perhaps rain100l" in capsys.readouterr().err


def test_sixteen_bits_and_two_views_stay(tmp_path):
    from tdr_jax.images import Picture
    from tdr_jax.images.files import write_picture

    rng = np.random.default_rng(1)
    for view in ("left", "right", "clean"):
        pixels = rng.random((16, 20, 3), np.float32)
        picture = Picture(pixels=pixels, depth=16)
        write_picture(tmp_path / "dpdd" / "test" / view / "a.png", picture)
    dual = table.BENCHMARKS["dpdd_dual"]
    found = layouts.find(dual, tmp_path / "dpdd")
    place = prepare.prepare(dual, {s: one.records for s, one in found.items()}, tmp_path / "out")
    built = shards.Shards(place, store=decoded.Memory(1))[0]
    folders = [tmp_path / "dpdd" / "test" / view for view in ("left", "right", "clean")]
    plain = sources.DualPixel(*folders, "blur")[0]
    assert built["degraded"].dtype == np.uint16 and built["degraded"].shape == (16, 20, 6)
    assert all(np.array_equal(built[key], plain[key]) for key in plain)


def test_noisy_pictures_alone_are_built_and_not_taken_for_clean_ones(tmp_path):
    write_rgb(tmp_path / "in" / "0001_01.png", np.zeros((16, 20, 3), np.uint8))
    assert cli.main(["data", "prepare", "dnd", str(tmp_path / "in"), "-o", str(tmp_path)]) == 0
    place = shards.find("dnd", tmp_path)
    assert tfds.builder_from_directory(place).as_data_source("test")[0]["degraded"].shape[0] == 16
    with pytest.raises(
        InputError, match="holds degraded, name, task; what is learnt from has image"
    ):
        shards.Shards(place, store=decoded.Memory(1))


def test_nothing_imports_tensorflow(folder, tmp_path):
    """In a process of its own: build, open, read, by this package's ways and by the library's."""
    code = f"""
import sys
from tdr_jax import cli
assert cli.main(["data", "prepare", "rain100l", {str(folder)!r}, "-o", {str(tmp_path)!r}]) == 0
from tdr_jax.data import decoded, shards
built = shards.Shards(shards.find("rain100l", {str(tmp_path)!r}), store=decoded.Memory(1))
assert built[3]["degraded"].shape == (27, 24, 3)  # 11.jpg
import tensorflow_datasets as tfds
assert len(tfds.builder("rain100l", data_dir={str(tmp_path)!r}).as_data_source("test")) == 12
assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tf_keras")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert "tensorflow" not in sys.modules


def test_decoded_pictures_are_kept_in_files_up_to_a_limit(tmp_path):
    calls = []

    def decode(i):
        return lambda: calls.append(i) or np.full((64, 128, 3), i, np.uint8)  # 24 KiB

    store = decoded.Mapped(tmp_path / "kept", limit_mb=0.05)  # room for two of them
    for _ in range(2):
        assert [int(store.get(i, decode(i))[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert calls == [0, 1, 2, 2]
    other = pickle.loads(pickle.dumps(store))  # another process, or another run
    assert int(other.get(1, decode(1))[0, 0, 0]) == 1 and calls == [0, 1, 2, 2]
    assert not store.get(0, decode(0)).flags.writeable
    assert len(list((tmp_path / "kept").glob("*/*"))) == 2
