"""Colour information and metadata survive, or it is said that they do not."""

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tdr_jax import images
from tdr_jax.images.codecs import png, raster

ROWS, COLUMNS = np.mgrid[0:24, 0:32]
COLOUR = np.stack([ROWS * 9, COLUMNS * 7, (ROWS + COLUMNS) * 4], -1).astype(np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
    b'dc:creator="Ansel"/></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x50\0\x05Ansel\x1c\x02\x78\0\x03sea"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKER, EXIF_IFD, TAKEN = 0x0112, 0x010F, 0x8769, 0x9003
COLOUR_CHUNKS = (
    (b"cICP", bytes((9, 16, 0, 1))),  # BT.2020 and PQ
    (b"gAMA", struct.pack(">I", 100000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)),
)
TEXT = (b"tEXt", b"Title\0Sea")
FULL = ("icc", "exif", "xmp", "iptc", "dpi")
HELD = {".jpg": FULL, ".png": FULL, ".tif": FULL, ".webp": FULL[:3], ".avif": FULL[:3]}


@pytest.fixture
def picture():
    exif = Image.Exif()
    exif[MAKER], exif[ORIENTATION] = "Maker", 1
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2020:01:02 03:04:05"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    extras = raster.Extras(icc=SRGB, exif=block, xmp=XMP, iptc=IPTC, dpi=(300.0, 150.0))
    return images.Picture(COLOUR / np.float32(255), extras=extras)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("first", HELD)
@pytest.mark.parametrize("second", HELD)
def test_what_both_formats_hold_survives_the_way_from_one_to_the_other(
    tmp_path, picture, first, second, depth
):
    if depth == 16 and {first, second} - {".png", ".tif"}:
        return
    picture = images.Picture(**{**vars(picture), "depth": depth})
    notes = images.write_picture(tmp_path / f"a{first}", picture)
    lost = set(FULL) - set(HELD[first])
    assert [all(word in note for word in ("IPTC", "resolution")) for note in notes] == (
        [True] if lost else []
    )
    again = images.read_picture(tmp_path / f"a{first}")
    notes = images.write_picture(tmp_path / f"b{second}", again)
    kept = images.read_picture(tmp_path / f"b{second}").extras
    assert kept.notes == ()
    for name in set(HELD[first]) & set(HELD[second]):
        if name == "exif":
            exif = Image.Exif()
            exif.load(kept.exif)
            assert exif[MAKER] == "Maker"
            assert exif.get_ifd(EXIF_IFD)[TAKEN] == "2020:01:02 03:04:05"
        elif name == "dpi":
            np.testing.assert_allclose(kept.dpi, (300, 150), rtol=1e-3)
        elif name == "xmp":  # the picture is upright
            assert kept.xmp == XMP.replace(b'"6"', b'"1"')
        else:
            assert getattr(kept, name) == getattr(picture.extras, name), name


def test_other_programs_find_what_was_written(tmp_path, picture):
    for suffix in (".jpg", ".png", ".webp", ".avif", ".tif"):
        images.write_picture(tmp_path / f"a{suffix}", picture)
        with Image.open(tmp_path / f"a{suffix}") as seen:
            assert seen.info["icc_profile"] == SRGB
            assert seen.getexif()[MAKER] == "Maker"
            assert seen.getexif().get_ifd(EXIF_IFD)[TAKEN] == "2020:01:02 03:04:05"
            xmp = seen.info.get("xmp") or seen.info.get("XML:com.adobe.xmp").encode()
            assert xmp == XMP
            if suffix in (".jpg", ".png", ".tif"):
                assert [round(float(dpi)) for dpi in seen.info["dpi"]] == [300, 150]
    from PIL import IptcImagePlugin

    for suffix in (".jpg", ".tif"):
        with Image.open(tmp_path / f"a{suffix}") as seen:
            assert IptcImagePlugin.getiptcinfo(seen)[2, 80] == b"Ansel"
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].tags[EXIF_IFD].value["DateTimeOriginal"] == "2020:01:02 03:04:05"
        codes = [tag.code for tag in file.pages[0].tags]
        assert codes == sorted(codes)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colour_chunks_and_texts_of_a_png_survive_and_are_missed_elsewhere(tmp_path, kind):
    samples = COLOUR.astype(kind)
    content = png.encode(samples, raster.Extras(chunks=(*COLOUR_CHUNKS, TEXT)))
    (tmp_path / "in.png").write_bytes(content)
    picture = images.read_picture(tmp_path / "in.png")
    assert images.write_picture(tmp_path / "out.png", picture) == ()
    assert (tmp_path / "out.png").read_bytes() == content
    for suffix in (".jpg", ".tif", ".webp"):
        notes = " ".join(images.write_picture(tmp_path / f"out{suffix}", picture))
        assert "cICP, gAMA, cHRM" in notes and "1 text" in notes and "texts" not in notes


def test_chunks_that_say_srgb_are_not_missed(tmp_path):
    chunks = ((b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0"))
    (tmp_path / "in.png").write_bytes(png.encode(COLOUR, raster.Extras(chunks=chunks)))
    picture = images.read_picture(tmp_path / "in.png")
    assert images.write_picture(tmp_path / "out.jpg", picture) == ()


def test_formats_without_room_say_what_they_lose(tmp_path, picture):
    assert images.write_picture(tmp_path / "a.bmp", picture) == (
        "BMP does not keep the colour profile, EXIF, XMP, IPTC",
    )
    (notes,) = images.write_picture(tmp_path / "a.exr", picture)
    assert "the colour profile" in notes and "EXIF" in notes
    long = images.Picture(picture.pixels, extras=raster.Extras(xmp=XMP + b" " * 70_000))
    (note,) = images.write_picture(tmp_path / "a.jpg", long)
    assert "XMP, which is too long" in note


def jpeg(*segments: bytes, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "JPEG", **options)
    content = buffer.getvalue()
    parts = [struct.pack(">H", len(body) + 2) + body for body in segments]
    heads = b"".join(b"\xff\xe2" + part for part in parts)
    return content[:2] + heads + content[2:]


def test_second_pictures_and_gain_maps_are_told(tmp_path):
    path = tmp_path / "in.jpg"
    path.write_bytes(jpeg(b"urn:iso:std:iso:ts:21496:-1\0" + bytes(8)))
    assert "gain map" in images.read_picture(path).extras.notes[0]
    path.write_bytes(jpeg(xmp=b'<x hdrgm:Version="1.0"/>'))
    extras = images.read_picture(path).extras
    assert "gain map" in extras.notes[0] and extras.xmp is None
    image = Image.fromarray(COLOUR)
    image.save(tmp_path / "in.mpo", save_all=True, append_images=[image.rotate(180)])
    picture = images.read_picture(tmp_path / "in.mpo")
    assert "further pictures" in picture.extras.notes[0] and picture.format == "JPEG"
    assert np.abs(picture.pixels * 255 - COLOUR).mean() < 4


def test_xmp_turns_a_picture_where_exif_does_not(tmp_path):
    path = tmp_path / "in.jpg"
    path.write_bytes(jpeg(xmp=XMP))
    assert images.read_picture(path).pixels.shape == (32, 24, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    path.write_bytes(jpeg(xmp=XMP, exif=exif.tobytes()))
    assert images.read_picture(path).pixels.shape == (24, 32, 3)


def test_comments_are_kept_or_missed(tmp_path):
    image = Image.fromarray(COLOUR)
    image.save(tmp_path / "in.jpg", comment=b"by the sea")
    image.save(tmp_path / "in.gif", comment=b"by the sea")
    for name in ("in.jpg", "in.gif"):
        picture = images.read_picture(tmp_path / name)
        assert images.write_picture(tmp_path / "out.jpg", picture) == ()
        assert images.read_picture(tmp_path / "out.jpg").extras.comment == b"by the sea"
        images.write_picture(tmp_path / "out.png", picture)
        with Image.open(tmp_path / "out.png") as seen:
            assert seen.info["Comment"] == "by the sea"
        notes = images.write_picture(tmp_path / "out.tif", picture)
        assert notes == ("TIFF does not keep the comment",)
        bare = images.without_metadata(picture)
        images.write_picture(tmp_path / "out.jpg", bare)
        assert images.read_picture(tmp_path / "out.jpg").extras.comment is None


def test_times_are_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / "a", ns=(10**18, 10**18 + 12345678))
    images.keep_times(tmp_path / "a", tmp_path / "b")
    status = (tmp_path / "b").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (10**18, 10**18 + 12345678)


def test_the_bulky_libraries_wait_until_they_are_needed():
    code = (
        "import sys, tdr_jax.images\n"
        "late = {'PIL.Image', 'cv2', 'tifffile', 'imagecodecs', 'OpenEXR', 'pillow_heif'}\n"
        "sys.exit(bool(late & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
