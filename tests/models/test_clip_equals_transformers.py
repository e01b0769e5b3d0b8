"""Both towers of CLIP compute what transformers' compute, from the same tensors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tdr_jax import convert, models
from tdr_jax.errors import InputError
from tdr_jax.models import clip_vision
from tests.support.checkpoints import tensor_shapes
from tests.support.parity import nhwc, relative, shaken

WIDTH = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    projection_dim=12,
)
TEXT = WIDTH | dict(vocab_size=60, max_position_embeddings=11)
VISION = WIDTH | dict(image_size=40, patch_size=8)
END = 57  # not the highest id: pseudo-words come after it
# Every text has an end; the first goes on behind it, with another end and higher ids.
TOKENS = np.array([[3, 9, END, 58, 59, END, 0], [3, 1, 4, 1, 5, 7, END], [END, 2, 2, 59, 2, 6, 59]])
METHODS = "__call__", "hidden_states", "project"


def text_twin(act="quick_gelu", end=END, **overrides):
    """A text tower of transformers, our network and the same parameters."""
    sizes = TEXT | dict(hidden_act=act, eos_token_id=end, with_projection=True) | overrides
    config = transformers.CLIPTextConfig(
        **TEXT, hidden_act=act, eos_token_id=end, attn_implementation="eager"
    )
    return twin("clip-text", transformers.CLIPTextModelWithProjection, config, sizes)


def vision_twin(act="quick_gelu", **overrides):
    sizes = VISION | dict(hidden_act=act, with_projection=True) | overrides
    config = transformers.CLIPVisionConfig(**VISION, hidden_act=act, attn_implementation="eager")
    return twin("clip-vision", transformers.CLIPVisionModelWithProjection, config, sizes)


def twin(name, make, config, sizes):
    torch.manual_seed(0)
    module = shaken(make(config).eval(), 0.1)
    params = convert.from_torch(name, bare(module.state_dict()), **sizes)
    return module, models.build(name, **sizes), params


def bare(state):
    """Without the prefix of the tower, as CLIPTextModel and CLIPVisionModel themselves save."""
    return {
        key.removeprefix("text_model.").removeprefix("vision_model."): value
        for key, value in state.items()
    }


def run(network, params, x, *methods):
    """What each of the methods gives, in one program."""

    def apply(params, x):
        return tuple(network.apply(params, x, method=method) for method in methods)

    return jax.jit(apply)(params, x)


def text_outputs(module):
    """What transformers makes of TOKENS, in the order of METHODS."""
    tokens = torch.tensor(TOKENS)
    with torch.no_grad():
        out = module.text_model(tokens, output_hidden_states=True)
        projected = module(tokens).text_embeds
    return out.last_hidden_state, torch.stack(out.hidden_states), projected


def vision_outputs(module, pictures):
    """What transformers makes of pictures, in the order of METHODS."""
    with torch.no_grad():
        out = module.vision_model(
            pictures, output_hidden_states=True, interpolate_pos_encoding=True
        )
        projected = module(pictures, interpolate_pos_encoding=True).image_embeds
    return out.last_hidden_state, out.pooler_output, torch.stack(out.hidden_states), projected


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_text_states_equal_transformers(act):
    module, network, params = text_twin(act)
    ours = run(network, params, TOKENS, *METHODS)
    for a, b in zip(ours, text_outputs(module), strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-5


@pytest.mark.parametrize("end", [2, END])
def test_both_rules_for_the_end_of_a_text_equal_transformers(end):
    module, network, params = text_twin(end=end)
    with torch.no_grad():
        theirs = module.text_model(torch.tensor(TOKENS))
    states, pooled = run(network, params, TOKENS, "__call__", "pooled")
    assert relative(pooled, theirs.pooler_output) < 1e-5
    places = [4, 6, 3] if end == 2 else [2, 6, 0]
    np.testing.assert_allclose(pooled, np.asarray(states)[np.arange(3), places], atol=1e-6)


def test_the_tower_without_projection_equals_transformers():
    sizes = TEXT | dict(eos_token_id=END)
    module, network, params = twin(
        "clip-text", transformers.CLIPTextModel, transformers.CLIPTextConfig(**sizes), sizes
    )
    with torch.no_grad():
        theirs = module(torch.tensor(TOKENS)).last_hidden_state
    assert relative(run(network, params, TOKENS, "__call__")[0], theirs) < 1e-5
    back = convert.to_torch("clip-text", params, **sizes)
    assert back.keys() == module.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in module.state_dict().items())


def test_injected_embeddings_change_only_later_tokens():
    _, network, params = text_twin()
    whole, embeddings = run(network, params, TOKENS, "__call__", "embed")
    resume = jax.jit(functools.partial(network.apply, method="from_embeddings"))
    before = resume(params, embeddings)
    assert relative(before, torch.tensor(np.asarray(whole))) < 1e-6
    after = resume(params, embeddings.at[:, 4].set(0.5))
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert (np.abs(after - before)[:, 4:].max(-1) > 1e-3).all()


@pytest.mark.parametrize("remat", [False, True])
def test_text_gradients_equal_transformers(remat):
    module, network, params = text_twin(remat=remat)
    tower = module.text_model
    x = tower.embeddings.token_embedding(torch.tensor(TOKENS)).detach().requires_grad_()
    tower.embeddings.token_embedding.forward = lambda _: x
    y = tower(torch.tensor(TOKENS)).last_hidden_state
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    def objective(embeddings, params):
        out = network.apply(params, embeddings, method="from_embeddings")
        return (out * direction.numpy()).sum()

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    dx, gradients = gradient(x.detach().numpy(), params)
    assert relative(dx, x.grad) < 1e-4
    sizes = TEXT | dict(eos_token_id=END, with_projection=True)
    gradients = convert.to_torch("clip-text", gradients, **sizes)
    unused = "token_embedding", "k_proj.bias"  # by-passed; nothing, for softmax takes no shift
    for key, parameter in tower.named_parameters():
        if not any(part in key for part in unused):
            assert relative(gradients[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize(
    "act, height, width",
    [
        ("quick_gelu", 40, 40),  # the native size
        ("gelu", 64, 56),
        ("quick_gelu", 27, 18),  # not whole patches
        ("quick_gelu", 8, 90),
    ],
)
def test_vision_states_equal_transformers(act, height, width):
    module, network, params = vision_twin(act)
    pictures = torch.randn(2, 3, height, width)
    ours = jax.tree.leaves(run(network, params, nhwc(pictures), *METHODS))
    for a, b in zip(ours, vision_outputs(module, pictures), strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-5


def test_pictures_are_normalised_as_clips_preprocessor_does():
    processor = transformers.CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = clip_vision.normalise(picture[None] / np.float32(255))
    assert ours.dtype == "float32"
    assert relative(ours, theirs.permute(0, 2, 3, 1)) < 1e-6


def test_vision_gradients_equal_transformers():
    module, network, params = vision_twin(remat=True)
    pictures = torch.randn(2, 3, 48, 32, requires_grad=True)
    out = module.vision_model(pictures, output_hidden_states=True, interpolate_pos_encoding=True)
    y = torch.stack(out.hidden_states)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    def objective(params, pictures):
        states = network.apply(params, pictures, method="hidden_states")
        return (states * direction.numpy()).sum()

    gradient = jax.grad(objective, argnums=(0, 1))
    assert "remat" in str(jax.make_jaxpr(gradient)(params, nhwc(pictures)))
    gradients, dx = jax.jit(gradient)(params, nhwc(pictures))
    assert relative(dx, pictures.grad.permute(0, 2, 3, 1)) < 1e-4
    gradients = convert.to_torch("clip-vision", gradients, **VISION, with_projection=True)
    unused = "post_layernorm", "k_proj.bias"  # not in the states; softmax takes no shift
    for key, parameter in module.vision_model.named_parameters():
        if not any(part in key for part in unused):
            assert relative(gradients[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_bfloat16_computes_close_to_float32(tower):
    pictures = torch.randn(2, 3, 48, 40)
    make, x = (text_twin, TOKENS) if tower == "text" else (vision_twin, nhwc(pictures))
    module, network, params = make(dtype="bfloat16")
    full = text_outputs(module) if tower == "text" else vision_outputs(module, pictures)
    half = jax.tree.leaves(run(network, params, x, *METHODS))
    for a, b in zip(half, full, strict=True):
        assert a.dtype == "bfloat16"
        assert 1e-4 < relative(a.astype("float32"), b) < 0.05


SD2 = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
LARGE = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
    projection_dim=768,
)
HUGE = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    hidden_act="gelu",
    projection_dim=1024,
)
SD1 = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
PUBLISHED = [  # name, published sizes, number of parameters
    ("sd15/text_encoder", SD1, 123_060_480),
    ("sd21-base/text_encoder", SD2 | dict(hidden_act="gelu"), 340_387_840),
    ("clip-text", {}, 63_165_952),
    ("clip-vit-b-32-openai", {}, 87_456_000),
    ("clip-vit-b-16-openai", dict(patch_size=16), 85_799_424),
    ("clip-vit-l-14-openai", LARGE, 303_179_776),
    ("clip-vit-h-14-laion", HUGE, 630_766_080),
]


@pytest.mark.parametrize("name, sizes, count", PUBLISHED)
@pytest.mark.parametrize("with_projection", [False, True])
def test_published_sizes_hold_transformers_tensors(name, sizes, count, with_projection):
    network = models.build(name, with_projection=with_projection)
    kind = "Text" if network.kind == "ClipText" else "Vision"
    suffix = "WithProjection" if with_projection else ""
    config = getattr(transformers, f"CLIP{kind}Config")(**sizes)
    with torch.device("meta"):
        module = getattr(transformers, f"CLIP{kind}Model{suffix}")(config)
    theirs = {key: tuple(value.shape) for key, value in bare(module.state_dict()).items()}
    assert tensor_shapes(network) == theirs
    assert network.size == count + with_projection * config.hidden_size * config.projection_dim
    for field in ("hidden_act", "layer_norm_eps", "num_attention_heads", "projection_dim"):
        assert getattr(network.config, field) == getattr(config, field), field


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("clip-text", dict(hidden_size=30, num_attention_heads=4), "30 is not a multiple.* 4"),
        ("clip-text", dict(hidden_act="swish9"), "'swish9' is not known.*quick_gelu"),
        ("clip-vision", dict(hidden_size=30, num_attention_heads=4), "30 is not a multiple.* 4"),
        ("clip-vision", dict(hidden_act="swish9"), "'swish9' is not known.*quick_gelu"),
        ("clip-vision", dict(image_size=24), "image_size 24 holds no patch of patch_size 32"),
    ],
)
def test_sizes_that_fit_nothing_are_refused_in_one_line(name, fields, message):
    with pytest.raises(InputError, match=message):
        models.build(name, **fields)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name, method, shape, message",
    [
        ("clip-text", "__call__", (1, 12), "12 tokens, but .* 11 positions; truncate"),
        ("clip-text", "hidden_states", (1, 12), "12 tokens, but .* 11 positions; truncate"),
        ("clip-text", "from_embeddings", (1, 12, 32), "12 tokens, but .* 11 positions"),
        ("clip-text", "project", (1, 3), "no projection; build it with with_projection=True"),
        ("clip-vision", "project", (1, 8, 8, 3), "no projection; build it"),
        ("clip-vision", "__call__", (1, 40, 7, 3), "40x7 is smaller than one patch of 8x8"),
        ("clip-vision", "__call__", (1, 40, 40, 1), r"height, width, 3\), not \(1, 40, 40, 1\)"),
        ("clip-vision", "__call__", (40, 40, 3), r"height, width, 3\), not \(40, 40, 3\)"),
    ],
)
def test_input_that_cannot_be_read_is_refused_in_one_line(name, method, shape, message):
    network = models.build(name, **(TEXT if name == "clip-text" else VISION))
    x = jax.ShapeDtypeStruct(shape, jnp.int32 if len(shape) == 2 else jnp.float32)
    apply = functools.partial(network.apply, method=method)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(apply, network.abstract_params(), x)


def test_every_preset_of_the_registry_is_one_of_these_towers():
    for name in models.names():
        if name.startswith("clip-") or name.endswith("/text_encoder"):
            is_text = name.endswith(("/text_encoder", "-text"))
            kind = "ClipText" if is_text else "ClipVision"
            assert models.build(name).kind == kind, name
