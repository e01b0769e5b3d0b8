"""What frozen networks make of a run's examples is computed once, kept, and the same."""

import json

import jax
import numpy as np
import pytest

from configs import tdr_towers
from tdr_jax import objectives
from tdr_jax.data import feature_cache, latents, places
from tdr_jax.errors import InputError
from tests.support import stacks, words_runs
from tests.support.stops import PowerCut, stop

STAGES = pytest.mark.parametrize("stage", ["i2t", "tr"])
DISTINCT, BATCH = 6, 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    stacks.make(root / "stack")
    return root / "stack", words_runs.photos(root / "photos"), root


def make_objective(folders, stage, workdir, **fields):
    stack, photos, _ = folders
    config = words_runs.config(stage, stack, photos, batch=BATCH)
    config.data.distinct = DISTINCT
    config.update_from_flattened_dict(fields)
    return objectives.make(config, workdir)


@pytest.fixture(scope="module")
def kept(folders):
    """Of each stage: the objective, the first three batches, and the folder they are kept in."""
    found = {}
    for stage in ("i2t", "tr"):
        workdir = folders[2] / stage
        objective = make_objective(folders, stage, workdir)
        batches = objective.batches(0)
        found[stage] = objective, [next(batches) for _ in range(3)], workdir / "features0"
    return found


def numbers(objective, batch):
    """Which of the distinct examples a batch holds: each epoch goes through all of them."""
    places = (divmod(batch * BATCH + i, DISTINCT) for i in range(BATCH))
    return [
        int(feature_cache.order(objective.config.seed, epoch, DISTINCT)[place])
        for epoch, place in places
    ]


@STAGES
def test_a_kept_batch_is_what_the_towers_compute_on_demand(kept, stage):
    objective, batches, _ = kept[stage]
    make = latents.LatentExamples(
        places.from_config(objective.config.data),
        objective.config.data,
        objective.config.seed,
        wanted=objective.wanted,
        view=objective.networks["image_encoder"].config.image_size,
    )
    frozen, towers = objective.frozen[0], objective.towers
    see = jax.jit(lambda batch: towers.hidden(frozen, batch))
    if stage == "tr":
        mapper, its = objective.loss.mapper, frozen["image_to_text"]
        say = jax.jit(lambda hidden: mapper.apply(its, hidden))
    vae = towers.vae
    draw = jax.jit(lambda target: vae.apply(frozen["vae"], target, method="encode"))
    worst = 0.0
    for k in (0, 2):
        rows = [make(m, 16) for m in numbers(objective, k)]
        examples = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        names = {"i2t": {"hidden"}, "tr": {"words", "words_clean"}}[stage]
        assert batches[k].keys() == {"moments", "kind"} | names
        np.testing.assert_array_equal(batches[k]["kind"], examples["kind"])
        wanted = {"moments": np.concatenate(draw(examples["target"]), -1)}
        for name in names:
            which = "_clean" if name == "words_clean" else ""
            seen = see({"clip_image": examples[f"clip_image{which}"]})
            wanted[name] = seen if stage == "i2t" else say(seen)
        for name, array in wanted.items():
            assert batches[k][name].dtype == "float32"
            scale = np.abs(array).max()
            worst = max(worst, np.abs(batches[k][name] - array).max() / scale)
    assert worst < 1e-5


def test_an_epoch_goes_through_every_example_once(kept):
    objective, batches, _ = kept["i2t"]
    order = sum((numbers(objective, k) for k in range(3)), [])
    assert sorted(order[:DISTINCT]) == sorted(order[DISTINCT:]) == list(range(DISTINCT))
    rows = np.concatenate([batch["moments"] for batch in batches])
    alike = (rows[:, None] == rows[None]).all((2, 3, 4))
    np.testing.assert_array_equal(alike, np.equal.outer(order, order))


@STAGES
def test_a_folder_that_is_complete_is_read_and_not_made_again(folders, kept, stage, monkeypatch):
    _, batches, folder = kept[stage]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = make_objective(folders, stage, folder.parent)

    def never(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(latents.LatentExamples, "__call__", never)
    monkeypatch.setattr(again, "encode", never)
    for k, batch in zip((1, 2), again.batches(1), strict=False):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, batches[k][name])
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"data.distinct": 7},
        {"data.cover": (0.25, 1.0)},
        {"data.weights": (1.0, 1.0, 1.0, 1.0, 1.0)},
        {"data.stages": ((3, 24, 4),)},
    ],
    ids=lambda fields: "".join(fields),
)
def test_features_of_other_settings_are_refused_in_one_line(folders, kept, fields):
    folder = kept["i2t"][2]
    objective = make_objective(folders, "i2t", folder.parent, **fields)
    with pytest.raises(InputError, match="features0 holds features of other data.*remove") as error:
        objective.batches(0)
    assert "\n" not in str(error.value)


def test_features_of_other_networks_are_refused(folders, kept):
    objective = make_objective(folders, "i2t", kept["i2t"][2].parent)
    ((frozen,),) = (objective.frozen,)
    name = sorted(frozen["vae"])[0]
    changed = frozen["vae"] | {name: frozen["vae"][name] + 1e-3}
    objective.frozen = (frozen | {"vae": changed},)
    with pytest.raises(InputError, match="other data, networks or settings"):
        objective.batches(0)


def test_what_decides_no_feature_may_change(folders, kept):
    _, batches, folder = kept["i2t"]
    fields = {"data.stages": ((50, 16, 4), (9, 16, 2)), "data.cache_mb": 1, "optim.lr": 0.5}
    batch = next(make_objective(folders, "i2t", folder.parent, **fields).batches(0))
    for name, array in batch.items():
        np.testing.assert_array_equal(array, batches[0][name])


def test_no_latents_are_kept_for_a_loss_without_pictures(folders, kept, tmp_path):
    objective = make_objective(folders, "tr", tmp_path, **{"loss.denoise": 0.0, "loss.words": 1.0})
    batch = next(objective.batches(0))
    whole = kept["tr"][1][0]
    assert whole.keys() - batch.keys() == {"moments"}
    for name, array in batch.items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-6)  # another program
    batch["row"] = np.arange(BATCH)
    loss, metrics = objective.loss(
        objective.initial_params(), batch, jax.random.key(0), objective.frozen[0]
    )
    assert float(loss) == float(metrics["words"]) > 0
    with pytest.raises(InputError, match="features0 holds features of other data.*remove"):
        make_objective(folders, "tr", tmp_path).batches(0)


def test_crops_of_several_sizes_cannot_be_kept(folders, tmp_path):
    objective = make_objective(
        folders, "i2t", tmp_path, **{"data.stages": ((1, 16, 4), (1, 24, 4))}
    )
    with pytest.raises(InputError, match=r"data.distinct is 6, .*'i2t' with crops of \[16, 24\]"):
        objective.batches(0)
    assert not (tmp_path / "features0").exists()


def test_nothing_is_kept_where_no_network_is_frozen(folders, tmp_path):
    config = tdr_towers.get_config(f"part=vae,data={folders[1]}")
    config.data.distinct = 6
    with pytest.raises(InputError, match="it keeps what frozen networks make") as refused:
        objectives.make(config, tmp_path).batches(0)
    assert "\n" not in str(refused.value)


COUNT = 150  # three batches of rows, the last one not full


def keep(folder, *, cut=None, settings=None, size=4):
    """Keeps squares and cubes of numbers, until row `cut` is to be made."""
    made = []

    def make(m, size):
        if cut is not None and m >= cut:
            stop("exception")
        made.append(m)
        return {"n": np.float32(m)}

    def encode(batch):
        return {"square": batch["n"] ** 2, "cubes": np.stack([batch["n"] ** 3] * 2, -1)}

    kept = feature_cache.CachedFeatures(folder, make, encode, COUNT, size, 0, settings or {"a": 1})
    return kept, made


@pytest.mark.parametrize("cut, done", [(30, 0), (64, 64), (100, 64), (140, 128)])
def test_a_folder_that_was_begun_is_gone_on_with(tmp_path, cut, done):
    with pytest.raises(PowerCut):
        keep(tmp_path / "kept", cut=cut)
    kept, made = keep(tmp_path / "kept")
    assert sorted(set(made)) == list(range(done, COUNT))
    whole, _ = keep(tmp_path / "whole")
    found = []
    for n in range(2 * COUNT):
        example, other = kept(n, 4), whole(n, 4)
        root = np.sqrt(example["square"])
        np.testing.assert_array_equal(example["cubes"], [root**3] * 2)
        assert example.keys() == other.keys() == {"square", "cubes"}
        assert all(np.array_equal(example[name], other[name]) for name in example)
        found.append(int(root))
    assert sorted(found[:COUNT]) == sorted(found[COUNT:]) == list(range(COUNT))
    assert found[:COUNT] != found[COUNT:]  # another order in each epoch
    _, again = keep(tmp_path / "kept")
    assert not again


@pytest.mark.parametrize("other", [{"settings": {"a": 2}}, {"size": 5}])
def test_a_folder_of_other_settings_is_not_gone_on_with(tmp_path, other):
    with pytest.raises(PowerCut):
        keep(tmp_path, cut=100)
    with pytest.raises(InputError, match="holds features of other data, networks or settings"):
        keep(tmp_path, **other)
    assert json.loads((tmp_path / "about.json").read_text())["done"] == 64


def test_parameters_have_one_digest():
    one, two = np.arange(4.0, dtype=np.float32), np.ones((2, 3), np.float32)
    digest = feature_cache.digest({"vae": {"a": one, "b": two}, "unet": {"a": two}})
    assert digest == feature_cache.digest({"unet": {"a": two}, "vae": {"b": two, "a": one}})
    others = [
        {"vae": {"a": one, "b": two}, "unet": {"a": two + 1e-6}},
        {"vae": {"a": one, "c": two}, "unet": {"a": two}},
        {"vae": {"a": one}, "unet": {"a": two}},
    ]
    assert len({digest, *map(feature_cache.digest, others)}) == 4
