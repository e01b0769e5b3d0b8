"""Our noise schedules and samplers do what diffusers' schedulers do, from the same configs."""

import dataclasses
import functools
import json

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from tdr_jax import diffusion
from tdr_jax.diffusion.samplers import guided, sample, timesteps
from tdr_jax.diffusion.schedule import Schedule, q_sample, target
from tdr_jax.errors import InputError
from tests.support.parity import relative

# Torch's own sums differ by so much between kinds of CPUs.
FLOAT32 = dict(rtol=1e-5, atol=1e-6)
STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SD15 = STABLE | dict(
    _class_name="PNDMScheduler",
    _diffusers_version="0.6.0",
    num_train_timesteps=1000,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    trained_betas=None,
    clip_sample=False,
)
SD21_BASE = SD15 | dict(_diffusers_version="0.10.0.dev0", prediction_type="epsilon")
SD21 = STABLE | dict(
    _class_name="DDIMScheduler",
    _diffusers_version="0.8.0",
    num_train_timesteps=1000,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    trained_betas=None,
    clip_sample=False,
    prediction_type="v_prediction",
)
ZERO_SNR = SD21 | dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
PIXELS = dict(_class_name="DDPMScheduler", variance_type="fixed_small", clip_sample_range=0.7)
UNIPC = STABLE | dict(_class_name="UniPCMultistepScheduler", solver_type="bh2", predict_x0=True)
EULER = STABLE | dict(_class_name="EulerDiscreteScheduler", timestep_spacing="trailing")
SHORT = dict(_class_name="DDIMScheduler", num_train_timesteps=40, timestep_spacing="linspace")
CONFIGS = dict(
    sd15=SD15,
    sd21_base=SD21_BASE,
    sd21=SD21,
    zero_snr=ZERO_SNR,
    pixels=PIXELS,
    unipc=UNIPC,
    euler=EULER,
    short=SHORT,
)
THEIRS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
SPACINGS = [
    dict(timestep_spacing="leading", steps_offset=0),
    dict(timestep_spacing="leading", steps_offset=1),
    dict(timestep_spacing="trailing", steps_offset=1),
    dict(timestep_spacing="linspace", steps_offset=1),
]
BOTH = pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)

# Measured: 1e-6; 1.4e-5 for DDIM from PIXELS, whose last timestep holds little signal.
CLOSE = 5e-5

rng = np.random.default_rng(0)
NOISE = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
MIX = (rng.standard_normal((4, 4)) / 2).astype(np.float32)


def denoise(x, t, xp=jnp, mix=MIX):
    """Stands in for a network: mixes channels and neighbours, bends, and heeds the timestep."""
    # In the thousandth, since float32 sines of large angles differ between libraries.
    phase = t / 1000.0
    near = xp.roll(x, 1, 1) - 0.5 * xp.roll(x, -1, 2)
    return xp.tanh((x + 0.3 * near) @ mix + phase) * (1.1 - phase) + 0.4 * xp.sin(3 * phase + x)


def torch_denoise(x, t):
    return denoise(x, torch.tensor(float(t)), torch, torch.from_numpy(MIX))


def torch_trajectory(scheduler, steps, eta=0.0, noises=None):
    """Runs a diffusers scheduler from NOISE with the stand-in; NHWC, which it does not notice."""
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(NOISE)
    for i, t in enumerate(scheduler.timesteps):
        extra = {} if noises is None else dict(eta=eta, variance_noise=torch.from_numpy(noises[i]))
        x = scheduler.step(torch_denoise(x, t), t, x, **extra).prev_sample
    return x


def our_trajectory(schedule, steps, network=denoise, **options):
    run = jax.jit(lambda z: sample(network, schedule, z, steps, **options))
    return run(NOISE)


def count(jaxpr, name):
    """How often a primitive occurs, at any depth."""
    inner = jax.extend.core.jaxprs_in_params
    return sum(
        (eqn.primitive.name == name) + sum(count(j, name) for j in inner(eqn.params))
        for eqn in jaxpr.eqns
    )


@BOTH
@EVERY_CONFIG
def test_a_config_is_read_as_diffusers_reads_it(config, sampler):
    ours = Schedule.from_config(config, sampler)
    theirs = THEIRS[sampler].from_config(config).config
    shared = {f.name for f in dataclasses.fields(ours)} & set(theirs)
    assert len(shared) >= 8
    assert {n: getattr(ours, n) for n in shared} == {n: theirs[n] for n in shared}


@pytest.mark.parametrize(
    "theirs",
    [
        DDIMScheduler,
        DDPMScheduler,
        PNDMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_a_silent_config_means_its_own_class_defaults(theirs):
    ours = Schedule.from_config({"_class_name": theirs.__name__})
    config = theirs().config
    shared = {f.name for f in dataclasses.fields(ours)} & set(config)
    assert len(shared) >= 7
    assert {n: getattr(ours, n) for n in shared} == {n: config[n] for n in shared}


@BOTH
def test_a_live_config_passes_on_only_what_was_asked_for(sampler):
    live = PNDMScheduler(**STABLE).config  # timestep_spacing and the like are defaults in it
    ours = Schedule.from_config(live, sampler)
    theirs = THEIRS[sampler].from_config(live).config
    assert ours.timestep_spacing == theirs.timestep_spacing
    assert ours.beta_schedule == theirs.beta_schedule == "scaled_linear"
    if sampler == "ddim":
        assert ours.set_alpha_to_one is theirs.set_alpha_to_one is True


@EVERY_CONFIG
def test_a_written_config_gives_diffusers_the_same_schedule(config, tmp_path):
    ours = Schedule.from_config(config, "ddim")
    (tmp_path / "scheduler_config.json").write_text(json.dumps(ours.to_config()))
    theirs = DDIMScheduler.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "scheduler_config.json").read_text())
    assert Schedule.from_config(again) == Schedule.from_config(again, "ddim") == ours
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), **FLOAT32)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
@pytest.mark.parametrize(
    ("total", "zero_snr"),
    [(1, False), (2, False), (37, False), (1000, False), (2, True), (37, True), (1000, True)],
)
def test_the_share_of_signal_equals_diffusers(total, zero_snr, name):
    fields = dict(num_train_timesteps=total, beta_schedule=name, rescale_betas_zero_snr=zero_snr)
    ours = Schedule(beta_start=0.0015, beta_end=0.0195, **fields).alphas_cumprod
    theirs = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, **fields).alphas_cumprod.numpy()
    assert ours.dtype == np.float32 and ours.shape == (total,)
    np.testing.assert_allclose(ours, theirs, **FLOAT32)
    assert (ours[-1] == 0) == zero_snr


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noising_and_targets_equal_diffusers(kind):
    schedule = Schedule(prediction_type=kind)
    theirs = DDPMScheduler(**STABLE, prediction_type=kind)
    x0, t = rng.standard_normal(NOISE.shape).astype(np.float32), np.array([3, 998])
    a, b, c = torch.from_numpy(x0), torch.from_numpy(NOISE), torch.from_numpy(t)
    noisy = jax.jit(functools.partial(q_sample, schedule))(x0, t, NOISE)
    aim = jax.jit(functools.partial(target, schedule))(x0, NOISE, t)
    wanted = b if kind == "epsilon" else theirs.get_velocity(a, b, c)
    assert relative(noisy, theirs.add_noise(a, b, c)) < 1e-6
    assert relative(aim, wanted) < 1e-6


def test_half_precision_is_noised_in_float32_and_given_back_in_half():
    schedule, t = Schedule(prediction_type="v_prediction"), np.array([400, 700])
    z = jnp.asarray(NOISE)
    half = z.astype(jnp.bfloat16)
    whole = half.astype(jnp.float32)
    for function, arguments in [(q_sample, (t, z)), (target, (z, t))]:
        exact = function(schedule, whole, *arguments)
        assert function(schedule, half, *arguments).dtype == jnp.bfloat16
        assert (function(schedule, half, *arguments) == exact.astype(jnp.bfloat16)).all()


@BOTH
@pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_timesteps_equal_diffusers(spacing, sampler):
    schedule = Schedule(**spacing)
    theirs = THEIRS[sampler](**spacing)
    for steps in (1, 2, 7, 20, 50, 100, 999, 1000):
        theirs.set_timesteps(steps)
        np.testing.assert_array_equal(timesteps(schedule, steps, sampler), theirs.timesteps.numpy())


@BOTH
def test_trailing_timesteps_are_as_many_as_asked_for_and_never_negative(sampler):
    schedule = Schedule(timestep_spacing="trailing")
    for steps in range(1, 1001):
        t = timesteps(schedule, steps, sampler)
        assert len(t) == steps and t[0] == 999 and t[-1] >= 0 and (np.diff(t) < 0).all()


@BOTH
@pytest.mark.parametrize("config", [SD15, SD21, ZERO_SNR, PIXELS, SHORT])
def test_trajectories_equal_diffusers(config, sampler):
    schedule = Schedule.from_config(config, sampler)
    for steps in (1, 2, 10, 20) if config is SHORT else (1, 2, 10, 20, 50):
        theirs = torch_trajectory(THEIRS[sampler].from_config(config), steps)
        ours = our_trajectory(schedule, steps, sampler=sampler)
        assert relative(ours, theirs) < CLOSE, steps


@BOTH
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_trajectories_equal_diffusers_with_every_spacing(spacing, kind, sampler):
    fields = STABLE | spacing | dict(prediction_type=kind)
    extra = dict(set_alpha_to_one=True, clip_sample=True, clip_sample_range=1.5)
    theirs = THEIRS[sampler](**fields, **(extra if sampler == "ddim" else {}))
    ours = our_trajectory(Schedule(**fields, **extra), 14, sampler=sampler)
    assert relative(ours, torch_trajectory(theirs, 14)) < CLOSE


def test_the_last_step_is_first_order_whatever_the_config_says_of_it():
    for extra in (dict(lower_order_final=False), dict(euler_at_final=True)):
        config = SD21 | dict(_class_name="DPMSolverMultistepScheduler") | extra
        for steps in (5, 16):
            theirs = torch_trajectory(DPMSolverMultistepScheduler.from_config(config), steps)
            schedule = Schedule.from_config(config)
            assert relative(our_trajectory(schedule, steps, sampler="dpm++"), theirs) < CLOSE


@pytest.mark.parametrize("config", [SD15, SD21, ZERO_SNR, PIXELS])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_fresh_noise_enters_ddim_as_in_diffusers(config, eta):
    key, steps = jax.random.key(5), 12
    noises = [jax.random.normal(jax.random.fold_in(key, i), NOISE.shape) for i in range(steps)]
    scheduler = DDIMScheduler.from_config(config)
    theirs = torch_trajectory(scheduler, steps, eta, [np.array(z) for z in noises])
    schedule = Schedule.from_config(config, "ddim")
    assert relative(our_trajectory(schedule, steps, eta=eta, key=key), theirs) < CLOSE


@BOTH
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_picture_brings_it_back(kind, sampler):
    schedule = Schedule(prediction_type=kind, set_alpha_to_one=True, timestep_spacing="trailing")
    x0 = rng.standard_normal(NOISE.shape).astype(np.float32)
    root = jnp.sqrt(schedule.alphas_cumprod)

    def oracle(x, t):
        noise = (x - root[t] * x0) / jnp.sqrt(1 - root[t] ** 2)
        return target(schedule, jnp.asarray(x0), noise, t)

    assert relative(our_trajectory(schedule, 8, oracle, sampler=sampler), torch.tensor(x0)) < CLOSE


def test_repeated_timesteps_are_finite_and_change_nothing():
    schedule = Schedule(timestep_spacing="linspace", num_train_timesteps=30)
    t = timesteps(schedule, 30, "dpm++")
    assert (np.diff(t) == 0).any()
    theirs = torch_trajectory(
        DPMSolverMultistepScheduler(**STABLE, num_train_timesteps=30, timestep_spacing="linspace"),
        29,
    )
    ours = our_trajectory(schedule, 30, sampler="dpm++")
    assert np.isfinite(ours).all()
    assert relative(ours, theirs) < 1e-2  # the same way but for one step of no length
    stuck = Schedule(num_train_timesteps=30)  # leading by 0: every timestep is 1
    assert (timesteps(stuck, 30, "dpm++") == 1).all()
    assert np.isfinite(our_trajectory(stuck, 30, sampler="dpm++")).all()


@BOTH
def test_a_half_precision_network_is_sampled_in_float32(sampler):
    seen = []

    def half(x, t):
        seen.append((x.dtype, t.dtype, t.shape))
        return denoise(x, t).astype(jnp.bfloat16)

    ours = jax.jit(lambda z: sample(half, Schedule(), z, 4, sampler=sampler))(
        NOISE.astype(jnp.bfloat16)
    )
    assert ours.dtype == jnp.float32
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("int32"), ())}


@BOTH
def test_the_trajectory_is_one_scan(sampler):
    key = jax.random.key(0) if sampler == "ddim" else None

    def run(z, k):
        eta = 0.5 if sampler == "ddim" else 0.0
        return sample(denoise, Schedule(), z, 20, sampler=sampler, eta=eta, key=k)

    jaxpr = jax.make_jaxpr(run)(NOISE, key).jaxpr
    assert count(jaxpr, "scan") == 1
    assert count(jaxpr, "while") == 0
    assert count(jaxpr, "tanh") == 1  # the network is traced once, not once a step


@BOTH
def test_sampling_twice_gives_the_same_bits(sampler):
    options = dict(sampler=sampler)
    if sampler == "ddim":
        options |= dict(eta=1.0, key=jax.random.key(3))
    first, second = (np.asarray(our_trajectory(Schedule(), 10, **options)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_schedule_may_be_a_static_argument():
    run = jax.jit(q_sample, static_argnums=0)
    run(Schedule(), NOISE, np.array([1, 2]), NOISE)
    run(Schedule(), NOISE, np.array([3, 4]), NOISE)
    assert run._cache_size() == 1


def test_guidance_runs_the_doubled_batch_once_and_equals_two_runs():
    calls = []

    def network(x, t, context):
        calls.append(x.shape)
        return denoise(x, t) * context["text"].mean((1, 2))[:, None, None, None]

    def tree(*shape):
        return {"text": jnp.asarray(rng.standard_normal(shape), jnp.float32)}

    context, uncond, t = tree(2, 3, 7), tree(2, 3, 7), jnp.int32(300)
    ours = guided(network, context, uncond, 7.5)(NOISE, t)
    assert calls == [(4, 6, 5, 4)]
    without, prompted = network(NOISE, t, uncond), network(NOISE, t, context)
    np.testing.assert_allclose(ours, without + 7.5 * (prompted - without), rtol=1e-5, atol=1e-6)
    calls.clear()
    np.testing.assert_array_equal(guided(network, context, None, 1)(NOISE, t), prompted)
    np.testing.assert_array_equal(guided(network, context, uncond, 1.0)(NOISE, t), prompted)
    assert calls == [(2, 6, 5, 4)] * 2
    one = jax.tree.map(lambda u: u[:1], uncond)
    many = jax.tree.map(lambda u: jnp.concatenate([u, u]), one)
    np.testing.assert_array_equal(
        guided(network, context, one, 3.0)(NOISE, t), guided(network, context, many, 3.0)(NOISE, t)
    )


def test_guidance_lives_inside_the_scan():
    def network(x, t, context):
        return denoise(x, t) + context[:, None, None, :]

    context, uncond = np.float32([[0.1] * 4, [0.2] * 4]), np.zeros((1, 4), np.float32)

    def run(z, scale):
        return sample(guided(network, context, uncond, scale), Schedule(), z, 5, sampler="dpm++")

    jaxpr = jax.make_jaxpr(run)(NOISE, 4.0).jaxpr
    assert (count(jaxpr, "scan"), count(jaxpr, "tanh")) == (1, 1)
    far, near = jax.jit(run)(NOISE, 4.0), jax.jit(run)(NOISE, 0.0)
    np.testing.assert_allclose(near, sample(denoise, Schedule(), NOISE, 5, sampler="dpm++"), 1e-4)
    assert np.abs(far - near).max() > 0.1


@pytest.mark.parametrize(
    ("config", "sampler", "words"),
    [
        (SD15 | dict(thresholding=True), "ddim", "thresholding=True"),
        (SD15 | dict(trained_betas=[0.1, 0.2]), "ddim", "trained_betas=[0.1, 0.2]"),
        (SD15 | dict(trained_betas=np.full(9, 0.1)), "dpm++", "trained_betas=array"),
        (SD15 | dict(prediction_type="sample"), "ddim", "prediction_type='sample'"),
        (SD15 | dict(beta_schedule="squaredcos_cap_v2"), None, "'squaredcos_cap_v2'"),
        (SD15 | dict(timestep_spacing="karras"), None, "timestep_spacing='karras'"),
        (SD15 | dict(beta_end=1.5), None, "beta_end=1.5"),
        (ZERO_SNR | dict(num_train_timesteps=1, steps_offset=0), None, "num_train_timesteps=1 "),
        (PIXELS | dict(variance_type="learned_range"), "ddim", "'learned_range'"),
        (UNIPC | dict(solver_order=3), "dpm++", "solver_order=3"),
        (UNIPC | dict(solver_type="heun"), "dpm++", "solver_type='heun'"),
        (EULER | dict(use_karras_sigmas=True), "dpm++", "use_karras_sigmas=True"),
        (EULER | dict(use_karras_sigmas=True), None, "use_karras_sigmas=True"),
        (EULER | dict(final_sigmas_type="sigma_min"), "dpm++", "'sigma_min'"),
        (EULER | dict(lambda_min_clipped=-5.1), "dpm++", "lambda_min_clipped=-5.1"),
        (EULER | dict(algorithm_type="sde-dpmsolver++"), "dpm++", "'sde-dpmsolver++'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "ddim", "FlowMatchEuler"),
        ({}, None, "_class_name=None"),
        (SD15, "euler", "sampler='euler'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(config, sampler, words):
    with pytest.raises(InputError) as error:
        Schedule.from_config(config, sampler)
    assert words in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_what_a_sampler_does_not_use_is_not_held_against_it():
    config = EULER | dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")
    schedule = Schedule.from_config(config, "ddim")
    theirs = torch_trajectory(DDIMScheduler.from_config(config), 6)
    assert relative(our_trajectory(schedule, 6), theirs) < CLOSE


@BOTH
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "20"])
def test_a_number_of_steps_that_cannot_be_is_refused(steps, sampler):
    for call in (
        lambda: timesteps(Schedule(), steps, sampler),
        lambda: sample(denoise, Schedule(), NOISE, steps, sampler=sampler),
    ):
        with pytest.raises(InputError, match="whole number from 1 to 1000"):
            call()


def test_steps_past_the_last_timestep_are_refused():
    with pytest.raises(InputError, match="start at timestep 1000"):
        sample(denoise, Schedule(), NOISE, 1000)


def test_noise_prediction_without_signal_is_refused_where_it_would_divide_by_zero():
    fields = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(InputError, match="v_prediction"):
        sample(denoise, Schedule(**fields), NOISE, 4)
    unseen = Schedule(**fields | dict(timestep_spacing="leading"))  # timestep 999 is not visited
    theirs = DDIMScheduler.from_config(unseen.to_config())
    assert relative(our_trajectory(unseen, 10), torch_trajectory(theirs, 10)) < CLOSE


def test_fresh_noise_without_a_key_or_a_place_is_a_mistake_of_the_caller():
    key = jax.random.key(0)
    for options in (
        dict(eta=0.5),
        dict(eta=1.5, key=key),
        dict(eta=-0.1, key=key),
        dict(eta=0.5, key=key, sampler="dpm++"),
    ):
        with pytest.raises(ValueError, match="eta=") as error:
            sample(denoise, Schedule(), NOISE, 4, **options)
        assert not isinstance(error.value, InputError)
    with pytest.raises(InputError, match="sampler='euler'"):
        sample(denoise, Schedule(), NOISE, 4, sampler="euler")
    assert diffusion.SAMPLERS == ("ddim", "dpm++")
