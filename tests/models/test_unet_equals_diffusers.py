"""Stable Diffusion's UNet computes what diffusers' computes, alone and along whole trajectories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel

from tdr_jax import convert, models
from tdr_jax.diffusion.samplers import guided, sample
from tdr_jax.diffusion.schedule import Schedule
from tdr_jax.errors import InputError
from tdr_jax.models import unet
from tests.support.checkpoints import tensor_shapes
from tests.support.parity import assert_round_trip, nhwc, relative, shaken

TINY = dict(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=32,
)
SD1, SD2 = "sd15-tiny/unet", "sd21-tiny/unet"
CONFIGS = {
    SD1: TINY | dict(attention_head_dim=2),
    SD2: TINY | dict(attention_head_dim=(2, 4), use_linear_projection=True),
}
# What none of the published ones has: other depths, levels, norms and sinusoids.
DEEPER = dict(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    transformer_layers_per_block=2,
    attention_head_dim=(2, 4),
    norm_num_groups=8,
    norm_eps=1e-3,
    flip_sin_to_cos=False,
    freq_shift=1,
    in_channels=5,
    out_channels=3,
    cross_attention_dim=12,
)
EVERY = pytest.mark.parametrize("name", CONFIGS)


@functools.cache
def twin(name):
    """A UNet of diffusers and the same parameters as ours; neither is changed by a test."""
    torch.manual_seed(0)
    module = shaken(UNet2DConditionModel(**CONFIGS[name])).eval().requires_grad_(False)
    return module, convert.from_torch(name, module.state_dict())


def inputs(height=8, width=8, batch=2, seed=1):
    """Latents, timesteps and context."""
    torch.manual_seed(seed)
    latents = torch.randn(batch, 4, height, width)
    return latents, torch.tensor([7, 901])[:batch], torch.randn(batch, 5, 32)


@functools.cache
def program(name, **fields):
    return jax.jit(models.build(name, **fields).apply)


def ours(name, params, latents, timesteps, context, *kv, **fields):
    inputs = nhwc(latents), np.asarray(timesteps), context.numpy()
    return program(name, **fields)(params, *inputs, *kv)


def theirs(module, *inputs):
    with torch.no_grad():
        return module(*inputs).sample.permute(0, 2, 3, 1)


@EVERY
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_outputs_equal_diffusers_at_even_and_odd_sizes(name, size):
    module, params = twin(name)
    latents, timesteps, context = inputs(*size)
    out = ours(name, params, latents, timesteps, context)
    assert out.shape == (2, *size, 4) and out.dtype == "float32"
    assert relative(out, theirs(module, latents, timesteps, context)) < 1e-5


def test_one_timestep_serves_the_whole_batch():
    module, params = twin(SD1)
    latents, _, context = inputs()
    for timestep in (0, 999):
        out = ours(SD1, params, latents, timestep, context)
        assert relative(out, theirs(module, latents, timestep, context)) < 1e-5
        each = ours(SD1, params, latents, np.full(2, timestep), context)
        np.testing.assert_allclose(out, each, rtol=1e-5, atol=1e-6)


def test_sizes_that_nobody_published_equal_diffusers_too():
    torch.manual_seed(0)
    module = shaken(UNet2DConditionModel(**DEEPER)).eval()
    params = convert.from_torch("unet", module.state_dict(), **DEEPER)
    latents, context = torch.randn(2, 5, 11, 8), torch.randn(2, 3, 12)
    timesteps = torch.tensor([20, 500])
    out = ours("unet", params, latents, timesteps, context, **DEEPER)
    assert out.shape == (2, 11, 8, 3)
    assert relative(out, theirs(module, latents, timesteps, context)) < 1e-5


def other_kv(params):
    """Keys and values that differ from the network's own."""
    draws = np.random.default_rng(4)
    return {
        key: jnp.asarray(params[key] + 0.3 * draws.standard_normal(params[key].shape), jnp.float32)
        for key in unet.kv_names(params)
    }


# With one channel a group, as in the presets, what is added before a norm has no gradient.
LIGHT = dict(norm_num_groups=4, up_block_types=("UpBlock2D", "UpBlock2D"))
ONE_LEVEL = dict(
    block_out_channels=(16,),
    down_block_types=("DownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    attention_head_dim=(4,),
    norm_num_groups=4,
)


@pytest.mark.parametrize(
    "name, remat, with_kv, fields",
    [(SD1, False, True, LIGHT), (SD2, True, False, ONE_LEVEL)],
    ids=["kv", "remat"],
)
def test_gradients_equal_diffusers(name, remat, with_kv, fields):
    torch.manual_seed(0)
    module = shaken(UNet2DConditionModel(**CONFIGS[name] | fields))
    params = convert.from_torch(name, module.state_dict(), **fields)
    kv = other_kv(params) if with_kv else {}
    state = convert.to_torch(name, params | kv, **fields)
    latents, timesteps, context = inputs(5, 4)
    for tensor in (latents, context, *state.values()):
        tensor.requires_grad_()
    y = torch.func.functional_call(module, state, (latents, timesteps, context)).sample
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    network = models.build(name, remat=remat, **fields)

    def objective(params, kv, latents, context):
        out = network.apply(params, latents, timesteps.numpy(), context, kv)
        return (out * nhwc(direction)).sum()

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1, 2, 3)))
    traced = gradient.trace(params, kv, nhwc(latents), context.detach().numpy())
    assert ("remat" in str(traced.jaxpr)) == remat
    compiled = traced.lower().compile()
    dparams, dkv, dlatents, dcontext = compiled(params, kv, nhwc(latents), context.detach().numpy())
    assert relative(dlatents, latents.grad.permute(0, 2, 3, 1)) < 1e-4
    assert relative(dcontext, context.grad) < 1e-4
    assert set(dkv) == set(kv)
    for key in kv:  # what is replaced has no part in the result, what replaces it has
        assert not np.any(dparams[key]) and np.any(dkv[key]), key
    for key, ours in convert.to_torch(name, dparams | dkv, **fields).items():
        assert relative(ours, state[key].grad) < 1e-4, key


def test_own_keys_and_values_given_as_kv_change_nothing():
    _, params = twin(SD1)
    own = {key: params[key] for key in unet.kv_names(params)}
    assert len(own) == 2 * 4  # one transformer down, one in the middle, two up
    plain = ours(SD1, params, *inputs())
    given = ours(SD1, params, *inputs(), own)
    assert relative(given, torch.tensor(np.asarray(plain))) < 1e-6


@pytest.mark.parametrize("name, part", [(SD1, ""), (SD2, "up_blocks.1.attentions.0")])
def test_other_kv_equal_diffusers_with_those_weights_in_place(name, part):
    module, params = twin(name)
    kv = {key: value for key, value in other_kv(params).items() if part in key}
    assert len(kv) == (2 if part else 8)
    state = convert.to_torch(name, params | kv)
    y = torch.func.functional_call(module, state, inputs()).sample.permute(0, 2, 3, 1)
    out = ours(name, params, *inputs(), kv)
    assert relative(out, y) < 1e-5
    assert relative(out, theirs(module, *inputs())) > 1e-3  # they matter


def test_a_name_that_is_no_key_or_value_is_refused():
    _, params = twin(SD1)
    known = unet.kv_names(params)[0]
    network = models.build(SD1)
    for name in ("down_blocks.0.attentions.0.attn2.to_q.kernel", known.replace("attn2", "attn1")):
        kv = {known: params[known], name: params[known]}
        with pytest.raises(ValueError, match=f"called {name}$"):
            network.apply(params, np.ones((1, 8, 8, 4)), 3, np.ones((1, 2, 32)), kv)


@EVERY
def test_weights_travel_to_diffusers_and_back(name):
    assert_round_trip(name, twin(name)[0], UNet2DConditionModel(**CONFIGS[name]))


def test_bfloat16_computes_close_to_float32():
    torch.manual_seed(0)
    module = shaken(UNet2DConditionModel(**CONFIGS[SD2] | ONE_LEVEL)).eval()
    params = convert.from_torch(SD2, module.state_dict(), **ONE_LEVEL)
    half = ours(SD2, params, *inputs(), dtype="bfloat16", **ONE_LEVEL)
    assert half.dtype == "bfloat16"
    assert 1e-4 < relative(half.astype("float32"), theirs(module, *inputs())) < 0.05


PUBLISHED = [
    ("sd15/unet", dict(cross_attention_dim=768, attention_head_dim=8), 859_520_964),
    (
        "sd21-base/unet",
        dict(
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        865_910_724,
    ),
]


@pytest.mark.parametrize("name, sizes, count", PUBLISHED)
def test_published_sizes_hold_diffusers_tensors(name, sizes, count):
    network = models.build(name)
    with torch.device("meta"):
        module = UNet2DConditionModel(sample_size=64, **sizes)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert tensor_shapes(network) == shapes
    assert network.size == count
    for field in ("sample_size", "norm_eps", "flip_sin_to_cos", "freq_shift"):
        assert getattr(network.config, field) == module.config[field], field


@pytest.mark.parametrize(
    "pipeline, like, fields",
    [
        ("sd14", "sd15", {}),
        ("sd20-base", "sd21-base", {}),
        ("sd20", "sd21-base", dict(sample_size=96)),
        ("sd21", "sd21-base", dict(sample_size=96, upcast_attention=True)),
    ],
)
def test_versions_of_one_network_share_their_sizes(pipeline, like, fields):
    same = models.build(f"{like}/unet", **fields)
    assert models.build(f"{pipeline}/unet").config == same.config


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(attention_head_dim=(2, 3)), "64, which is no multiple of 3 heads"),
        (dict(attention_head_dim=5), "32, which is no multiple of 5 heads"),
        (dict(norm_num_groups=24), "32, which is no multiple of .* 24 groups"),
        (dict(attention_head_dim=(2, 4, 8)), "has 3 entries, block_out_channels 2"),
        (dict(block_out_channels=(32, 64, 64)), "expected 3 of CrossAttnDownBlock2D and"),
        (
            dict(down_block_types=("CrossAttnDownBlock2D", "AttnDownBlock2D")),
            "down_block_types is CrossAttnDownBlock2D, AttnDownBlock2D; expected 2 of",
        ),
        (dict(up_block_types=("UpBlock2D",)), "up_block_types is UpBlock2D; expected 2 of"),
        (dict(up_block_types=("DownBlock2D", "UpBlock2D")), "up_block_types .* expected 2 of"),
    ],
)
def test_sizes_that_fit_nothing_are_refused_in_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        models.build(SD2, **fields)


STABLE = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False
)
SCHEDULERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
SCALE = 7.5


@pytest.mark.parametrize(
    "name, kind, sampler, steps",
    [
        (SD1, "epsilon", "ddim", 20),
        (SD1, "epsilon", "dpm++", 50),
        (SD2, "v_prediction", "ddim", 50),
        (SD2, "v_prediction", "dpm++", 20),
    ],
)
def test_guided_trajectories_equal_diffusers(name, kind, sampler, steps):
    module, params = twin(name)
    config = STABLE | dict(
        _class_name="PNDMScheduler", steps_offset=1, clip_sample=False, prediction_type=kind
    )
    noise, _, context = inputs()
    uncond = inputs(seed=2)[2][:1]
    scheduler = SCHEDULERS[sampler].from_config(config)
    scheduler.set_timesteps(steps)
    both = torch.cat([uncond.expand_as(context), context])
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            without, prompted = module(torch.cat([x, x]), t, both).sample.chunk(2)
            x = scheduler.step(without + SCALE * (prompted - without), t, x).prev_sample

    network, schedule = models.build(name), Schedule.from_config(config, sampler)

    def run(params, noise, context, uncond):
        denoise = guided(functools.partial(network.apply, params), context, uncond, SCALE)
        return sample(denoise, schedule, noise, steps, sampler=sampler)

    out = jax.jit(run)(params, nhwc(noise), context.numpy(), uncond.numpy())
    assert relative(out, x.permute(0, 2, 3, 1)) < 1e-3
