"""Batches: equal for any number of hosts and after any restart; targets match what is asked."""

import itertools
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tdr_jax.data import pipeline, sources, turns
from tdr_jax.degradations.synthesis import gaussian_noise
from tdr_jax.degradations.vocabulary import TASKS
from tdr_jax.errors import InputError
from tdr_jax.images.codecs import png
from tdr_jax.images.codecs.raster import Extras
from tdr_jax.images.files import read_rgb
from tdr_jax.images.folders import list_pictures

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
WEATHER = ("noise", "rain", "haze")
# Row r of task t is (t, r): a batch then tells which sentence it holds.
VECTORS = {task: np.array([[i, r] for r in range(5)], np.float32) for i, task in enumerate(TASKS)}


def config(**changes):
    data = {
        "tasks": WEATHER,
        "weights": (1.0, 1.0, 1.0),
        "sigmas": (15, 25, 50),
        "sigma_range": (),
        "channels": 3,
        "dihedral": tuple(range(8)),
        "stages": ((3, 24, 6), (2, 40, 4), (1, 32, 2)),
        "p_absent": 0.2,
        "p_keep_one": 0.3,
        "p_joint": 0.0,
        "p_partial_strength": 0.0,
        "noise_mode": "uint8",
        "synthesis": "published",
        "noise_shares": (1.0, 1.0, 1.0),
        "recipes": (),
        "workers": 0,
    }
    return ConfigDict(data | changes)


@pytest.fixture(scope="module")
def photos():
    return sources.Pictures([read_rgb(path)[:300, :400] for path in list_pictures(PHOTOS)])


def take(count, source, data=None, seed=1, vectors=VECTORS, **options):
    data = data or config()
    return list(
        islice(pipeline.batches(source, data, vectors=vectors, seed=seed, **options), count)
    )


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_batches_repeat_for_a_seed_and_differ_for_another(photos):
    first, again, other = take(3, photos), take(3, photos), take(3, photos, seed=2)
    for one, two in zip(first, again, strict=True):
        assert_equal(one, two)
    assert all(
        np.abs(one["clean"] - o["clean"]).max() > 0.1 for one, o in zip(first, other, strict=True)
    )
    assert np.abs(first[0]["clean"] - first[1]["clean"]).max() > 0.1


def test_stages_give_their_sizes_and_the_last_one_goes_on(photos):
    shapes = [batch["degraded"].shape for batch in take(8, photos)]
    assert shapes == [(6, 24, 24, 3)] * 3 + [(4, 40, 40, 3)] * 2 + [(2, 32, 32, 3)] * 3
    batch = take(1, photos)[0]
    assert {key: value.dtype.name for key, value in batch.items()} == {
        "degraded": "float32",
        "clean": "float32",
        "vector": "float32",
        "task": "int32",
    }


def test_resuming_at_any_step_continues_exactly_also_over_a_stage_boundary(photos):
    whole = take(8, photos)
    for step in (1, 2, 3, 4, 5, 6):
        for one, other in zip(whole[step:], take(8 - step, photos, step=step), strict=True):
            assert_equal(one, other)


def test_rows_of_all_hosts_are_the_batch_of_one_host(photos):
    whole = take(7, photos)
    hosts = [take(7, photos, process_index=i, process_count=2) for i in range(2)]
    for k, batch in enumerate(whole):
        parts = {key: np.concatenate([host[k][key] for host in hosts]) for key in batch}
        assert_equal(batch, parts)


def test_worker_processes_give_the_same_batches(tmp_path):
    for i, path in enumerate(list_pictures(PHOTOS)[:2]):
        Image.fromarray(read_rgb(path)[:64, :64]).save(tmp_path / f"{i}.png")
    source = sources.Folder(tmp_path)
    alone, helped = take(4, source), take(4, source, config(workers=2))
    for one, other in zip(alone, helped, strict=True):
        assert_equal(one, other)


def test_every_picture_is_used_once_in_an_epoch_in_a_new_order():
    # One grey level for each picture: the clean crop tells which one it is.
    source = sources.Pictures([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(12)])
    data = config(p_absent=0.0, p_keep_one=0.0, stages=((100, 8, 4),))
    clean = np.concatenate([batch["clean"][:, 0, 0, 0] for batch in take(9, source, data)])
    epochs = np.rint(clean * 25.5).astype(int).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs.tolist())
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_sentences_name_the_task_and_all_of_them_are_used(photos):
    data = config(p_absent=0.0, p_keep_one=0.0, stages=((9, 8, 60),))
    batches = take(5, photos, data)
    task = np.concatenate([batch["task"] for batch in batches])
    vector = np.concatenate([batch["vector"] for batch in batches])
    np.testing.assert_array_equal(vector[:, 0], task)
    assert set(vector[:, 1]) == set(range(5))
    assert all(abs((task == i).mean() - 1 / 3) < 0.12 for i in range(3))  # 4 standard errors


def test_weights_set_how_often_a_task_is_drawn(photos):
    data = config(weights=(0.0, 3.0, 1.0), p_absent=0.0, p_keep_one=0.0, stages=((9, 8, 60),))
    task = np.concatenate([batch["task"] for batch in take(5, photos, data)])
    assert (task != 0).all() and abs((task == 1).mean() - 0.75) < 0.1


def test_clean_target_is_the_degraded_crop_without_its_degradation(photos):
    data = config(
        tasks=("noise",), weights=(1.0,), p_absent=0.0, p_keep_one=0.0, noise_mode="float"
    )
    data.sigmas = (1,)
    for batch in take(4, photos, data):
        difference = (batch["degraded"] - batch["clean"]) * 255
        assert abs(difference.std() - 1) < 0.1 and abs(difference.mean()) < 0.1
        # Levels of the file, so nothing but the crop and the turn was done to the target.
        np.testing.assert_allclose(batch["clean"] * 255, np.rint(batch["clean"] * 255), atol=1e-4)


def test_absent_examples_ask_for_another_task_and_keep_the_input(photos):
    batch = take(1, photos, config(p_absent=1.0, p_keep_one=0.0, stages=((1, 24, 64),)))[0]
    np.testing.assert_array_equal(batch["degraded"], batch["clean"])
    plain = take(1, photos, config(p_absent=0.0, p_keep_one=0.0, stages=((1, 24, 64),)))[0]
    # The same degradations of the same crops, but the sentence never names the one that is there.
    np.testing.assert_array_equal(batch["degraded"], plain["degraded"])
    assert (batch["task"] != plain["task"]).all()


def test_mixed_examples_keep_the_other_degradation_unchanged(photos):
    changes = {"p_absent": 0.0, "noise_mode": "float"}
    make = pipeline.Examples(photos, config(p_keep_one=1.0, **changes), VECTORS, seed=1)
    plain = pipeline.Examples(photos, config(p_keep_one=0.0, **changes), VECTORS, seed=1)
    removed, kept = set(), set()
    for n in range(96):
        two, one = make(n, 24), plain(n, 24)  # the same crop with the first degradation alone
        first, named = TASKS[one["task"]], TASKS[two["task"]]
        assert not np.array_equal(two["degraded"], two["clean"])
        assert not np.array_equal(two["clean"], one["clean"])
        if named != first:
            np.testing.assert_array_equal(two["clean"], one["degraded"])
            kept.add(first)
        if named == "noise":  # the weather is equal in both, so their difference is the noise
            noise = (two["degraded"] - two["clean"]) * 255
            assert min(abs(noise.std() - sigma) for sigma in (15, 25, 50)) < 3
        removed.add(named)
    assert removed == kept == set(WEATHER)


def test_two_that_are_asked_for_together_both_go(photos):
    both = {("noise", "rain"): np.full((3, 4), 7.0, np.float32)}
    changes = {"p_absent": 0.0, "p_keep_one": 0.0}
    make = pipeline.Examples(photos, config(p_joint=1.0, **changes), VECTORS | both, seed=1)
    plain = pipeline.Examples(photos, config(**changes), VECTORS, seed=1)
    in_one_sentence = 0
    for n in range(60):
        two, one = make(n, 24), plain(n, 24)  # the same crop with the first degradation alone
        np.testing.assert_array_equal(two["clean"], one["clean"])
        assert not np.array_equal(two["degraded"], one["degraded"])
        if (two["vector"] == 7).all():
            in_one_sentence += 1
            continue
        means = [
            (first + second) / 2
            for a, b in itertools.combinations(WEATHER, 2)
            for first in VECTORS[a]
            for second in VECTORS[b]
        ]
        assert any(np.allclose(two["vector"], mean) for mean in means)
    assert 3 < in_one_sentence < 30


def test_partial_examples_go_as_far_as_their_vector_is_long(photos):
    changes = {"p_absent": 0.0, "p_keep_one": 0.0, "stages": ((1, 24, 48),)}
    vectors = {task: 1 + rows for task, rows in VECTORS.items()}  # none of length 0
    whole = take(1, photos, config(**changes), vectors=vectors)[0]
    part = take(1, photos, config(p_partial_strength=1.0, **changes), vectors=vectors)[0]
    np.testing.assert_array_equal(part["degraded"], whole["degraded"])
    strengths = np.linalg.norm(part["vector"], axis=-1) / np.linalg.norm(whole["vector"], axis=-1)
    assert strengths.min() < 0.1 and strengths.max() > 0.9
    way = strengths[:, None, None, None]
    wanted = whole["degraded"] + way * (whole["clean"] - whole["degraded"])
    np.testing.assert_allclose(part["clean"], wanted, atol=1e-6)


def test_noise_that_stays_is_the_same_draw_in_input_and_target():
    # Rain over black only adds light; with float noise on both, the difference is the rain alone.
    source = sources.Pictures([np.zeros((32, 32, 3), np.uint8)])
    data = config(tasks=("noise", "rain"), weights=(1.0, 1.0), p_absent=0.0, p_keep_one=1.0)
    data.noise_mode = "float"
    make = pipeline.Examples(source, data, VECTORS, seed=0)
    examples = [example for n in range(40) if (example := make(n, 32))["task"] == 1]
    assert len(examples) > 5
    for example in examples:
        rain = example["degraded"] - example["clean"]
        assert rain.min() > -1e-5 and example["clean"].std() > 0.04


def test_pairs_are_cropped_and_turned_alike(tmp_path):
    picture = read_rgb(list_pictures(PHOTOS)[0])
    for name, image in (("rainy/rain-1.png", picture // 2), ("gt/norain-1.png", picture)):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(image).save(tmp_path / name)
    source = sources.Pairs(tmp_path / "rainy", tmp_path / "gt", "rain")
    data = config(p_absent=0.0, p_keep_one=0.0)
    for batch in take(6, source, data):
        levels = np.rint(batch["clean"] * 255).astype(int)
        np.testing.assert_array_equal(np.rint(batch["degraded"] * 255).astype(int), levels // 2)
        assert (batch["task"] == TASKS.index("rain")).all()
    absent = take(1, source, config(p_absent=1.0, p_keep_one=0.0))[0]
    np.testing.assert_array_equal(absent["degraded"], absent["clean"])
    assert (absent["task"] != TASKS.index("rain")).all()


def test_joined_sources_repeat_their_pictures_and_keep_their_tasks():
    grey = [np.full((8, 8, 3), level, np.uint8) for level in range(5)]
    joined = sources.Concat(
        (sources.Pictures(grey[:3], task="noise"), 2), (sources.Pictures(grey[3:], "rain"), 1)
    )
    seen = [
        (int(item["image"][0, 0, 0]), item["task"]) for item in map(joined.__getitem__, range(8))
    ]
    noise = [(level, "noise") for level in range(3)]
    assert len(joined) == 8 and seen == [*noise, *noise, (3, "rain"), (4, "rain")]


def test_pictures_smaller_than_the_crop_are_grown_by_reflection():
    ramp = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    data = config(p_absent=0.0, p_keep_one=0.0)
    make = pipeline.Examples(sources.Pictures([ramp]), data, VECTORS, seed=0)
    grown = np.pad(ramp, ((0, 11), (0, 9), (0, 0)), mode="reflect")
    turned = [turns.dihedral(grown, how) for how in range(8)]
    assert len({view.tobytes() for view in turned}) == 8
    for n in range(8):
        clean = np.rint(make(n, 16)["clean"] * 255).astype(np.uint8)
        assert any(np.array_equal(clean, view) for view in turned)


def test_folder_decodes_once_and_keeps_to_its_limit(tmp_path, monkeypatch):
    reads = []
    read = lambda path, content=None: reads.append(path) or read_rgb(path)  # noqa: E731
    monkeypatch.setattr(sources, "read_rgb", read)
    for i in range(3):  # 3/4 MiB each: a limit of 1 MiB holds one of them
        Image.new("RGB", (512, 512), (i, i, i)).save(tmp_path / f"{i}.png")
    folder = sources.Folder(tmp_path, cache_mb=1)
    for _ in range(2):
        assert [int(folder[i]["image"][0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert [path.name for path in reads] == ["0.png", "1.png", "2.png", "1.png", "2.png"]
    assert folder[0]["name"] == "0.png"


def test_a_folder_without_pictures_or_with_a_broken_one_is_refused_in_one_line(tmp_path):
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(InputError, match="no picture in"):
        sources.Folder(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        sources.Folder(tmp_path / "nowhere")
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(InputError, match="broken.png") as caught:
        take(1, sources.Folder(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ((1, 9999, 4),)}, "crop 9999"),
        ({"stages": ()}, "data.stages is empty"),
        ({"stages": ((1, 8, 3),)}, "does not divide by 2"),
        ({"tasks": ("noise", "snow"), "weights": (1.0, 1.0)}, "'snow'"),
        ({"weights": (1.0,)}, "data.weights"),
        ({"tasks": ("noise",), "weights": (1.0,)}, "at least two"),
        ({"p_absent": 0.8, "p_keep_one": 0.5}, "at most 1"),
        ({"channels": 4}, "data.channels is 4; give 3 for colour or 1 for grey"),
        ({"dihedral": (0, 8)}, "data.dihedral is"),
        ({"sigma_range": (50, 0)}, "data.sigma_range is"),
    ],
)
def test_a_config_that_cannot_be_made_is_refused(photos, changes, message):
    with pytest.raises(InputError, match=message):
        take(1, photos, config(**changes), process_count=2)


def test_the_noise_mode_of_the_config_is_used(photos):
    data = config(tasks=("noise",), weights=(1.0,), p_absent=0.0, p_keep_one=0.0, sigmas=(50,))
    quantised = take(1, photos, data)[0]["degraded"] * 255
    np.testing.assert_allclose(quantised, np.rint(quantised), atol=1e-4)
    data.noise_mode = "float"
    assert take(1, photos, data)[0]["degraded"].min() < -0.01
    assert gaussian_noise(np.zeros(3, np.float32), 0, np.random.default_rng(0)).max() == 0


def test_package_pictures_are_a_source_and_others_are_refused():
    source = sources.package_pictures("skimage")
    assert len(source) == 4
    assert source[0]["image"].shape == (512, 512, 3)
    with pytest.raises(InputError, match="no pictures are known in package 'torch'"):
        sources.package_pictures("torch")


def test_networks_without_sentences_get_the_same_pictures_without_vectors(photos):
    data = config(p_absent=0.0, p_keep_one=0.0)
    for plain, prompted in zip(
        take(4, photos, data, vectors=None), take(4, photos, data), strict=True
    ):
        assert set(prompted) - set(plain) == {"vector"}
        assert_equal(plain, {key: prompted[key] for key in plain})
    with pytest.raises(InputError, match="for networks that take a sentence"):
        take(1, photos, vectors=None)


def only_noise(**changes):
    plain = {"tasks": ("noise",), "weights": (1.0,), "p_absent": 0.0, "p_keep_one": 0.0}
    return config(**plain | {"noise_mode": "float", "stages": ((9, 32, 40),)} | changes)


def test_blind_noise_has_any_level_of_its_range(photos):
    batches = take(5, photos, only_noise(sigma_range=(10.0, 40.0)), vectors=None)
    noise = np.concatenate([(batch["degraded"] - batch["clean"]) * 255 for batch in batches])
    levels = noise.std((1, 2, 3))
    assert 9 < levels.min() < 13 and 37 < levels.max() < 41.5
    assert abs(levels.mean() - 25) < 2.5  # 4 standard errors of 30 / sqrt(12 * 200)


def test_grey_batches_hold_the_luminance_and_then_its_noise(photos):
    colour, grey = (
        take(1, photos, only_noise(channels=channels), vectors=None)[0] for channels in (3, 1)
    )
    assert grey["degraded"].shape == grey["clean"].shape == (40, 32, 32, 1)
    luminance = colour["clean"] @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(grey["clean"][..., 0], luminance, atol=0.51 / 255)
    levels = ((grey["degraded"] - grey["clean"]) * 255).std((1, 2, 3))
    assert all(min(abs(level - sigma) for sigma in (15, 25, 50)) < 6 for level in levels)
    hazy = take(1, photos, config(channels=1, p_absent=0.0, p_keep_one=0.0), vectors=None)[0]
    assert hazy["degraded"].shape == (6, 24, 24, 1)


def test_only_the_turns_of_the_config_are_drawn():
    ramp = np.arange(16 * 16 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    source = sources.Pictures([ramp])
    for ways in ((0,), (0, 4), (1, 2, 7)):
        data = only_noise(dihedral=ways, stages=((9, 16, 40),))
        clean = np.rint(take(1, source, data, vectors=None)[0]["clean"] * 255).astype(np.uint8)
        wanted = {turns.dihedral(ramp, how).tobytes() for how in ways}
        assert {picture.tobytes() for picture in clean} == wanted


def test_blur_is_drawn_like_the_other_degradations_and_leaves_their_streams_alone(photos):
    data = config(
        tasks=("blur",), weights=(1.0,), p_absent=0.0, p_keep_one=0.0, stages=((9, 48, 8),)
    )
    batch = take(1, photos, data, vectors=None)[0]
    assert (batch["task"] == TASKS.index("blur")).all()
    for blurred, clean in zip(batch["degraded"], batch["clean"], strict=True):
        assert abs(blurred.mean() - clean.mean()) < 0.05
        assert np.abs(np.diff(blurred, axis=0)).mean() <= np.abs(np.diff(clean, axis=0)).mean()
    # With blur among the tasks, but never drawn, all other examples stay as they were.
    plain = {"p_absent": 0.0, "p_keep_one": 0.0}
    more = config(tasks=(*WEATHER, "blur"), weights=(1.0, 1.0, 1.0, 0.0), **plain)
    for one, two in zip(take(3, photos, config(**plain)), take(3, photos, more), strict=True):
        assert_equal(one, two)


def test_dual_pixel_pairs_give_both_views_alike_with_all_their_bits(tmp_path):
    rng = np.random.default_rng(0)
    views = {name: rng.integers(0, 65536, (20, 24, 3), np.uint16) for name in ("l", "r", "c")}
    for name, samples in views.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png.encode(samples, Extras()))
    source = sources.DualPixel(*(tmp_path / name for name in ("l", "r", "c")), "blur")
    item = source[0]
    np.testing.assert_array_equal(item["degraded"], np.concatenate([views["l"], views["r"]], -1))
    np.testing.assert_array_equal(item["clean"], views["c"])
    data = config(
        tasks=("blur",), weights=(1.0,), p_absent=0.0, p_keep_one=0.0, stages=((9, 16, 8),)
    )
    batch = take(1, source, data, vectors=None)[0]
    assert batch["degraded"].shape == (8, 16, 16, 6) and batch["clean"].shape == (8, 16, 16, 3)
    # Every pixel of the three pictures is unlike all others: where one came from, all came from.
    places = {tuple(c): tuple(d) for c, d in zip(*flat(item), strict=True)}
    for clean, degraded in zip(*flat(batch), strict=True):
        assert places[tuple(clean)] == tuple(degraded)


def flat(item):
    """Rows of pixels, clean and degraded, as 16-bit numbers."""
    return [
        np.rint(part.reshape(-1, part.shape[-1]) * (1 if part.dtype == np.uint16 else 65535.0))
        for part in (item["clean"], item["degraded"])
    ]


def test_dual_pixel_views_without_a_partner_are_refused(tmp_path):
    for name in ("l/1.png", "l/2.png", "r/1.png", "r/3.png", "c/1.png", "c/2.png", "c/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(InputError, match="r: no right view for 2.png;"):
        sources.DualPixel(*(tmp_path / name for name in ("l", "r", "c")), "blur")
    for name in ("l/2.png", "r/3.png"):
        (tmp_path / name).unlink()
    (tmp_path / "r/1.png").write_bytes(png.encode(np.zeros((4, 4, 3), np.uint16), Extras()))
    source = sources.DualPixel(*(tmp_path / name for name in ("l", "r", "c")), "blur")
    with pytest.raises(InputError, match="is uint8 but .* is uint16"):
        source[0]


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_a_turned_crop_is_the_dihedral_view_of_it(channels):
    crop = np.random.default_rng(0).random((9, 14, channels), np.float32)
    for how in range(8):
        turned = turns.turned(crop, how)
        np.testing.assert_array_equal(turned, turns.dihedral(crop, how))
        assert turned.flags.c_contiguous
