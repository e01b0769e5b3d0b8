"""What a network is to be given is told by itself, and every published size by its name."""

import pytest

from tdr_jax import models
from tdr_jax.diffusion.pipeline import Pipeline


@pytest.mark.parametrize(
    "name, fields, takes",
    [
        ("nafnet", {}, ""),
        ("restormer", dict(inp_channels=6, dual_pixel_task=True), "two_views"),
        ("textpromptir-tiny", {}, "sentence"),
        ("textpromptir-tiny", dict(text_strength=True), "sentence strength"),
        ("guided", dict(backbone="nafnet-32"), "guidance"),
        ("guided", dict(backbone="restormer"), "guidance"),
        ("bert", {}, ""),
    ],
)
def test_it_says_what_it_takes(name, fields, takes):
    network = models.build(name, **fields)
    kinds = ("sentence", "strength", "guidance", "two_views")
    assert [kind for kind in kinds if getattr(network, f"takes_{kind}")] == [
        kind for kind in kinds if kind in takes.split()
    ]


def test_it_says_what_it_was_trained_for():
    assert models.build("nafnet").trained_for == ()
    network = models.build("textpromptir-tiny", trained_for=("noise", "rain"))
    assert network.trained_for == ("noise", "rain")


def test_a_pipeline_restores_no_pictures():
    whole = Pipeline(None, None, None, {})
    assert not whole.takes_sentence and not whole.takes_two_views
    with pytest.raises(ValueError, match="a diffusion pipeline is no network that restores"):
        whole.check_restores(None)


def test_unknown_names_are_refused_with_all_that_are_known():
    for name in ("nafnet-7", "sd15/nothing", "sd9/unet", "unet/unet", ""):
        with pytest.raises(ValueError, match="no network .*; there are: textpromptir, .*sd15/unet"):
            models.build(name)
    assert len(set(models.names())) == len(models.names()) == 67


@pytest.mark.parametrize(
    "name, fields, said",
    [
        ("nafnet", {"width": -8}, "width is -8; give a whole number of at least 0"),
        ("restormer", {"num_blocks": ()}, r"num_blocks is \(\); give \(a whole number"),
        ("restormer", {"num_blocks": (1, 1, True, 1)}, "give .a whole number"),
        ("restormer", {"ffn_expansion_factor": float("nan")}, "give a finite number"),
        ("textpromptir-tiny", {"dtype": "float31"}, "give float32 or bfloat16 or float16"),
        ("textpromptir-tiny", {"trained_for": ("noise", 3)}, "give a tuple, each a text"),
        ("sfnet", {"mode": ("train",)}, r"give \(a text, a text\)"),
    ],
)
def test_a_field_of_another_type_is_refused_with_what_fits(name, fields, said):
    with pytest.raises(ValueError, match=said):
        models.build(name, **fields)


@pytest.mark.parametrize("name", [name for name in models.names() if "/" not in name])
def test_every_published_size_fits_its_own_fields(name):
    assert models.build(name).name == name
