"""A picture that passes through reading, restoring and writing keeps its size, type and extras."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from skimage import data

from tdr_jax import images, models
from tdr_jax.errors import InputError
from tdr_jax.images.codecs import png, tiff
from tdr_jax.images.codecs.raster import Extras
from tdr_jax.infer import Restorer, tiles
from tests.support.fakes import fake

PROMPT = "please remove the noise"
ORIENTATION, MAKER, EXIF_IFD, EXIF_WIDTH, GPS_IFD = 0x0112, 0x010F, 0x8769, 0xA002, 0x8825


class Sentences:
    """An encoder that gives every sentence the same vector."""

    dim = 384

    def encode(self, texts):
        return np.full((len(texts), self.dim), self.dim**-0.5, np.float32)


def network_of(apply, multiple=8):
    return fake(apply, multiple=multiple, text_dim=384)


@pytest.fixture(scope="module")
def identity():
    return Restorer(network_of(lambda params, x, v: x), {}, Sentences())


@pytest.fixture(scope="module")
def dimmer():
    """Changes every picture in a known way, and compiles at once for every size."""
    return Restorer(network_of(lambda params, x, v: 0.5 * x + 0.1), {}, Sentences())


@pytest.fixture(scope="module")
def tiny():
    network = models.build("textpromptir-tiny")
    return Restorer(network, network.init(0), Sentences())


@pytest.fixture(scope="module")
def cat():
    return data.chelsea()[100:148, 120:200]


@pytest.fixture
def srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def deep_samples(channels, seed=0):
    """Real rows stretched over all 16 bits, low bits included."""
    rng = np.random.default_rng(seed)
    cat = data.chelsea()[100:131, 120:157].astype(np.uint16)
    planes = np.concatenate([cat, cat[::-1, :, :1]], -1)[..., :channels] * np.uint16(257)
    return planes ^ rng.integers(0, 256, planes.shape, dtype=np.uint16)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
def test_arrays_keep_their_type_and_size(dimmer, identity, cat, kind):
    scale = {"uint8": 1, "uint16": 257}.get(kind)
    picture = (cat * np.uint16(scale)).astype(kind) if scale else (cat / 255).astype(kind)
    restored = dimmer(picture, prompt=PROMPT)
    assert restored.dtype == picture.dtype and restored.shape == picture.shape
    assert not np.array_equal(restored, picture)  # the network did take part
    assert restored.min() >= 0 and restored.max() <= (255 * scale if scale else 1)
    np.testing.assert_allclose(identity(picture, prompt=PROMPT), picture, rtol=1e-7)


@pytest.mark.parametrize("shape", [(48, 80), (48, 80, 1)])
def test_grey_arrays_keep_their_shape(dimmer, identity, cat, shape):
    for picture in (cat[..., 0].reshape(shape), (cat[..., 0] / 255).reshape(shape)):
        restored = dimmer(picture, prompt=PROMPT)
        assert restored.dtype == picture.dtype and restored.shape == shape
        assert not np.array_equal(restored, picture)
        np.testing.assert_allclose(identity(picture, prompt=PROMPT), picture, atol=1e-7)


def test_a_jax_array_comes_back_as_one(identity, cat):
    import jax
    import jax.numpy as jnp

    restored = identity(jnp.asarray(cat), prompt=PROMPT)
    assert isinstance(restored, jax.Array)
    np.testing.assert_array_equal(restored, cat)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_pil_images_keep_their_mode_and_alpha(dimmer, identity, cat, mode):
    if mode == "I;16":
        image = Image.fromarray(deep_samples(1)[..., 0])
    else:
        image = Image.fromarray(cat).convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray(cat[..., 1]))
    image.info["icc_profile"] = b"kept"
    restored = dimmer(image, prompt=PROMPT)
    assert (restored.mode, restored.size) == (mode, image.size)
    assert restored.info["icc_profile"] == b"kept"
    assert not np.array_equal(np.asarray(restored), np.asarray(image))
    if "A" in mode:
        np.testing.assert_array_equal(np.asarray(restored)[..., -1], np.asarray(image)[..., -1])
    np.testing.assert_array_equal(identity(image, prompt=PROMPT), image)


def test_pil_modes_that_cannot_hold_the_result_become_the_nearest_that_can(identity, cat):
    image = Image.fromarray(cat)
    for mode, expected in {"P": "RGB", "1": "L", "CMYK": "RGB"}.items():
        restored = identity(image.convert(mode), prompt=PROMPT)
        assert (restored.mode, restored.size) == (expected, image.size)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 40), (8, 8), (9, 16), (33, 47)])
def test_any_size_comes_back(identity, size):
    picture = data.chelsea()[100 : 100 + size[0], 120 : 120 + size[1]]
    np.testing.assert_array_equal(identity(picture, prompt=PROMPT), picture)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8)])
def test_tiny_pictures_go_through_a_real_network(tiny, size):
    picture = data.chelsea()[100 : 100 + size[0], 120 : 120 + size[1]]
    restored = tiny(picture, prompt=PROMPT)
    assert restored.shape == picture.shape and restored.dtype == np.uint8
    assert not np.array_equal(restored, picture)  # the network did take part


def test_the_network_sees_a_picture_reflected_to_its_multiple(cat):
    seen = []

    def apply(params, x, v):
        seen.append(x.shape)
        return x[:, ::-1, ::-1]  # what was padded comes to the front

    restored = Restorer(network_of(apply, 16), {}, Sentences())(cat[:30, :45], prompt=PROMPT)
    assert seen == [(1, 32, 48, 3)]
    np.testing.assert_array_equal(restored[:2, :3], cat[27:29, 41:44])


def test_strength_blends_between_input_and_result(dimmer, cat):
    floats = cat.astype(np.float32) / 255
    full = dimmer(floats, prompt=PROMPT)
    np.testing.assert_array_equal(dimmer(floats, prompt=PROMPT, strength=0), floats)
    half = dimmer(floats, prompt=PROMPT, strength=0.5)
    clipped = (full <= 0) | (full >= 1)
    np.testing.assert_allclose(half[~clipped], ((full + floats) / 2)[~clipped], atol=1e-6)


def test_tiles_of_an_identity_network_equal_the_whole(identity):
    picture = data.astronaut()[:211, :307]
    calls = []
    tiled = identity(picture, PROMPT, max_pixels=5000, progress=lambda *at: calls.append(at))
    np.testing.assert_array_equal(tiled, picture)
    assert calls[-1][0] == calls[-1][1] >= 12 and calls[0] == (0, calls[-1][1])


def test_sixteen_bits_survive_tiling(identity):
    picture = np.tile(deep_samples(3), (4, 4, 1))
    np.testing.assert_array_equal(identity(picture, PROMPT, max_pixels=4096), picture)


def test_tiles_have_one_shape_within_the_limit_and_no_seam():
    shapes = set()

    def drifting(params, x, v):  # each tile comes out brighter or darker by its own mean
        shapes.add(x.shape)
        return x * 0 + x.mean((1, 2, 3), keepdims=True)

    ramp = np.linspace(0, 1, 640, dtype=np.float32)
    picture = np.broadcast_to(ramp[None, :, None], (300, 640, 3)).copy()
    restorer = Restorer(network_of(drifting), {}, Sentences())
    restored = restorer(picture, PROMPT, max_pixels=128 * 128)
    ((_, height, width, _),) = shapes
    assert height * width <= 128 * 128 and height % 8 == width % 8 == 0
    steps = np.abs(np.diff(restored[..., 0], axis=1))
    assert restored[:, -1].mean() - restored[:, 0].mean() > 0.5  # tiles do differ, in all
    assert steps.max() < 0.02  # a hard seam between neighbours would be a step of over 0.1
    assert np.abs(np.diff(restored[..., 0], axis=0)).max() < 1e-5


@pytest.mark.parametrize("size", [(100, 9000), (3000, 4000), (1, 70000), (1449, 1449), (2000, 700)])
@pytest.mark.parametrize("limit", [4096, 2**21])
def test_tiles_cover_every_pixel_with_shares_that_add_up_to_one(size, limit):
    shape = tiles.tile_shape(*size, limit, 16)
    assert shape[0] * shape[1] <= limit and shape[0] % 16 == shape[1] % 16 == 0
    for length, tile in zip(size, shape, strict=True):
        firsts = tiles.starts(length, tile)
        total = np.zeros(max(length, tile))
        for first, share in zip(firsts, tiles.windows(length, tile, firsts), strict=True):
            assert first >= 0 and first + tile <= len(total) and share.min() > 0
            total[first : first + tile] += share
        np.testing.assert_allclose(total, 1, atol=1e-6)
        least = min(tiles.OVERLAP, tile // 4)
        assert all(b - a <= tile - least for a, b in zip(firsts, firsts[1:], strict=False))


@pytest.mark.parametrize(
    ("picture", "complaint"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
        (np.full((4, 4, 3), np.inf), "infinite"),
        (np.full((4, 4, 3), 200.0), "divide by 255"),
        ([[0.5]], "list"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(identity, picture, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        identity(picture, prompt=PROMPT)
    assert "\n" not in str(caught.value)


def test_wrong_prompts_strengths_and_limits_are_refused(identity, cat):
    for wrong in ({"prompt": "  "}, {"prompt": None}, {"strength": 1.5}, {"strength": np.nan}):
        with pytest.raises(InputError, match="prompt|strength"):
            identity(cat, **{"prompt": PROMPT, **wrong})
    with pytest.raises(InputError, match="at least 4096"):
        identity(cat, PROMPT, max_pixels=10)


def test_a_network_that_answers_nan_is_an_error_not_a_black_picture(cat):
    broken = Restorer(network_of(lambda params, x, v: x / 0 - x / 0), {}, Sentences())
    with pytest.raises(InputError, match="NaN"):
        broken(cat, prompt=PROMPT)


def test_an_encoder_of_another_width_is_refused():
    class Wide(Sentences):
        dim = 768

    with pytest.raises(InputError, match="384.*768"):
        Restorer(network_of(lambda params, x, v: x), {}, Wide())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_applied_and_reset_and_the_rest_of_exif_kept(tmp_path, cat, srgb, suffix):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION], exif[MAKER] = orientation, "Maker"
        exif.get_ifd(EXIF_IFD)[EXIF_WIDTH] = cat.shape[1]
        exif.get_ifd(EXIF_IFD)[EXIF_WIDTH + 1] = cat.shape[0]
        exif.get_ifd(GPS_IFD)[1] = "N"
        path = tmp_path / f"{orientation}{suffix}"
        Image.fromarray(cat).save(path, exif=exif.tobytes(), icc_profile=srgb)
        with Image.open(path) as stored:
            seen = np.asarray(ImageOps.exif_transpose(stored))
        np.testing.assert_array_equal(images.read_rgb(path), seen)

        copy = tmp_path / f"copy{suffix}"
        images.write_picture(copy, images.read_picture(path))
        with Image.open(copy) as written:
            kept = written.getexif()
            assert written.size == (seen.shape[1], seen.shape[0])
            assert kept.get(ORIENTATION, 1) == 1 and kept[MAKER] == "Maker"
            assert kept.get_ifd(GPS_IFD)[1] == "N"
            assert kept.get_ifd(EXIF_IFD)[EXIF_WIDTH] == seen.shape[1]
            assert written.info["icc_profile"] == srgb


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_comes_back_bit_for_bit(tmp_path, dimmer, srgb, channels):
    samples = deep_samples(channels)
    path, copy = tmp_path / "deep.png", tmp_path / "copy.png"
    icc = srgb if channels > 2 else None
    path.write_bytes(png.encode(samples, Extras(icc=icc)))
    picture = images.read_picture(path)
    assert (picture.depth, picture.grey) == (16, channels < 3)
    untouched = dimmer(picture.pixels, prompt=PROMPT, strength=0)
    images.write_picture(copy, images.Picture(**{**vars(picture), "pixels": untouched}))
    assert copy.read_bytes() == path.read_bytes()
    assert images.read_picture(copy).extras.icc == icc
    changed = dimmer(picture.pixels, prompt=PROMPT)
    images.write_picture(copy, images.Picture(**{**vars(picture), "pixels": changed}))
    again = images.read_picture(copy)
    assert (again.depth, again.grey) == (16, channels < 3)
    if channels in (2, 4):
        np.testing.assert_array_equal(again.alpha, samples[..., -1])
    # What is read back is what OpenCV, which knows nothing of our encoder, sees too.
    if channels in (1, 3):
        import cv2

        seen = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).reshape(samples.shape)
        np.testing.assert_array_equal(seen[..., ::-1], samples)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_tiff_comes_back_bit_for_bit(tmp_path, srgb, channels):
    import tifffile

    samples = deep_samples(channels)
    path, copy = tmp_path / "deep.tif", tmp_path / "copy.tif"
    kind = "minisblack" if channels == 1 else "rgb"
    extra = ["unassalpha"] if channels == 4 else None
    flat = samples[..., 0] if channels == 1 else samples
    tifffile.imwrite(path, flat, photometric=kind, extrasamples=extra, iccprofile=srgb)
    picture = images.read_picture(path)
    images.write_picture(copy, picture)
    with tifffile.TiffFile(copy) as written:
        np.testing.assert_array_equal(written.asarray(), flat)
        assert written.pages[0].tags[34675].value == srgb


def test_grey_stays_grey_and_alpha_stays_untouched(tmp_path, dimmer, cat):
    alpha = Image.fromarray(cat[..., 2])
    for mode in ("L", "LA", "RGBA"):
        image = Image.fromarray(cat).convert(mode)
        if "A" in mode:
            image.putalpha(alpha)
        for suffix in (".png", ".webp"):
            path = tmp_path / f"in{mode}.png"
            image.save(path)
            picture = images.read_picture(path)
            pixels = dimmer(picture.pixels, prompt=PROMPT)
            out = tmp_path / f"out{mode}{suffix}"
            images.write_picture(out, images.Picture(**{**vars(picture), "pixels": pixels}))
            with Image.open(out) as written:
                if suffix == ".png":
                    assert written.mode == mode
                if "A" in mode:
                    np.testing.assert_array_equal(written.getchannel("A"), alpha)


def test_palette_one_bit_and_cmyk_files_are_read_as_what_they_show(tmp_path, cat):
    image = Image.fromarray(cat)
    for mode, suffix in (("P", ".png"), ("1", ".png"), ("CMYK", ".tif"), ("CMYK", ".jpg")):
        path = tmp_path / f"{mode}{suffix}"
        image.convert(mode).save(path)
        picture = images.read_picture(path)
        assert picture.pixels.shape == cat.shape and picture.grey == (mode == "1")
        shown = np.asarray(image.convert(mode).convert("RGB")) / 255
        assert np.abs(picture.pixels - shown).mean() < 0.03
        images.write_picture(tmp_path / "out.png", picture)


def test_jpeg_is_written_without_chroma_subsampling_and_transparency_is_not_lost(tmp_path, cat):
    images.write_rgb(tmp_path / "out.jpg", cat)
    with Image.open(tmp_path / "out.jpg") as written:
        assert {layer[1:3] for layer in written.layer} == {(1, 1)}
        assert np.abs(np.asarray(written).astype(int) - cat).mean() < 2
    see_through = images.Picture(cat / np.float32(255), alpha=cat[..., 0])
    with pytest.raises(InputError, match="transparency"):
        images.write_picture(tmp_path / "lost.jpg", see_through)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jpg"]


def test_a_large_picture_is_read_without_a_warning_and_a_bomb_refused(tmp_path, monkeypatch):
    large, bomb = tmp_path / "large.png", tmp_path / "bomb.png"
    # Pillow warns of what is larger than this, and refuses what is twice as large.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    Image.new("1", (95, 95)).save(large)
    Image.new("1", (200, 200)).save(bomb)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(large).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.read_rgb(large).shape == (95, 95, 3)
        with pytest.raises(InputError, match="million pixels"):
            images.read_rgb(bomb)


def test_listing_is_sorted_recursive_and_leaves_out_what_is_no_picture(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/1.PNG", "b/2.jpeg", "a.tif", "notes.txt", ".tdr-1.png", ".hidden/x.png"):
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in images.list_pictures(tmp_path)]
    assert found == ["a.tif", "b/1.PNG", "b/2.jpeg"]
    with pytest.raises(InputError, match="no such folder"):
        images.list_pictures(tmp_path / "nowhere")


def test_a_jpeg_with_previews_behind_it_is_read_and_an_animation_refused(tmp_path, cat):
    first, second = Image.fromarray(cat), Image.fromarray(255 - cat)
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(images.read_rgb(tmp_path / "phone.jpg").astype(int) - cat).mean() < 8
    for name in ("moving.gif", "moving.png", "moving.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        with pytest.raises(InputError, match="holds 2 pictures"):
            images.read_rgb(tmp_path / name)


def test_every_way_to_break_a_picture_gives_one_line(tmp_path, cat):
    stored = io.BytesIO()
    Image.fromarray(cat).save(stored, "PNG")
    whole, sixteen = stored.getvalue(), png.encode(deep_samples(3), Extras())
    for number, content in enumerate((whole, sixteen, tiff.encode([(deep_samples(3), Extras())]))):
        for cut in (10, 30, 60, len(content) // 2):
            path = tmp_path / f"{number}-{cut}.png"
            path.write_bytes(content[:cut])
            with pytest.raises(InputError) as caught:
                images.read_picture(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
