"""Damaged and hostile files are read, or refused in one line, soon and in little room."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from scripts import fuzz_pictures
from tdr_jax import images
from tdr_jax.errors import InputError
from tdr_jax.images.codecs import png, raster


@pytest.fixture(scope="module")
def files():
    return fuzz_pictures.sound_files()


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        images.read_picture(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line
    return line


@pytest.mark.parametrize("count", [250, pytest.param(2000, marks=pytest.mark.full)])
def test_damaged_files_of_every_format_have_clear_outcomes(count):
    results = fuzz_pictures.run(count, seed=1)
    assert len(results) == count
    wrong = {name: result for name, (result, _) in results.items() if result.startswith("wrong")}
    assert wrong == {}
    assert sum(result == "refused" for result, _ in results.values()) > count / 2


def test_sound_files_of_every_format_are_read(files, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        frames = images.read_frames(path)
        pictures = list(frames.pictures)
        several = name.startswith(("animated", "pages"))
        assert len(pictures) == frames.count == (3 if several else 1), name
        rgb = images.read_rgb(path) if not several else None
        assert rgb is None or rgb.shape == pictures[0].pixels.shape


def test_a_file_that_ends_anywhere_in_its_header_is_refused(files, tmp_path):
    for name in ("rgb.png", "rgb.jpg", "deep.tif", "rgb.tif", "lossy.webp", "still.gif"):
        path = tmp_path / name
        for length in range(1, 60, 4):
            path.write_bytes(files[name][:length])
            refused(path)


def test_pages_of_a_tiff_that_lead_round_in_a_circle_end(tmp_path):
    # One directory without a tag but its width, which says that it follows itself.
    entry = struct.pack("<HHII", 256, 4, 1, 8)
    content = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)
    (tmp_path / "in.tif").write_bytes(content)
    assert "without end" in refused(tmp_path / "in.tif")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(0, 0), (0, 9), (65535, 65535), (2**31 - 1, 1), (20000, 9000)])
def test_sizes_in_a_header_are_believed_within_reason(tmp_path, bits, size):
    header = struct.pack(">IIBBBBB", *size, bits, 2, 0, 0, 0)
    content = png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    (tmp_path / "in.png").write_bytes(content + chunk(b"IEND", b""))
    line = refused(tmp_path / "in.png")
    assert "more than 170 million pixels" in line or "no picture" in line or "damaged" in line
    if size[0] * size[1] > 170e6:
        assert "170 million" in line


def test_wide_headers_of_other_formats_are_refused(files, tmp_path):
    jpeg = bytearray(files["rgb.jpg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "in.jpg").write_bytes(jpeg)
    assert "170 million" in refused(tmp_path / "in.jpg")
    bmp = bytearray(files["rgb.bmp"])
    bmp[18:26] = struct.pack("<II", 65535, 65535)
    (tmp_path / "in.bmp").write_bytes(bmp)
    assert "170 million" in refused(tmp_path / "in.bmp")
    (tmp_path / "in.ppm").write_bytes(b"P6 65535 65535 65535\n" + bytes(100))
    assert "170 million" in refused(tmp_path / "in.ppm")
    gif = bytearray(files["still.gif"])
    gif[6:10] = b"\xff\xff\xff\xff"
    (tmp_path / "in.gif").write_bytes(gif)
    assert "170 million" in refused(tmp_path / "in.gif")


def test_a_bomb_of_a_text_is_left_out(tmp_path):
    bomb = b"ICC Profile\0\0" + zlib.compress(bytes(2**26 + 1), 1)
    samples = np.zeros((1, 1, 3), np.uint8)
    content = png.encode(samples, raster.Extras(chunks=((b"iCCP", bomb),)))
    (tmp_path / "in.png").write_bytes(content)
    picture = images.read_picture(tmp_path / "in.png")
    assert picture.extras.notes == ("its iCCP chunk is damaged and is left out",)


@pytest.mark.parametrize("suffix", sorted(set(images.WRITABLE) - {".jpeg", ".tiff"}))
def test_one_pixel_comes_back(tmp_path, suffix):
    pixel = images.Picture(np.full((1, 1, 3), 0.5, np.float32))
    images.write_picture(tmp_path / f"a{suffix}", pixel)
    again = images.read_rgb(tmp_path / f"a{suffix}")
    assert again.shape == (1, 1, 3) and np.abs(again / 255 - 0.5).max() < 0.02


def test_too_many_frames_are_refused_before_they_are_held(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    frames = [Image.new("L", (40, 40), level) for level in range(0, 200, 10)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "in.gif").write_bytes(buffer.getvalue())
    assert images.read_frames(tmp_path / "in.gif").count == 20
    monkeypatch.setattr(raster, "MAX_PIXELS", 30_000)
    with pytest.raises(InputError, match="in 20 pictures"):
        images.read_frames(tmp_path / "in.gif")
