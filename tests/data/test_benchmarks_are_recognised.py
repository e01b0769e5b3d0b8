"""Every data set is found in the folders in which people have it, by the names of its files."""

import pytest

from tdr_jax.data.benchmarks import layouts, table
from tdr_jax.degradations.vocabulary import TASKS
from tdr_jax.errors import InputError

# Name of the set, files that are there, split -> the files of its examples.
KNOWN = {
    "BSDS500's archive": (
        "bsd400",
        ["images/train/2018.jpg", "images/test/3096.jpg", "images/val/101085.jpg"],
        {"train": [("images/test/3096.jpg",), ("images/train/2018.jpg",)]},
    ),
    "CBSD68 beside its noisy versions": (
        "cbsd68",
        ["CBSD68/original_png/0000.png", "CBSD68/noisy15/0000.png"],
        {"test": [("CBSD68/original_png/0000.png",)]},
    ),
    "PromptIR's folders": (
        "rain100l",
        [
            "Train/Derain/rainy/rain-1.png",
            "Train/Derain/gt/norain-1.png",
            "Train/Dehaze/synthetic/part1/0025_0.8_0.1.jpg",
            "Train/Dehaze/original/0025.jpg",
            "test/derain/Rain100L/input/2.png",
            "test/derain/Rain100L/target/2.png",
        ],
        {
            "train": [("Train/Derain/rainy/rain-1.png", "Train/Derain/gt/norain-1.png")],
            "test": [("test/derain/Rain100L/input/2.png", "test/derain/Rain100L/target/2.png")],
        },
    ),
    "PromptIR's haze": (
        "ots",
        ["Dehaze/synthetic/part1/0025_0.8_0.1.jpg", "Dehaze/original/0025.jpg"],
        {"train": [("Dehaze/synthetic/part1/0025_0.8_0.1.jpg", "Dehaze/original/0025.jpg")]},
    ),
    "JORDER's archives": (
        "rain100h",
        ["rain_data_test_Heavy/rain/X2/norain-1x2.png", "rain_data_test_Heavy/norain/norain-1.png"],
        {
            "test": [
                (
                    "rain_data_test_Heavy/rain/X2/norain-1x2.png",
                    "rain_data_test_Heavy/norain/norain-1.png",
                )
            ]
        },
    ),
    "BasicSR's folders of five tests": (
        "rain13k",
        [
            f"{where}/{side}/1.jpg"
            for where in ("train/Rain13K", "test/Test100", "test/Rain100H")
            for side in ("input", "target")
        ],
        {
            "train": [("train/Rain13K/input/1.jpg", "train/Rain13K/target/1.jpg")],
            "test100": [("test/Test100/input/1.jpg", "test/Test100/target/1.jpg")],
            "rain100h": [("test/Rain100H/input/1.jpg", "test/Rain100H/target/1.jpg")],
        },
    ),
    "DDN's archive": (
        "ddn",
        ["testing/rainy_image/901_14.jpg", "testing/ground_truth/901.jpg"],
        {"test": [("testing/rainy_image/901_14.jpg", "testing/ground_truth/901.jpg")]},
    ),
    "RESIDE's archive": (
        "sots_outdoor",
        [
            "SOTS/outdoor/hazy/0001_0.8_0.2.jpg",
            "SOTS/outdoor/gt/0001.png",
            "SOTS/indoor/nyuhaze500/hazy/1400_1.png",
            "SOTS/indoor/nyuhaze500/gt/1400.png",
        ],
        {"test": [("SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png")]},
    ),
    "GoPro's archive, whose scenes repeat names": (
        "gopro",
        [
            f"{split}/{scene}/{kind}/000001.png"
            for split, scene in (("train", "G1"), ("train", "G2"), ("test", "G3"))
            for kind in ("blur", "blur_gamma", "sharp")
        ],
        {
            "train": [
                ("train/G1/blur/000001.png", "train/G1/sharp/000001.png"),
                ("train/G2/blur/000001.png", "train/G2/sharp/000001.png"),
            ],
            "test": [("test/G3/blur/000001.png", "test/G3/sharp/000001.png")],
        },
    ),
    "HIDE's archive": (
        "hide",
        ["train/1.png", "test/test-close-ups/2.png", "GT/1.png", "GT/2.png"],
        {
            "train": [("train/1.png", "GT/1.png")],
            "test": [("test/test-close-ups/2.png", "GT/2.png")],
        },
    ),
    "DPDD's archive, which pairs by order": (
        "dpdd_dual",
        [
            f"{part}/{name}.png"
            for part, name in (
                ("test_l/source", "1P0A9"),
                ("test_r/source", "1P0A9"),
                ("test_c/target", "1P0A10"),
            )
        ],
        {
            "test": [
                ("test_l/source/1P0A9.png", "test_r/source/1P0A9.png", "test_c/target/1P0A10.png")
            ]
        },
    ),
    "SIDD's archive": (
        "sidd",
        [
            "SIDD_Medium_Srgb/Data/0001_S6/0001_NOISY_SRGB_010.PNG",
            "SIDD_Medium_Srgb/Data/0001_S6/0001_GT_SRGB_010.PNG",
        ],
        {
            "train": [
                (
                    "SIDD_Medium_Srgb/Data/0001_S6/0001_NOISY_SRGB_010.PNG",
                    "SIDD_Medium_Srgb/Data/0001_S6/0001_GT_SRGB_010.PNG",
                )
            ]
        },
    ),
    "PolyU's archive": (
        "polyu",
        [
            "CroppedImages/Canon_1_real.JPG",
            "CroppedImages/Canon_1_mean.JPG",
            "OriginalImages/Canon_Real.JPG",
            "OriginalImages/Canon_mean.JPG",
        ],
        {"test": [("CroppedImages/Canon_1_real.JPG", "CroppedImages/Canon_1_mean.JPG")]},
    ),
    "LOL's archive": (
        "lol",
        [f"{part}/{side}/1.png" for part in ("our485", "eval15") for side in ("low", "high")],
        {
            "train": [("our485/low/1.png", "our485/high/1.png")],
            "test": [("eval15/low/1.png", "eval15/high/1.png")],
        },
    ),
    "CDD-11's archive": (
        "cdd11",
        [f"CDD-11_test/{kind}/00001.png" for kind in ("clear", "low_haze_rain", "snow", "other")],
        {
            "test": [
                ("CDD-11_test/low_haze_rain/00001.png", "CDD-11_test/clear/00001.png"),
                ("CDD-11_test/snow/00001.png", "CDD-11_test/clear/00001.png"),
            ]
        },
    ),
}


def lay(folder, files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("case", KNOWN)
def test_a_data_set_is_found_in_the_folders_people_have(tmp_path, case):
    name, files, expected = KNOWN[case]
    lay(tmp_path, files)
    found = layouts.find(table.BENCHMARKS[name], tmp_path)
    given = {
        split: [
            tuple(path.relative_to(tmp_path).as_posix() for path in record.files)
            for record in one.records
        ]
        for split, one in found.items()
    }
    assert given == expected


def test_composites_say_what_is_in_each_picture(tmp_path):
    lay(tmp_path / "CDD-11_train", ["clear/1.png", "low_haze_rain/1.png", "haze/1.png"])
    records = layouts.find(table.BENCHMARKS["cdd11"], tmp_path)["train"].records
    assert {record.name: record.task for record in records} == {
        "haze/1.png": "haze",
        "low_haze_rain/1.png": "low_light+haze+rain",
    }


def test_realblur_is_split_by_its_lists(tmp_path):
    root = tmp_path / "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
    lay(root, [f"scene{i}/{kind}/{kind}_{i}.png" for i in (1, 2) for kind in ("blur", "gt")])
    for i, split in ((1, "train"), (2, "test")):
        line = " ".join(f"{root.name}/scene{i}/{kind}/{kind}_{i}.png" for kind in ("gt", "blur"))
        (tmp_path / f"RealBlur_J_{split}_list.txt").write_text(line + "\n")
    found = layouts.find(table.BENCHMARKS["realblur_j"], tmp_path)
    names = {split: [record.name for record in one.records] for split, one in found.items()}
    assert names == {"train": ["blur_1.png"], "test": ["blur_2.png"]}


def test_what_stands_alone_is_told(tmp_path):
    lay(tmp_path / "test", ["input/1.png", "target/1.png", "input/2.png"])
    found = layouts.find(table.BENCHMARKS["rain100l"], tmp_path)["test"]
    assert [path.name for path in found.alone] == ["2.png"]
    assert len(found.records) == 1


def test_nothing_is_guessed(tmp_path):
    rain = table.BENCHMARKS["rain100l"]
    lay(tmp_path / "a", ["input/1.png", "target/1.png"])
    with pytest.raises(InputError, match="no folder says of which split; name it: --split train"):
        layouts.find(rain, tmp_path / "a")
    assert list(layouts.find(rain, tmp_path / "a", "test")) == ["test"]
    with pytest.raises(InputError, match="no layout of GoPro that is known here"):
        lay(tmp_path / "b", ["1.png"])
        layouts.find(table.BENCHMARKS["gopro"], tmp_path / "b")
    with pytest.raises(InputError, match="1.jpg and .*1.png differ in their extension"):
        lay(tmp_path / "c" / "test", ["input/1.png", "input/1.jpg", "target/1.png"])
        layouts.find(rain, tmp_path / "c")
    with pytest.raises(InputError, match="no split 'val'; use one of train, test"):
        layouts.find(rain, tmp_path / "a", "val")


def test_every_data_set_says_where_it_comes_from():
    assert len(table.BENCHMARKS) == 30
    for name, one in table.BENCHMARKS.items():
        assert name.isidentifier() and name == name.lower()
        assert one.homepage.startswith("https://") and one.terms and one.citation
        assert one.task in ("", "mixed", *TASKS)
        assert {len(layout) for layout in one.layouts} == {len(one.views)}
        assert all(split.count > 0 for split in one.splits.values())
