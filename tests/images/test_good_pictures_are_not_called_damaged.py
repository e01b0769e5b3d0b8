"""What is wrong beside the pixels costs no picture: it is left out, and that is said."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from tdr_jax import images
from tdr_jax.errors import InputError
from tdr_jax.images.codecs import metadata, png, raster, tiff

ROWS, COLUMNS = np.mgrid[0:24, 0:32]
COLOUR = np.stack([ROWS * 9, COLUMNS * 7, (ROWS + COLUMNS) * 4], -1).astype(np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def read(tmp_path):
    def reads(content, name="in.jpg"):
        path = tmp_path / name
        path.write_bytes(content)
        return images.read_picture(path)

    return reads


def saved(image, form, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_png_may_have_long_texts_and_profiles(read, kind):
    long = b"Comment\0" + b"x" * (3 * 2**20)
    packed = b"Comment\0\0" + zlib.compress(b"y" * (3 * 2**20))
    profile = SRGB + bytes(3 * 2**20)
    chunks = ((b"tEXt", long), (b"zTXt", packed))
    samples = COLOUR.astype(kind)
    content = png.encode(samples, raster.Extras(icc=profile, chunks=chunks))
    picture = read(content, "in.png")
    np.testing.assert_array_equal(np.rint(picture.pixels * np.iinfo(kind).max), samples)
    assert picture.extras.notes == () and picture.extras.icc == profile
    assert picture.extras.chunks == chunks


def test_a_damaged_chunk_beside_the_pixels_is_left_out(read):
    content = png.encode(COLOUR, raster.Extras(icc=SRGB, dpi=(300, 300)))
    for kind, name in ((b"iCCP", "iCCP"), (b"pHYs", "pHYs")):
        broken = bytearray(content)
        broken[content.index(kind) + 6] ^= 1
        picture = read(bytes(broken), "in.png")
        np.testing.assert_array_equal(np.rint(picture.pixels * 255), COLOUR)
        assert picture.extras.notes == (f"its {name} chunk is damaged and is left out",)


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif[0x9C9B] = b"T\0i\0t\0l\0e\0\0\0"
    detail = exif.get_ifd(0x8769)
    detail[0x9003], detail[0x829A], detail[0x9286] = "2020:01:02 03:04:05", 0.01, b"a comment"
    detail[0xA002], detail[0xA003] = 32, 24
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "PNG of a right checksum", "TIFF"])
def test_a_bad_exif_entry_costs_the_exif_and_nothing_else(read, form):
    """Every byte of an EXIF block is wrong once: 37 of 1,500 such files could not be read."""
    block = exif_block()
    if form == "TIFF":
        content = tiff.encode([(COLOUR, raster.Extras(exif=block))])
        places = range(metadata.directory(content)[0x8769], len(content))
    else:
        image = Image.fromarray(COLOUR)
        content = saved(image, form.split()[0], exif=b"Exif\0\0" + block)
        places = range(content.index(block), content.index(block) + len(block))
    rng = np.random.default_rng(0)
    lying = told = 0
    for at in places:
        broken = bytearray(content)
        broken[at] ^= int(rng.integers(1, 256))
        if form == "PNG of a right checksum":
            head = content.index(b"eXIf")
            end = head + 4 + len(block)
            broken[end : end + 4] = struct.pack(">I", zlib.crc32(broken[head:end]))
        picture = read(bytes(broken), f"in.{form[:4].lower()}")
        lying += picture.pixels.shape != (32, 24, 3)
        told += bool(picture.extras.notes)
        assert picture.extras.exif or picture.extras.notes
    # Only where the orientation itself was hit does the picture lie on its side.
    assert lying == len(places) if form == "TIFF" else lying <= 24
    assert told == len(places) if form == "PNG" else told > 10


def test_orientation_survives_what_pillow_cannot_parse(read):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A long enough name of a maker"
    content = bytearray(saved(Image.fromarray(COLOUR), "JPEG", exif=exif.tobytes(), quality=100))
    at = (
        content.index(b"\x01\x0f\0\x02") + 8
        if b"\x01\x0f\0\x02" in content
        else (content.index(b"\x0f\x01\x02\0") + 8)
    )
    content[at : at + 4] = b"\x7f\xff\xff\x7f"  # the text lies far beyond the file
    picture = read(bytes(content))
    shown = ImageOps.exif_transpose(
        Image.open(
            io.BytesIO(saved(Image.fromarray(COLOUR), "JPEG", exif=exif.tobytes(), quality=100))
        )
    )
    np.testing.assert_array_equal(np.rint(picture.pixels * 255), np.asarray(shown))
    assert picture.extras.exif is None
    assert picture.extras.notes == ("its EXIF is damaged and is left out",)


@pytest.mark.parametrize("profile", [SRGB, b"no profile at all" * 20])
def test_inks_with_an_odd_profile_are_shown_as_plain_inks(read, profile):
    image = Image.fromarray(COLOUR).convert("CMYK")
    content = saved(image, "JPEG", icc_profile=profile, quality=100, subsampling=0)
    picture = read(content)
    assert np.abs(picture.pixels * 255 - COLOUR).max() < 8
    assert "CMYK profile" in picture.extras.notes[0] and picture.extras.icc is None


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_thumbnail_is_no_second_picture(read, kind, first, labelled):
    buffer = io.BytesIO()
    small = COLOUR[::4, ::4].astype(kind)
    pages = [(COLOUR.astype(kind), 0), (small, 1 if labelled else 0)]
    with tifffile.TiffWriter(buffer) as writer:
        for samples, kind_of_page in pages[:: -1 if first else 1]:
            writer.write(samples, photometric="rgb", subfiletype=kind_of_page, metadata=None)
    picture = read(buffer.getvalue(), "in.tif")
    np.testing.assert_array_equal(np.rint(picture.pixels * np.iinfo(kind).max), COLOUR)
    assert "1 previews or masks" in picture.extras.notes[0]


def test_pages_of_equal_size_are_several_pictures(read):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(2):
            writer.write(COLOUR, photometric="rgb", metadata=None)
    with pytest.raises(InputError, match="holds 2 pictures; .* --frames"):
        read(buffer.getvalue(), "in.tif")


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("a.jxl", b"\xff\x0a" + bytes(40), "JPEG XL"),
        ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(40), "camera raw"),
        ("a.raf", b"FUJIFILMCCD-RAW " + bytes(40), "camera raw"),
        ("a.arw", b"unknown to anybody" + bytes(40), "camera raw"),
        ("a.psd", b"8BPS\0\x01" + bytes(40), "Photoshop"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector graphics"),
        ("a.png", b"no picture at all", "not a picture"),
    ],
)
def test_pictures_of_other_formats_are_named(read, name, head, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read(head, name)
    assert "damaged" not in str(caught.value)


def test_raw_files_that_look_like_tiff_are_named(read):
    buffer = io.BytesIO()
    sensor = COLOUR[..., 0].astype(np.uint16) << 4
    tifffile.imwrite(
        buffer,
        sensor,
        photometric=32803,
        metadata=None,
        extratags=[(33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True)],
    )
    for name in ("a.dng", "a.nef", "a.tif"):
        with pytest.raises(InputError, match="camera raw"):
            read(buffer.getvalue(), name)
    preview = io.BytesIO()  # all that some makers leave in the open
    tifffile.imwrite(preview, COLOUR, photometric="rgb", metadata=None)
    with pytest.raises(InputError, match="camera raw"):
        read(preview.getvalue(), "a.nef")


def test_a_jpeg_of_twelve_bits_is_refused_for_its_true_reason(read):
    content = bytearray(saved(Image.fromarray(COLOUR), "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(InputError, match="12 bits"):
        read(bytes(content))


def test_floats_that_are_no_numbers_are_refused_for_their_true_reason(read):
    floats = COLOUR.astype(np.float32)
    floats[3, 4, 1] = np.nan
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, floats, photometric="rgb", metadata=None)
    with pytest.raises(InputError, match="NaN or infinite"):
        read(buffer.getvalue(), "in.tif")
