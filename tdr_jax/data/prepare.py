"""Data sets written as shards that `tensorflow_datasets` reads; killed at any time, it goes on.

Shards take shape in a hidden folder beside the data set's own. Each gets its name when it is
whole, and is told from one of other pictures by the names, sizes and times of its files; when all
are there and described, the folder gets its name.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tdr_jax import disk
from tdr_jax.data.benchmarks.kinds import Benchmark
from tdr_jax.data.benchmarks.layouts import Record
from tdr_jax.errors import InputError
from tdr_jax.images.files import read_picture

SHARD_BYTES = 64 * 2**20  # of pictures in a shard: what a kill loses at most
AHEAD = 16  # pictures that are read and looked at while one is written
WRITTEN = "shards.json"  # shard -> of which files it is
ABOUT = "about.json"  # task, and split -> names of its examples, for whoever wants no more

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class _Shard:
    split: str
    name: str
    records: Sequence[Record]
    digest: str


def prepare(
    benchmark: Benchmark,
    splits: Mapping[str, Sequence[Record]],
    folder: str | Path,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a data set, or what is still missing of it.

    Args:
        benchmark: which data set.
        splits: split -> its examples.
        folder: of data sets, `TFDS_DATA_DIR`; this one comes to lie in NAME/VERSION.
        progress: called with the number of examples that are written and of all.
        shard_bytes: of pictures in a shard, about.

    Returns:
        the data set's folder, as `tfds.builder_from_directory` takes it.

    Raises:
        InputError: a picture is damaged or of another size than its partner, the folder cannot be
            written, holds other pictures under this name, or is being written by somebody else.
    """
    from tdr_jax.data.benchmarks import builders

    if not any(splits.values()):
        raise InputError(f"there is no example of {benchmark.title} to write")
    final = Path(folder) / benchmark.name / builders.VERSION
    hidden = final.with_name(f".tdr-{builders.VERSION}.part")
    shards = _planned(benchmark, splits, shard_bytes)
    digests = {shard.name: shard.digest for shard in shards}
    if final.exists():
        if _written(final) == digests:
            progress(*[sum(map(len, splits.values()))] * 2)
            return final
        raise InputError(
            f"{final} was made of other files, or files of another time; give another folder, or "
            "remove it to write it anew"
        )
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        with _alone(hidden):
            _write(benchmark, shards, hidden, progress)
            _describe(benchmark, shards, hidden)
            hidden.replace(final)
    except OSError as error:
        raise InputError(f"{final}: cannot be written ({error.strerror or error})") from error
    return final


def _planned(
    benchmark: Benchmark, splits: Mapping[str, Sequence[Record]], shard_bytes: int
) -> list[_Shard]:
    shards = []
    for split, records in splits.items():
        stats = [[path.stat() for path in record.files] for record in records]
        total = sum(stat.st_size for group in stats for stat in group)
        count = max(1, min(len(records), -(-total // shard_bytes)))
        ends = [len(records) * i // count for i in range(count + 1)]
        for i, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            told = [
                [record.name, record.task, *((stat.st_size, stat.st_mtime_ns) for stat in group)]
                for record, group in zip(records[start:end], stats[start:end], strict=True)
            ]
            digest = hashlib.sha256(json.dumps([benchmark.views, told]).encode()).hexdigest()
            # As tensorflow_datasets names the files of a split.
            name = f"{benchmark.name}-{split}.array_record-{i:05d}-of-{count:05d}"
            shards.append(_Shard(split, name, records[start:end], digest))
    return shards


def _written(folder: Path) -> dict[str, str]:
    """The shards that a folder holds whole -> of which files; {} for what is not ours."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / WRITTEN).read_text())
    return {}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{folder} is being written by another process; wait for it") from None
    finally:
        os.close(handle)


def _write(benchmark: Benchmark, shards: list[_Shard], folder: Path, progress: Progress) -> None:
    """Writes the shards that are not there yet."""
    planned = {shard.name: shard.digest for shard in shards}
    written = _written(folder)
    kept = {name: digest for name, digest in written.items() if planned.get(name) == digest}
    for path in folder.iterdir():
        if path.name not in kept and path.name != WRITTEN:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    total = sum(len(shard.records) for shard in shards)
    done = sum(len(shard.records) for shard in shards if shard.name in kept)
    progress(done, total)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for shard in shards:
            if shard.name in kept:
                continue
            with disk.replacing(folder / shard.name) as (partial,):
                for _ in _serialised(benchmark, shard.records, partial, pool):
                    done += 1
                    progress(done, total)
            kept[shard.name] = shard.digest
            disk.write_json(folder / WRITTEN, kept)


def _serialised(
    benchmark: Benchmark, records: Sequence[Record], path: Path, pool: ThreadPoolExecutor
) -> Iterator[None]:
    """Writes examples to one file; yields after each."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core import example_serializer

    from tdr_jax.data.benchmarks import builders

    features = builders.features(benchmark)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    # One record a group, as tensorflow_datasets writes it: each picture is read alone.
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        for start in range(0, len(records), AHEAD):
            group = records[start : start + AHEAD]
            for example in pool.map(lambda record: _checked(benchmark, record), group):
                encoded = features.encode_example(example)
                writer.write(serializer.serialize_example(encoded))
                yield
    finally:
        writer.close()


def _checked(benchmark: Benchmark, record: Record) -> dict:
    """An example whose pictures can be read and have one size."""
    from tdr_jax.data.benchmarks import builders

    example = builders.example(benchmark, record)
    sizes = []
    for view, path in zip(benchmark.views, record.files, strict=True):
        if not example[view]:
            raise InputError(f"{path}: the file is empty; copy or download it again")
        height, width = read_picture(path, example[view]).pixels.shape[:2]
        sizes.append(f"{width}x{height}")
    for path, size in zip(record.files[1:], sizes[1:], strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{record.files[0]} is {sizes[0]} but {path} is {size}; a pair must have one size"
            )
    return example


def _describe(benchmark: Benchmark, shards: list[_Shard], folder: Path) -> None:
    """Writes what tensorflow_datasets reads first: features, splits, where it comes from."""
    import tensorflow_datasets as tfds

    from tdr_jax.data.benchmarks import builders

    builder = builders.builder_class(benchmark, skip_registration=True)(data_dir=folder)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=benchmark.name, filetype_suffix=builders.FORMAT
    )
    infos = []
    for split in dict.fromkeys(shard.split for shard in shards):
        ours = [shard for shard in shards if shard.split == split]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard.records) for shard in ours],
                num_bytes=sum((folder / shard.name).stat().st_size for shard in ours),
                filename_template=template.replace(split=split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.write_to_directory(folder)
    names = {}
    for shard in shards:
        names.setdefault(shard.split, []).extend(record.name for record in shard.records)
    disk.write_json(folder / ABOUT, {"task": benchmark.task, "names": names})
