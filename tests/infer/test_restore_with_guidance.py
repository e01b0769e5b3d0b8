"""Guidance on its way to a guided network: by `Restorer`, by `tdr restore` and by `tdr eval`."""

import json
import os
import weakref

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.commands import guide
from tdr_jax.errors import InputError
from tdr_jax.evaluate import Restoration, Setting, evaluate, protocols
from tdr_jax.images.arrays import open_guidance
from tdr_jax.infer import Restorer
from tests.support import stacks
from tests.support.caches import own_cache  # noqa: F401 (a fixture)
from tests.support.fakes import fake
from tests.support.sizes import GUIDED

HEIGHT, WIDTH = 62, 61  # of most pictures here: padded to 62x62, which compiles once
CAT = data.chelsea()[100 : 100 + HEIGHT, 120 : 120 + WIDTH]
OTHER = data.chelsea()[104 : 104 + HEIGHT, 110 : 110 + WIDTH]  # the same scene, shifted


def guided(seen, channels=(3, 3)):
    """Adds half the guidance's mean to half the picture, and notes the shapes it is given."""

    def apply(params, images, guidance, method="__call__"):
        seen.append((images.shape, guidance.shape))
        if method == "confidence":
            return images[..., 0]
        return (images[..., : channels[1]] + guidance.mean()) / 2

    return fake(apply, channels, guided=True)


def blind():
    return fake(lambda params, x: x, name="blind")


def test_guidance_is_needed_by_guided_networks_and_refused_by_others():
    with pytest.raises(InputError, match="fake restores with guidance; give a picture"):
        Restorer(guided([]), {})(CAT)
    for call in (Restorer(blind(), {}).__call__, Restorer(blind(), {}).confidence):
        with pytest.raises(InputError, match="blind takes no guidance; leave it out"):
            call(CAT, guidance=OTHER)
    restorer = Restorer(guided([]), {})
    for wrong in ("other.png", np.zeros((4, 4, 2)), np.full((4, 4, 3), np.nan), OTHER * 1.0):
        with pytest.raises(InputError, match="the guidance: image (is|holds)"):
            restorer(CAT, guidance=wrong)


def test_guidance_may_be_of_any_type():
    grey = OTHER[..., 1]
    kinds = [
        grey,
        grey[..., None],
        np.repeat(grey[..., None], 3, -1),
        grey.astype(np.uint16) * np.uint16(257),
        (grey / 255).astype(np.float32),
        Image.fromarray(grey),
        Image.fromarray(grey).convert("RGBA"),
    ]
    restorer = Restorer(guided([]), {})
    first, *others = (restorer(CAT, guidance=kind) for kind in kinds)
    expected = np.rint((CAT / 255 + grey.mean() / 255) / 2 * 255)
    assert np.abs(first - expected).max() <= 1
    for other in others:
        assert np.abs(other.astype(int) - first).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (512, 512), (300, 80)])
def test_small_guidance_is_given_as_it_is(size):
    given = np.random.default_rng(0).random((*size, 3), np.float32)
    np.testing.assert_array_equal(open_guidance(given, 1), given)


@pytest.mark.parametrize(
    "size, pixels, shrunk",
    [
        ((1200, 900), 1, (591, 443)),  # to 512 * 512 pixels at most
        ((1200, 900), 600 * 600, (692, 519)),
        ((2048, 1024), 2**30, (1448, 724)),  # to 1024 * 1024 pixels at most
        ((1, 5000), 1, (1, 2048)),  # a strip counts as one of 128 rows
    ],
)
def test_large_guidance_is_shrunk_in_its_proportions(size, pixels, shrunk):
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    found = open_guidance(np.broadcast_to(ramp, size), pixels)
    assert found.shape == (*shrunk, 3) and found.dtype == np.float32
    assert 0 <= found.min() and found.max() <= 1
    assert np.abs(found[0, :, 0] - np.linspace(0, 1, shrunk[1])).max() < 0.01


def test_every_tile_and_channel_sees_the_whole_guidance():
    seen, picture = [], data.astronaut()[:150, :170]
    restored = Restorer(guided(seen), {})(picture, guidance=OTHER, max_pixels=4096)
    assert {guidance for _, guidance in seen} == {(1, *OTHER.shape)}
    assert all(image[1] * image[2] <= 4096 for image, _ in seen)
    expected = (picture + OTHER.mean()) / 2
    assert np.abs(restored - expected).max() <= 1
    restored = Restorer(guided(seen, (1, 1)), {})(picture, guidance=OTHER, max_pixels=4096)
    assert np.abs(restored - expected).max() <= 1
    confidence = Restorer(guided(seen), {}).confidence(picture, OTHER, max_pixels=4096)
    assert confidence.shape == (150, 170) and confidence.dtype == np.float32
    assert np.abs(confidence - picture[..., 0] / 255).max() < 1e-5


@pytest.fixture(scope="module")
def network():
    """A small guided network whose fusion does something, and its parameters."""
    network = models.build("guided", backbone="nafnet", **GUIDED)
    random = np.random.default_rng(0)
    params = {
        # What starts at zero is all that keeps guidance away from the result.
        name: value if np.any(value) else 0.3 * random.standard_normal(value.shape, np.float32)
        for name, value in network.init(0).items()
    }
    return network, params


@pytest.fixture(scope="module")
def restorer(network):
    return Restorer(*network)


def test_guidance_changes_what_a_real_network_restores(restorer):
    first, second = (restorer(CAT, guidance=picture) for picture in (OTHER, OTHER[::-1]))
    assert first.shape == CAT.shape and not np.array_equal(first, second)


def test_a_picture_is_sure_of_itself(restorer):
    picture = data.chelsea()[:128, 100:228]
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    itself, other = (restorer.confidence(picture, guide) for guide in (picture, noise))
    assert itself.shape == (128, 128) and itself.dtype == np.float32
    # What is found lies wholly in the guidance, what the picture's border shows only partly.
    assert np.abs(itself[8:-8, 8:-8] - 1).max() < 1e-4
    assert other.mean() < itself.mean() - 0.01 and itself.max() <= 1 + 1e-5


@pytest.fixture
def tdr(restorer, capsys, monkeypatch):
    """Run `tdr` in this process; give the exit status, the lines on standard error, the models."""
    asked = []

    def load(name, encoder, *, insist, rows):
        asked.append(name)
        return Restorer(blind(), {}) if name == "blind" else restorer  # compiled once for all

    monkeypatch.setattr(Restorer, "from_pretrained", load)

    def run(*words):
        status = cli.main(["restore", *map(str, words)])
        return status, capsys.readouterr().err.splitlines()

    run.asked = asked
    return run


@pytest.fixture
def folder(tmp_path):
    """in/ with pictures, and good/ with a clean one for each, under names that fit."""
    for name, left in {"cat.png": 120, "deeper/cat.png": 130, "hazy_0.8_1.jpg": 140}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        images.write_rgb(
            tmp_path / "in" / name, data.chelsea()[100 : 100 + HEIGHT, left : left + WIDTH]
        )
    for name, top in {"cat.jpg": 98, "deeper/cat.png": 96, "hazy.png": 94}.items():
        (tmp_path / "good" / name).parent.mkdir(parents=True, exist_ok=True)
        images.write_rgb(tmp_path / "good" / name, data.chelsea()[top : top + 62, 128 : 128 + 61])
    return tmp_path


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def refused(result, *parts):
    status, lines = result
    assert status == 2 and len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines


def test_one_picture_guides_all_and_a_folder_each(tdr, restorer, folder):
    names = files(folder / "in")
    one = folder / "good" / "deeper" / "cat.png"
    assert tdr(folder / "in", "-o", folder / "one", "--guidance", one)[0] == 0
    assert tdr(folder / "in", "-o", folder / "each", "--guidance", folder / "good")[0] == 0
    assert files(folder / "one") == files(folder / "each") == names
    pairs = {"cat.png": "cat.jpg", "deeper/cat.png": "deeper/cat.png"}
    for out, guides in {"one": dict.fromkeys(pairs, "deeper/cat.png"), "each": pairs}.items():
        for name, match in guides.items():
            guidance = images.read_rgb(folder / "good" / match)
            restored = restorer(images.read_rgb(folder / "in" / name), guidance=guidance)
            found = images.read_rgb(folder / out / name)
            assert np.abs(found.astype(int) - restored).max() <= 1
    assert tdr.asked == ["guided-compact"] * 2


def test_the_usual_model_hangs_on_guidance(tdr, folder):
    cat = folder / "in" / "cat.png"
    refused(tdr(cat, "-o", folder / "x.png"), "guided restores with guidance", "(--guidance)")
    refused(tdr(cat, "-o", folder / "x.png", "--model", "mine"), "restores with guidance")
    words = ("-o", folder / "x.png", "--model", "blind", "--guidance")
    for guidance in (folder / "good", "auto"):
        refused(tdr(cat, *words, guidance), "blind takes no guidance; leave it out")
    assert tdr.asked == ["textpromptir-compact", "mine", "blind", "blind"]
    assert not (folder / "x.png").exists()


def test_guidance_that_is_missing_or_damaged_is_said_before_any_work(tdr, folder):
    before, out = files(folder), folder / "out"
    words = (folder / "in", "-o", out, "--guidance")
    refused(tdr(*words, folder / "no.png"), "no.png: no such file or folder")
    (folder / "bad.png").write_bytes((folder / "good" / "hazy.png").read_bytes()[:300])
    refused(tdr(*words, folder / "bad.png"), "bad.png: the picture is damaged")
    (folder / "bad.png").unlink()
    (folder / "empty").mkdir()
    refused(tdr(*words, folder / "empty"), "no guidance for cat.png, deeper/cat.png, hazy_0.8_1")
    (folder / "good" / "deeper" / "cat.png").unlink()
    refused(tdr(*words, folder / "good"), "no guidance for deeper/cat.png;")
    images.write_rgb(folder / "good" / "deeper" / "cat.tiff", OTHER)
    images.write_rgb(folder / "good" / "deeper" / "cat.webp", OTHER)
    refused(tdr(*words, folder / "good"), "cat.tiff and", "cat.webp both fit deeper/cat.png")
    assert tdr.asked == [] and not out.exists()
    assert len(files(folder)) == len(before) + 1


def test_options_that_only_say_how_to_draw_are_refused_where_nothing_is_drawn(tdr, folder):
    cat, out = folder / "in" / "cat.png", folder / "out.png"
    for option in (("--fast",), ("--seed", 1), ("--guidance-model", "x"), ("--keep-guidance", "x")):
        for guidance in ((), ("--guidance", folder / "good")):
            result = tdr(cat, "-o", out, *guidance, *option)
            refused(result, f"{option[0]} is for --guidance auto")
    assert not out.exists()


def test_damaged_guidance_in_a_folder_fails_its_picture_and_no_other(tdr, folder):
    (folder / "good" / "cat.jpg").write_bytes(b"no picture at all\n" * 20)
    status, lines = tdr(
        folder / "in", "-o", folder / "out", "--guidance", folder / "good", "--panel"
    )
    assert status == 1 and lines[-1] == "restored 2 of 3; 1 failed"
    assert any("good/cat.jpg: not a picture" in line for line in lines)
    assert [name for name in files(folder / "out") if "panel" not in name] == [
        "deeper/cat.png",
        "hazy_0.8_1.jpg",
    ]


def test_guidance_is_neither_input_nor_overwritten(tdr, folder):
    (folder / "good").rename(folder / "in" / "good")
    good = folder / "in" / "good"
    assert tdr(folder / "in", "-o", folder / "out", "--guidance", good)[0] == 0
    assert files(folder / "out") == ["cat.png", "deeper/cat.png", "hazy_0.8_1.jpg"]
    cat = good / "deeper" / "cat.png"
    words = (folder / "in" / "cat.png", "-o", cat, "--guidance", cat)
    refused(tdr(*words), "never overwritten")


def test_the_panel_shows_input_guidance_confidence_and_output(tdr, folder, monkeypatch):
    cat, panels = folder / "in" / "cat.png", folder / "panels"
    words = (cat, "-o", folder / "out.png", "--guidance", folder / "good", "--panel")
    assert tdr(*words, panels)[0] == 0
    assert files(panels) == ["out_panel.png"]
    panel = images.read_rgb(panels / "out_panel.png")
    parts = [panel[-HEIGHT:, 164 * k :][:, :WIDTH] for k in range(4)]
    assert panel.shape[0] > HEIGHT and panel.shape[1] == 4 * 160 + 3 * 4
    np.testing.assert_array_equal(parts[0], images.read_rgb(cat))
    np.testing.assert_array_equal(parts[1], images.read_rgb(folder / "good" / "cat.jpg"))
    np.testing.assert_array_equal(parts[3], images.read_rgb(folder / "out.png"))
    assert len({part.tobytes() for part in parts}) == 4

    assert tdr(*words)[0] == 0  # beside the output, if no folder is named
    assert (folder / "out_panel.png").read_bytes() == (panels / "out_panel.png").read_bytes()
    refused(tdr(*words, folder / "out.png"), "names a file; give a folder")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    before = {path: path.read_bytes() for path in panels.iterdir()}
    status, lines = tdr(*words, panels)
    assert status == 1 and any("No space left" in line for line in lines)
    assert {path: path.read_bytes() for path in panels.iterdir()} == before


def test_tiny_pictures_and_tiles_are_guided_too(tdr, folder):
    images.write_rgb(folder / "dot.png", CAT[:1, :1])
    large = data.astronaut()[:100, :140]
    images.write_rgb(folder / "large.png", large)
    words = (folder / "dot.png", "-o", folder / "x.png", "--guidance", folder / "dot.png")
    assert tdr(*words, "--panel")[0] == 0
    assert images.read_rgb(folder / "x.png").shape == (1, 1, 3)
    words = (folder / "large.png", "-o", folder / "y.png", "--guidance", folder / "good/cat.jpg")
    assert tdr(*words, "--panel", "--max-pixels", 4096)[0] == 0
    restored = images.read_rgb(folder / "y.png")
    assert restored.shape == large.shape and not np.array_equal(restored, large)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacks") / "stack"
    stacks.make(folder)
    return folder


def test_auto_draws_what_the_guide_command_draws_and_restores_with_it(
    tdr, stack, folder, monkeypatch
):
    load, guides = guide._load, []

    def noted(args):
        loaded = load(args)
        guides.append(weakref.ref(loaded[0]))
        return loaded

    monkeypatch.setattr(guide, "_load", noted)
    (folder / "in" / "bad.png").write_bytes(b"no picture at all\n" * 20)
    drawn, out = folder / "drawn", folder / "out"
    words = (folder / "in", "-o", out, "--guidance", "auto", "--guidance-model", stack, "--fast")
    before = files(folder)
    status, lines = tdr(*words)
    assert status == 1 and lines[-1] == "restored 3 of 4; 1 failed"
    assert [alive() for alive in guides] == [None]  # its memory is free again
    said = f"drawing guidance from the words of 4 degraded pictures: {stack}, 20 steps of DPM"
    assert any(line.startswith(said) and "seed 42, not kept" in line for line in lines)
    assert sum("in/bad.png: " in line for line in lines) == 1
    results = {name: (out / name).read_bytes() for name in files(out)}
    assert sorted(results) == ["cat.png", "deeper/cat.png", "hazy_0.8_1.jpg"]
    assert files(folder) == sorted([*before, *(f"out/{name}" for name in results)])

    assert tdr(*words, "--keep-guidance", drawn)[0] == 1
    command = ["guide", folder / "in", "-o", folder / "theirs", "--model", stack, "--fast"]
    assert cli.main(list(map(str, command))) == 1
    assert files(drawn) == files(folder / "theirs") != []
    for name in files(drawn):
        assert (drawn / name).read_bytes() == (folder / "theirs" / name).read_bytes()
    assert {name: (out / name).read_bytes() for name in files(out)} == results

    _, lines = tdr(*words, "--keep-guidance", drawn)  # what is there is not drawn again
    assert "drew 0 of 4; 3 were there already; 1 failed" in lines
    refusal = tdr(*words, "--keep-guidance", drawn, "--seed", "1")
    assert refusal[0] == 2 and refusal[1][-1].endswith("choose another --keep-guidance")
    (folder / "in" / "bad.png").unlink()
    assert tdr(folder / "in", "-o", folder / "again", "--guidance", drawn)[0] == 0
    assert {name: (folder / "again" / name).read_bytes() for name in files(folder / "again")} == (
        results
    )


def test_outputs_panels_and_drawn_guidance_may_share_a_folder(tdr, stack, folder):
    out = folder / "in" / "out"
    words = (folder / "in", "-o", out, "--guidance", "auto", "--guidance-model", stack, "--fast")
    for _ in range(2):  # the second run does not take what the first one left for inputs
        assert tdr(*words, "--keep-guidance", out, "--panel", out)[0] == 0
        assert files(out) == [
            "cat.png",
            "cat_2.png",
            "cat_panel.png",
            "deeper/cat.png",
            "deeper/cat_2.png",
            "deeper/cat_panel.png",
            "hazy_0.8_1.jpg",
            "hazy_0.8_1.png",
            "hazy_0.8_1_panel.png",
            "manifest.json",
        ]


def test_evaluation_finds_guidance_by_name(network, restorer, tmp_path):
    photos, good = tmp_path / "photos", tmp_path / "good"
    for name in ("a.png", "b_0.8.png"):
        photos.mkdir(exist_ok=True)
        images.write_rgb(photos / name, data.chelsea()[100:164, 120:184])
    good.mkdir()
    guidance = data.chelsea()[104:168, 110:174]  # of one size, which compiles once
    images.write_rgb(good / "a.jpg", guidance)
    with pytest.raises(InputError, match=r"no guidance for b_0\.8\.png;"):
        evaluate(*network, None, photos, ["noise25"], guidance=good)
    (row,) = evaluate(*network, None, photos, ["noise25"], guidance=good, limit=1)
    images.write_rgb(good / "b.png", guidance[::-1])
    (both,) = evaluate(*network, None, photos, ["noise25"], guidance=good)
    assert both.scores[0] == row.scores[0] and both.scores[1] != row.scores[0]
    (example,) = protocols.examples(photos, Setting.parse("noise25"), limit=1)
    restored = restorer(example.degraded, guidance=images.read_rgb(good / "a.jpg"))
    error = np.mean((restored.astype(np.float64) - example.clean) ** 2)
    assert abs(row.psnr + 10 * np.log10(error)) < 1e-3

    made = dict(guidance=lambda example: example.clean)  # or by a function
    (row,) = evaluate(*network, None, photos, ["noise25"], **made, limit=1)
    assert row.scores[0] != both.scores[0]
    (values, *_) = Restoration(network[0], None, photos, ["noise25"], limit=1, **made).run(
        network[1]
    )
    assert values == ("noise25/psnr", row.psnr)


def test_evaluation_needs_guidance_just_where_the_network_does(network, tmp_path, capsys):
    picture = [np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(InputError, match="guided restores with guidance; give a picture"):
        evaluate(*network, None, picture, ["noise25"])
    with pytest.raises(InputError, match="blind takes no guidance"):
        evaluate(blind(), {}, None, picture, ["noise25"], guidance=lambda example: example.clean)
    path = weights.save(tmp_path / "model", *network)
    for name in ("photos", "good"):
        (tmp_path / name).mkdir()
        images.write_rgb(tmp_path / name / "a.png", data.chelsea()[100:164, 120:184])
    words = ["eval", "--model", path, "--data", tmp_path / "photos", "--tasks", "noise25"]
    assert cli.main(list(map(str, words))) == 2
    assert "(--guidance)" in capsys.readouterr().err
    words += ["--guidance", tmp_path / "good", "-o", tmp_path / "out"]
    assert cli.main(list(map(str, words))) == 0
    about = json.loads((tmp_path / "out" / "table.json").read_text())["about"]
    assert about["guidance"] == str(tmp_path / "good")
    assert cli.main(["eval", "--help"]) == 0 and "--guidance DIR" in capsys.readouterr().out
