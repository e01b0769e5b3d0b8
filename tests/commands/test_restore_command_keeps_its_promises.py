"""`tdr restore`: what it writes, what it refuses, and what it says when something is wrong."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tdr_jax import cli, images, models, weights
from tdr_jax.infer import Restorer

PROMPT = "please remove the noise"


SIZE = (62, 61)  # of nearly every picture here: padded to 64x64, which compiles once


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = models.build("textpromptir-tiny")
    return str(weights.save(tmp_path_factory.mktemp("model"), network, network.init(0)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def restorers():
    return {}


@pytest.fixture
def folder(tmp_path):
    """Three good pictures (one deeper), a damaged, an empty and a text file."""
    root = tmp_path / "in"
    (root / "deeper").mkdir(parents=True)
    cat = data.chelsea()[100:162, 120:181]
    images.write_rgb(root / "cat.png", cat)
    images.write_rgb(root / "coffee.jpg", data.coffee()[100:162, 120:181])
    images.write_rgb(root / "deeper" / "cat.png", cat[::-1])
    whole = (root / "coffee.jpg").read_bytes()
    (root / "damaged.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("no picture at all\n" * 20)
    return root


@pytest.fixture
def tdr(model, cache, restorers, capsys, monkeypatch):
    """Run `tdr` in this process; give the exit status and the lines on standard error."""
    load = Restorer.from_pretrained

    def loaded_once(
        name, encoder, *, insist, rows
    ):  # so that the network is compiled once for all tests
        if name not in restorers:
            restorers[name] = load(name, encoder, insist=insist, rows=rows)
        return restorers[name]

    monkeypatch.setenv("TDR_CACHE", cache)
    monkeypatch.setattr(Restorer, "from_pretrained", loaded_once)

    def run(*words, prompt=PROMPT):
        asked = ["--prompt", prompt] if prompt is not None else []
        status = cli.main(["restore", *map(str, words), "--model", model, *asked])
        return status, capsys.readouterr().err.splitlines()

    return run


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def written(root):
    return len(images.list_pictures(root)) if root.exists() else 0


def test_a_file_becomes_a_file(tdr, folder, tmp_path):
    out = tmp_path / "new" / "result.png"
    status, _ = tdr(folder / "cat.png", "-o", out)
    assert status == 0 and files(out.parent) == ["result.png"]
    before, after = images.read_rgb(folder / "cat.png"), images.read_rgb(out)
    assert after.shape == before.shape and not np.array_equal(after, before)


def test_strength_zero_gives_the_input_back(tdr, folder, tmp_path):
    assert tdr(folder / "cat.png", "-o", tmp_path / "out.png", "--strength", "0")[0] == 0
    before = images.read_rgb(folder / "cat.png")
    np.testing.assert_array_equal(images.read_rgb(tmp_path / "out.png"), before)


def test_a_folder_with_bad_files_restores_the_rest_and_exits_1(tdr, folder, tmp_path):
    status, lines = tdr(folder, "-o", tmp_path / "out")
    assert status == 1
    assert files(tmp_path / "out") == ["cat.png", "coffee.jpg", "deeper/cat.png"]
    errors = [line for line in lines if line.startswith("tdr: error:")]
    assert len(errors) == 3
    for name, what in {"damaged.jpg": "damaged", "empty.png": "empty", "text.png": "not a"}.items():
        assert any(str(folder / name) in line and what in line for line in errors)
    assert lines[-1] == "restored 3 of 6; 3 failed"


def test_an_unreadable_file_is_one_line(tdr, folder, tmp_path, monkeypatch):
    opened = type(folder).open

    def denied(self, *args, **kwargs):  # a test run by root can read whatever its mode says
        if self.name == "cat.png" and self.parent == folder:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(folder), "open", denied)
    status, lines = tdr(folder / "cat.png", folder / "coffee.jpg", "-o", tmp_path / "out")
    assert status == 1 and files(tmp_path / "out") == ["coffee.jpg"]
    assert any("cat.png: cannot be read (Permission denied)" in line for line in lines)


def test_a_folder_named_like_a_picture_and_a_link_to_nowhere_do_not_stop_the_rest(
    tdr, folder, tmp_path
):
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(tmp_path / "gone.png")
    status, lines = tdr(folder / "dangling.png", folder / "cat.png", "-o", tmp_path / "out")
    assert status == 1 and files(tmp_path / "out") == ["cat.png"]
    assert any("dangling.png: no such file" in line for line in lines)


def test_wrong_arguments_are_one_line_and_exit_2(tdr, folder, tmp_path, capsys):
    cat, out = folder / "cat.png", tmp_path / "out.png"
    several = tmp_path / "several.png"
    wrong = {
        "no such file": (tmp_path / "nowhere.png", "-o", out),
        "need a folder": (folder, "-o", several),
        "cannot write '.gif'": (cat, "-o", tmp_path / "out.gif"),
        "strength": (cat, "-o", out, "--strength", "2"),
        "at least 4096": (cat, "-o", out, "--max-pixels", "5"),
        "unknown argument '--quick'": (cat, "-o", out, "--quick"),
        "required: -o": (cat,),
        "invalid float": (cat, "-o", out, "--strength", "much"),
    }
    for complaint, words in wrong.items():
        status, lines = tdr(*words)
        assert status == 2 and len(lines) == 1 and complaint in lines[0], (complaint, lines)
    status, lines = tdr(cat, "-o", out, prompt="   ")
    assert status == 2 and len(lines) == 1 and "prompt" in lines[0]
    (tmp_path / "bare").mkdir()
    assert "no picture" in tdr(tmp_path / "bare", "-o", tmp_path / "x")[1][0]
    assert cli.main(["restore", str(cat), "-o", str(out), "--prompt", "x", "--model", "no"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert files(tmp_path) == [f"in/{name}" for name in files(folder)]  # nothing was written


def test_an_input_is_never_overwritten_whatever_it_is_called(tdr, folder, tmp_path):
    cat = folder / "cat.png"
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    (tmp_path / "link.png").symlink_to(cat)
    os.link(cat, tmp_path / "hard.png")
    (tmp_path / "linked").symlink_to(folder)
    attempts = [
        (cat, "-o", cat),
        (cat, "-o", folder),
        (cat, "-o", folder / "deeper" / ".." / "cat.png"),
        (cat, "-o", tmp_path / "link.png"),
        (cat, "-o", tmp_path / "hard.png"),
        (tmp_path / "link.png", "-o", cat),
        (folder, "-o", folder),
        (folder, "-o", tmp_path / "linked"),
    ]
    for words in attempts:
        status, lines = tdr(*words)
        assert status == 2 and len(lines) == 1 and "never overwritten" in lines[0], words
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_a_panel_never_overwrites_an_input_either(tdr, folder, tmp_path):
    images.write_rgb(folder / "x_panel.png", data.chelsea()[:8, :8])
    status, lines = tdr(folder / "x_panel.png", "-o", folder / "x.png", "--panel")
    assert status == 2 and "never overwritten" in lines[0] and not (folder / "x.png").exists()


def test_equal_names_from_two_folders_get_distinct_outputs(tdr, folder, tmp_path):
    words = (folder / "cat.png", folder / "deeper" / "cat.png", folder / "cat.png")
    assert tdr(*words, "-o", tmp_path / "out", "--strength", "0")[0] == 0
    assert files(tmp_path / "out") == ["cat.png", "cat_2.png"]
    for name, source in {"cat.png": "cat.png", "cat_2.png": "deeper/cat.png"}.items():
        restored = images.read_rgb(tmp_path / "out" / name)
        np.testing.assert_array_equal(restored, images.read_rgb(folder / source))


def test_the_output_folder_may_lie_in_the_input_folder(tdr, folder):
    for _ in range(2):
        assert tdr(folder, "-o", folder / "out")[0] == 1  # for the three bad files
        assert files(folder / "out") == ["cat.png", "coffee.jpg", "deeper/cat.png"]


def test_a_format_that_is_only_read_becomes_png(tdr, tmp_path):
    Image.fromarray(data.chelsea()[:62, :61]).save(tmp_path / "old.gif")
    assert tdr(tmp_path / "old.gif", "-o", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == ["old.gif.png"]


def test_the_panel_shows_before_and_after(tdr, folder, tmp_path):
    assert tdr(folder / "cat.png", "-o", tmp_path / "out.png", "--panel")[0] == 0
    panel = images.read_rgb(tmp_path / "out_panel.png")
    before, after = images.read_rgb(folder / "cat.png"), images.read_rgb(tmp_path / "out.png")
    height, width, _ = before.shape
    assert panel.shape[0] > height and panel.shape[1] > 2 * width
    half = panel[-height:, panel.shape[1] // 2 + 2 :]
    np.testing.assert_array_equal(panel[-height:, :width], before)
    np.testing.assert_array_equal(half[:, :width], after)


def test_each_picture_can_have_its_own_prompt(tdr, folder, tmp_path):
    table = tmp_path / "prompts.tsv"
    table.write_text("file\tprompt\n# ours\ncat.png\tremove the rain\ncoffee.jpg\tdehaze it\n")
    pair = (folder / "cat.png", folder / "coffee.jpg")
    assert tdr(*pair, "-o", tmp_path / "both", "--prompts", table, prompt=None)[0] == 0
    tdr(folder / "cat.png", "-o", tmp_path / "rain.png", prompt="remove the rain")
    tdr(folder / "cat.png", "-o", tmp_path / "haze.png", prompt="dehaze it")
    cat = images.read_rgb(tmp_path / "both" / "cat.png")
    np.testing.assert_array_equal(cat, images.read_rgb(tmp_path / "rain.png"))
    assert not np.array_equal(cat, images.read_rgb(tmp_path / "haze.png"))

    table.write_text("cat.png\tremove the rain\n")
    status, lines = tdr(*pair, "-o", tmp_path / "more", "--prompts", table, prompt=None)
    assert status == 2 and "coffee.jpg: has no prompt" in lines[0] and len(lines) == 1
    table.write_text("cat.png remove the rain\n")
    status, lines = tdr(*pair, "-o", tmp_path / "more", "--prompts", table)
    assert status == 2 and "prompts.tsv:1" in lines[0]
    assert not (tmp_path / "more").exists()


def test_a_large_picture_goes_through_in_tiles(tdr, tmp_path):
    large, out = tmp_path / "large.png", tmp_path / "out.png"
    images.write_rgb(large, data.astronaut()[:112, :160])
    status, lines = tdr(large, "-o", out, "--max-pixels", "4096")  # tiles of 64x64 pixels
    assert status == 0 and "160x112" in lines[-2]
    assert images.read_rgb(out).shape == (112, 160, 3)


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failure_while_writing_leaves_no_file_and_no_rest(
    tdr, folder, tmp_path, monkeypatch, moment
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.png").write_bytes(b"an earlier result")

    def full(*args):
        raise OSError(28, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(os, "fsync", lambda number: os.ftruncate(number, 5) or full())
    else:
        monkeypatch.setattr(os, moment, full)
    status, lines = tdr(folder / "cat.png", "-o", out)
    assert status == 1 and any("No space left" in line for line in lines)
    assert files(out) == ["cat.png"]
    assert (out / "cat.png").read_bytes() == b"an earlier result"


def test_ctrl_c_exits_130_and_leaves_only_whole_files(tdr, folder, tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    pair = (folder / "cat.png", folder / "coffee.jpg")
    status, lines = tdr(*pair, "-o", tmp_path / "out")
    assert status == 130 and "interrupted" in lines[-1]
    assert files(tmp_path / "out") == ["cat.png"]


def test_a_killed_process_leaves_nothing_half_written(model, cache, tdr, folder, tmp_path):
    assert tdr(folder / "cat.png", "-o", tmp_path / "first.png")[0] == 0  # compiles for this size
    source, out = tmp_path / "many", tmp_path / "out"
    source.mkdir()
    for number in range(300):
        images.write_rgb(source / f"{number:03}.png", data.astronaut()[:62, number : number + 61])
    command = [sys.executable, "-m", "tdr_jax.cli", "restore", source, "-o", out]
    command += ["--prompt", PROMPT, "--model", model]
    environment = {**os.environ, "TDR_CACHE": cache, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and written(out) < 3:
            assert process.poll() is None, "the command ended by itself"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    pictures = images.list_pictures(out)
    assert 3 <= len(pictures) < 300
    for path in pictures:
        assert images.read_rgb(path).shape == (*SIZE, 3)
    assert all(path.name.startswith(".tdr-") for path in set(out.iterdir()) - set(pictures))
    # A run that goes on repeats nothing and loses nothing; five pictures are left for it.
    for path in sorted(source.iterdir())[len(pictures) + 5 :]:
        path.unlink()
    before = {path: path.stat().st_ino for path in pictures}
    status, lines = tdr(source, "-o", out, "--skip-existing")
    assert status == 0 and lines[-1] == "restored 5 of 5"
    assert {path: path.stat().st_ino for path in pictures} == before
    assert [path.name for path in images.list_pictures(out)] == sorted(os.listdir(source))


def test_help_is_quick_and_complete(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tdr ")
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("restore", "train", "eval", "examples:"))
    assert cli.main(["restore", "--help"]) == 0
    assert "--prompt" in capsys.readouterr().out
    assert cli.main([]) == 2 and cli.main(["polish"]) == 2
    code = "import sys; from tdr_jax import cli\n"
    code += "for asked in [], *([name] for name in cli.COMMANDS): cli.main([*asked, '--help'])\n"
    code += "print(*{'jax', 'flax', 'torch', 'transformers', 'cv2', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: tdr") == 1 + len(cli.COMMANDS)
    assert done.stdout.endswith("\n\n")  # no heavy package
