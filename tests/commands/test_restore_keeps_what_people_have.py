"""`tdr restore` on folders as people have them: it goes on, and loses nothing but what it tells."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from tdr_jax import cli, images
from tdr_jax.images.codecs import exr
from tdr_jax.infer import Restorer, blind
from tests.support.fakes import fake

ROWS, COLUMNS = np.mgrid[0:24, 0:32]
COLOUR = np.stack([ROWS * 9, COLUMNS * 7, (ROWS + COLUMNS) * 4], -1).astype(np.uint8)
PROMPT = "please remove the noise"


class Sentences:
    """An encoder that gives every sentence the same vector."""

    dim = 384

    def encode(self, texts):
        return np.full((len(texts), self.dim), self.dim**-0.5, np.float32)


@pytest.fixture
def seen():
    """The pixels that the network was given, one after the other."""
    return []


@pytest.fixture
def tdr(capsys, monkeypatch, seen):
    """Run `tdr restore` by a network that halves what it sees."""
    network = fake(lambda params, x, v: 0.5 * x, multiple=8, text_dim=384)
    restorer = Restorer(network, {}, Sentences())
    through = Restorer._through

    def watched(self, method, given, *rest):
        seen.append(given[0].copy())
        return through(self, method, given, *rest)

    monkeypatch.setattr(Restorer, "_through", watched)
    monkeypatch.setattr(Restorer, "from_pretrained", lambda *args, **options: restorer)
    monkeypatch.setattr("tdr_jax.commands.prompts.tell", lambda *args: None)
    monkeypatch.setenv("TDR_CACHE", "off")

    def run(*words, prompt=PROMPT):
        status = cli.main(["restore", *map(str, words), *(["--prompt", prompt] if prompt else [])])
        said = capsys.readouterr()
        return status, said.err.splitlines(), said.out.splitlines()

    return run


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    image = Image.fromarray(COLOUR)
    for name in ("a.png", "b.jpg", "c.gif"):
        image.save(root / name)
        os.utime(root / name, ns=(10**18, 10**18))
    return root


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def identities(root):
    return {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in root.iterdir()}


def test_a_run_that_was_stopped_goes_on_and_repeats_nothing(
    tdr, folder, tmp_path, monkeypatch, seen
):
    out = tmp_path / "out"
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 4:  # the second picture's own file, after two panels and a picture
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert tdr(folder, "-o", out, "--panel")[0] == 130
    assert files(out) == ["a.png", "a_panel.png", "b_panel.png"]
    before = identities(out)
    seen.clear()
    status, lines, _ = tdr(folder, "-o", out, "--panel", "--skip-existing")
    assert status == 0 and len(seen) == 2
    assert files(out) == [
        *("a.png", "a_panel.png", "b.jpg", "b_panel.png", "c.gif.png", "c.gif_panel.png"),
    ]
    assert identities(out)["a.png"] == before["a.png"]
    assert "skipped 1 of 3, which exist" in lines
    before = identities(out)
    seen.clear()
    status, lines, told = tdr(folder, "-o", out, "--skip-existing", "--json")
    assert status == 0 and not seen and identities(out) == before
    assert [json.loads(line)["status"] for line in told] == ["skipped"] * 3


def test_outputs_beside_the_inputs_go_on_too(tdr, folder, seen):
    words = (folder, "-o", folder, "--suffix", "_clean")
    for number in (3, 0, 0):
        seen.clear()
        assert tdr(*words, "--skip-existing")[0] == 0 and len(seen) == number
        made = ["a_clean.png", "b_clean.jpg", "c_clean.gif.png"]
        assert files(folder) == sorted(["a.png", "b.jpg", "c.gif", *made])
    status, lines, _ = tdr(*words)  # they might be somebody's pictures
    assert status == 2 and "never overwritten" in lines[0]


def test_outputs_take_the_ending_and_the_format_that_are_asked_for(tdr, folder, tmp_path):
    out = tmp_path / "out"
    status, _, _ = tdr(folder, "-o", out, "--suffix", "_x", "--format", "webp", "--quality", "10")
    assert status == 0 and files(out) == ["a_x.webp", "b_x.webp", "c_x.webp"]
    fine = tmp_path / "fine"
    tdr(folder, "-o", fine, "--format", ".WEBP", "--quality", "100")
    assert all(
        (out / f"{n}_x.webp").stat().st_size < (fine / f"{n}.webp").stat().st_size for n in "abc"
    )
    tdr(folder / "a.png", "-o", tmp_path / "one.jpg", "--quality", "5")
    assert (tmp_path / "one.jpg").stat().st_size < 1000
    with Image.open(out / "a_x.webp") as written:
        assert written.format == "WEBP"


def test_wrong_file_options_are_one_line_and_nothing_is_done(tdr, folder, tmp_path, seen):
    wrong = {
        "part of a file's name": ("-o", tmp_path / "x", "--suffix", "a/b"),
        "must be one of": ("-o", tmp_path / "x", "--format", "gif"),
        "from 1 to 100": ("-o", tmp_path / "x", "--quality", "0"),
        "is for JPEG, WebP and AVIF": ("-o", tmp_path / "x", "--quality", "9", "--format", "png"),
        "leave out --right": ("-o", tmp_path / "x", "--frames", "--right", tmp_path),
    }
    for complaint, words in wrong.items():
        status, lines, _ = tdr(folder, *words)
        assert status == 2 and len(lines) == 1 and complaint in lines[0], lines
    status, lines, _ = tdr(folder / "a.png", "-o", tmp_path / "x.png", "--format", "png")
    assert status == 2 and "are for folders" in lines[0]
    assert not seen and files(tmp_path) == ["in/a.png", "in/b.jpg", "in/c.gif"]


def test_metadata_and_times_are_kept_or_stripped(tdr, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    path = tmp_path / "in.jpg"
    Image.fromarray(COLOUR).save(
        path, exif=exif.tobytes(), xmp=b"<x/>", dpi=(300, 300), icc_profile=b"profile"
    )
    os.utime(path, ns=(10**18, 10**18))
    for words, kept in ((), True), (("--strip-metadata",), False):
        out = tmp_path / "out.jpg"
        assert tdr(path, "-o", out, *words)[0] == 0
        assert (out.stat().st_mtime_ns == 10**18) == kept
        extras = images.read_picture(out).extras
        assert [bool(x) for x in (extras.exif, extras.xmp, extras.dpi)] == [kept] * 3
        assert extras.icc == b"profile"  # without which the colours would be others


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif", ".tif"])
def test_animations_and_pages_are_restored_picture_by_picture(tdr, tmp_path, suffix, seen):
    levels = (40, 120, 200)
    frames = [Image.new("RGB", (32, 24), (level, level // 2, 10)) for level in levels]
    path = tmp_path / f"in{suffix}"
    options = {} if suffix == ".tif" else {"duration": 70, "loop": 0}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    status, lines, _ = tdr(path, "-o", tmp_path / "out")
    assert status == 1 and any("holds 3 pictures" in line and "--frames" in line for line in lines)
    status, lines, told = tdr(path, "-o", tmp_path / "out", "--frames", "--panel", "--json")
    assert status == 0 and len(seen) == 3
    assert json.loads(told[0])["frames"] == 3 and any("in 3 pictures" in line for line in lines)
    target = tmp_path / "out" / ("in.gif.png" if suffix == ".gif" else path.name)
    read = images.read_frames(target)
    pictures = list(read.pictures)
    assert read.count == 3 and read.loop == 0
    for level, picture in zip(levels, pictures, strict=True):
        shown = picture.pixels.mean((0, 1)) * 255
        np.testing.assert_allclose(shown, (level / 2, level / 4, 5), atol=6)
        assert picture.duration == (None if suffix == ".tif" else 70)
    status, lines, _ = tdr(path, "-o", tmp_path / "out.jpg", "--frames")
    assert status == 1 and "JPEG holds one picture" in lines[-2]


def test_what_is_found_in_the_first_picture_is_asked_for_in_all(tdr, tmp_path, monkeypatch, seen):
    found = [blind.Estimate(dict(noise=0.9, rain=0.0, haze=0.0, blur=0.0), 20.0)]
    monkeypatch.setattr(blind, "shipped", lambda: lambda picture: found.pop())
    frames = [Image.new("RGB", (32, 24), (level, 9, 9)) for level in (40, 120)]
    frames[0].save(tmp_path / "in.png", save_all=True, append_images=frames[1:])
    words = (tmp_path / "in.png", "-o", tmp_path / "out.png", "--frames", "--json")
    status, _, told = tdr(*words, prompt=None)
    record = json.loads(told[0])
    assert status == 0 and len(seen) == 2 and not found
    assert record["found"] == {"noise": 0.9, "rain": 0, "haze": 0, "blur": 0, "sigma": 20}
    assert record["asked"] == [blind.PROMPTS["noise"]]


def test_light_above_white_survives_restoration(tdr, tmp_path, seen):
    light = np.full((24, 32, 3), 0.25, np.float32)
    light[:4], light[4:6] = 7.5, -0.25
    (tmp_path / "in.exr").write_bytes(exr.encode(light))
    assert tdr(tmp_path / "in.exr", "-o", tmp_path / "out.exr")[0] == 0
    # The network sees what a screen shows, and halves it.
    np.testing.assert_allclose(seen[0][6:], 0.5371, atol=1e-4)
    np.testing.assert_allclose((seen[0].max(), seen[0].min()), (1, 0), atol=1e-6)
    out = images.read_picture(tmp_path / "out.exr").pixels
    np.testing.assert_allclose(out[6:], ((0.5371 / 2 + 0.055) / 1.055) ** 2.4, atol=1e-4)
    np.testing.assert_allclose(out[:4], 7.5 - 1 + ((0.5 + 0.055) / 1.055) ** 2.4, atol=1e-4)
    np.testing.assert_array_equal(out[4:6], -0.25)
    assert tdr(tmp_path / "in.exr", "-o", tmp_path / "same.exr", "--strength", "0")[0] == 0
    np.testing.assert_array_equal(images.read_picture(tmp_path / "same.exr").pixels, light)
    status, lines, _ = tdr(tmp_path / "in.exr", "-o", tmp_path / "out.png", "--panel")
    assert status == 0 and any("beyond 0 to 1 are cut off" in line for line in lines)
    # Values in other units, of which most are beyond white, are scaled for the network.
    (tmp_path / "in.exr").write_bytes(exr.encode(np.abs(light) * 1000))
    seen.clear()
    assert tdr(tmp_path / "in.exr", "-o", tmp_path / "out.exr")[0] == 0
    assert 0.1 < seen[0].mean() < 0.9


def test_records_tell_what_became_of_each_picture(tdr, folder, tmp_path):
    (folder / "bad.png").write_bytes(b"no picture")
    status, _, told = tdr(folder, "-o", tmp_path / "out", "--json", "--strength", "0.5")
    records = [json.loads(line) for line in told]
    assert status == 1 and [record["status"] for record in records] == [
        *("restored", "restored", "failed", "restored")
    ]
    first, failed = records[0], records[2]
    assert first["source"] == str(folder / "a.png")
    assert first["target"] == str(tmp_path / "out" / "a.png")
    assert (first["width"], first["height"], first["strength"]) == (32, 24, 0.5)
    assert first["asked"] == [PROMPT] and first["notes"] == [] and first["seconds"] >= 0
    assert "bad.png" in failed["error"]


def test_files_of_a_folder_that_are_not_read_are_named(tdr, folder, tmp_path):
    for name in ("one.nef", "two.CR2", "x.jxl", "notes.txt", ".hidden"):
        (folder / name).write_bytes(b"x")
    status, lines, _ = tdr(folder, "-o", tmp_path / "out")
    assert status == 0
    assert (
        f"{folder}: passes over 2 files (camera raw, which is not read): one.nef, two.CR2" in lines
    )
    assert any("1 file (JPEG XL, which is not read): x.jxl" in line for line in lines)
    assert any("notes.txt" in line for line in lines) and "hidden" not in " ".join(lines)
    for name in ("a.png", "b.jpg", "c.gif"):
        (folder / name).unlink()
    status, lines, _ = tdr(folder, "-o", tmp_path / "out")
    assert status == 2 and "camera raw" in lines[0] and "JPEG XL" in lines[0]


def test_heic_and_avif_of_a_folder_are_restored(tdr, tmp_path):
    import pillow_heif

    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(COLOUR).save(root / "a.avif")
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB", (32, 24), COLOUR.tobytes()).save(buffer)
    (root / "b.heic").write_bytes(buffer.getvalue())
    assert tdr(root, "-o", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == ["a.avif", "b.heic.png"]
    for path in (tmp_path / "out").iterdir():
        assert np.abs(images.read_rgb(path) - COLOUR / 2).mean() < 4
