"""Pictures out of the shards that `tdr data prepare`, or `tensorflow_datasets`, has written."""

import os
from functools import partial
from pathlib import Path

from tdr_jax import disk
from tdr_jax.data import sources
from tdr_jax.data.benchmarks.kinds import VIEWS
from tdr_jax.data.prepare import ABOUT
from tdr_jax.degradations.vocabulary import TASKS
from tdr_jax.errors import InputError

PLACE = "TFDS_DATA_DIR"  # of tensorflow_datasets itself
DEFAULT_PLACE = "~/tensorflow_datasets"  # likewise
INFO = "dataset_info.json"
PREFERRED = {"train": ("train",), "test": ("test", "val")}


def find(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Finds a data set that was built.

    Args:
        name: of the data set, or the folder that holds its `dataset_info.json`.
        data_dir: folder of data sets; None for the environment's `TFDS_DATA_DIR`, or else
            tensorflow_datasets' own.

    Returns:
        the folder of its latest version.

    Raises:
        InputError: it is not there.
    """
    root = Path(data_dir or os.environ.get(PLACE) or DEFAULT_PLACE).expanduser()
    folders = [path.parent for path in sorted((root / Path(name).expanduser()).rglob(INFO))]
    if not folders and Path(name).is_absolute():
        raise InputError(f"no data set in {name}; build it with tdr data prepare NAME PATH -o DIR")
    if not folders:
        built = sorted({path.parents[1].name for path in root.glob(f"*/*/{INFO}")})
        raise InputError(
            f"no data set {name!r} in {root} (there: {', '.join(built) or 'none'}); build it with "
            f"tdr data prepare {name} PATH -o {root}, or say where it is: {PLACE}"
        )
    return max(folders, key=lambda path: [int(n) if n.isdigit() else 0 for n in _version(path)])


def is_there(name: str) -> bool:
    """Whether a data set of this name, or in this folder, was built."""
    root = Path(os.environ.get(PLACE) or DEFAULT_PLACE).expanduser()
    return any((root / Path(name).expanduser()).rglob(INFO))


def _version(path: Path) -> list[str]:
    return path.name.split(".")


def _chosen(root: Path, there: list[str], split: str | None, use: str) -> str:
    if split is None and len(there) == 1:
        return there[0]
    chosen = split or next((name for name in PREFERRED[use] if name in there), None)
    if chosen not in there:
        told = f"no split {split!r}" if split else f"no split that is for {use} alone"
        raise InputError(f"{root} has {told}; name one of its splits: /{', /'.join(there)}")
    return chosen


class Shards:
    """The pictures of a split of a built data set.

    Args:
        folder: see `find`.
        split: its name; None for the only one, or the one for `use`.
        task: what separates degraded from clean; None for what the data set says.
        use: "train" or "test", what the pictures are wanted for.
        store: where decoded pictures are kept, see `tdr_jax.data.decoded`.

    Raises:
        InputError: there is no such split, or its examples hold no pictures; at `[i]`, if a picture
            is damaged or two sizes differ.
    """

    def __init__(self, folder, split=None, task=None, use="train", *, store):
        self.root, self._store = Path(folder), store
        kept = self.root / ABOUT  # of a set that tensorflow_datasets built there is none
        about = disk.read_json(kept) if kept.is_file() else {}
        told = about.get("task")
        self.task = task or (told if told in TASKS else None)
        import tensorflow_datasets as tfds

        info = tfds.builder_from_directory(self.root).info
        self.split = _chosen(self.root, list(info.splits), split, use)
        self.views = next((v for v in VIEWS.values() if set(v) <= set(info.features)), None)
        if self.views is None:
            known = "; ".join(", ".join(views) for views in VIEWS.values())
            there = ", ".join(sorted(info.features))
            raise InputError(f"{self.root} holds {there}; what is learnt from has {known}")
        self._names = about.get("names", {}).get(self.split)
        self._length, self._opened = info.splits[self.split].num_examples, None
        # Of kept pictures: another set that comes to lie here has other ones.
        self._key = self.root.as_posix(), (self.root / INFO).stat().st_mtime_ns

    def __len__(self):
        return self._length

    def __getstate__(self):
        # A worker process opens the files itself.
        return self.__dict__ | {"_opened": None}

    @property
    def names(self):
        if self._names is None:
            self._names = [self._record(i)["name"].decode() for i in range(len(self))]
        return self._names

    def __getitem__(self, index):
        index = int(index)
        record = self._record(index)
        name = record["name"].decode() if "name" in record else str(index)
        where = f"{self.root} {self.split} {name}"
        deep = len(self.views) == 3
        pictures = {}
        for view in self.views:
            decode = partial(sources.decode, f"{where} {view}", record[view], deep)
            pictures[view] = self._store.get((self._key, self.split, index, view), decode)
        told = record["task"].decode() if "task" in record else ""
        return sources.item(pictures, name, self.task or told or None, where)

    def _record(self, index):
        """An example, pictures as bytes."""
        if self._opened is None:
            import tensorflow_datasets as tfds

            decoders = dict.fromkeys(self.views, tfds.decode.SkipDecoding())
            builder = tfds.builder_from_directory(self.root)
            self._opened = builder.as_data_source(self.split, decoders=decoders)
        return self._opened[index]
