"""Which clean picture belongs to which degraded one: by a rule of the whole set, not a guess."""

import unicodedata

import numpy as np
import pytest

from tdr_jax import cli
from tdr_jax.commands import file_plan
from tdr_jax.data import pairs, sources
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb

NFC, NFD = (unicodedata.normalize(form, "Café Ö.png") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """Writes small pictures under names, whole trees of them."""

    def write(root, *names):
        for i, name in enumerate(names):
            write_rgb(tmp_path / root / name, np.full((4, 6, 3), 10 * i, np.uint8))
        return tmp_path / root

    return write


@pytest.mark.parametrize(
    "rule, names",
    [
        ("equal names", {"a/1.png": "a/1.jpg", "b/1.png": "b/1.jpg"}),  # GoPro's scenes
        ("equal names, in whatever folder", {"haze/1.png": "1.png", "low_rain/1.png": "1.png"}),
        ("rain-N and norain-N", {"rain-1.png": "norain-1.png", "rain-20.png": "norain-20.png"}),
        ("norain-Nx2 and norain-N", {"norain-1x2.png": "norain-1.png"}),
        ("ID_VALUES and ID", {"0001_0.8_0.2.jpg": "0001.png", "0001_1_0.1.jpg": "0001.png"}),
        ("ID_VALUES and ID", {"1400_1.png": "1400.png", "1400_10.png": "1400.png"}),
        ("ID_VALUES and ID", {"1_1_0.90179.png": "1.png"}),
        ("ID_VALUES and ID, in whatever folder", {"part1/0005_0.8_0.04.jpg": "0005.jpg"}),
        ("NOISY and GT", {"s/0001_NOISY_SRGB_010.PNG": "s/0001_GT_SRGB_010.PNG"}),
        ("NOISY and GT", {"a/NOISY_SRGB_010.PNG": "a/GT_SRGB_010.PNG"}),
        ("_real and _mean", {"Canon_1_Real.JPG": "Canon_1_mean.JPG"}),
        ("low and normal", {"low00001.png": "normal00001.png"}),
        ("_hazy and _GT", {"01_outdoor_hazy.jpg": "01_outdoor_GT.jpg", "02_hazy.png": "02_GT.png"}),
        ("NAME_haze and NAME", {"street_haze.png": "street.png"}),
        ("N and Ngt", {"001.png": "001gt.png"}),
        ("blur_N and gt_N", {"scene1/blur_1.png": "scene1/gt_1.png"}),
    ],
)
def test_known_sets_pair_by_their_rule(rule, names):
    clean = list(dict.fromkeys(names.values()))
    matching = pairs.match(list(names), [*clean, "beside.png"])
    assert dict(matching.pairs) == names
    assert (matching.rule, matching.left_over) == (rule, ("beside.png",))
    assert matching.holds


@pytest.mark.parametrize(
    "degraded, clean, alone",
    [
        # The clean file of one name is missing; another that could be meant is there.
        (("IMG_0001.png", "IMG_0002.png"), ("IMG_0001.png", "IMG.png"), ("IMG_0002.png",)),
        (("IMG_0002.png",), ("IMG.png",), ("IMG_0002.png",)),
        (("1.png", "1_2.png"), ("1.png",), ("1_2.png",)),
        (("rain-1.png", "rain-2.png"), ("norain-1.png", "rain-2.png"), ("rain-1.png",)),
        (("a/1.png", "b/1.png"), ("a/1.png",), ("b/1.png",)),
        (("a/1.png", "b/1.png"), ("a/1.png", "c/1.png"), ("b/1.png",)),
        (("1_hazy.png", "2_hazy.png"), ("1.png", "2_hazy.png"), ("1_hazy.png",)),
    ],
)
def test_a_name_that_stands_alone_gets_no_partner_by_another_rule(degraded, clean, alone):
    for rules in (pairs.RULES, pairs.GUIDANCE[:-1]):
        matching = pairs.match(degraded, clean, rules)
        assert matching.missing == alone and not matching.unclear


def test_guidance_of_scenes_is_a_rule_of_the_whole_folder():
    names = ("cat.png", "deeper/cat.png", "hazy_0.8_1.jpg", "hazy_1_1.jpg")
    given = ["cat.jpg", "deeper/cat.png", "hazy.png"]
    matching = pairs.match(names, given, pairs.GUIDANCE)
    assert [guide for _, guide in matching.pairs] == [*given, "hazy.png"]
    # A guide with an underscore shows that these are no scenes.
    assert pairs.match(names, [*given, "dog_1.png"], pairs.GUIDANCE).missing == names[2:]


def test_two_that_fit_are_named_and_an_equal_name_decides():
    assert pairs.match(["a.tif"], ["a.png", "a.jpg"]).unclear == (("a.tif", ("a.png", "a.jpg")),)
    assert pairs.match(["a.jpg"], ["a.png", "a.jpg"]).pairs == (("a.jpg", "a.jpg"),)


def test_names_are_compared_in_one_spelling(folder, tmp_path):
    assert NFC != NFD
    source = sources.Pairs(folder("in", NFD), folder("gt", NFC), "rain")
    assert source.names == [NFD] and len(source) == 1
    # The same of what a list of prompts names, of guidance and of right views.
    (tmp_path / "prompts.tsv").write_text(f"{NFC}\tremove the rain\n", encoding="utf-8")
    prompts = file_plan.read_prompts(str(tmp_path / "prompts.tsv"))
    given = str(folder("given", NFC))
    (planned,) = file_plan.plan(
        [str(tmp_path / "in")], str(tmp_path / "out"), right=given, guidance=given
    )
    assert file_plan.prompts_of(planned, prompts, None) == ("remove the rain",)
    assert planned.guidance == planned.right == tmp_path / "given" / NFC
    (tmp_path / "prompts.tsv").write_text(f"{NFC}\ta\n{NFD}\tb\n", encoding="utf-8")
    with pytest.raises(InputError, match="has a prompt already"):
        file_plan.read_prompts(str(tmp_path / "prompts.tsv"))


def test_what_is_missing_stops_and_what_is_left_over_is_told(folder, caplog):
    rainy, gt = folder("rainy", "rain-1.png", "rain-7.png"), folder("gt", "norain-1.png")
    with pytest.raises(InputError, match=r"gt: no clean picture for rain-7.png; the other 1 have"):
        sources.Pairs(rainy, gt, "rain")
    assert not caplog.messages
    folder("gt", "norain-7.png", "norain-8.png", "b.png")
    sources.Pairs(rainy, gt, "rain")
    (line,) = caplog.messages
    assert "2 pictures belong to no degraded one: b.png, norain-8.png" in line


def test_the_command_lists_what_is_paired_with_what(folder, capsys):
    rainy, gt = folder("rainy", "rain-1.png", "rain-2.png"), folder("gt", "norain-1.png")
    command = ["eval", "--degraded", str(rainy), "--clean", str(gt), "--list-pairs"]
    assert cli.main(command) == 2
    assert "no clean picture for rain-2.png" in capsys.readouterr().err
    folder("gt", "norain-2.png")
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# 2 pairs by the rule: rain-N and norain-N",
        *(f"{rainy}/rain-{i}.png\t{gt}/norain-{i}.png" for i in (1, 2)),
    ]
    assert cli.main(["eval", "--data", str(gt), "--list-pairs"]) == 2
    assert "no pairs to list" in capsys.readouterr().err


def test_the_views_of_a_sensor_pair_up(folder):
    clean = folder("clean", "1_L.png", "2_L.png")
    left, right = folder("left", "1_L.png", "2_L.png"), folder("right", "1_R.png", "2_R.png")
    source = sources.DualPixel(left, right, clean, "blur")
    assert [path.name for path in source.right] == ["1_R.png", "2_R.png"]
    folder("right", "3_R.png")
    with pytest.raises(InputError, match="right: no left view in .*left for 3_R.png"):
        sources.DualPixel(left, right, clean, "blur")


@pytest.mark.parametrize(
    "files, degraded, clean",
    [
        (("degraded/1.png", "clean/1.png"), ["1.png"], ["1.png"]),
        (
            ("train/S1/blur/1.png", "train/S1/sharp/1.png", "train/S2/blur/1.png"),
            ["train/S1/1.png", "train/S2/1.png"],
            ["train/S1/1.png"],
        ),
        (
            ("clear/1.png", "haze_rain/1.png", "low/1.png"),
            ["haze_rain/1.png", "low/1.png"],
            ["1.png"],
        ),
        (("rainy/rain-1.png", "gt/norain-1.png"), ["rain-1.png"], ["norain-1.png"]),
        (
            ("synthetic/part1/1_0.8_0.2.jpg", "original/1.jpg"),
            ["part1/1_0.8_0.2.jpg"],
            ["1.jpg"],
        ),
        (
            ("a/1_NOISY_SRGB.PNG", "a/1_GT_SRGB.PNG"),
            ["a/1_NOISY_SRGB.PNG"],
            ["a/1_GT_SRGB.PNG"],
        ),
    ],
)
def test_the_two_sides_of_a_folder_are_found(folder, files, degraded, clean):
    sides = pairs.split(folder("set", *files))
    assert (list(sides.degraded), list(sides.clean)) == (degraded, clean)


def test_a_folder_of_clean_pictures_has_one_side(folder):
    assert pairs.split(folder("a", "1.png", "2_3.png", "deeper/low/1.png")) is None
    sides = pairs.split(folder("b", "input/1.png", "target/1.png", "extra/2.png"))
    assert [path.name for path in sides.neither] == ["2.png"]
