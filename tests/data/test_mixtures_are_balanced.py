"""Several sets in one run: as often as the papers say, or by shares, the same for any hosts."""

from collections import Counter

import numpy as np
import pytest

from configs import backbone, common, textpromptir
from tdr_jax import cli
from tdr_jax.data import mixtures, pipeline, places, sources
from tdr_jax.errors import InputError
from tdr_jax.images.files import write_rgb

# One grey level for each part: the clean crop tells which one it is.
SIZES = {"noise": 7, "rain": 3, "haze": 40, "blur": 2, "low_light": 5}
GREY = {task: 40 * i for i, task in enumerate(SIZES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixtures")
    sides = {"rain": ("rainy", "gt"), "haze": ("synthetic", "original"), "blur": ("blur", "sharp")}
    for task, count in SIZES.items():
        for i in range(count):
            picture = np.full((8, 8, 3), GREY[task] + i % 40, np.uint8)
            where = sides.get(task, ("low", "high")) if task != "noise" else ("",)
            for side in where:
                write_rgb(root / task / side / f"{i}.png", picture)
    return root


def config(folder, argument, **fields):
    sets = {name: folder / name for name in ("rain", "haze", "blur")}
    told = ",".join(f"{name}={path}" for name, path in sets.items())
    told = f"data={folder / 'noise'},low={folder / 'low_light'},{told}"
    config = backbone.get_config(f"name=promptir,task=five,{told}{argument}")
    config.data.update({"workers": 0, "stages": ((10, 8, 20),), **fields})
    return config.data


def clean(data, steps, **hosts):
    """The grey of each row's clean picture, (steps, rows)."""
    source = places.from_config(data)
    stream = pipeline.batches(source, data, vectors=None, seed=3, **hosts)
    return np.stack(
        [np.rint(next(stream)["clean"][:, 0, 0, 0] * 255).astype(int) for _ in range(steps)]
    )


def tasks_of(greys):
    return Counter(list(SIZES)[grey // 40] for grey in greys.ravel())


def test_an_epoch_of_five_tasks_has_adairs_repeats(folder):
    data = config(folder, "")
    repeats = {"noise": 9, "rain": 120, "haze": 1, "blur": 5, "low_light": 20}
    wanted = {task: SIZES[task] * repeats[task] for task in SIZES}
    source = places.from_config(data)
    assert len(source) == sum(wanted.values())
    seen = clean(data, len(source) // 20 + 1).ravel()[: len(source)]
    assert tasks_of(seen) == wanted
    counts = Counter(seen.tolist())
    assert all(counts[GREY[task] + i] == repeats[task] for task in SIZES for i in range(2))
    # The sets themselves: 5,144 clean pictures, 200, 72,135, 2,103 and 485 pairs.
    whole = np.dot([5144, 200, 72_135, 2103, 485], list(repeats.values()))
    assert whole == common.EPOCHS["five"] == 162_646
    assert 5144 * 9 + 200 * 200 + 72_135 == 158_431


def test_shares_hold_in_every_run_of_examples(folder):
    data = config(folder, ",recipe=tdr")
    assert data.mixing == "weights" and data.weights == (3.0, 1.0, 1.0, 1.0, 1.0)
    greys = clean(data, 21).ravel()
    assert tasks_of(greys) == {"noise": 180, "rain": 60, "haze": 60, "blur": 60, "low_light": 60}
    for start in range(0, 360, 7):
        window = tasks_of(greys[start : start + 35])
        for task in SIZES:
            assert abs(window[task] - (15 if task == "noise" else 5)) <= 2
    # Each set goes through its own pictures: 60 of haze's 40 are all of them, and half again.
    counts = Counter(grey for grey in greys.tolist() if grey // 40 == 2)
    assert len(counts) == 40 and set(counts.values()) == {1, 2}


@pytest.mark.parametrize("mixing", ["repeats", "weights"])
def test_hosts_get_rows_of_the_same_batch_and_as_much_of_each_task(folder, mixing):
    data = config(folder, "", mixing=mixing)
    whole = clean(data, 12)
    for count in (2, 4):
        rows = [clean(data, 12, process_index=i, process_count=count) for i in range(count)]
        np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole)
        if mixing == "weights":
            shares = [tasks_of(row)["noise"] / row.size for row in rows]
            assert np.ptp(shares) < 0.2 and np.isclose(np.mean(shares), 3 / 7, atol=0.02)
    resumed = clean(data, 4, step=8)
    np.testing.assert_array_equal(resumed, whole[8:])


def test_a_mixture_is_a_pure_function_of_seed_and_number():
    parts = [sources.Pictures([np.zeros((4, 4, 3), np.uint8)] * n) for n in (3, 50)]
    mixture = mixtures.Mixture(*zip(parts, (1, 4), strict=True))
    draws = [mixture.draw(7, n) for n in range(2600)]
    assert [mixture.draw(7, n) for n in (2599, 0, 1300)] == [draws[n] for n in (2599, 0, 1300)]
    assert draws != [mixture.draw(8, n) for n in range(2600)]
    first = np.array(draws[: mixtures.BLOCK]) < 3
    assert first.sum() == mixtures.BLOCK // 5
    # Of each source, every picture once before any comes again.
    small = [n for n in draws if n < 3]
    assert all(sorted(small[i : i + 3]) == [0, 1, 2] for i in range(0, 300, 3))
    with pytest.raises(InputError, match="the smallest is below 1 of 2520"):
        mixtures.Mixture(*zip(parts, (1, 1e6), strict=True))


def test_three_tasks_and_built_sets_are_named_by_arguments():
    config = textpromptir.get_config("data=tfds:wed+tfds:bsd400,rain=tfds:rain100l,haze=OTS")
    assert config.data.path == "tfds:wed+tfds:bsd400" and config.data.path_repeats == 9
    haze = ("OTS/synthetic", "OTS/original", "haze", 1)
    assert config.data.pairs == (("tfds:rain100l", "", "rain", 200), haze)
    five = textpromptir.get_config("data=D,rain=R,haze=H,blur=tfds:gopro,low=LOL,mixing=weights")
    assert five.data.tasks == tuple(SIZES) and five.data.weights == (3.0, 1.0, 1.0, 1.0, 1.0)
    assert five.data.pairs[2:] == (("tfds:gopro", "", "blur", 5), ("LOL", "", "low_light", 20))
    assert five.optim.steps_per_epoch == 162_646 // 6


def test_composites_train_networks_without_sentences(tmp_path, monkeypatch):
    for task in ("clear", "low_haze_rain", "snow"):
        write_rgb(tmp_path / "in" / "CDD-11_train" / task / "1.png", np.zeros((8, 8, 3), np.uint8))
    out = tmp_path / "sets"
    assert cli.main(["data", "prepare", "cdd11", str(tmp_path / "in"), "-o", str(out)]) == 0
    data = backbone.get_config("name=promptir,task=cdd11,data=tfds:cdd11").data
    data.update({"workers": 0, "stages": ((10, 8, 2),), "tfds_dir": str(out)})
    batch = next(pipeline.batches(places.from_config(data), data, vectors=None, seed=0))
    assert sorted(batch["task"].tolist()) == [-1, 4]  # snow has no number; low light comes first
    vectors = {task: np.eye(3, dtype=np.float32)[[i]] for i, task in enumerate(data.tasks)}
    with pytest.raises(InputError, match="snow/1.png is for 'snow'; add it to data.tasks"):
        for n in range(2):
            pipeline.Examples(places.from_config(data), data, vectors, 0)(n, 8)
    # All that the picture holds is asked for.
    source = sources.Concat((sources.Pictures([np.zeros((8, 8, 3), np.uint8)]), 1))
    item = {"degraded": np.zeros((8, 8, 3), np.uint8), "clean": np.zeros((8, 8, 3), np.uint8)}
    item |= {"name": "a", "task": "low_light+haze+rain"}
    monkeypatch.setattr(sources.Concat, "__getitem__", lambda self, index: item)
    example = pipeline.Examples(source, data, vectors, 0)(0, 8)
    np.testing.assert_allclose(example["vector"], np.full(3, 1 / 3), rtol=1e-6)
