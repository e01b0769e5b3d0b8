"""The losses of both stages, and what they teach, are those of PyTorch around the same towers."""

import functools
import types

import jax
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from tdr_jax import convert, models
from tdr_jax.diffusion.schedule import Schedule
from tdr_jax.models import clip_vision, mapper
from tdr_jax.objectives import latent_diffusion
from tdr_jax.objectives.image_to_text import ImageToTextLoss
from tdr_jax.objectives.textual_restoration import TextualRestorationLoss
from tests.support.parity import relative, shaken
from tests.support.torch_mapper import CleanMapper, Mapper, text_states

VISION = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    projection_dim=8,
    hidden_act="gelu",
)
TEXT = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=12,
    projection_dim=8,
    eos_token_id=39,
    hidden_act="gelu",
)
# One level suffices: keys and values stand before, in and behind the middle.
UNET = dict(
    block_out_channels=(16,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    layers_per_block=1,
    attention_head_dim=(4,),
    norm_num_groups=4,
    cross_attention_dim=16,
    use_linear_projection=True,
)
WORDS, IDS, POSITION = 3, (38, 5, 6, 7, 39, 39, 39, 39, 39, 39, 39, 39), 3
ROWS = np.array([5, 2])  # of some larger batch
FACTOR = 0.18215


@functools.cache
def twins():
    """Towers and mappers in PyTorch by name, ours, and our parameters, all of random weights."""
    torch.manual_seed(0)
    unet = shaken(UNet2DConditionModel(**UNET)).eval()
    places = mapper.cross_attention(models.build("unet", **UNET))
    words = dict(num_words=WORDS, input_dim=24, hidden_dim=10, output_dim=16)
    clean = dict(num_words=WORDS, input_dim=16, hidden_dim=10)
    names = {
        "image_encoder": ("clip-vision", VISION),
        "text_encoder": ("clip-text", TEXT),
        "unet": ("unet", UNET),
        "image_to_text": ("image-to-text", words | dict(cross_attention=places)),
        "restoration": ("textual-restoration", clean),
    }
    modules = {
        "image_encoder": CLIPVisionModel(CLIPVisionConfig(**VISION)),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT, attn_implementation="eager")),
        "unet": unet,
        "image_to_text": Mapper(*words.values(), places),
        "restoration": CleanMapper(*clean.values()),
    }
    for module in modules.values():
        shaken(module.eval(), 0.1)
    params = {
        part: convert.from_torch(name, modules[part].state_dict(), **fields)
        for part, (name, fields) in names.items()
    }
    networks = {part: models.build(name, **fields) for part, (name, fields) in names.items()}
    with torch.no_grad():  # only now: the copies are not what the UNet itself holds
        for key, place in attentions().items():
            copy = modules["image_to_text"].get_submodule(key).weight
            projection = unet.get_submodule(place)
            assert not torch.equal(projection.weight, copy)
            projection.weight.copy_(copy)
    return modules, networks, params | {"vae": {}}


def attentions():
    """Name of a copy in the mapper -> the module of the UNet in whose place it is."""
    places = mapper.cross_attention(models.build("unet", **UNET))
    ends = [f"{place}.{end}" for place, _ in places for end in ("to_k", "to_v")]
    assert len(ends) == 8
    return {end.replace(".", "_"): end for end in ends}


@functools.cache
def examples():
    """Pictures to see, and moments of latents whose variance is nothing."""
    draws = np.random.default_rng(1)
    means = draws.standard_normal((2, 6, 4, 4)).astype(np.float32)
    seen, clean = draws.random((2, 2, 28, 28, 3), np.float32)
    moments = np.concatenate([means, np.full_like(means, -60)], -1)
    return {"clip_image": seen, "clip_image_clean": clean, "moments": moments, "row": ROWS}


def towers(prediction):
    _, networks, _ = twins()
    parts = (networks[part] for part in ("image_encoder", "text_encoder", "unet"))
    vae = types.SimpleNamespace(config=types.SimpleNamespace(scaling_factor=FACTOR))
    return latent_diffusion.Towers(*parts, vae, Schedule(prediction_type=prediction), IDS, POSITION)


def words_of(pictures):
    """What PyTorch's mapper says of pictures in [0, 1]."""
    modules = twins()[0]
    pixels = torch.tensor((pictures - np.float32(clip_vision.MEAN)) / np.float32(clip_vision.STD))
    hidden = modules["image_encoder"](pixels.permute(0, 3, 1, 2)).last_hidden_state
    return modules["image_to_text"](hidden.detach())


def denoising(words, prediction, rng):
    """PyTorch's error at the timesteps and with the noise that ours draws from the same key."""
    modules = twins()[0]
    keys = jax.vmap(jax.random.split)(latent_diffusion.draws(rng, ROWS))[:, 1]
    t, noise = latent_diffusion.timesteps_and_noise(Schedule(), (6, 4, 4), keys)
    t, noise = torch.tensor(np.asarray(t)).long(), nchw(noise)
    schedule = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
    )
    clean = FACTOR * nchw(examples()["moments"][..., :4])
    noisy = schedule.add_noise(clean, noise, t)
    ids = torch.tensor([IDS, IDS])
    context = text_states(modules["text_encoder"], ids, words, [POSITION] * 2)
    out = modules["unet"](noisy, t, context).sample
    wanted = noise if prediction == "epsilon" else schedule.get_velocity(clean, noise, t)
    return torch.nn.functional.mse_loss(out, wanted)


def nchw(array):
    return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2)


def compare(loss, params, batch, rng, theirs, name, wanted, **fields):
    """Losses agree within 1e-5, and the gradient of every parameter within 1e-4.

    Args:
        loss: ours.
        params: of what is trained.
        batch, rng: of the loss.
        theirs: the loss of PyTorch; its gradients are computed here.
        name, fields: of the network, to find PyTorch's names.
        wanted: function to PyTorch's parameters under these names.
    """
    frozen = twins()[2]
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (loss, metrics), gradients = gradient(params, batch, rng, frozen)
    for module in twins()[0].values():
        module.zero_grad(set_to_none=True)
    theirs.backward()
    assert loss.dtype == "float32" and loss.shape == ()
    assert relative(loss, theirs) < 1e-5
    gradients = convert.to_torch(name, gradients, **fields)
    wanted = wanted()
    assert gradients.keys() == wanted.keys()
    for key, parameter in wanted.items():
        assert parameter.grad.abs().max() > 0, key
        assert relative(gradients[key], parameter.grad) < 1e-4, key
    return metrics


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_first_stages_loss_and_gradients_equal_torch(prediction):
    modules, networks, params = twins()
    rng = jax.random.key(7)
    network = networks["image_to_text"]
    batch = {name: examples()[name] for name in ("clip_image", "moments", "row")}

    def wanted():
        learnt = dict(modules["image_to_text"].named_parameters())
        return learnt | {
            f"{key}.weight": modules["unet"].get_submodule(place).weight
            for key, place in attentions().items()
        }

    theirs = denoising(words_of(batch["clip_image"]), prediction, rng)
    fields = {k: getattr(network.config, k) for k in ("num_words", "input_dim", "hidden_dim")}
    fields |= dict(output_dim=16, cross_attention=network.config.cross_attention)
    loss = ImageToTextLoss(towers(prediction), network)
    compare(loss, params["image_to_text"], batch, rng, theirs, "image-to-text", wanted, **fields)


def root_mean_square(differences):
    """Of each example, then their mean."""
    return (differences.square().mean((1, 2)) + 1e-8).sqrt().mean()


@pytest.mark.parametrize(
    "prediction, direct", [("epsilon", 0.0), ("v_prediction", 0.0), ("v_prediction", 0.5)]
)
def test_the_second_stages_loss_and_gradients_equal_torch(prediction, direct):
    modules, networks, params = twins()
    rng = jax.random.key(8)
    names = ("clip_image", "moments", "row") + (("clip_image_clean",) if direct else ())
    batch = {name: examples()[name] for name in names} | {"kind": np.array([1, 2])}
    predicted = words_of(batch["clip_image"]).detach()
    restored = modules["restoration"](predicted)
    theirs = denoising(restored, prediction, rng)
    distances = {}
    if direct:
        clean = words_of(batch["clip_image_clean"]).detach()
        distances = {
            "words": root_mean_square(restored - clean),
            "words_before": root_mean_square(predicted - clean),
        }
        theirs = theirs + direct * distances["words"]
    loss = TextualRestorationLoss(
        towers(prediction),
        networks["image_to_text"],
        networks["restoration"],
        types.SimpleNamespace(denoise=1.0, words=direct),
    )
    metrics = compare(
        loss,
        params["restoration"],
        batch,
        rng,
        theirs,
        "textual-restoration",
        lambda: dict(modules["restoration"].named_parameters()),
        num_words=WORDS,
        input_dim=16,
        hidden_dim=10,
    )
    assert metrics.keys() == distances.keys()
    assert all(relative(metrics[name], distances[name]) < 1e-5 for name in distances)
