"""DINOv2 computes what transformers' computes, from the same tensors, on pictures of any size."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import tdr_jax
from tdr_jax import convert, models
from tdr_jax.errors import InputError
from tdr_jax.models import vit
from tests.support.checkpoints import tensor_shapes
from tests.support.parity import nhwc, relative, shaken

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    mlp_ratio=2,
    image_size=40,
    patch_size=8,
)
GATED = dict(use_swiglu_ffn=True)  # two thirds of 64, in eights: 48


def twin(swiglu=False, **overrides):
    """A network of transformers, ours and the same parameters."""
    fields = SIZES | dict(use_swiglu_ffn=swiglu)
    torch.manual_seed(0)
    module = transformers.Dinov2Model(transformers.Dinov2Config(**fields)).eval()
    shaken(module, 0.1)
    fields |= overrides
    params = convert.from_torch("dinov2", module.state_dict(), **fields)
    return module, models.build("dinov2", **fields), params


def run(network, params, pictures):
    """What both methods give, in one program."""

    def apply(params, pictures):
        patches = network.apply(params, pictures, method="patch_tokens")
        return *network.apply(params, pictures), patches

    return jax.jit(apply)(params, pictures)


def differences(module, network, params, height, width):
    """How far the last state, its class token and the patches in their places are apart."""
    pictures = torch.randn(2, 3, height, width)
    with torch.no_grad():
        out = module(pictures)
    last = out.last_hidden_state
    theirs = last, out.pooler_output, last[:, 1:].reshape(2, height // 8, width // 8, 32)
    ours = run(network, params, nhwc(pictures))
    assert {a.dtype.name for a in ours} == {network.config.dtype}
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    pairs = zip(ours, theirs, strict=True)
    return np.array([relative(a.astype("float32"), b) for a, b in pairs])


@pytest.mark.parametrize("swiglu", [False, True])
def test_the_native_size_equals_transformers(swiglu):
    assert (differences(*twin(swiglu), 40, 40) < 1e-5).all()


@pytest.mark.parametrize("height, width", [(64, 64), (24, 16), (80, 16), (45, 61), (8, 15)])
def test_pictures_of_any_size_equal_transformers(height, width):
    assert (differences(*twin(), height, width) < 1e-5).all()


def test_gradients_equal_transformers():
    module, network, params = twin(swiglu=True, remat=True)
    pictures = torch.randn(2, 3, 40, 48, requires_grad=True)
    y = module(pictures).last_hidden_state
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    def objective(params, pictures):
        return (network.apply(params, pictures)[0] * direction.numpy()).sum()

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    gradients, dpictures = gradient(params, nhwc(pictures))
    assert relative(dpictures, pictures.grad.permute(0, 2, 3, 1)) < 1e-4
    gradients = convert.to_torch("dinov2", gradients, **SIZES, use_swiglu_ffn=True)
    for key, parameter in module.named_parameters():
        if "mask_token" in key:
            assert parameter.grad is None and not gradients[key].any()
        elif "k_proj.bias" not in key:  # nothing but rounding, for softmax takes no shift
            assert relative(gradients[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize("fields", [dict(qkv_bias=False), dict(use_mask_token=False), GATED])
def test_every_variant_holds_transformers_tensors(fields):
    module = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, **fields))
    state = module.state_dict()
    back = convert.to_torch(
        "dinov2", convert.from_torch("dinov2", state, **SIZES, **fields), **SIZES, **fields
    )
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_layer_scales_start_where_the_config_says():
    params = models.build("dinov2", **SIZES, layerscale_value=0.25).init(0)
    for half in (1, 2):
        np.testing.assert_array_equal(
            params[f"encoder.layer.blocks.layer_scale{half}.lambda1"], 0.25
        )


def test_bfloat16_computes_close_to_float32():
    apart = differences(*twin(dtype="bfloat16"), 48, 40)
    assert (apart > 1e-4).all() and (apart < 0.05).all()


LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
GIANT = dict(hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True)
PUBLISHED = [  # name, published sizes, number of parameters
    ("dinov2-vits14", dict(hidden_size=384, num_attention_heads=6), 22_056_576),
    ("dinov2-vitb14", {}, 86_580_480),
    ("dinov2-vitl14", LARGE, 304_368_640),
    ("dinov2-vitg14", GIANT, 1_136_480_768),
]


@pytest.mark.parametrize("name, sizes, count", PUBLISHED)
def test_published_sizes_hold_transformers_tensors(name, sizes, count):
    network = models.build(name)
    config = transformers.Dinov2Config(image_size=518, **sizes)
    with torch.device("meta"):
        state = transformers.Dinov2Model(config).state_dict()
    assert tensor_shapes(network) == {key: tuple(value.shape) for key, value in state.items()}
    assert network.size == count
    for field in ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size"):
        assert getattr(network.config, field) == getattr(config, field), field


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(hidden_size=30, num_attention_heads=4), "30 is not a multiple.* 4"),
        (dict(hidden_act="swish9"), "'swish9' is not known.*quick_gelu"),
        (dict(image_size=13), "image_size 13 holds no patch of patch_size 14"),
    ],
)
def test_sizes_that_fit_nothing_are_refused_in_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        models.build("dinov2", **fields)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["__call__", "patch_tokens"])
@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 7, 40, 3), "7x40 is smaller than one patch of 8x8"),
        ((1, 40, 40, 4), r"height, width, 3\), not \(1, 40, 40, 4\)"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused_in_one_line(method, shape, message):
    network = models.build("dinov2", **SIZES)
    apply = functools.partial(network.apply, method=method)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(apply, network.abstract_params(), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize("height, width", [(28, 28), (9, 14), (37, 40)])
def test_positions_are_resized_with_the_offset_as_facebook_does(height, width):
    positions = torch.randn(1 + 37 * 37, 4)
    grid = positions[1:].reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    factors = (height + 0.1) / 37, (width + 0.1) / 37
    theirs = torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    theirs = theirs[..., :height, :width].permute(0, 2, 3, 1).reshape(1, -1, 4)
    blank = jnp.zeros((1, height, width, 4))
    ours = vit.add_positions(jnp.zeros(4), blank, jnp.asarray(positions.numpy()), 0.1)[:, 1:]
    assert relative(ours, theirs) < 1e-5
    without = vit.add_positions(jnp.zeros(4), blank, jnp.asarray(positions.numpy()))[:, 1:]
    assert relative(without, theirs) > 1e-3


def test_the_offset_is_a_field_and_no_part_of_their_configs(tmp_path):
    network = models.build("dinov2-tiny", interpolate_offset=0.1)
    folder = tdr_jax.save(tmp_path / "dinov2", network, network.init(0)).parent
    assert "interpolate_offset" not in (folder / "config.json").read_text()
    assert tdr_jax.load(folder)[0].config.interpolate_offset == 0.0


def facebooks(state):
    """The same tensors under the names of Facebook's files."""
    plain = (
        (r"^embeddings.(patch_embeddings.projection|position_embeddings)", r"\1"),
        (r"^embeddings.", ""),
        (r"^patch_embeddings.projection", "patch_embed.proj"),
        (r"^position_embeddings", "pos_embed"),
        (r"^encoder.layer", "blocks"),
        (r"attention.o_proj", "attn.proj"),
        (r"layer_scale(.).lambda1", r"ls\1.gamma"),
        (r"mlp.down_proj", "mlp.w3"),
        (r"^layernorm", "norm"),
    )
    found = {}
    for name, tensor in state.items():  # parts in their order
        for pattern, new in plain:
            name = re.sub(pattern, new, name)
        name = re.sub(r"attention.[qkv]_proj", "attn.qkv", name)
        name = re.sub(r"mlp.(gate|up)_proj", "mlp.w12", name)
        found.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("swiglu", [False, True])
def test_checkpoints_under_facebooks_names_are_read(swiglu, tmp_path):
    sizes = dict(hidden_size=128, num_attention_heads=2, image_size=28, use_swiglu_ffn=swiglu)
    network = models.build("dinov2", **sizes, num_hidden_layers=2)
    generator = np.random.default_rng(0)
    params = {
        key: generator.standard_normal(spec.shape, np.float32)
        for key, spec in network.abstract_params().items()
    }
    state = convert.to_torch("dinov2", params, **sizes, num_hidden_layers=2)
    order = sorted(state, key=lambda name: [name.find(f"{x}_proj") < 0 for x in ("q", "k", "gate")])
    torch.save(facebooks({name: state[name] for name in order}), tmp_path / "dinov2.pth")
    found, loaded = tdr_jax.load(tmp_path / "dinov2.pth")
    assert found.config == network.replace(interpolate_offset=0.1).config
    assert loaded.keys() == params.keys()
    assert all(np.array_equal(loaded[key], params[key]) for key in params)
