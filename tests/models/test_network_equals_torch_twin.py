"""TextPromptIR computes what its formulas say: outputs and gradients equal a torch twin's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tdr_jax import convert, models
from tdr_jax.convert import tables, torch_modules
from tdr_jax.models import textpromptir
from tests.support.parity import nhwc, relative, shaken

# One stage of each width of the published network: name, channels, heads, text head.
STAGES = [
    ("encoder_level1", 48, 1, "1"),
    ("encoder_level2", 96, 2, "2"),
    ("encoder_level3", 192, 4, "3"),
    ("latent", 384, 8, "7"),
]


@pytest.mark.parametrize("stage, channels, heads, head", STAGES)
def test_block_and_its_gradients_equal_the_twin(stage, channels, heads, head):
    torch.manual_seed(channels)
    block = shaken(torch_modules.TextTransformerBlock(channels, heads, head))
    x, text = torch.randn(2, channels, 8, 12, requires_grad=True), torch.randn(2, 384)
    y = block(x, text)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    config = textpromptir.TextPromptIRConfig()
    network = models.Network(
        "block", config, lambda config: textpromptir.TransformerBlock(channels, heads, config)
    )
    shapes = {
        f"{stage}.blocks.{name}": (1, *spec.shape)
        for name, spec in network.abstract_params().items()
    }
    rows = [
        (row.theirs.removeprefix(f"{stage}.0."), row.ours.removeprefix(f"{stage}.blocks."), row)
        for row in tables.entries(tables.TEXTPROMPTIR, shapes)
    ]
    state = {name: tensor.numpy() for name, tensor in block.state_dict().items()}
    params = {
        ours: jax.device_put(row.layout.from_torch(state[theirs])) for theirs, ours, row in rows
    }
    assert len(rows) == len(state)

    def objective(params, x):
        out = network.apply(params, x, jnp.asarray(text.numpy()))
        return (out * nhwc(direction)).sum(), out

    step = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (gradients, dx), out = step(params, nhwc(x))
    assert relative(out, y.permute(0, 2, 3, 1)) < 1e-5
    assert relative(dx, x.grad.permute(0, 2, 3, 1)) < 1e-4
    for theirs, ours, row in rows:
        gradient = row.layout.to_torch(np.asarray(gradients[ours]))
        assert relative(gradient, block.get_parameter(theirs).grad) < 1e-4, theirs


def assert_network_equals(module, images, text, **sizes):
    """Output within 1e-5 and gradients of every parameter within 1e-4 of the twin's."""
    y = module(images, text)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    network = models.build("textpromptir", **sizes)
    params = convert.from_torch("textpromptir", module.state_dict(), **sizes)

    def objective(params):
        out = network.apply(params, nhwc(images), jnp.asarray(text.numpy()))
        return (out * nhwc(direction)).sum(), out

    gradients, out = jax.jit(jax.grad(objective, has_aux=True))(params)
    assert relative(out, y.permute(0, 2, 3, 1)) < 1e-5
    gradients = convert.to_torch("textpromptir", gradients, **sizes)
    for name, parameter in module.named_parameters():
        assert relative(gradients[name], parameter.grad) < 1e-4, name


@pytest.mark.full
def test_whole_network_and_its_gradients_equal_the_twin():
    torch.manual_seed(0)
    module = shaken(torch_modules.TextPromptIR())
    assert_network_equals(module, torch.rand(1, 3, 64, 48), torch.randn(1, 768))


SMALL = dict(
    dim=16,
    num_blocks=(1, 2, 1, 1),
    num_refinement_blocks=1,
    heads=(1, 2, 2, 4),
    text_dim=12,
    text_hidden=(10, 6),
    input_shuffle=2,
)


def test_small_networks_with_shuffled_input_and_their_gradients_equal_the_twin():
    torch.manual_seed(1)
    module = shaken(torch_modules.TextPromptIR(**SMALL))
    assert_network_equals(module, torch.rand(2, 3, 32, 16), torch.randn(2, 12), **SMALL)


def test_a_size_that_is_no_multiple_is_continued_by_reflection_and_cropped():
    torch.manual_seed(1)
    module = shaken(torch_modules.TextPromptIR(**SMALL))
    images, text = torch.rand(2, 3, 21, 13), torch.randn(2, 12)
    whole = torch.nn.functional.pad(images, (0, 3, 0, 11), mode="reflect")
    expected = module(whole, text)[:, :, :21, :13]
    params = convert.from_torch("textpromptir", module.state_dict(), **SMALL)
    apply = jax.jit(models.build("textpromptir", **SMALL).apply)
    out = apply(params, nhwc(images), text.numpy())
    assert relative(out, expected.permute(0, 2, 3, 1)) < 1e-5


def test_published_network_has_the_published_number_of_parameters():
    shapes = models.build("textpromptir").abstract_params()
    assert sum(math.prod(spec.shape) for spec in shapes.values()) == 39_849_408
    trunk = [spec.shape for name, spec in shapes.items() if name.startswith("linear")]
    assert sum(math.prod(shape) for shape in trunk) == 664_512
    blocks = [spec.shape[0] for name, spec in shapes.items() if name.endswith("norm1.weight")]
    assert sum(blocks) == 44


@pytest.mark.parametrize("name", models.names())
def test_every_named_network_can_be_built_and_traced(name):
    network = models.build(name)
    params = network.abstract_params()
    config, ids = network.config, jax.ShapeDtypeStruct((2, 5), "int32")
    if network.kind in ("Bert", "ClipText"):
        inputs = [ids] * (1 + (network.kind == "Bert"))
    elif network.kind == "UNet":
        latents = jax.ShapeDtypeStruct((2, 16, 16, config.in_channels), "float32")
        context = jax.ShapeDtypeStruct((2, 5, config.cross_attention_dim), "float32")
        inputs = [latents, jax.ShapeDtypeStruct((2,), "int32"), context]
    elif network.kind == "ImageToText":
        inputs = [jax.ShapeDtypeStruct((2, 257, config.input_dim), "float32")]
    elif network.kind == "TextualRestoration":
        shape = 2, config.num_words, config.input_dim
        inputs = [jax.ShapeDtypeStruct(shape, "float32")]
    else:
        sides = {"AutoencoderKL": 64, "ClipVision": 224, "Dinov2": 98}
        side = sides.get(network.kind) or 4 * config.multiple
        channels = config.channels[0] if hasattr(config, "channels") else 3
        inputs = [jax.ShapeDtypeStruct((2, side, side, channels), "float32")]
        if hasattr(config, "guided"):
            inputs.append(jax.ShapeDtypeStruct((2, 48, 40, 3), "float32"))
        if hasattr(config, "text_dim"):
            inputs.append(jax.ShapeDtypeStruct((2, config.text_dim), "float32"))
    out = jax.eval_shape(network.apply, params, *inputs)
    assert jax.tree.leaves(out)[0].shape[0] == 2


def test_bfloat16_stays_near_float32():
    params = models.build("textpromptir-tiny").init(0)
    image = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    text = jax.random.normal(jax.random.key(1), (1, 384))
    full, half = (
        jax.jit(models.build("textpromptir-tiny", dtype=dtype).apply)(params, image, text)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == jnp.float32
    residual = np.abs(full - image).max()
    assert 0 < np.abs(half - full).max() < 0.05 * residual


def test_gradients_of_the_published_network_stay_float32_under_bfloat16():
    network = models.build("textpromptir", dtype="bfloat16", remat=True)
    image = jax.ShapeDtypeStruct((2, 128, 128, 3), "float32")
    text = jax.ShapeDtypeStruct((2, 768), "float32")
    gradient = jax.grad(lambda params, *inputs: network.apply(params, *inputs).sum())
    gradients = jax.eval_shape(gradient, network.abstract_params(), image, text)
    assert {str(value.dtype) for value in gradients.values()} == {"float32"}


def test_initial_values_hang_on_seed_and_name_alone():
    small, deep = (models.build("textpromptir-tiny", num_blocks=(1, 1, 1, n)) for n in (2, 3))
    first, again, other = small.init(1), small.init(1), small.init(2)
    kernel = "encoder_level1.blocks.attn.qkv.kernel"
    np.testing.assert_array_equal(first[kernel], again[kernel])
    np.testing.assert_array_equal(first[kernel], deep.init(1)[kernel])
    assert not np.array_equal(first[kernel], other[kernel])
    assert np.abs(first[kernel]).max() <= 1 / math.sqrt(8)  # torch's bound for 8 inputs


def test_wrong_names_are_said_plainly():
    network = models.build("textpromptir-tiny")
    params = network.init(0)
    with pytest.raises(ValueError, match="missing output.kernel; unexpected outptu.kernel"):
        wrong = {("outptu.kernel" if k == "output.kernel" else k): v for k, v in params.items()}
        network.apply(wrong, jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 384)))
    with pytest.raises(ValueError, match="no network 'restorer'"):
        models.build("restorer")
    with pytest.raises(ValueError, match="no field depth"):
        models.build("textpromptir", depth=3)
