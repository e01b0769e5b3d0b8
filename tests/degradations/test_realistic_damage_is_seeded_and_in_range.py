"""Realistic damage: seeded, in range, and like what cameras, weather and benchmarks show."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from configs import textpromptir
from tdr_jax.data import degradation_labels, pipeline, sources
from tdr_jax.degradations import camera, realistic, weather
from tdr_jax.degradations.draws import example_rng
from tdr_jax.errors import InputError
from tdr_jax.images import list_pictures, read_rgb

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
MAKERS = {
    "rain": weather.rain,
    "haze": weather.haze,
    "camera": camera.camera_noise,
    "jpeg": camera.jpeg,
}


@pytest.fixture(scope="module")
def photos():
    return [read_rgb(path).astype(np.float32) / 255 for path in list_pictures(PHOTOS)]


@pytest.fixture(scope="module")
def crop(photos):
    return photos[0][100:196, 60:188]


def psnr(image, clean):
    return -10 * np.log10(np.mean((image - clean) ** 2))


@pytest.mark.parametrize("name", MAKERS)
def test_same_generator_gives_the_same_bytes_and_another_one_does_not(name, crop):
    before = crop.copy()
    first, again = (MAKERS[name](crop, example_rng(3, 14)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    np.testing.assert_array_equal(crop, before)
    for seed, index, stream in ((3, 15, 0), (4, 14, 0), (3, 14, 1)):
        assert np.abs(first - MAKERS[name](crop, example_rng(seed, index, stream))).max() > 0.01


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 64), (50, 129)])
@pytest.mark.parametrize("name", MAKERS)
def test_any_size_from_16_on_comes_back_as_float32_in_range(name, size, photos):
    image = photos[1][: size[0], : size[1]]
    for index in range(12):
        made = MAKERS[name](image, example_rng(5, index))
        assert made.dtype == np.float32 and made.shape == image.shape
        assert made.min() >= 0 and made.max() <= 1
        if name in ("camera", "jpeg"):
            np.testing.assert_allclose(made * 255, np.rint(made * 255), atol=1e-4)


@pytest.mark.parametrize("task", ["noise", "rain", "haze", "blur"])
def test_grey_pictures_stay_grey_in_shape(task, crop):
    grey = crop[..., :1]
    for index in range(6):
        made = realistic.degrade(grey, task, example_rng(0, index), sigma=25, shares=(1, 1, 1))
        assert made.shape == grey.shape and made.dtype == np.float32


def test_black_and_white_pictures_give_numbers():
    for value in (0, 1):
        flat = np.full((32, 32, 3), value, np.float32)
        for index in range(8):
            for make in MAKERS.values():
                assert np.isfinite(make(flat, example_rng(1, index))).all()


def test_rain_spans_the_light_and_the_heavy_benchmark(photos):
    """Rain100L has a PSNR of 26 to 32 dB, Rain100H of 7 to 17 dB in nine of ten pictures."""
    scores = [
        psnr(weather.rain(photos[n % len(photos)], example_rng(0, n)), photos[n % len(photos)])
        for n in range(60)
    ]
    low, high = np.percentile(scores, [5, 90])
    assert low < 11 and 28 < high < 40
    heavy, light = (
        [
            psnr(weather.rain(photo, example_rng(1, n), heaviness=at), photo)
            for n, photo in enumerate(photos)
        ]
        for at in (0.9, 0.1)
    )
    assert np.median(heavy) < 15 and 25 < np.median(light) < 36


def test_rain_makes_pictures_brighter_and_falls_along_its_angle():
    black = np.zeros((120, 160, 3), np.float32)
    assert weather.rain(black, example_rng(0, 0), veil=0.0).min() >= 0
    for angle in (-30, 0, 20):
        layer = weather.streaks(
            (120, 160), example_rng(2, 0), angle=angle, length=40, width=0.8, cover=0.1
        )
        # The direction in which the layer changes least, from the mean of squared gradients.
        gy, gx = np.gradient(layer)
        turned = 0.5 * np.arctan2(2 * np.mean(gx * gy), np.mean(gx * gx) - np.mean(gy * gy))
        assert abs(np.rad2deg(turned) + angle) < 4  # to the right on the way down
        assert 0.05 < np.mean(layer) < 0.12 and 0.9 < np.percentile(layer, 99.9) < 2.2


def test_added_rain_is_equal_in_all_channels_and_screened_rain_spares_what_is_bright():
    dim = np.broadcast_to(np.float32([0.1, 0.2, 0.3]), (64, 64, 3))
    options = dict(heaviness=0.3, veil=0.0)
    added = weather.rain(dim, example_rng(0, 3), added=True, **options) - dim
    screened = weather.rain(dim, example_rng(0, 3), added=False, **options) - dim
    unclipped = added.max(-1) < 0.6
    np.testing.assert_allclose(added[unclipped, 0], added[unclipped, 2], atol=1e-6)
    wet = added[..., 0] > 0.05
    np.testing.assert_allclose(screened[wet, 2] / screened[wet, 0], 0.7 / 0.9, rtol=1e-3)


def test_veil_is_a_share_of_grey_light(crop):
    options = dict(heaviness=0.0, added=True)
    dry = weather.rain(crop, example_rng(0, 3), veil=0.0, **options)
    veiled = weather.rain(crop, example_rng(0, 3), veil=0.2, **options)
    assert 0.6 < veiled.std() / dry.std() < 0.95


def test_depth_has_the_edges_of_the_picture():
    """Two flat halves: depth jumps between them, and nowhere else."""
    image = np.full((96, 96, 3), 0.2, np.float32)
    image[:, 48:] = 0.8
    at_edge, elsewhere = [], []
    for index in range(40):
        depth = weather.imagined_depth(image, example_rng(6, index), indoors=bool(index % 2))
        step = np.abs(np.diff(np.log(depth), axis=1)).mean(0)
        at_edge.append(step[47])
        elsewhere.append(np.r_[step[:45], step[50:]].max())
    assert np.mean(at_edge) > 4 * np.mean(elsewhere)


def test_parts_are_connected_and_cover_the_picture(crop):
    import cv2

    parts = weather.parts_of(crop, 20, example_rng(0, 0))
    assert parts.shape == crop.shape[:2] and 0 <= parts.min() and parts.max() <= 20
    for part in np.unique(parts[parts > 0]):
        _, _, stats, _ = cv2.connectedComponentsWithStats((parts == part).astype(np.uint8))
        assert stats[1:, cv2.CC_STAT_AREA].max() > 0.9 * (parts == part).sum()


def test_guided_filter_keeps_the_guide_and_smooths_what_is_flat():
    rng = np.random.default_rng(0)
    guide = np.zeros((40, 40), np.float32)
    guide[:, 20:] = 1
    rough = guide + 0.1 * rng.standard_normal(guide.shape, np.float32)
    smooth = weather.guided(guide, rough, 4, 1e-4)
    assert np.abs(smooth - guide).mean() < 0.3 * np.abs(rough - guide).mean()
    assert (smooth[:, 20] - smooth[:, 19]).min() > 0.8


@pytest.mark.parametrize("indoors", [False, True])
def test_haze_stays_within_the_ranges_of_reside(indoors, photos):
    ranges = weather.INDOOR if indoors else weather.OUTDOOR
    black, guide = np.zeros((64, 64, 3), np.float32), photos[0][:64, :64]
    for index in range(30):
        light = weather.haze(black, example_rng(4, index), indoors=indoors, guide=guide)
        assert light.max() <= min(1, ranges["airlight"][1] + weather.TINT)
        assert light.min() > 0
    # SOTS indoor has a PSNR of 8 to 15 dB in nine of ten pictures.
    scores = [
        psnr(weather.haze(photo, example_rng(8, n), indoors=indoors), photo)
        for n, photo in enumerate(photos * 3)
    ]
    assert 7 < np.percentile(scores, 10) < 14 and 15 < np.percentile(scores, 90) < 26


def test_haze_of_a_degraded_and_a_clean_picture_is_one_haze(crop):
    """With the clean picture as guide, what differs is only what the air lets through."""
    rainy = weather.rain(crop, example_rng(0, 1))
    one = weather.haze(crop, example_rng(0, 2), guide=crop)
    other = weather.haze(rainy, example_rng(0, 2), guide=crop)
    seen = np.abs(rainy - crop) > 0.1
    share = ((other - one)[seen] / (rainy - crop)[seen]).reshape(-1)
    assert share.min() > 0 and share.max() <= 1.001


def test_variance_of_sensor_noise_is_that_of_photons_and_reading():
    for light in (0.0, 0.1, 0.5, 1.0):
        flat = np.full((400, 400), light, np.float32)
        noise = camera.sensor_noise(flat, 4e-3, 1e-4, example_rng(0, 0))
        assert abs(np.var(noise) / (4e-3 * light + 1e-4) - 1) < 0.03
        assert abs(noise.mean()) < 4 * noise.std() / 400


def test_demosaicing_gives_flat_and_sloping_greys_back():
    # Malvar's correction takes from one colour what the others curve; greys and slopes have none.
    ramp = np.tile((np.arange(30) / 30).astype(np.float32)[:, None], (21, 1, 3))
    for picture in (np.full((21, 30, 3), 0.3, np.float32), ramp):
        for correction in (0.0, 0.5, 1.0):
            again = camera.demosaic(camera.mosaic(picture), correction)
            np.testing.assert_allclose(again[3:-3, 3:-3], picture[3:-3, 3:-3], atol=1e-6)
    colours = np.broadcast_to(np.float32([0.2, 0.5, 0.7]), (21, 30, 3))
    for correction in (0.0, 1.0):
        again = camera.demosaic(camera.mosaic(colours), correction)
        np.testing.assert_allclose(again, colours, atol=1e-6)


def test_tone_curve_and_its_inverse_meet():
    image = np.linspace(0, 1, 256, dtype=np.float32)
    for contrast in (0.0, 0.6, 1.0):
        light = camera.undeveloped(image, contrast)
        assert light.min() >= 0 and light.max() <= 1 and np.all(np.diff(light) >= 0)
        np.testing.assert_allclose(camera.developed(light, contrast), image, atol=2e-3)
    assert np.all(camera.COLOURS.sum(1) == pytest.approx(1))


def test_camera_noise_is_unbiased_where_nothing_is_clipped():
    grey = np.full((128, 128, 3), 0.5, np.float32)
    bias = [(camera.camera_noise(grey, example_rng(9, n)) - grey).mean((0, 1)) for n in range(20)]
    assert np.abs(bias).max() < 0.6 / 255 and np.abs(np.mean(bias, 0)).max() < 0.15 / 255


def test_camera_noise_is_smooth_and_shared_by_the_channels_as_real_noise_is(photos):
    """CC15 and PolyU: neighbours correlate by 0.4 to 0.75, channels by 0.1 to 0.9, 30 to 39 dB."""
    scores, neighbours, channels = [], [], []
    for n, photo in enumerate(photos * 5):
        photo = photo[:192, :192]
        noise = camera.camera_noise(photo, example_rng(10, n)) - photo
        scores.append(-10 * np.log10(np.mean(noise**2)))
        noise = noise - noise.mean((0, 1))
        pair = np.mean(noise[:, 1:] * noise[:, :-1]) / np.mean(noise**2)
        neighbours.append(pair)
        channels.append(np.corrcoef(noise.reshape(-1, 3).T)[0, 1])
    assert 31 < np.median(scores) < 37 and np.percentile(scores, 10) < 30
    assert 0.5 < np.median(neighbours) < 0.8
    assert 0.3 < np.median(channels) < 0.8


def test_fewer_photons_give_more_noise(crop):
    shots = (3e-4, 2e-3, 1.2e-2)
    scores = [psnr(camera.camera_noise(crop, example_rng(0, 0), shot=s), crop) for s in shots]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] + 6


def test_jpeg_blocks_grow_as_quality_falls(crop):
    scores = [psnr(camera.jpeg(crop, example_rng(0, 0), quality=q), crop) for q in (95, 50, 10)]
    assert scores[0] > scores[1] + 3 > scores[2] + 6


def realistic_data(**changes):
    data = textpromptir.get_config("size=compact,damage=realistic,data=unused").data
    data.stages = ((1, 48, 12),)
    data.p_absent = data.p_keep_one = data.p_joint = data.p_partial_strength = 0.0
    data.update(changes)
    return data


def batches(photos, data, **options):
    return pipeline.batches(photos, data, vectors=None, seed=1, **options)


@pytest.fixture(scope="module")
def source():
    return sources.Pictures([read_rgb(path)[:200, :300] for path in list_pictures(PHOTOS)])


def test_batch_k_is_a_function_of_seed_and_k_alone(source):
    data = realistic_data()
    whole = list(islice(batches(source, data), 3))
    late = next(batches(source, data, step=2))
    halves = [next(batches(source, data, step=2, process_index=i, process_count=2)) for i in (0, 1)]
    for key in whole[2]:
        np.testing.assert_array_equal(late[key], whole[2][key])
        np.testing.assert_array_equal(np.concatenate([h[key] for h in halves]), whole[2][key])


def test_the_config_chooses_who_makes_the_damage(source):
    made = next(batches(source, realistic_data()))
    before = next(batches(source, realistic_data(synthesis="published")))
    np.testing.assert_array_equal(made["clean"], before["clean"])
    np.testing.assert_array_equal(made["task"], before["task"])
    assert np.abs(made["degraded"] - before["degraded"]).mean() > 0.02


def test_shares_choose_the_kinds_of_noise(source):
    noises = {}
    for kind, name in enumerate(realistic.NOISES):
        shares = tuple(float(i == kind) for i in range(3))
        data = realistic_data(tasks=("noise",), weights=(1.0,), noise_shares=shares)
        batch = next(batches(source, data))
        noise = batch["degraded"] - batch["clean"]
        noises[name] = np.mean(noise[:, :, 1:] * noise[:, :, :-1]) / np.mean(noise**2)
    assert abs(noises["gaussian"]) < 0.1 < 0.4 < noises["camera"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"synthesis": "imagined"}, "use one of published, realistic"),
        ({"noise_shares": (1.0, 1.0)}, "gaussian, camera, jpeg"),
        ({"noise_shares": (0.0, 0.0, 0.0)}, "data.noise_shares is"),
        ({"noise_shares": (1.0, -1.0, 1.0)}, "data.noise_shares is"),
    ],
)
def test_what_cannot_be_made_is_said(source, changes, message):
    with pytest.raises(InputError, match=message):
        next(batches(source, realistic_data(**changes)))


def test_an_unknown_task_is_refused(crop):
    with pytest.raises(InputError, match="cannot make 'fog'"):
        realistic.degrade(crop, "fog", example_rng(0, 0), sigma=1, shares=(1, 1, 1))


def test_the_estimator_is_told_how_strong_a_cameras_noise_is(source):
    data = realistic_data(tasks=("noise",), weights=(1.0,), noise_shares=(0.0, 1.0, 0.0))
    make = degradation_labels.LabelledExamples(source, data, seed=1)
    sigmas = [make(n, 64)["sigma"] for n in range(12)]
    assert all(0.5 < sigma < 30 for sigma in sigmas) and np.std(sigmas) > 1
