"""What can be said of a data set, and the layouts that several share.

A layout is one template for each picture of an example, without extensions. A part in braces stands
for any characters of a name but `/`, as few as will do (so that `{scene}_{rest}` breaks at the
first underscore), `{path}` for folders too; what has one name is equal in all templates. What a
template says lies in any folder inside the one that is given, the same for all pictures of an
example. Case does not matter. One template is of a clean picture; two are degraded and clean; three
are left, right and clean.
"""

import dataclasses
from collections.abc import Mapping

RESEARCH = "research use only"
UNSTATED = "read its page; without a word there, treat it as for research use only"

VIEWS = {1: ("image",), 2: ("degraded", "clean"), 3: ("left", "right", "clean")}

CLEAN = (("{path}",),)
# As sets are handed round for training code: folders of AirNet, PromptIR, BasicSR and others.
PAIRS = (
    ("degraded/{path}", "clean/{path}"),
    ("input/{path}", "target/{path}"),
    ("input_crops/{path}", "target_crops/{path}"),
    ("input/{path}", "gt/{path}"),
    ("input/{path}", "groundtruth/{path}"),
    ("lq/{path}", "gt/{path}"),
    ("lq/{path}", "hq/{path}"),
)
RAIN = (
    *PAIRS,
    ("rainy/rain-{id}", "gt/norain-{id}"),
    ("rainy/{path}", "gt/{path}"),
    ("rain/{path}", "norain/{path}"),
    ("rain/rain-{id}", "norain/norain-{id}"),
    ("rain/x2/norain-{id}x2", "norain/norain-{id}"),
    ("rain/norain-{id}x2", "norain/norain-{id}"),
    ("rainy/rain-{id}", "norain-{id}"),
    ("rain-{id}", "norain-{id}"),
    ("rain/{path}", "gt/{path}"),
)
HAZE = (
    *PAIRS,
    ("input/{scene}_{rest}", "target/{scene}"),
    ("degraded/{scene}_{rest}", "clean/{scene}"),
    ("hazy/{scene}_{rest}", "clear/{scene}"),
    ("hazy/{scene}_{rest}", "gt/{scene}"),
    ("hazy/{path}", "clear/{path}"),
    ("hazy/{path}", "gt/{path}"),
    ("haze/{scene}_{rest}", "clear/{scene}"),
    ("synthetic/{part}/{scene}_{rest}", "original/{scene}"),
    ("synthetic/{scene}_{rest}", "original/{scene}"),
    ("{part}/{scene}_{rest}", "clear/{scene}"),
)
BLUR = (*PAIRS, ("{scene}/blur/{id}", "{scene}/sharp/{id}"), ("blur/{path}", "sharp/{path}"))
REAL_NOISE = (
    *PAIRS,
    ("noisy/{path}", "gt/{path}"),
    ("noisy/{path}", "clean/{path}"),
    ("{id}_real", "{id}_mean"),
    ("noisy/{id}_real", "clean/{id}_mean"),
)


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        count: how many examples it holds when whole, as its authors or users count them.
        folders: words in the names of folders, in lower case, by which it is told from other parts.
        also: other counts in which it is handed round, with what they are.
    """

    count: int
    folders: tuple[str, ...]
    also: Mapping[int, str] = dataclasses.field(default_factory=dict)


def train(count, *folders, **options):
    return Split(count, ("train", "training", *folders), **options)


def test(count, *folders, **options):
    return Split(count, ("test", "testing", *folders), **options)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set.

    Attributes:
        name: as in `tfds:NAME`.
        title: as papers write it.
        task: what separates degraded from clean, one of `vocabulary.TASKS`; "" for clean pictures;
            "mixed" where a template's `{task}` says it of each picture, see `TASK_FOLDERS`.
        splits: by name.
        layouts: see above; the first that fits best counts.
        homepage: where it comes from.
        terms: under which it may be used.
        citation: authors, title, place and year.
        folders: words in the names of folders that hold this set beside others.
        skip: words in the names of folders that do not belong to it.
        in_order: folders of a split whose pictures go together in the order of their names.
        lists: split -> file that names its pictures in the last column of each line.
        deep: pictures have 16 bits.
    """

    name: str
    title: str
    task: str
    splits: Mapping[str, Split]
    layouts: tuple[tuple[str, ...], ...]
    homepage: str
    terms: str
    citation: str
    folders: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    in_order: tuple[str, ...] = ()
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    deep: bool = False

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the pictures of an example; degraded ones may come alone."""
        count = len(self.layouts[0])
        return ("degraded",) if count == 1 and self.task else VIEWS[count]


# CDD-11's names of folders -> the degradations in their pictures, in the order of the name.
TASK_FOLDERS = {
    "low": "low_light",
    "haze": "haze",
    "rain": "rain",
    "snow": "snow",
    "low_haze": "low_light+haze",
    "low_rain": "low_light+rain",
    "low_snow": "low_light+snow",
    "haze_rain": "haze+rain",
    "haze_snow": "haze+snow",
    "low_haze_rain": "low_light+haze+rain",
    "low_haze_snow": "low_light+haze+snow",
}
