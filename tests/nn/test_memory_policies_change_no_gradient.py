"""What is kept for the backward pass, and in how many parts a batch goes, changes memory alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tdr_jax import models
from tdr_jax.models import restormer
from tdr_jax.nn import blocks, layers, remat

CONFIG = restormer.RestormerConfig()


def gradient_of(**options):
    """The gradient of a stage of two small blocks: of its parameters and of what goes in."""
    stage = layers.Stage(lambda: blocks.TransformerBlock(4, 2, CONFIG), 2, **options)
    graphdef, params = nnx.split(stage)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(next(keys), p.shape), params)
    x = jax.random.normal(next(keys), (4, 8, 8, 4))
    weights = jax.random.normal(next(keys), x.shape)

    def loss(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x) * weights)

    return jax.value_and_grad(loss, argnums=(0, 1)), (params, x)


@pytest.fixture(scope="module")
def plain():
    function, inputs = gradient_of()
    return jax.jit(function)(*inputs)


@pytest.mark.parametrize(
    "options",
    [
        dict(remat="full"),
        dict(remat="halves"),
        dict(remat="dots"),
        dict(remat=True, microbatches=2),
    ],
    ids=str,
)
def test_gradients_stay_as_they_are(options, plain):
    function, inputs = gradient_of(**options)
    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(function)(*inputs)), jax.tree.leaves(plain), strict=True
    ):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_each_policy_computes_less_again_than_the_one_before():
    def products(remat):
        function, inputs = gradient_of(remat=remat)
        return str(jax.make_jaxpr(function)(*inputs)).count("dot_general[")

    full, halves, dots, everything = map(products, ("full", "halves", "dots", "none"))
    assert full > halves > dots == everything  # "dots" keeps every product


def test_parts_run_one_after_the_other_where_they_divide_the_batch():
    def loops(parts):
        function, inputs = gradient_of(microbatches=parts)
        return f"length={parts}" in str(jax.make_jaxpr(function)(*inputs))

    assert loops(4) and not loops(3)


def test_deeper_levels_take_their_smaller_arrays_in_fewer_parts():
    module = models.build("restormer", microbatches=16, dim=8, heads=(1, 1, 1, 1)).module()
    stages = ("encoder_level1", "encoder_level2", "encoder_level3", "latent", "decoder_level1")
    assert [getattr(module, name).microbatches for name in stages] == [16, 8, 4, 2, 32]


def test_policies_go_by_name_and_the_switches_still_work():
    assert [remat.name_of(x) for x in (False, True, "False", "true", "dots")] == [
        "none",
        "full",
        "none",
        "full",
        "dots",
    ]
    network = models.build("restormer")
    for build in (lambda **options: models.build("restormer", **options), network.replace):
        with pytest.raises(ValueError, match="remat is 'all'; there are: none, full, halves, dots"):
            build(remat="all")
