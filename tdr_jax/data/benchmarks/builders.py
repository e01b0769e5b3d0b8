"""The data sets as `tensorflow_datasets` builders; only what builds or opens one imports this.

They read without TensorFlow: their files are array records, and pictures are the bytes of the files
they came from, so that nothing is lost and nothing is decoded before it is asked for.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from tdr_jax.data.benchmarks import kinds, layouts, table
from tdr_jax.errors import InputError

FORMAT = "array_record"
VERSION = "1.0.0"


class Restoration(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Clean pictures, or degraded ones with their clean ones; `benchmark` says which.

    An example has `name` and, as the data set's views say, `image`, `degraded` and `clean`, or
    `left`, `right` and `clean`; and `task`, what separates degraded from clean.
    """

    VERSION = tfds.core.Version(VERSION)
    benchmark: kinds.Benchmark

    def __init__(self, *, file_format=FORMAT, **options):
        super().__init__(file_format=file_format, **options)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 (tfds's name)
        return (
            f"Get {self.benchmark.title} from {self.benchmark.homepage} ({self.benchmark.terms}), "
            "unpack it anywhere and give that folder as manual_dir"
        )

    def _info(self) -> tfds.core.DatasetInfo:
        one = self.benchmark
        counts = ", ".join(f"{name} {split.count}" for name, split in one.splits.items())
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{one.title}: {counts}. Terms: {one.terms}.",
            features=features(one),
            homepage=one.homepage,
            citation=one.citation,
            license=one.terms,
            disable_shuffling=True,  # a built set is in the order of its folder
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        found = layouts.find(self.benchmark, dl_manager.manual_dir)
        return {split: self._generate_examples(one.records) for split, one in found.items()}

    def _generate_examples(self, records: Sequence[layouts.Record]) -> Iterator:
        for i, record in enumerate(records):
            yield i, example(self.benchmark, record)


def features(benchmark: kinds.Benchmark) -> tfds.features.FeaturesDict:
    """What an example holds, as tensorflow_datasets tells it."""
    kind = np.uint16 if benchmark.deep else np.uint8
    picture = tfds.features.Image(shape=(None, None, 3), dtype=kind)
    texts = {"name": tfds.features.Text(), "task": tfds.features.Text()}
    return tfds.features.FeaturesDict(texts | dict.fromkeys(benchmark.views, picture))


def example(benchmark: kinds.Benchmark, record: layouts.Record) -> dict:
    """An example as builders take it: texts, and pictures as the bytes of their files.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        content = [path.read_bytes() for path in record.files]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    views = zip(benchmark.views, content, strict=True)
    return {"name": record.name, "task": record.task, **dict(views)}


def builder_class(benchmark: kinds.Benchmark, **options) -> type[Restoration]:
    """The builder of a data set."""
    name = "".join(part.capitalize() for part in benchmark.name.split("_"))
    fields = {"name": benchmark.name, "benchmark": benchmark, "__module__": __name__}
    return type(Restoration)(name, (Restoration,), fields, **options)


# Registered with tensorflow_datasets, so that `tfds.builder(NAME)` finds them.
BUILDERS = {name: builder_class(benchmark) for name, benchmark in table.BENCHMARKS.items()}
globals().update({cls.__name__: cls for cls in BUILDERS.values()})
