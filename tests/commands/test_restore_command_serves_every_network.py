"""`tdr restore` with networks that take no sentence, grey, two views, or come from PyTorch."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from tdr_jax import cli, convert, images, models, weights
from tests.support.caches import own_cache  # noqa: F401 (a fixture)
from tests.support.sizes import DUAL_PIXEL, GREY, SMALLEST

HEIGHT, WIDTH = 30, 47  # padded to 32x48, which compiles once for each network


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights of a small network of each sort: name -> path."""
    folder = tmp_path_factory.mktemp("models")
    sorts = {
        "plain": ("nafnet", SMALLEST["nafnet"]),
        "grey": ("nafnet", GREY),
        "dual": ("restormer", DUAL_PIXEL),
        "worded": ("textpromptir-tiny", {}),
    }
    paths = {}
    for sort, (name, config) in sorts.items():
        network = models.build(name, **config)
        paths[sort] = str(weights.save(folder / sort, network, network.init(0)))
    return paths


@pytest.fixture
def tdr(saved, capsys):
    """Run `tdr restore` in this process; give the exit status and the lines on standard error."""

    def run(sort, *words):
        status = cli.main(["restore", *map(str, words), "--model", saved.get(sort, sort)])
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def views(tmp_path):
    """left/ and right/ with pictures of equal names."""
    for name, top in {"cat.png": 100, "deeper/cat.png": 140}.items():
        for side, shift in (("left", 0), ("right", 2)):
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = data.chelsea()[top : top + HEIGHT]
            images.write_rgb(path, rows[:, 120 + shift : 120 + shift + WIDTH])
    return tmp_path


def refused(result, *parts):
    status, lines = result
    assert status == 2 and len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines


def test_without_a_prompt_those_that_take_one_say_what_they_see(tdr, views):
    status, lines = tdr("worded", views / "left" / "cat.png", "-o", views / "out.png")
    assert status == 0 and any("cat.png: found " in line for line in lines), lines


def test_a_prompt_is_refused_by_networks_that_take_none(tdr, views):
    left, out = views / "left", views / "out"
    refused(
        tdr("plain", left, "-o", out, "--prompt", "deblur"),
        "takes no sentence; leave the prompt out",
    )
    table = views / "prompts.tsv"
    table.write_text("cat.png\tdeblur\n")
    refused(tdr("plain", left, "-o", out, "--prompts", table), "takes no sentence")
    assert not out.exists()
    status, lines = tdr("plain", left, "-o", out, "--panel")
    assert status == 0 and lines[-1] == "restored 2 of 2"
    before, after = images.read_rgb(left / "cat.png"), images.read_rgb(out / "cat.png")
    assert after.shape == before.shape and not np.array_equal(after, before)
    panel = images.read_rgb(out / "cat_panel.png")
    np.testing.assert_array_equal(panel[-HEIGHT:, :160][:, :WIDTH], before)


def test_the_right_view_is_found_by_name_and_changes_the_result(tdr, views):
    left, right = views / "left", views / "right"
    status, _ = tdr("dual", left, "-o", views / "out", "--right", right)
    assert status == 0
    one = views / "one.png"
    assert tdr("dual", left / "cat.png", "-o", one, "--right", right / "cat.png")[0] == 0
    restored = images.read_rgb(views / "out" / "cat.png")
    np.testing.assert_array_equal(restored, images.read_rgb(one))
    other = views / "other.png"
    assert (
        tdr("dual", left / "cat.png", "-o", other, "--right", right / "deeper" / "cat.png")[0] == 0
    )
    assert not np.array_equal(restored, images.read_rgb(other))


def test_views_that_do_not_fit_are_named_in_one_line(tdr, views):
    left, right, out = views / "left", views / "right", views / "out"
    cat = left / "cat.png"
    refused(tdr("dual", left, "-o", out), "restores from two views", "--right")
    refused(tdr("plain", left, "-o", out, "--right", right), "one picture; leave the right view")
    refused(tdr("dual", left, "-o", out, "--right", right / "cat.png"), "is no folder")
    refused(tdr("dual", cat, "-o", out, "--right", views / "no.png"), "no.png: no such file")
    refused(tdr("dual", cat, "-o", right / "cat.png", "--right", right), "never overwritten")
    (right / "deeper" / "cat.png").unlink()
    refused(
        tdr("dual", left, "-o", out, "--right", right), "right: no right view for deeper/cat.png"
    )
    assert not out.exists()

    images.write_rgb(right / "deeper" / "cat.png", data.chelsea()[:HEIGHT, : WIDTH - 1])
    status, lines = tdr("dual", left, "-o", out, "--right", right)
    assert status == 1 and lines[-1] == "restored 1 of 2; 1 failed"
    assert any(
        "deeper/cat.png: the right view is 46x30, but the left one 47x30" in s for s in lines
    )


def test_a_grey_network_keeps_grey_grey_and_colour_coloured(tdr, tmp_path):
    cat = data.chelsea()[100 : 100 + HEIGHT, 120 : 120 + WIDTH]
    (tmp_path / "in").mkdir()
    Image.fromarray(cat).convert("L").save(tmp_path / "in" / "grey.png")
    Image.fromarray(cat).save(tmp_path / "in" / "colour.png")
    Image.fromarray(cat[..., 1]).save(tmp_path / "in" / "green.png")
    assert tdr("grey", tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    opened = {path.stem: Image.open(path) for path in (tmp_path / "out").iterdir()}
    assert {name: image.mode for name, image in opened.items()} == {
        "grey": "L",
        "colour": "RGB",
        "green": "L",
    }
    colour, green = np.asarray(opened["colour"]), np.asarray(opened["green"])
    np.testing.assert_array_equal(colour[..., 1], green)
    assert not np.array_equal(green, cat[..., 1])


def test_a_checkpoint_of_pytorch_restores_like_our_own_file(tdr, saved, views):
    _, params = weights.load(saved["plain"])
    state = convert.to_torch("nafnet", params, **SMALLEST["nafnet"])
    torch.save({"params": state}, views / "NAFNet.pth")
    cat = views / "left" / "cat.png"
    assert tdr("plain", cat, "-o", views / "ours.png")[0] == 0
    assert tdr(str(views / "NAFNet.pth"), cat, "-o", views / "theirs.png")[0] == 0
    ours, theirs = (images.read_rgb(views / name) for name in ("ours.png", "theirs.png"))
    np.testing.assert_array_equal(ours, theirs)


def test_help_names_what_a_model_may_be(capsys):
    for command in ("restore", "eval"):
        assert cli.main([command, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "a PyTorch checkpoint" in shown and ".pth" in shown and "--right" in shown
