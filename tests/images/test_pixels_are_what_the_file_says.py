"""Every layout of samples is read as the values it stands for, as other readers see them."""

import io
import struct

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from tdr_jax import images
from tdr_jax.images.codecs import exr, jpeg, linear, png, raster

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[0:24, 0:32]
COLOUR = np.stack([ROWS * 9, COLUMNS * 7, (ROWS + COLUMNS) * 4], -1).astype(np.uint8)
DEEP = COLOUR * np.uint16(257) ^ RNG.integers(0, 256, COLOUR.shape, dtype=np.uint16)
ALPHA = (COLUMNS[..., None] * np.uint16(2000) + np.uint16(3000)).astype(np.uint16)


@pytest.fixture
def read(tmp_path):
    """Write bytes, or let a function write, and read the picture back."""

    def reads(content, name="in.tif"):
        path = tmp_path / name
        path.write_bytes(content)
        return images.read_picture(path)

    return reads


def tiff(samples, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **({"photometric": "rgb", "metadata": None} | options))
    return buffer.getvalue()


def saved(image, form, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def levels(picture, top=65535):
    return np.rint(picture.pixels * np.float64(top)).astype(np.int64)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("layout", ["contig", "separate", "tiled"])
def test_sixteen_bit_tiff_of_every_layout_keeps_its_values(read, layout, compression):
    options = {"compression": compression, "predictor": compression == "lzw"}
    if layout == "separate":
        content = tiff(np.moveaxis(DEEP, -1, 0), planarconfig="separate", **options)
    else:
        content = tiff(DEEP, tile=(16, 16) if layout == "tiled" else None, **options)
    picture = read(content)
    assert picture.depth == 16
    np.testing.assert_array_equal(levels(picture), DEEP)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_min_is_white_is_no_negative(read, kind):
    grey = (DEEP[..., 0] >> (8 if kind is np.uint8 else 0)).astype(kind)
    top = np.iinfo(kind).max
    picture = read(tiff(grey, photometric="miniswhite"))
    assert picture.grey and picture.depth == 8 * kind().itemsize
    np.testing.assert_array_equal(levels(picture, top)[..., 0], top - grey.astype(np.int64))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_associated_alpha_is_divided_out(read, kind):
    top = np.iinfo(kind).max if kind != np.float32 else 1
    scale = 65535 / top
    alpha = (ALPHA / scale).astype(kind)
    true = DEEP / scale * (1 if kind == np.float32 else 0.9)
    colour = true * (alpha / top)
    colour = colour.astype(kind) if kind == np.float32 else np.rint(colour).astype(kind)
    picture = read(tiff(np.concatenate([colour, alpha], -1), extrasamples=["assocalpha"]))
    np.testing.assert_array_equal(picture.alpha, alpha[..., 0])
    # Half a step of what was stored, stretched by what it is divided by.
    error = np.abs(picture.pixels * top - true)
    assert (error <= 0.5 * top / alpha + 0.51 if kind != np.float32 else error < 1e-5).all()


def test_straight_alpha_stays_as_it_is(read):
    picture = read(tiff(np.concatenate([DEEP, ALPHA], -1), extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(levels(picture), DEEP)
    np.testing.assert_array_equal(picture.alpha, ALPHA[..., 0])


def test_channels_that_are_no_transparency_are_told(read):
    picture = read(tiff(np.concatenate([DEEP, ALPHA], -1), extrasamples=["unspecified"]))
    np.testing.assert_array_equal(levels(picture), DEEP)
    assert picture.alpha is None and "extra channels" in picture.extras.notes[0]


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_tiff_of_odd_depths_is_stretched_over_sixteen_bits(read, bits):
    grey = DEEP[..., 0] >> (16 - bits)
    picture = read(tiff(grey, photometric="minisblack", bitspersample=bits))
    assert picture.depth == 16 and picture.grey
    np.testing.assert_array_equal(levels(picture)[..., 0], np.rint(grey * (65535 / (2**bits - 1))))


def test_sixteen_bit_inks_become_rgb_without_and_with_their_profile(read):
    inks = np.concatenate([DEEP, ALPHA // 4], -1)
    left = 1 - inks / 65535
    expected = left[..., :3] * left[..., 3:]
    picture = read(tiff(inks, photometric="separated"))
    assert picture.depth == 16 and picture.extras.icc is None
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-5)
    # Eight bits go the same way, and Pillow agrees.
    small = (inks >> 8).astype(np.uint8)
    shown = Image.frombytes("CMYK", (32, 24), small.tobytes()).convert("RGB")
    np.testing.assert_allclose(
        read(tiff(small, photometric="separated")).pixels * 255, np.asarray(shown), atol=1.01
    )
    picture = read(tiff(inks, photometric="separated", iccprofile=b"odd" * 60))
    assert "CMYK profile" in picture.extras.notes[0]
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-5)


def inks_profile() -> bytes:
    """A profile in which cyan alone darkens, so that no formula of plain inks fits it."""
    lab = [
        (round(255 - 200 * (corner >> 3)), 128, 128) for corner in range(16)
    ]  # cyan varies least
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0))
    table += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += ramp * 4 + b"".join(bytes(each) for each in lab) + ramp * 3
    text = (
        b"mluc"
        + bytes(4)
        + struct.pack(">II", 1, 12)
        + b"enUS"
        + struct.pack(">II", 2, 28)
        + b"\0x"
    )
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    body, tags = b"", []
    for name, content in ((b"A2B0", table), (b"desc", text), (b"wtpt", white), (b"cprt", text)):
        tags.append(struct.pack(">4sII", name, 132 + 12 * 4 + len(body), len(content)))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    content = header + struct.pack(">I", 4) + b"".join(tags) + body
    return struct.pack(">I", len(content)) + content[4:]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_inks_are_what_their_profile_says(read, kind):
    top = np.iinfo(kind).max
    inks = np.zeros((24, 32, 4), kind)
    inks[..., 0] = np.linspace(0, top, 32)
    inks[..., 1] = top  # which this profile does not heed
    content = tiff(inks, photometric="separated", iccprofile=inks_profile())
    picture = read(content)
    assert picture.extras.notes == () and picture.extras.icc is None
    assert picture.depth == 8 * kind().itemsize
    shade = picture.pixels[3].mean(-1)
    lightness = np.linspace(100, 100 * 55 / 255, 32)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    light = (light - light[-1]) / (1 - light[-1])  # perceptual: the darkest ink is black
    np.testing.assert_allclose(shade, linear.to_display(light), atol=0.02)
    if kind is np.uint8:  # Pillow's way, for JPEG, agrees
        image = Image.frombytes("CMYK", (32, 24), inks.tobytes())
        jpeg = saved(image, "JPEG", quality=100, icc_profile=inks_profile())
        np.testing.assert_allclose(read(jpeg, "in.jpg").pixels[3].mean(-1), shade, atol=0.03)


def test_signed_tiff_is_refused_for_its_true_reason(read):
    for kind, reason in ((np.int16, "signed"), (np.complex64, "complex")):
        with pytest.raises(images.files.InputError, match=reason) as caught:
            read(tiff(DEEP[..., 0].astype(kind), photometric="minisblack"))
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_tiff_of_eight_bits_and_fewer_is_what_pillow_reads(read, mode, compression):
    image = Image.fromarray(COLOUR).convert(mode)
    if compression == "jpeg" and mode in ("1", "P", "RGBA"):
        compression = "packbits"
    content = saved(image, "TIFF", compression=compression)
    with Image.open(io.BytesIO(content)) as stored:
        expected = np.asarray(stored.convert("L" if mode in "1L" else "RGB"))
    pixels = levels(read(content), 255)
    pixels = pixels[..., 0] if mode in "1L" else pixels
    np.testing.assert_allclose(pixels, expected, atol=1 if mode == "CMYK" else 0)


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_colours_of_png_are_transparency(read, bits):
    kind, shift = (np.uint16, 0) if bits == 16 else (np.uint8, 8)
    for samples in (DEEP[..., :1] >> shift, DEEP >> shift):
        samples = samples.astype(kind)
        clear = samples[3, 5].astype(">u2").tobytes()  # tRNS holds 16 bits whatever the depth
        content = png.encode(samples, raster.Extras(chunks=((b"tRNS", clear),)))
        picture = read(content, "in.png")
        top = np.iinfo(kind).max
        np.testing.assert_array_equal(
            picture.alpha, np.where((samples == samples[3, 5]).all(-1), 0, top)
        )
        np.testing.assert_array_equal(
            levels(picture, top), np.broadcast_to(samples, (*samples.shape[:2], 3))
        )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_is_written_as_png_is_what_other_readers_read(channels, kind):
    samples = np.concatenate([DEEP, ALPHA], -1)[..., [*range(channels)]].astype(kind)
    if channels == 2:
        samples[..., 1] = ALPHA[..., 0].astype(kind)
    seen = imagecodecs.png_decode(png.encode(samples, raster.Extras(icc=b"profile")))
    np.testing.assert_array_equal(seen.reshape(samples.shape), samples)


def test_an_animation_of_sixteen_bits_tells_that_it_is_read_with_eight(tmp_path):
    content = imagecodecs.apng_encode(np.stack([DEEP, DEEP[::-1]]))
    (tmp_path / "in.png").write_bytes(content)
    for picture in images.read_frames(tmp_path / "in.png").pictures:
        assert picture.depth == 8 and "16 bits" in picture.extras.notes[0]


@pytest.mark.parametrize("most", [1000, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_netpbm_of_over_eight_bits_keeps_them(read, kind, most):
    samples = (DEEP[:3, :5].astype(np.int64) * most // 65535)[..., : 3 if kind in "P3P6" else 1]
    header = f"{kind}\n# a comment\n5 3\n{most}\n".encode()
    if kind in ("P2", "P3"):
        content = header + " ".join(map(str, samples.ravel())).encode()
    else:
        content = header + samples.astype(">u2").tobytes()
    picture = read(content, "in.pnm")
    assert picture.depth == 16 and picture.grey == (kind in ("P2", "P5"))
    expected = np.broadcast_to(np.rint(samples * (65535 / most)), (3, 5, 3))
    np.testing.assert_allclose(levels(picture), expected, atol=0.51)
    if most == 65535 and kind in ("P5", "P6"):
        seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(levels(picture)[..., 0], seen.reshape(3, 5, -1)[..., -1])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGB;16"])
def test_heic_is_read_upright_and_with_all_its_bits(read, mode):
    samples = DEEP if mode == "RGB;16" else COLOUR
    if mode == "RGBA":
        samples = np.concatenate([COLOUR, (ALPHA >> 8).astype(np.uint8)], -1)
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode, (32, 24), samples.tobytes()).save(buffer, quality=-1, chroma=444)
    picture = read(buffer.getvalue(), "in.heic")
    assert picture.depth == (16 if mode == "RGB;16" else 8) and picture.format == "HEIF"
    true = samples[..., :3] / np.iinfo(samples.dtype).max
    assert np.abs(picture.pixels - true).max() < 0.02  # without loss but for the YCbCr between
    if mode == "RGBA":
        np.testing.assert_array_equal(picture.alpha, samples[..., 3])
    white = np.full((24, 32, 3), 65535, np.uint16)
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (32, 24), white.tobytes()).save(buffer, quality=-1)
    assert read(buffer.getvalue(), "white.heic").pixels.min() == 1


@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
def test_heic_and_avif_are_turned_upright(read, orientation):
    image = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.open(io.BytesIO(saved(image, "PNG", exif=exif.tobytes())))
    upright = np.asarray(ImageOps.exif_transpose(stored)) / 255
    buffer = io.BytesIO()
    heic = pillow_heif.from_bytes("RGB", (32, 24), COLOUR.tobytes())
    heic[0].info["exif"] = exif.tobytes()
    heic.save(buffer, quality=-1, chroma=444)
    for content in (buffer.getvalue(), saved(image, "AVIF", quality=100, exif=exif.tobytes())):
        pixels = read(content, "in.heic").pixels
        assert pixels.shape == upright.shape and np.abs(pixels - upright).mean() < 0.02


def test_avif_is_read_with_all_its_bits_and_written(read, tmp_path):
    ten = DEEP >> 6
    content = imagecodecs.avif_encode(ten, level=100, bitspersample=10, pixelformat="444")
    picture = read(content, "in.avif")
    assert picture.depth == 16 and picture.format == "AVIF"
    seen = imagecodecs.avif_decode(content)
    np.testing.assert_array_equal(levels(picture) >> 6, seen)
    assert read(imagecodecs.avif_encode(ten * 0 + 1023, bitspersample=10)).pixels.min() == 1
    notes = images.write_picture(tmp_path / "out.avif", picture)
    assert notes == ("AVIF keeps 8 of its 16 bits",)
    assert np.abs(images.read_rgb(tmp_path / "out.avif") / 255 - picture.pixels).mean() < 0.02


def test_light_of_exr_is_read_and_written_with_what_is_above_white(read, tmp_path):
    import OpenEXR

    light = COLOUR.astype(np.float32) / 32  # up to 7
    clear = np.concatenate([light, ALPHA / np.float32(65535)], -1)
    for samples in (light[..., :1], clear[..., 2:], light, clear):
        picture = read(exr.encode(samples), "in.exr")
        assert picture.linear and picture.depth == 32 and picture.grey == (samples.shape[-1] < 3)
        colour = samples[..., :1] if samples.shape[-1] < 3 else samples[..., :3]
        np.testing.assert_allclose(picture.pixels, colour + 0 * picture.pixels, rtol=1e-6)
        images.write_picture(tmp_path / "out.exr", picture)
        names = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[samples.shape[-1]]
        stored = OpenEXR.File(str(tmp_path / "out.exr"), separate_channels=True).channels()
        if names[-1] == "A":  # where alpha is multiplied in
            samples = np.concatenate([samples[..., :-1] * samples[..., -1:], samples[..., -1:]], -1)
        for name, plane in zip(names, np.moveaxis(samples, -1, 0), strict=True):
            np.testing.assert_allclose(stored[name].pixels, plane, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_tiff_survives_with_what_is_beyond_white_and_black(read, tmp_path, kind):
    floats = (COLOUR.astype(kind) / 128 - 0.25).astype(kind)
    picture = read(tiff(floats, compression="zlib", predictor=kind != np.float16))
    assert (picture.depth, picture.linear) == (32, False)
    np.testing.assert_allclose(picture.pixels, floats, rtol=1e-6)
    images.write_picture(tmp_path / "out.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), picture.pixels)
    assert not images.read_picture(tmp_path / "out.tif").linear
    notes = images.write_picture(tmp_path / "out.png", picture)
    assert any("beyond 0 to 1 are cut off" in note for note in notes)
    # In other units, where most would be white, they are shown by one scale.
    picture = read(tiff(COLOUR.astype(kind) + 20))
    notes = images.write_picture(tmp_path / "out.png", picture)
    assert "scaled down" in notes[0] and notes[1] == "PNG keeps 16 of its 32 bits"
    shown = images.read_rgb(tmp_path / "in.tif")
    np.testing.assert_array_equal(shown, images.read_rgb(tmp_path / "out.png"))
    assert np.corrcoef(shown.ravel(), COLOUR.ravel())[0, 1] > 0.99


def test_light_stays_light_through_tiff_and_becomes_srgb_elsewhere(read, tmp_path):
    light = np.linspace(0, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)
    picture = read(exr.encode(light), "in.exr")
    images.write_picture(tmp_path / "out.tif", picture)
    again = images.read_picture(tmp_path / "out.tif")
    assert again.linear and again.depth == 32
    np.testing.assert_array_equal(again.pixels, light)
    # By a profile that any colour management understands: mid grey of light is bright on a screen.
    profile = ImageCms.ImageCmsProfile(io.BytesIO(again.extras.icc))
    grey = Image.new("RGB", (1, 1), (128, 128, 128))
    shown = ImageCms.profileToProfile(grey, profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(shown).astype(int) - 188).max() <= 1
    # Elsewhere its values are curved, and so is what the profile says of them.
    for each in (picture, again):
        images.write_picture(tmp_path / "out.png", each)
        assert abs(images.read_picture(tmp_path / "out.png").pixels[12, 0, 0] - 0.735) < 0.01
    profile = ImageCms.ImageCmsProfile(
        io.BytesIO(images.read_picture(tmp_path / "out.png").extras.icc)
    )
    shown = ImageCms.profileToProfile(grey, profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(shown).astype(int) - 128).max() <= 1
    images.write_picture(tmp_path / "grey.tif", read(exr.encode(light[..., :1]), "grey.exr"))
    again = images.read_picture(tmp_path / "grey.tif")
    assert again.linear and again.grey and again.extras.icc[16:20] == b"GRAY"
    np.testing.assert_allclose(
        images.read_rgb(tmp_path / "in.exr"), images.read_rgb(tmp_path / "out.png"), atol=1
    )


def test_a_progressive_jpeg_without_its_end_marker_is_whole_and_a_cut_one_is_not(read):
    for options in ({"progressive": True}, {}, {"progressive": True, "optimize": True}):
        whole = saved(Image.fromarray(COLOUR), "JPEG", **options)
        assert whole.endswith(b"\xff\xd9")
        np.testing.assert_array_equal(
            read(whole[:-2], "in.jpg").pixels, read(whole, "in.jpg").pixels
        )
        scans = [at for marker, _, at in jpeg._segments(whole) if marker == 0xDA]
        for cut in (*scans[1:], len(whole) - 12, (scans[-1] + len(whole)) // 2):
            with pytest.raises(images.files.InputError, match="damaged"):
                read(whole[:cut], "in.jpg")


def test_a_png_lacking_only_its_last_chunk_is_whole(read):
    for samples in (COLOUR, DEEP):
        whole = png.encode(samples, raster.Extras())
        assert read(whole[:-12], "in.png").depth == 8 * samples.itemsize
        np.testing.assert_array_equal(
            read(whole[:-12], "in.png").pixels, read(whole, "in.png").pixels
        )
