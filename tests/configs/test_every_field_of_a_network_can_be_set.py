"""Every field of every config's network can be set on the command line, and slips are told."""

import dataclasses

import pytest

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.train import config as configs
from tests.configs.test_configs_build import CASES, FOLDER
from tests.support import words_arguments

MORE = [(name, each) for name, given in words_arguments.ARGUMENTS.items() for each in given[1:]]
TINY = f"{FOLDER / 'tdr_tr'}.py:size=tiny"


def fields(config):
    """The fields of a network's config, and of what it is built around, with their values."""
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own.pop("overrides", None)
    return (fields(config.base.config) if hasattr(config, "base") else {}) | own


@pytest.mark.parametrize("name, argument", [*CASES, *MORE, ("text_encoder", ""), ("estimator", "")])
def test_every_field_is_declared_with_its_type(name, argument):
    path = f"{FOLDER / name}.py" + (f":{argument}" if argument else "")
    config = configs.read(path, []).network
    network = models.build(config.name, **config.overrides)
    assert set(fields(network.config)) == set(config.overrides)
    # All are set to what they are anyway, and so the network must stay the same.
    words = [
        f"--config.network.overrides.{x}={value}" for x, value in fields(network.config).items()
    ]
    given = configs.read(path, words).network
    assert fields(models.build(given.name, **given.overrides).config) == fields(network.config)


def test_another_network_by_name_keeps_its_own_sizes():
    path = f"{FOLDER / 'backbone'}.py:name=drsformer,task=derain,data=x"
    config = configs.read(path, ["--config.network.name=drsformer-200l"])
    assert not models.build(config.network.name, **config.network.overrides).config.mefc


@pytest.mark.parametrize("wrong, nearest", [("residul", "residual"), ("attn", "attention")])
def test_an_unknown_field_names_the_nearest(wrong, nearest):
    place = "config.network.overrides"
    said = f"{place}.{wrong} is no field of a .* with tdr-tiny/textual_restoration; "
    with pytest.raises(InputError, match=rf"{said}did you mean {place}.{nearest}\?$"):
        configs.read(TINY, [f"--{place}.{wrong}=1"])


@pytest.mark.parametrize("size", ["sd21", "sd15", "tiny"])
def test_the_second_stage_has_two_recipes_at_every_size(size):
    for recipe in ("paper", "ours"):
        config = configs.read(f"{FOLDER / 'tdr_tr'}.py:size={size},recipe={recipe}", [])
        network = models.build(config.network.name, **config.network.overrides)
        ours = recipe == "ours"
        assert (network.config.residual, network.config.attention) == (ours, ours)
        assert (config.loss.denoise, config.loss.words) == ((0.0, 1.0) if ours else (1.0, 0.0))
        assert ("clean" in config.data.tasks) == ours
        learnt = {name.partition(".")[0] for name in network.abstract_params()}
        assert learnt == ({"mapping", "attention"} if ours else {"mapping"})
    usual = "ours" if size == "tiny" else "paper"
    given, chosen = (
        configs.read(f"{FOLDER / 'tdr_tr'}.py:size={size}{more}", []).to_dict()
        for more in ("", f",recipe={usual}")
    )
    assert given == chosen
    with pytest.raises(InputError, match="recipe=theirs is unknown; known: paper, ours"):
        configs.read(f"{FOLDER / 'tdr_tr'}.py:recipe=theirs", [])
