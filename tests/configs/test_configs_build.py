"""Every config parses, is complete, and describes a network and an optimiser that can be built."""

import math
from pathlib import Path

import jax
import pytest

from configs import backbone, common, quickstart, textpromptir
from tdr_jax import models
from tdr_jax.data import places
from tdr_jax.errors import InputError
from tdr_jax.objectives import networks
from tdr_jax.train import config as configs
from tdr_jax.train import optim, state
from tests.support import words_arguments as words

FOLDER = Path(common.__file__).parent
ARGUMENTS = {
    "common": [""],
    "quickstart": ["", "steps=3"],
    "textpromptir": [
        "",
        "size=base",
        "size=compact",
        "size=tiny,text_dim=8",
        "size=compact,tasks=noise,data=photos",
        "size=compact,damage=realistic",
        "size=base,data=wed,rain=rain100l,haze=ots,encoder=sentences",
    ],
}
# Every pair of network and task, and whole steps: test_backbone_recipes_match_the_papers.py.
ARGUMENTS["backbone"] = [f"name={name},task=all,size=small" for name in backbone.RECIPES]
# The published setups: test_guided_recipes_match_the_paper.py.
ARGUMENTS["tdr_guided"] = [
    "",
    "size=tiny,data=photos,base=weights",
    "size=tiny,guided=0,data=photos",
    "backbone=textpromptir,size=tiny,data=photos,guidance=folder",
]
CASES = [(name, argument) for name, arguments in ARGUMENTS.items() for argument in arguments]


def test_every_config_file_is_tested():
    # The last: test_text_encoder_learns.py and test_pictures_tell_what_is_wrong.py.
    tested = set(ARGUMENTS) | set(words.ARGUMENTS) | {"text_encoder", "estimator"}
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == tested


@pytest.mark.parametrize("name, argument", CASES)
def test_every_config_parses_and_its_step_has_consistent_shapes(name, argument):
    path = f"{FOLDER / name}.py" + (f":{argument}" if argument else "")
    words = [
        "--config.seed=3",
        "--config.network.overrides.remat=true",
        "--config.data.stages=((5, 64, 2), (3, 128, 1))",
    ]
    config = configs.read(path, words)  # which holds every field against `objectives.schema`
    assert config.seed == 3 and config.network.overrides.remat == "true"
    assert config.data.stages == ((5, 64, 2), (3, 128, 1))

    # Other configs may change every default, but add no field that common.py does not document.
    def fields(node, prefix=""):
        for key, value in node.items():
            if key == "overrides":
                continue
            yield prefix + key
            if hasattr(value, "items"):
                yield from fields(value, f"{prefix}{key}.")

    assert set(fields(config)) == set(fields(common.get_config()))
    assert len(config.data.weights) == len(config.data.tasks)

    network = models.build(config.network.name, **config.network.overrides)
    total = sum(steps for steps, _, _ in config.data.stages)
    optimiser, _ = optim.make(config.optim, total)
    params = network.abstract_params()
    shapes = jax.eval_shape(
        lambda p: state.create(p, optimiser, ema_decay=config.ema, layout=None), params
    )
    assert {n: s.shape for n, s in shapes.params.items()} == {n: s.shape for n, s in params.items()}
    assert bool(shapes.ema) == bool(config.ema)
    for _, crop, batch in config.data.stages:
        assert crop % network.config.multiple == 0
        picture = jax.ShapeDtypeStruct((batch, crop, crop, 3), "float32")
        inputs = [picture]
        if config.objective == "guided":
            size = config.guidance.size
            inputs.append(jax.ShapeDtypeStruct((batch, size, size, 3), "float32"))
        if hasattr(network.config, "text_dim"):
            inputs.append(jax.ShapeDtypeStruct((batch, network.config.text_dim), "float32"))
        out = jax.eval_shape(network.apply, params, *inputs)
        assert out.shape == picture.shape


def test_the_base_recipe_has_the_papers_size_and_epoch():
    config = textpromptir.get_config("size=base,data=wed,rain=rain100l,haze=ots")
    network = models.build(config.network.name, **config.network.overrides)
    sizes = [math.prod(spec.shape) for spec in network.abstract_params().values()]
    assert sum(sizes) == 39_849_408
    # 5144 clean pictures, 200 rain pairs, 72,135 haze pairs: 158,431 examples, 6 a step.
    counts = {"rain": 200, "haze": 72135}
    examples = 5144 * config.data.path_repeats
    examples += sum(counts[task] * repeats for _, _, task, repeats in config.data.pairs)
    assert examples == 158_431
    assert config.optim.steps_per_epoch == examples // 6
    assert config.data.stages == ((150 * 26405, 128, 6),)
    optimiser = (config.optim.lr, config.optim.clip, config.optim.weight_decay, config.ema)
    assert optimiser == (2e-4, 0.0, 0.01, 0.0)


def test_mistakes_are_told_in_a_line():
    with pytest.raises(ValueError, match="'sise=base' is unknown; known: size, tasks"):
        textpromptir.get_config("sise=base")
    with pytest.raises(ValueError, match="size=huge is unknown; known: base, compact, tiny"):
        textpromptir.get_config("size=huge")
    config = textpromptir.get_config("size=base")
    network = models.build(config.network.name)
    for field, value, line in [
        ("save_every", 0, "config.save_every is 0; give a number of at least 1"),
        ("data.stages", ((5, 60, 1),), "crops of 60 pixels; textpromptir takes multiples of 8"),
        ("data.stages", (5, 64, 1), r"give \(\(steps, crop, batch\), ...\)"),
        ("network.name", "textpromptor", "no network 'textpromptor'; there are: textpromptir"),
    ]:
        wrong = textpromptir.get_config("size=base")
        wrong.update_from_flattened_dict({field: value})
        with pytest.raises(InputError, match=line):
            networks.of_config(wrong)
    with pytest.raises(InputError, match="config.data.path is empty.*--config.data.path="):
        places.from_config(config.data)
    with pytest.raises(InputError, match="config.encoder is empty.*width 768"):
        networks.text_encoder(config, network)
    config.encoder = "minilm"
    with pytest.raises(InputError, match="384 numbers, but textpromptir takes 768"):
        networks.text_encoder(config, network)


def test_the_quickstart_reads_the_shipped_photographs():
    config = quickstart.get_config()
    assert len(places.from_config(config.data)) >= 4
    assert Path(config.eval_data.path).is_dir()
