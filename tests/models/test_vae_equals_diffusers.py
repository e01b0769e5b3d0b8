"""Stable Diffusion's autoencoder computes what diffusers' computes, whole, sliced and tiled."""

import functools

import jax
import jax.numpy as jnp
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from tdr_jax import convert, models
from tdr_jax.errors import InputError
from tdr_jax.models import vae
from tests.support.checkpoints import tensor_shapes
from tests.support.parity import assert_round_trip, nhwc, relative, shaken

NAME = "sd21-tiny/vae"
TINY = dict(block_out_channels=(32, 64), layers_per_block=1, sample_size=32)
PARTS = {
    "whole": {},
    "bare": dict(use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False),
    "other": dict(  # one level, other depths and channels
        block_out_channels=(24,),
        layers_per_block=2,
        norm_num_groups=4,
        in_channels=1,
        out_channels=2,
        latent_channels=3,
    ),
    "light": dict(  # quick to compile in many shapes
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    ),
}


def reference(**sizes):
    """An autoencoder of diffusers, whose levels are all of one kind."""
    levels = len(sizes["block_out_channels"])
    return AutoencoderKL(
        **sizes,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


@functools.cache
def twin(part="whole"):
    """An autoencoder of diffusers and the same parameters as ours; no test changes either."""
    torch.manual_seed(0)
    module = shaken(reference(**TINY | PARTS[part])).eval().requires_grad_(False)
    return module, convert.from_torch(NAME, module.state_dict(), **PARTS[part])


def run(params, x, method, part="whole", **options):
    network = models.build(NAME, **PARTS[part])
    apply = functools.partial(network.apply, method=method, **options)
    return jax.jit(apply)(params, x)


def last(tensor):
    """Channels last."""
    return tensor.permute(0, 2, 3, 1)


def pictures(*shape):
    torch.manual_seed(1)
    return 2 * torch.rand(shape) - 1


@pytest.mark.parametrize("part, size", [("whole", (32, 24)), ("bare", (16, 20)), ("other", (9, 7))])
def test_latents_and_pictures_equal_diffusers(part, size):
    module, params = twin(part)
    x = pictures(2, module.config.in_channels, *size)
    with torch.no_grad():
        latents = module.encode(x).latent_dist
        back = module.decode(latents.mean).sample
    mean, logvar = run(params, nhwc(x), "encode", part)
    assert mean.shape == logvar.shape and mean.dtype == logvar.dtype == "float32"
    assert relative(mean, last(latents.mean)) < 1e-5
    assert relative(logvar, last(latents.logvar)) < 1e-5
    out = run(params, nhwc(latents.mean), "decode", part)
    assert out.shape == (2, *size, module.config.out_channels) and out.dtype == "float32"
    assert relative(out, last(back)) < 1e-5


def test_the_call_reconstructs_from_the_mean():
    module, params = twin("light")
    x = pictures(1, 3, 16, 16)
    with torch.no_grad():
        theirs = module(x).sample
    assert relative(run(params, nhwc(x), "__call__", "light"), last(theirs)) < 1e-5


def test_variances_stay_within_their_limits():
    module, _ = twin("light")
    # The second half of the moments is the logarithm of the variance.
    state = module.state_dict()
    state["quant_conv.bias"] = torch.tensor([0.0, 0, 0, 0, -90, 90, -29, 19])
    params = convert.from_torch(NAME, state, **PARTS["light"])
    _, logvar = run(params, nhwc(pictures(1, 3, 16, 16)), "encode", "light")
    assert (logvar[..., 0] == -30).all() and (logvar[..., 1] == 20).all()
    assert ((logvar > -30) & (logvar < 20))[..., 2:].any()


def test_samples_are_drawn_as_in_diffusers():
    torch.manual_seed(2)
    moments = 3 * torch.randn(2, 8, 5, 6)
    theirs = DiagonalGaussianDistribution(moments)
    drawn = theirs.sample(torch.Generator().manual_seed(3))
    noise = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    ours = vae.sample(nhwc(theirs.mean), nhwc(theirs.logvar), nhwc(noise))
    assert relative(ours, last(drawn)) < 1e-6


def test_slices_equal_the_whole_batch_and_run_one_by_one():
    module, params = twin()
    x = pictures(3, 3, 16, 16)
    with torch.no_grad():
        latents = module.encode(x).latent_dist
        back = module.decode(latents.mean).sample
    mean, logvar = run(params, nhwc(x), "encode", slicing=True)
    assert relative(mean, last(latents.mean)) < 1e-5
    assert relative(logvar, last(latents.logvar)) < 1e-5
    assert relative(run(params, nhwc(latents.mean), "decode", slicing=True), last(back)) < 1e-5
    for method, given in (("encode", nhwc(x)), ("decode", nhwc(latents.mean))):
        apply = functools.partial(models.build(NAME).apply, method=method, slicing=True)
        jaxpr = jax.make_jaxpr(apply)(params, given).jaxpr
        assert [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"] == [3]
        assert not any(e.primitive.name.startswith(("conv", "dot")) for e in jaxpr.eqns)


@pytest.mark.parametrize(
    "size, slicing",
    [
        ((28, 18), False),  # the last row holds no more than what the one before fades into
        ((10, 26), True),  # one row, and its last tile is a single latent wide
    ],
)
def test_tiles_equal_diffusers(size, slicing):
    module, params = twin("light")
    tiled = reference(**TINY | PARTS["light"]).eval()
    tiled.load_state_dict(module.state_dict())
    tiled.enable_tiling()
    x = pictures(2, 3, *size)
    with torch.no_grad():
        latents = tiled.encode(x).latent_dist
        back = tiled.decode(latents.mean).sample
        whole = module.encode(x).latent_dist.mean
    options = dict(part="light", tiling=True, slicing=slicing)
    mean, logvar = run(params, nhwc(x), "encode", **options)
    assert relative(mean, last(latents.mean)) < 1e-5
    assert relative(logvar, last(latents.logvar)) < 1e-5
    assert relative(mean, last(whole)) > 1e-4
    assert relative(run(params, nhwc(latents.mean), "decode", **options), last(back)) < 1e-5


def test_a_picture_of_one_tile_is_not_tiled():
    _, params = twin("light")
    network, x = models.build(NAME, **PARTS["light"]), nhwc(pictures(1, 3, 16, 16))

    def program(tiling):
        apply = functools.partial(network.apply, method="encode", tiling=tiling)
        return str(jax.make_jaxpr(apply)(params, x))

    assert program(True) == program(False)


# With one channel a group, as in the preset, what is added before a norm has no gradient.
@pytest.mark.parametrize(
    "remat, sizes",
    [
        (False, PARTS["light"]),
        (True, dict(block_out_channels=(16,), norm_num_groups=4)),
    ],
)
def test_gradients_of_a_reconstruction_equal_diffusers(remat, sizes):
    torch.manual_seed(0)
    module = shaken(reference(**TINY | sizes))
    params = convert.from_torch(NAME, module.state_dict(), **sizes)
    x = pictures(2, 3, 8, 6).requires_grad_()
    d = module.encode(x).latent_dist
    noise = torch.randn_like(d.mean)
    back = module.decode(d.mean + d.std * noise).sample
    (((back - x) ** 2).mean() + 1e-2 * d.kl().mean()).backward()

    network = models.build(NAME, remat=remat, **sizes)

    def loss(params, x):
        mean, logvar = network.apply(params, x, method="encode")
        z = vae.sample(mean, logvar, nhwc(noise))
        difference = network.apply(params, z, method="decode") - x
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).sum((1, 2, 3))
        return (difference**2).mean() + 1e-2 * kl.mean()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(params, nhwc(x))
    assert ("remat" in str(traced.jaxpr)) == remat
    gradients, dx = traced.lower().compile()(params, nhwc(x))
    assert relative(dx, last(x.grad)) < 1e-4
    gradients = convert.to_torch(NAME, gradients, **sizes)
    for key, parameter in module.named_parameters():
        if not key.endswith("to_k.bias"):  # nothing, for softmax takes no shift
            assert relative(gradients[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize("part", PARTS)
def test_weights_travel_to_diffusers_and_back(part):
    module, _ = twin(part)
    assert_round_trip(NAME, module, reference(**TINY | PARTS[part]), **PARTS[part])


def test_bfloat16_computes_close_to_float32():
    module, params = twin("other")
    x = pictures(1, 1, 9, 7)
    network = models.build(NAME, dtype="bfloat16", **PARTS["other"])
    half = jax.jit(network.apply)(params, nhwc(x))
    with torch.no_grad():
        theirs = module(x).sample
    assert half.dtype == "bfloat16"
    assert 1e-4 < relative(half.astype("float32"), last(theirs)) < 0.05


@pytest.mark.parametrize("name, tile", [("sd15/vae", 512), ("sd21-base/vae", 768)])
def test_the_published_size_holds_diffusers_tensors(name, tile):
    network = models.build(name)
    with torch.device("meta"):
        module = reference(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=tile
        )
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert tensor_shapes(network) == shapes
    assert network.size == 83_653_863
    assert network.config.sample_size == tile and network.config.factor == 8
    assert network.config.scaling_factor == module.config.scaling_factor


@pytest.mark.parametrize(
    "fields, channels",
    [(dict(norm_num_groups=48), 32), (dict(block_out_channels=(32, 40)), 40)],
)
def test_groups_that_do_not_divide_are_refused_in_one_line(fields, channels):
    with pytest.raises(InputError, match=f"has {channels}, which is no multiple of the"):
        models.build(NAME, **fields)
