"""Training makes the damage that recipes name, and takes guidance that was drawn from the like."""

import json

import numpy as np
import pytest

from configs import common
from tdr_jax.data import degradation_labels, guidance, guidance_folders, latents, pipeline, sources
from tdr_jax.degradations import recipes
from tdr_jax.degradations.draws import layer_rng
from tdr_jax.degradations.vocabulary import KINDS, MADE_IN_ORDER, TASKS
from tdr_jax.errors import InputError
from tdr_jax.images import write_rgb

SIZE, SEED = 32, 3


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 8, 9, 3), np.uint8)
    return sources.Pictures([picture.repeat(8, 0).repeat(8, 1) for picture in small])


def data(**fields):
    found = common.get_config().data
    found.update(dict(dihedral=(0,)) | fields)
    return found


def test_a_task_is_made_by_its_recipes_in_proportion(photos):
    entries = (("blur", "defocus3", 1.0), ("blur", "shake+jpeg30", 3.0), ("low_light",) * 2 + (1,))
    options = data(tasks=("blur", "low_light"), weights=(1.0, 1.0), recipes=entries)
    make = pipeline.Examples(photos, options, None, SEED)
    met = []
    for n in range(80):
        example = make(n, SIZE)
        task = TASKS[example["task"]]
        layers = make.ways.drawn(task, SEED, n)
        rngs = [layer_rng(SEED, n, layer.kind) for layer in layers]
        made = recipes.apply(example["clean"], layers, rngs)
        np.testing.assert_array_equal(example["degraded"], made)
        met.append(recipes.spell(layers))
    assert set(met) == {"defocus3", "shake+jpeg30", "low_light"}
    assert met.count("shake+jpeg30") > 1.5 * met.count("defocus3")
    assert 25 < met.count("low_light") < 55


def test_what_stays_in_the_target_is_what_is_in_the_input(photos):
    entries = (("blur", "defocus_depth5", 1.0), ("haze", "realistic_haze", 1.0))
    options = data(tasks=("haze", "blur"), weights=(1.0, 1.0), recipes=entries, p_keep_one=1.0)
    vectors = {task: np.ones((1, 2), np.float32) for task in ("haze", "blur")}
    make = pipeline.Examples(photos, options, vectors, SEED)
    for n in range(8):
        example = make(n, SIZE)
        gone, item = TASKS[example["task"]], make._crop(n, SIZE, _crop(n))
        place = dict(window=item[1]["window"], shape=item[1]["shape"], guide=item[1]["guide"])
        kept = {"haze": "blur", "blur": "haze"}[gone]
        place = place if kept == "haze" else {"guide": place["guide"]}
        target = make.ways(item[0][0], kept, SEED, n, **place)
        np.testing.assert_array_equal(example["clean"], target)


def _crop(n):
    from tdr_jax.degradations.draws import CHOICES, draw, example_rng

    return draw(pipeline.Choices, example_rng(SEED, n, CHOICES)).crop


def test_other_tasks_draw_what_they_drew(photos):
    options = dict(tasks=("noise", "rain", "blur"), weights=(1.0, 1.0, 1.0))
    plain = pipeline.Examples(photos, data(**options), None, SEED)
    some = data(**options, recipes=(("blur", "motion", 1.0),))
    mixed = pipeline.Examples(photos, some, None, SEED)
    for n in range(12):
        one, other = plain(n, SIZE), mixed(n, SIZE)
        same = np.array_equal(one["degraded"], other["degraded"])
        assert same == (TASKS[one["task"]] != "blur")
        np.testing.assert_array_equal(one["clean"], other["clean"])


def test_the_estimator_and_the_words_take_recipes_too(photos):
    options = data(tasks=("noise",), weights=(1.0,), recipes=(("noise", "jpeg10", 1.0),))
    example = degradation_labels.LabelledExamples(photos, options, SEED)(0, SIZE)
    assert 0 < example["sigma"] < 60  # measured, as JPEG has none
    views = latents.LatentExamples(photos, options, SEED, wanted="pair", view=SIZE)
    clean, seen = (views(0, SIZE)[key] for key in ("clip_image_clean", "clip_image"))
    assert np.abs(clean - seen).max() > 0.02
    dark = data(tasks=("low_light",), weights=(1.0,), recipes=(("low_light", "low_light", 1.0),))
    with pytest.raises(InputError, match="the estimator tells noise"):
        degradation_labels.LabelledExamples(photos, dark, SEED)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ((("blur", "motion"),), "give .task, recipe, weight."),
        ((("blur", "snow", 1.0),), "no damage 'snow'"),
        ((("blur", "jpeg", 1.0),), "nothing of 'jpeg' is undone by 'blur'"),
        ((("noise", "noise", 1.0),), "without its sigma"),
        ((("blur", "motion", 0.0),), "give > 0"),
        ((("haze", "realistic_haze", 1.0),), "add it to data.tasks"),
    ],
)
def test_recipes_that_cannot_be_are_named(photos, entries, match):
    options = data(tasks=("noise", "blur"), weights=(1.0, 1.0), recipes=entries)
    with pytest.raises(InputError, match=match):
        pipeline.Examples(photos, options, None, SEED)


def test_layers_have_streams_of_their_own():
    assert len(KINDS) <= 64 and set(MADE_IN_ORDER) == set(TASKS)
    drawn = {layer_rng(0, 0, kind, again).random() for kind in KINDS for again in range(3)}
    assert len(drawn) == 3 * len(KINDS)


# Guidance from files: a folder for each level, of one colour each, so that it tells its level.


def colour_of(level):
    return sum(map(ord, level)) % 256


@pytest.fixture
def folders(tmp_path, photos):
    """Photographs in files, and what draws guidance for them."""
    for i, name in enumerate(("a", "b")):
        write_rgb(tmp_path / "photos" / f"{name}.png", photos[i]["image"])

    def draw(*levels):
        for level in levels:
            for name in ("a", "b"):
                flat = np.full((40, 40, 3), colour_of(level), np.uint8)
                write_rgb(tmp_path / "guides" / level / f"{name}.png", flat)
        return tmp_path / "guides"

    return sources.Folder(tmp_path / "photos"), draw


def made(source, path, options):
    settings = common.get_config().guidance
    settings.update(kinds=("file",), weights=(1.0,), path=str(path), size=16)
    guided = guidance.Guidance(source, settings, SEED, data=options)
    return pipeline.Examples(source, options, None, SEED, guided), guided


def told(example):
    return int(np.rint(example["guidance"].mean() * 255))


def test_guidance_is_of_the_level_that_is_drawn(folders):
    source, draw = folders
    options = data(sigmas=(15, 50), tasks=("noise", "rain", "haze"))
    path = draw("noise15", "noise50", "rain", "haze")
    make, guided = made(source, path, options)
    levels = guided.levels
    met = set()
    for n in range(24):
        example = make(n, SIZE)
        level = levels.drawn(SEED, n, {TASKS[example["task"]]})
        assert told(example) == colour_of(level)
        met.add(level)
        if level.startswith("noise"):
            sigma = np.std(example["degraded"] - example["clean"]) * 255
            assert (sigma > 22) == (level == "noise50")
    assert met == {"noise15", "noise50", "rain", "haze"}


def test_without_its_levels_training_is_refused_with_the_advice(folders):
    source, draw = folders
    path = draw(".", "noise15")
    options = data(sigmas=(15, 50), tasks=("noise",), weights=(1.0,))
    with pytest.raises(InputError, match=r"no folder for noise50.*tdr guide .* --degrade noise50$"):
        made(source, path, options)
    manifest = {"settings": {"degrade": "noise50"}, "files": {}}
    (path / "noise15" / "manifest.json").write_text(json.dumps(manifest))
    draw("noise50")
    with pytest.raises(InputError, match="noise15 was drawn from noise50, not noise15"):
        made(source, path, options)


def test_any_sigma_takes_the_nearest_and_two_at_once_their_own(folders):
    source, draw = folders
    path = draw("noise10", "noise40", "rain", "rain+noise10", "rain+noise40")
    options = data(
        tasks=("noise", "rain"), weights=(1.0, 1.0), sigma_range=(5.0, 50.0), p_joint=0.5
    )
    levels = guidance_folders.Levels(options)
    assert levels.possible() == ["rain", "noise5", "noise50", "rain+noise5", "rain+noise50"]
    assert set(levels.found(path, source)) == {path.name for path in path.iterdir()}
    drawn = {levels.drawn(SEED, n, ("noise", "rain")) for n in range(20)}
    assert drawn == {"rain+noise10", "rain+noise40"}
    with_recipes = data(
        tasks=("noise", "blur"),
        weights=(1.0, 0.0),
        synthesis="realistic",
        recipes=(("blur", "motion", 1.0),),
    )
    assert guidance_folders.Levels(with_recipes).possible() == ["realistic_noise"]
    assert guidance_folders.Levels(with_recipes).possible("blur") == ["motion"]


def test_pairs_take_the_guidance_of_their_names(folders, tmp_path):
    source, draw = folders
    path = draw(".")
    one = sources.Pairs(source.root, source.root, "rain")
    make, _ = made(one, path, data(tasks=("noise", "rain"), weights=(1.0, 1.0)))
    assert told(make(0, SIZE)) == colour_of(".")
