"""What is known of each data set: its splits and counts, its layouts, its terms and its source.

A layout is one template for each picture of an example, without extensions. A part in braces stands
for any characters of a name but `/`, as few as will do (so that `{scene}_{rest}` breaks at the
first underscore), `{path}` for folders too; what has one name is equal in all templates. What a
template says lies in any folder inside the one that is given, the same for all pictures of an
example. Case does not matter. One template is of a clean picture; two are degraded and clean; three
are left, right and clean.
"""

import dataclasses
import difflib
from collections.abc import Mapping

from tdr_jax.errors import InputError

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


def _train(count, *folders, **options):
    return Split(count, ("train", "training", *folders), **options)


def _test(count, *folders, **options):
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
        """The names of the pictures of an example."""
        return VIEWS[len(self.layouts[0])]


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

_RAIN100 = "https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html"
_JORDER = "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017"
_RESIDE = "https://sites.google.com/view/reside-dehaze-datasets"
_RESIDE_BY = "Li et al., Benchmarking Single-Image Dehazing and Beyond, TIP 2019"
_BSD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/"
_BSD_BY = "Martin et al., A Database of Human Segmented Natural Images, ICCV 2001"
_REALBLUR = "https://cg.postech.ac.kr/research/realblur/"
_REALBLUR_BY = "Rim et al., Real-World Blur Dataset for Learning and Benchmarking, ECCV 2020"
_DPDD = "https://github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel"
_DPDD_BY = "Abuolaim and Brown, Defocus Deblurring Using Dual-Pixel Data, ECCV 2020"
_DPDD_SPLITS = {"train": _train(350), "val": Split(74, ("val",)), "test": _test(76)}
_OTS_WHOLE = {313_950: "all 8,970 scenes, as OTS was first released"}

_ALL = (
    Benchmark(
        "bsd400",
        "BSD400",
        "",
        {"train": Split(400, ())},
        CLEAN,
        _BSD,
        "non-commercial research and education",
        _BSD_BY,
        skip=("val",),
    ),
    Benchmark(
        "wed",
        "Waterloo Exploration Database",
        "",
        {"train": Split(4744, ())},
        (("pristine_images/{id}",), *CLEAN),
        "https://ece.uwaterloo.ca/~k29ma/exploration/",
        RESEARCH,
        "Ma et al., Waterloo Exploration Database: New Challenges for IQA Models, TIP 2017",
    ),
    Benchmark(
        "cbsd68",
        "CBSD68",
        "",
        {"test": Split(68, ())},
        (("original_png/{id}",), ("original/{id}",), ("hq/{id}",), *CLEAN),
        _BSD,
        "non-commercial research and education",
        _BSD_BY,
        folders=("cbsd68", "bsd68"),
    ),
    Benchmark(
        "urban100",
        "Urban100",
        "",
        {"test": Split(100, ())},
        (("image_srf_4/{id}_srf_4_hr",), ("hr/{id}",), ("gtmod12/{id}",), *CLEAN),
        "https://github.com/jbhuang0604/SelfExSR",
        UNSTATED,
        "Huang et al., Single Image Super-Resolution from Transformed Self-Exemplars, CVPR 2015",
        folders=("urban100",),
    ),
    Benchmark(
        "kodak24",
        "Kodak24",
        "",
        {"test": Split(24, ())},
        (("kodim{id}",), *CLEAN),
        "https://r0k.us/graphics/kodak/",
        "released by Eastman Kodak for unrestricted use",
        "Franzen, Kodak Lossless True Color Image Suite, 1999",
        folders=("kodak24", "kodak"),
    ),
    Benchmark(
        "mcmaster",
        "McMaster",
        "",
        {"test": Split(18, ())},
        CLEAN,
        "https://www4.comp.polyu.edu.hk/~cslzhang/CDM_Dataset.htm",
        UNSTATED,
        "Zhang et al., Color Demosaicking by Local Directional Interpolation, JEI 2011",
        folders=("mcmaster", "mcm"),
    ),
    Benchmark(
        "rain100l",
        "Rain100L",
        "rain",
        {
            "train": _train(200, "raintrainl", "train100l"),
            "test": _test(100, "rain100l"),
        },
        RAIN,
        _RAIN100,
        RESEARCH,
        _JORDER,
        folders=("rain100l", "raintrainl", "derain"),
    ),
    Benchmark(
        "rain100h",
        "Rain100H",
        "rain",
        {
            "train": _train(1800, "raintrainh", "train100h"),
            "test": _test(100, "rain100h"),
        },
        RAIN,
        _RAIN100,
        RESEARCH,
        _JORDER,
        folders=("rain100h", "raintrainh"),
    ),
    Benchmark(
        "rain200l",
        "Rain200L",
        "rain",
        {"train": _train(1800), "test": _test(200)},
        RAIN,
        _RAIN100,
        RESEARCH,
        _JORDER,
        folders=("rain200l",),
    ),
    Benchmark(
        "rain200h",
        "Rain200H",
        "rain",
        {"train": _train(1800), "test": _test(200)},
        RAIN,
        _RAIN100,
        RESEARCH,
        _JORDER,
        folders=("rain200h",),
    ),
    Benchmark(
        "rain13k",
        "Rain13K and its five tests",
        "rain",
        {
            "train": _train(13_712, "rain13k"),
            "test100": Split(100, ("test100",)),
            "rain100h": Split(100, ("rain100h",)),
            "rain100l": Split(100, ("rain100l",)),
            "test2800": Split(2800, ("test2800",)),
            "test1200": Split(1200, ("test1200",)),
        },
        PAIRS,
        "https://github.com/swz30/MPRNet/tree/main/Deraining",
        RESEARCH,
        "Jiang et al., Multi-Scale Progressive Fusion Network, CVPR 2020 (of others' sets)",
    ),
    Benchmark(
        "did",
        "DID-Data",
        "rain",
        {"train": _train(12_000), "test": _test(1200)},
        RAIN,
        "https://github.com/hezhangsprinter/DID-MDN",
        RESEARCH,
        "Zhang and Patel, Density-aware Single Image De-raining, CVPR 2018",
        folders=("did",),
    ),
    Benchmark(
        "ddn",
        "DDN-Data (Rain1400)",
        "rain",
        {"train": _train(12_600), "test": _test(1400)},
        (
            *RAIN,
            ("rainy_image/{scene}_{rest}", "ground_truth/{scene}"),
            ("rainy/{scene}_{rest}", "gt/{scene}"),
            ("input/{scene}_{rest}", "target/{scene}"),
        ),
        "https://xueyangfu.github.io/projects/cvpr2017.html",
        RESEARCH,
        "Fu et al., Removing Rain from Single Images via a Deep Detail Network, CVPR 2017",
        folders=("ddn", "rain1400"),
    ),
    Benchmark(
        "spa",
        "SPA-Data",
        "rain",
        {"train": _train(638_492, "real"), "test": _test(1000)},
        (
            *RAIN,
            ("rain/{id}", "gt/{id}gt"),
            ("rain/{id}", "gt/{id}_gt"),
            ("real_world/{path}", "real_world_gt/{path}"),
        ),
        "https://stevewongv.github.io/derain-project.html",
        RESEARCH,
        "Wang et al., Spatial Attentive Single-Image Deraining with a Real Rain Dataset, CVPR 2019",
        folders=("spa",),
    ),
    Benchmark(
        "its",
        "RESIDE ITS",
        "haze",
        {"train": Split(13_990, ())},
        HAZE,
        _RESIDE,
        RESEARCH,
        _RESIDE_BY,
        folders=("its", "train"),
    ),
    Benchmark(
        "ots",
        "RESIDE OTS",
        "haze",
        {"train": Split(72_135, (), also=_OTS_WHOLE)},
        HAZE,
        _RESIDE,
        RESEARCH,
        _RESIDE_BY,
        folders=("ots", "dehaze"),
    ),
    Benchmark(
        "sots_indoor",
        "RESIDE SOTS, indoor",
        "haze",
        {"test": Split(500, ())},
        HAZE,
        _RESIDE,
        RESEARCH,
        _RESIDE_BY,
        folders=("indoor", "nyuhaze500"),
        skip=("outdoor",),
    ),
    Benchmark(
        "sots_outdoor",
        "RESIDE SOTS, outdoor",
        "haze",
        {"test": Split(500, (), also={492: "one hazy picture of each scene"})},
        HAZE,
        _RESIDE,
        RESEARCH,
        _RESIDE_BY,
        folders=("outdoor", "dehaze"),
        skip=("indoor", "nyuhaze500"),
    ),
    Benchmark(
        "gopro",
        "GoPro",
        "blur",
        {"train": _train(2103), "test": _test(1111)},
        BLUR,
        "https://seungjunnah.github.io/Datasets/gopro",
        "CC BY 4.0",
        "Nah et al., Deep Multi-Scale CNN for Dynamic Scene Deblurring, CVPR 2017",
        folders=("gopro", "deblur"),
    ),
    Benchmark(
        "hide",
        "HIDE",
        "blur",
        {"train": _train(6397), "test": _test(2025)},
        (*BLUR, ("{split}/{view}/{id}", "gt/{id}"), ("train/{id}", "gt/{id}")),
        "https://github.com/joanshen0508/HA_deblur",
        UNSTATED,
        "Shen et al., Human-Aware Motion Deblurring, ICCV 2019",
        folders=("hide",),
    ),
    *(
        Benchmark(
            f"realblur_{letter.lower()}",
            f"RealBlur-{letter}",
            "blur",
            {"train": _train(3758), "test": _test(980)},
            (*BLUR, ("{scene}/blur/blur_{id}", "{scene}/gt/gt_{id}")),
            _REALBLUR,
            UNSTATED,
            _REALBLUR_BY,
            folders=(letter.lower(), f"realblur{letter.lower()}"),
            skip=("r" if letter == "J" else "j",),
            lists={name: f"RealBlur_{letter}_{name}_list.txt" for name in ("train", "test")},
        )
        for letter in "JR"
    ),
    Benchmark(
        "dpdd",
        "DPDD, one view of 8 bits",
        "blur",
        _DPDD_SPLITS,
        (*PAIRS, ("inputc/{id}", "target/{id}"), ("inputc_crops/{id}", "target_crops/{id}")),
        _DPDD,
        UNSTATED,
        _DPDD_BY,
        folders=("dpdd",),
        in_order=("{split}_c/source", "{split}_c/target"),
    ),
    Benchmark(
        "dpdd_dual",
        "DPDD, two views of 16 bits",
        "blur",
        _DPDD_SPLITS,
        (
            ("left/{id}", "right/{id}", "clean/{id}"),
            ("inputl/{id}", "inputr/{id}", "target/{id}"),
            ("inputl_crops/{id}", "inputr_crops/{id}", "target_crops/{id}"),
        ),
        _DPDD,
        UNSTATED,
        _DPDD_BY,
        folders=("dpdd",),
        in_order=("{split}_l/source", "{split}_r/source", "{split}_c/target"),
        deep=True,
    ),
    Benchmark(
        "sidd",
        "SIDD",
        "noise",
        {
            "train": _train(320, "medium", also={160: "the small version", 30_608: "crops of 512"}),
            "val": Split(1280, ("val", "validation")),
        },
        (
            *REAL_NOISE,
            ("{scene}/noisy_srgb_{id}", "{scene}/gt_srgb_{id}"),
            ("{scene}/{number}_noisy_srgb_{id}", "{scene}/{number}_gt_srgb_{id}"),
        ),
        "https://abdokamel.github.io/sidd/",
        UNSTATED,
        "Abdelhamed et al., A High-Quality Denoising Dataset for Smartphone Cameras, CVPR 2018",
        folders=("sidd",),
    ),
    Benchmark(
        "cc15",
        "CC15",
        "noise",
        {"test": Split(15, ())},
        REAL_NOISE,
        "https://snam.ml/research/ccnoise",
        "non-commercial research",
        "Nam et al., A Holistic Approach to Cross-Channel Image Noise Modeling, CVPR 2016",
        folders=("cc15", "cc"),
    ),
    Benchmark(
        "polyu",
        "PolyU",
        "noise",
        {"test": Split(100, ())},
        (("croppedimages/{id}_real", "croppedimages/{id}_mean"), *REAL_NOISE),
        "https://github.com/csjunxu/PolyU-Real-World-Noisy-Images-Dataset",
        "non-commercial research",
        "Xu et al., Real-World Noisy Image Denoising: A New Benchmark, arXiv 1804.02603, 2018",
        folders=("polyu",),
        skip=("originalimages",),
    ),
    Benchmark(
        "lol",
        "LOL v1",
        "low_light",
        {"train": _train(485, "our485"), "test": _test(15, "eval15")},
        (*PAIRS, ("low/{id}", "high/{id}"), ("low/{id}", "gt/{id}"), ("low/{id}", "normal/{id}")),
        "https://daooshee.github.io/BMVC2018website/",
        RESEARCH,
        "Wei et al., Deep Retinex Decomposition for Low-Light Enhancement, BMVC 2018",
        folders=("lol", "lolv1", "enhance"),
    ),
    Benchmark(
        "cdd11",
        "CDD-11",
        "mixed",
        {"train": _train(13_013), "test": _test(2200)},
        (("{task}/{id}", "clear/{id}"), ("{task}/{id}", "clean/{id}")),
        "https://github.com/gy65896/OneRestore",
        RESEARCH,
        "Guo et al., OneRestore: A Universal Restoration Framework, ECCV 2024",
    ),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def find(name: str) -> Benchmark:
    """Finds a data set by its name.

    Raises:
        InputError: there is none, with names that are near.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name.lower(), BENCHMARKS, 3) or BENCHMARKS
        raise InputError(f"no data set {name!r} is known; perhaps {', '.join(near)}")
    return BENCHMARKS[name]
