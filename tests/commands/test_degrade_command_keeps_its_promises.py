"""`tdr degrade` writes what evaluation sees; guidance is drawn from the same, level by level."""

import dataclasses
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from tdr_jax import cli
from tdr_jax.commands import guide
from tdr_jax.data import guidance_folders
from tdr_jax.degradations.vocabulary import KINDS
from tdr_jax.errors import InputError
from tdr_jax.evaluate import Setting, evaluate, protocols
from tdr_jax.images import read_rgb, write_rgb
from tdr_jax.infer.guide import central_square
from tests.support.fakes import fake

PHOTOS = {
    "b.png": data.chelsea()[20:87, 30:127],  # 97x67: neither side a multiple of 16
    "a.jpg": data.astronaut()[60:108, 200:264],
    "sub/c.png": data.chelsea()[100:148, 100:164],
}
NAMES = ["a.jpg", "b.png", "sub/c.png"]  # sorted, as evaluation numbers them


@pytest.fixture
def folder(tmp_path):
    for name, photo in PHOTOS.items():
        write_rgb(tmp_path / "photos" / name, photo)
    return tmp_path / "photos"


def tdr(*words) -> int:
    return cli.main([str(word) for word in words])


def evaluated(folder, task, **options):
    return {e.name: e for e in protocols.examples(folder, Setting.parse(task), **options)}


def written(out, name):
    return out / name.replace(".jpg", ".png")


def files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}


def test_noisy_pictures_are_those_of_evaluation_to_the_byte(folder, tmp_path):
    out = tmp_path / "out"
    status = tdr("degrade", folder, "-o", out, "--task", "noise", "--sigma", 50, "--seed", 3)
    assert status == 0
    for name, example in evaluated(folder, "noise50", seed=3).items():
        levels = np.rint(example.degraded * 255).astype(np.uint8)
        np.testing.assert_array_equal(levels.astype(np.float32) / 255, example.degraded)
        np.testing.assert_array_equal(read_rgb(written(out, name)), levels)
    assert len(files(out)) == len(PHOTOS)


def test_floats_lose_nothing_of_any_damage(folder, tmp_path):
    tasks = [f"{kind}{25 if kind == 'noise' else ''}" for kind in KINDS] + ["noise50float"]
    for form, suffix, read in (("npy", ".npy", np.load), ("tiff", ".tif", tifffile.imread)):
        out = tmp_path / form
        some = tasks if form == "npy" else tasks[-2:]
        assert tdr("degrade", folder, "-o", out, "--task", ",".join(some), "--format", form) == 0
        for task in some:
            for name, example in evaluated(folder, task).items():
                made = read((out / task / name).with_suffix(suffix))
                np.testing.assert_array_equal(made, example.degraded)


def test_a_single_picture_is_drawn_by_the_place_that_is_told(folder, tmp_path):
    target = tmp_path / "one.png"
    for number, name in enumerate(NAMES):
        tdr("degrade", folder / name, "-o", target, "--task", "noise25", "--first", number)
        expected = evaluated(folder, "noise25")[name].degraded
        np.testing.assert_array_equal(read_rgb(target) / np.float32(255), expected)


def test_the_clean_pictures_fit_and_score_as_evaluation_does(folder, tmp_path):
    pairs = tmp_path / "pairs"
    words = ["--task", "noise25", "--clean", pairs / "clean"]
    assert tdr("degrade", folder, "-o", pairs / "degraded", *words) == 0
    network = fake(lambda params, images: images)
    made, read = (
        evaluate(network, {}, None, source, [task])[0].psnr
        for source, task in ((folder, "noise25"), (pairs, "noise"))
    )
    assert made == read


def test_whole_pictures_keep_their_size(folder, tmp_path):
    tdr("degrade", folder, "-o", tmp_path / "out", "--task", "haze", "--whole")
    assert read_rgb(tmp_path / "out" / "b.png").shape == (67, 97, 3)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--task", "snow"], "there is no damage 'snow'"),
        (["--task", "noise"], "without its sigma"),
        (["--task", "rain", "--sigma", "5"], "--sigma 5 is for noise without a number"),
        (["--task", "noise25,noise25"], "once each"),
        (["--task", "noise25float"], "--format tiff or npy"),
        (["--task", "jpeg0"], "quality, 1 to 100"),
        (["--task", "camera7"], "takes no number"),
        (["--task", "rain", "--first", "-1"], "--first -1"),
        (["--task", "rain", "--clean", "out"], "choose another --clean"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    folder, tmp_path, words, match, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert tdr("degrade", folder, "-o", "out", *words) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten_and_jpeg_is_refused(folder, tmp_path, capsys):
    before = files(folder)
    assert tdr("degrade", folder, "-o", folder, "--task", "rain") == 2
    assert tdr("degrade", folder / "b.png", "-o", folder / "b.png", "--task", "rain") == 2
    assert tdr("degrade", tmp_path / "none", "-o", tmp_path / "out", "--task", "rain") == 2
    assert tdr("degrade", folder / "b.png", "-o", tmp_path / "b.jpg", "--task", "rain") == 2
    said = capsys.readouterr().err
    assert said.count("never overwritten") == 2 and "no such file" in said
    assert "'.jpg' would not keep it" in said
    assert files(folder) == before


def test_a_damaged_file_is_reported_and_the_others_keep_their_draws(folder, tmp_path, capsys):
    out = tmp_path / "out"
    (folder / "aa.png").write_bytes((folder / "b.png").read_bytes()[:90])
    write_rgb(folder / "dot.png", PHOTOS["b.png"][:9])
    assert tdr("degrade", folder, "-o", out, "--task", "noise25") == 1
    said = capsys.readouterr().err
    assert "aa.png" in said and "97x9" in said and "degraded 3 of 5; 2 failed" in said
    names = sorted([*NAMES, "aa.png", "dot.png"])
    for name in NAMES:
        setting = Setting.parse("noise25")
        expected = protocols.example(
            {names.index(name): {"image": read_rgb(folder / name), "name": name}},
            names.index(name),
            setting,
            0,
        )
        np.testing.assert_array_equal(
            read_rgb(written(out, name)) / np.float32(255), expected.degraded
        )


def test_a_colour_profile_goes_along(folder, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PHOTOS["b.png"]).save(folder / "b.png", icc_profile=profile)
    tdr("degrade", folder / "b.png", "-o", tmp_path / "b.png", "--task", "rain")
    assert Image.open(tmp_path / "b.png").info["icc_profile"] == profile


# Guidance.


@dataclasses.dataclass
class Echo:
    """A guide that draws what it looks at."""

    side: int = 24
    restores: bool = True

    def __call__(self, pictures, **options):
        return [np.asarray(picture, np.float32) / 255 for picture in pictures]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(guide, "_load", lambda args: (Echo(), "0" * 64))


def test_guidance_is_drawn_from_what_degrade_writes(folder, tmp_path, echo, capsys):
    levels = "noise15,noise50,blur+noise25"
    assert tdr("guide", folder, "-o", tmp_path / "both", "--degrade", levels) == 0
    assert tdr("degrade", folder, "-o", tmp_path / "seen", "--task", levels) == 0
    for level in levels.split(","):
        for name in NAMES:
            drawn = read_rgb(written(tmp_path / "both" / level, name))
            seen = read_rgb(written(tmp_path / "seen" / level, name))
            np.testing.assert_array_equal(drawn, central_square(seen, 24))
        said = json.loads((tmp_path / "both" / level / "manifest.json").read_text())
        assert (said["settings"]["degrade"], said["settings"]["degrade_seed"]) == (level, 0)
    before = files(tmp_path / "both")
    capsys.readouterr()
    assert tdr("guide", folder, "-o", tmp_path / "both", "--degrade", levels) == 0
    assert "drew 0 of 3 after noise15; 3 were there already" in capsys.readouterr().err
    assert files(tmp_path / "both") == before
    # Another picture before it moves a picture's place, and with it its damage.
    write_rgb(folder / "aa.png", PHOTOS["b.png"])
    assert tdr("guide", folder, "-o", tmp_path / "both", "--degrade", levels) == 0
    assert "drew 3 of 4 after noise15; 1 were there already" in capsys.readouterr().err
    other = ["--degrade", levels, "--degrade-seed", 1]
    assert tdr("guide", folder, "-o", tmp_path / "both", *other) == 2
    assert tdr("guide", folder, "-o", tmp_path / "both", *other, "--shared", "scene") == 2


def test_every_row_of_an_evaluation_takes_the_guidance_of_its_level(folder, tmp_path, echo):
    tdr("guide", folder, "-o", tmp_path / "guides", "--degrade", "noise15,noise50")
    network = fake(lambda params, images, guide: 0 * images + guide.mean(), guided=True)
    rows = evaluate(network, {}, None, folder, ["noise50", "noise15"], guidance=tmp_path / "guides")
    for row in rows:  # it answers with the mean of its guidance, so the scores tell which that was
        clean = evaluated(folder, row.setting)
        for score in row.scores:
            grey = read_rgb(written(tmp_path / "guides" / row.setting, score.name)).mean() / 255
            psnr = -10 * np.log10(np.mean((clean[score.name].clean - grey) ** 2))
            assert abs(score.psnr - psnr) < 1e-3
    assert rows[0].psnr != rows[1].psnr
    with pytest.raises(InputError, match="guidance for noise15, noise50, but none for rain; draw"):
        evaluate(network, {}, None, folder, ["rain"], guidance=tmp_path / "guides")


def test_guidance_of_something_else_is_refused(folder, tmp_path, echo):
    guides, source = tmp_path / "guides", protocols.open_source(folder)
    tdr("guide", folder, "-o", guides, "--degrade", "noise15")
    (guides / "noise15").rename(guides / "noise50")
    with pytest.raises(InputError, match="noise50 was drawn from noise15, not noise50"):
        guidance_folders.of_level(guides, "noise50", source)
    tdr("guide", folder, "-o", guides / "rain")
    with pytest.raises(InputError, match="rain was drawn from the clean pictures"):
        guidance_folders.of_level(guides, "rain", source)
    # Folders of the pictures' own are no levels.
    (folder / "noise25").mkdir()
    (folder / "sub" / "c.png").rename(folder / "noise25" / "c.png")
    tdr("guide", folder, "-o", tmp_path / "flat")
    source = protocols.open_source(folder)
    assert guidance_folders.of_level(tmp_path / "flat", "noise50", source) == tmp_path / "flat"
