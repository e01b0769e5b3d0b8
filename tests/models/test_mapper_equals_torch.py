"""Words from pictures and words restored are those of TDR's mappers, from the same tensors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from tdr_jax import cli, convert, models, weights
from tdr_jax.convert import io, recognise
from tdr_jax.errors import InputError
from tdr_jax.models import mapper
from tdr_jax.text import templates
from tests.support import pipelines
from tests.support.parity import assert_round_trip, relative, shaken
from tests.support.torch_mapper import CleanMapper, Mapper, splice, text_states

ATTENTIONS = (
    ("down_blocks.0.attentions.1.transformer_blocks.0.attn2", 8),
    ("mid_block.attentions.0.transformer_blocks.0.attn2", 6),
    ("up_blocks.10.attentions.2.transformer_blocks.1.attn2", 4),
)
SIZES = {
    "image-to-text": dict(
        num_words=3, input_dim=12, hidden_dim=10, output_dim=8, cross_attention=ATTENTIONS
    ),
    "textual-restoration": dict(num_words=3, input_dim=8, hidden_dim=10),
}
CLASSES = {"image-to-text": Mapper, "textual-restoration": CleanMapper}
INPUTS = {"image-to-text": (2, 7, 12), "textual-restoration": (2, 3, 8)}
EACH = pytest.mark.parametrize("name", SIZES)
TEXT = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=9,
    projection_dim=8,
)


def twin(name, seed=0):
    torch.manual_seed(seed)
    return shaken(CLASSES[name](**SIZES[name]), 0.1)


def drawn(network, seed=0):
    """Random parameters, also where the start is zero."""
    generator = np.random.default_rng(seed)
    return {
        name: jnp.asarray(0.2 * generator.standard_normal(spec.shape), jnp.float32)
        for name, spec in network.abstract_params().items()
    }


def some_words(network, batch=2):
    shape = batch, network.config.num_words, network.config.input_dim
    return jax.random.normal(jax.random.key(3), shape)


@pytest.mark.parametrize("remat", [False, True])
@EACH
def test_words_and_gradients_equal_torch(name, remat):
    module = twin(name)
    x = torch.randn(INPUTS[name], requires_grad=True)
    y = module(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    network = models.build(name, **SIZES[name], remat=remat)
    params = convert.from_torch(name, module.state_dict(), **SIZES[name])

    def objective(params, x):
        words = network.apply(params, x)
        return (words * direction.numpy()).sum(), words

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    gradient = jax.jit(gradient)
    (gradients, dx), words = gradient(params, x.detach().numpy())
    assert words.shape == y.shape and relative(words, y) < 1e-5
    assert relative(dx, x.grad) < 1e-4
    gradients = convert.to_torch(name, gradients, **SIZES[name])
    for key, parameter in module.named_parameters():
        if parameter.grad is None:  # keys and values serve the UNet
            assert "attn2" in key and not gradients[key].any()
        else:
            assert relative(gradients[key], parameter.grad) < 1e-4, key


@EACH
def test_bfloat16_computes_close_to_float32(name):
    module, x = twin(name), torch.randn(INPUTS[name])
    params = convert.from_torch(name, module.state_dict(), **SIZES[name])
    network = models.build(name, **SIZES[name], dtype="bfloat16")
    words = jax.jit(network.apply)(params, x.numpy())
    assert words.dtype == "bfloat16"
    assert 1e-4 < relative(words.astype("float32"), module(x)) < 0.05


def test_remat_makes_one_word_after_the_other():
    network = models.build("image-to-text-tiny", remat=True)
    hidden = jax.ShapeDtypeStruct((2, 5, 32), "float32")
    gradient = jax.grad(lambda params, hidden: network.apply(params, hidden).sum())
    program = str(jax.make_jaxpr(gradient)(network.abstract_params(), hidden))
    assert "remat" in program and "length=4" in program


@functools.cache
def text_twin():
    """A text tower of transformers, ours with the same parameters, and tokens for it."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(**TEXT, eos_token_id=39, attn_implementation="eager")
    tower = shaken(transformers.CLIPTextModel(config).eval(), 0.1)
    sizes = TEXT | dict(eos_token_id=39)
    params = convert.from_torch("clip-text", tower.state_dict(), **sizes)
    return tower, models.build("clip-text", **sizes), params, torch.randint(0, 40, (4, 9))


def test_the_text_tower_with_words_equals_torch_wherever_they_stand():
    tower, network, params, ids = text_twin()
    words = torch.randn(4, 3, 16, requires_grad=True)
    places = [1, 3, 6, 2]  # the third ends where the tower does
    y = text_states(tower, ids, words, places)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()

    def objective(words, ids, places):
        embeddings = network.apply(params, ids, method="embed")
        embeddings = mapper.inject(embeddings, words, places)
        states = network.apply(params, embeddings, method="from_embeddings")
        return (states * direction.numpy()).sum(), states

    gradient = jax.jit(jax.grad(objective, has_aux=True))
    dwords, states = gradient(words.detach().numpy(), ids.numpy(), np.array(places))
    assert relative(states, y) < 1e-5
    assert relative(dwords, words.grad) < 1e-4


@pytest.mark.parametrize("count", [1, 4, 9])
def test_injection_is_exact_and_drops_what_no_longer_fits(count):
    embeddings, words = torch.randn(3, 9, 5), torch.randn(3, count, 5)
    places = [0, (9 - count) // 2, 9 - count]
    expected = splice(embeddings, words, places)
    ours = jax.jit(mapper.inject)(embeddings.numpy(), words.numpy(), np.array(places))
    np.testing.assert_array_equal(ours, expected)
    same = mapper.inject(jnp.asarray(embeddings[:1].numpy()), words.numpy(), 9 - count)
    expected = splice(embeddings[:1].expand(3, -1, -1), words, [9 - count] * 3)
    np.testing.assert_array_equal(same, expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [((2, 9, 5), (3, 2, 5)), ((1, 9, 5), (3, 2, 4))])
def test_words_that_do_not_fit_the_embeddings_are_refused(shapes):
    arrays = (jnp.zeros(shape) for shape in shapes)
    with pytest.raises(InputError, match="words of shape .* cannot be put among embeddings"):
        mapper.inject(*arrays, 1)
    with pytest.raises(InputError, match="cannot be put among"):
        mapper.inject(jnp.zeros((1, 4, 5)), jnp.zeros((1, 5, 5)), 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return pipelines.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    "template, position",
    [("a S", 2), ("S of a", 1), ("a S of a", 2), ("S", 1), ("s S, the a", 2), ("a (S)", 3)],
)
def test_templates_keep_their_tokens_and_tell_where_the_words_go(tokenizer, template, position):
    ids, place = templates.prepare(tokenizer, template, num_words=5, length=20)
    whole = tokenizer(template, padding="max_length", max_length=20)["input_ids"]
    assert ids.dtype == np.int32 and ids.shape == (20,) and isinstance(place, int)
    np.testing.assert_array_equal(ids, whole)
    assert (
        place == position and ids[place] == tokenizer("S", add_special_tokens=False)["input_ids"][0]
    )
    assert (
        templates.empty(tokenizer, 20)
        == tokenizer("", padding="max_length", max_length=20)["input_ids"]
    ).all()


def test_a_placeholder_of_many_tokens_takes_one_place(tokenizer):
    ids, place = templates.prepare(tokenizer, "a <it> b", num_words=5, placeholder="<it>")
    expected, _ = templates.prepare(tokenizer, "a S b", num_words=5)
    assert place == 2 and ids.shape == (77,)
    np.testing.assert_array_equal(np.delete(ids, 2), np.delete(expected, 2))


def test_words_may_fill_the_text_tower_and_no_more(tokenizer):
    ids, place = templates.prepare(tokenizer, "a b S c", num_words=4, length=9)
    assert place == 3 and len(ids) == 9
    with pytest.raises(InputError, match=r"5 words takes 10 tokens .*9 tokens are possible"):
        templates.prepare(tokenizer, "a b S c", num_words=5, length=9)


@pytest.mark.parametrize(
    "template, message",
    [
        ("a photo", "has 0 times the word 'S'; write it once"),
        ("", "has 0 times"),
        ("a Sea", "has 0 times"),
        ("S or S", "has 2 times the word 'S'; write it once"),
    ],
)
def test_a_missing_or_doubled_placeholder_is_refused_in_one_line(tokenizer, template, message):
    with pytest.raises(InputError, match=message):
        templates.prepare(tokenizer, template, num_words=2)


@pytest.mark.parametrize(
    "name, perceptrons, copies",
    [
        ("image-to-text", 249_538_560, 25_559_040),
        ("image-to-text-sd15", 223_313_920, 19_169_280),
        ("textual-restoration", 118_215_680, 0),
        ("textual-restoration-sd15", 105_103_360, 0),
    ],
)
def test_published_sizes_have_the_published_numbers_of_parameters(name, perceptrons, copies):
    network = models.build(name)
    shapes = {key: spec.shape for key, spec in network.abstract_params().items()}
    assert sum(math.prod(s) for k, s in shapes.items() if k.startswith("mapping")) == perceptrons
    assert sum(math.prod(shape) for shape in mapper.kv(shapes).values()) == copies
    assert network.size == perceptrons + copies
    config = network.config
    sizes = (20, config.input_dim, 1280)
    with torch.device("meta"):
        if copies:
            module = Mapper(*sizes, config.output_dim, config.cross_attention)
        else:
            module = CleanMapper(*sizes)
    assert sorted(convert.torch_names(network)) == sorted(module.state_dict())


@pytest.mark.parametrize(
    "pipeline, name", [("sd21", ""), ("sd15", "-sd15"), ("sd21-tiny", "-tiny")]
)
def test_copies_are_those_of_the_unet_that_reads_the_words(pipeline, name):
    unet, words = models.build(f"{pipeline}/unet"), models.build(f"image-to-text{name}")
    clean = models.build(f"textual-restoration{name}").config
    assert mapper.cross_attention(unet) == words.config.cross_attention
    assert words.config.output_dim == unet.config.cross_attention_dim == clean.input_dim
    vision = {"": "vit-h-14-laion", "-sd15": "vit-l-14-openai", "-tiny": "vit-tiny"}[name]
    assert words.config.input_dim == models.build(f"clip-{vision}").config.hidden_size
    assert words.config.num_words == clean.num_words
    shapes = unet.abstract_params()
    for key, spec in mapper.kv(words.abstract_params()).items():
        assert spec.shape == shapes[key].shape


def test_the_unets_keys_and_values_are_copied_and_change_nothing():
    unet, words = models.build("sd21-tiny/unet"), models.build("image-to-text-tiny")
    own, before = unet.init(1), words.init(0)
    params = mapper.with_kv(before, own)
    models.check(params, words.abstract_params(), "the words' network")
    copies = mapper.kv(params)
    assert len(copies) == 8
    assert all(np.array_equal(copies[key], own[key]) for key in copies)
    changed = {key for key in params if not np.array_equal(params[key], before[key])}
    assert changed == {f"kv.{key}" for key in copies}
    other = models.build("image-to-text-tiny", cross_attention=ATTENTIONS)
    for wrong, count in (
        (other.init(), 12),
        (drawn(models.build("image-to-text-tiny", output_dim=8)), 8),
    ):
        with pytest.raises(InputError, match=f"do not fit the UNet's: {count} are missing or"):
            mapper.with_kv(wrong, own)


def test_residual_and_attention_start_as_exact_identities():
    network = models.build("textual-restoration-tiny", residual=True, attention=True, tasks=2)
    words = some_words(network)
    out = network.apply(network.init(0), words, jnp.array([0, 1]))
    np.testing.assert_array_equal(out, words)
    hidden = jax.random.normal(jax.random.key(0), (2, 5, 32))
    seeing = models.build("image-to-text-tiny", attention=True)
    params = seeing.init(0)
    plain = models.build("image-to-text-tiny")
    bare = {key: value for key, value in params.items() if not key.startswith("attention.")}
    assert all(np.array_equal(plain.init(0)[key], bare[key]) for key in bare)
    np.testing.assert_array_equal(seeing.apply(params, hidden), plain.apply(bare, hidden))


def test_residual_adds_what_torch_computes():
    module, sizes = twin("textual-restoration"), SIZES["textual-restoration"]
    words = torch.randn(2, 3, 8)
    params = convert.from_torch("textual-restoration", module.state_dict(), **sizes)
    network = models.build("textual-restoration", **sizes, residual=True)
    assert relative(network.apply(params, words.numpy()), words + module(words)) < 1e-5


@pytest.mark.parametrize("width, heads", [(8, 1), (128, 2)])
def test_words_see_each_other_as_torch_attends(width, heads):
    sizes = dict(num_words=5, input_dim=width, hidden_dim=4)
    plain = models.build("textual-restoration", **sizes)
    network = models.build("textual-restoration", **sizes, attention=True)
    params, words = drawn(network), some_words(network)
    before = plain.apply({k: v for k, v in params.items() if k.startswith("mapping")}, words)
    state = convert.to_torch("textual-restoration", params, **sizes, attention=True)
    state = {k.removeprefix("attention."): v for k, v in state.items() if "attention" in k}
    x = torch.tensor(np.asarray(before))
    z = F.layer_norm(x, (width,), state["norm.weight"], state["norm.bias"])
    q, k, v = (
        F.linear(z, state[f"{part}.weight"], state[f"{part}.bias"])
        .unflatten(-1, (heads, -1))
        .transpose(1, 2)
        for part in ("to_q", "to_k", "to_v")
    )
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    y = x + F.linear(y, state["to_out.weight"], state["to_out.bias"])
    assert relative(network.apply(params, words), y) < 1e-5


def test_tasks_start_alike_and_change_the_words_once_trained():
    network = models.build("textual-restoration-tiny", tasks=3)
    plain = models.build("textual-restoration-tiny")
    params, words = network.init(0), some_words(network, 1)
    words = jnp.repeat(words, 3, 0)
    tasks = jnp.arange(3)
    bare = {key: value for key, value in params.items() if key.startswith("mapping")}
    start = network.apply(params, words, tasks)
    np.testing.assert_array_equal(start, plain.apply(bare, words))

    def loss(params):
        return jnp.square(network.apply(params, words, tasks) - tasks[:, None, None]).mean()

    key = "task_embedding.weight"
    gradients = jax.jit(jax.grad(loss))(params)
    trained = params | {key: params[key] - gradients[key]}
    after = network.apply(trained, words, tasks)
    assert all(np.abs(after[i] - start[i]).max() > 1e-4 for i in range(3))
    assert np.abs(after[0] - after[1]).max() > 1e-4
    # One number serves the whole batch.
    alike = network.apply(trained, words, 1)
    np.testing.assert_allclose(alike[1], after[1], atol=1e-6)
    np.testing.assert_allclose(alike[0], after[1], atol=1e-6)


@EACH
def test_weights_travel_to_torch_and_back(name):
    assert_round_trip(name, twin(name), twin(name, seed=1), **SIZES[name])


@EACH
def test_checkpoints_are_recognised_without_flags(name, tmp_path, capsys):
    module, x = twin(name), torch.randn(INPUTS[name])
    state = module.state_dict()
    assert recognise.recognise(state) == (name, SIZES[name])
    torch.save(state, tmp_path / "mapper_018000.pt")
    network, params = weights.load(tmp_path / "mapper_018000.pt")
    assert (network.name, network.config) == (name, models.build(name, **SIZES[name]).config)
    assert relative(network.apply(params, x.numpy()), module(x)) < 1e-5
    folder, back = tmp_path / "mapper", tmp_path / "back.pt"
    assert cli.main(["convert", str(tmp_path / "mapper_018000.pt"), "-o", str(folder)]) == 0
    assert cli.main(["convert", str(folder), "-o", str(back), "--to", "torch"]) == 0
    assert f": {name} num_words=3" in capsys.readouterr().out
    assert weights.load(folder)[0] == network
    returned = torch.load(back, weights_only=True)
    assert returned.keys() == state.keys()
    assert all(torch.equal(returned[key], state[key]) for key in state)
    twin(name, seed=1).load_state_dict(returned, strict=True)


@EACH
def test_options_are_recognised_and_travel_too(name):
    options = dict(attention=True) | (dict(tasks=4) if "restoration" in name else {})
    network = models.build(name, **SIZES[name], **options)
    params = drawn(network)
    state = convert.to_torch(name, params, **SIZES[name], **options)
    assert recognise.recognise(state) == (name, SIZES[name] | options)
    back = convert.from_torch(name, state, **SIZES[name], **options)
    assert back.keys() == params.keys()
    assert all(np.array_equal(back[key], params[key]) for key in params)


def test_checkpoints_of_less_than_a_mapper_are_refused_in_one_line(tmp_path):
    state = twin("image-to-text").state_dict()
    state.pop("mapping_patch_1.3.weight")
    torch.save(state, tmp_path / "mapper.pt")
    with pytest.raises(InputError, match="mapper.pt: .*missing mapping_patch_1.3.weight"):
        weights.load(tmp_path / "mapper.pt")
    torch.save({k: v for k, v in state.items() if "attn2" in k}, tmp_path / "kv.pt")
    with pytest.raises(InputError, match="look like image-to-text's, but mapping_0.0.weight is"):
        weights.load(tmp_path / "kv.pt")
    with pytest.raises(InputError, match="the tensors are image-to-text's, not textual-rest"):
        weights.adopt(io.read(tmp_path / "mapper.pt"), "textual-restoration")


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("image-to-text", dict(num_words=0), "num_words is 0; it must be at least 1"),
        ("textual-restoration", dict(hidden_dim=0), "hidden_dim is 0; it must"),
        ("textual-restoration", dict(tasks=-1), "tasks is -1; give a whole number of at least 0"),
        ("image-to-text", dict(cross_attention=(("mid_block.attn1", 4),)), "'mid_block.attn1'"),
    ],
)
def test_sizes_that_fit_nothing_are_refused_in_one_line(name, fields, message):
    with pytest.raises(InputError, match=message):
        models.build(name, **fields)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name, shape, task, message",
    [
        ("image-to-text-tiny", (2, 5, 16), (), r"\(2, 5, 16\), not \(batch, 1 \+ patches, 32\)"),
        ("image-to-text-tiny", (2, 1, 32), (), "hidden states are"),
        ("textual-restoration-tiny", (2, 5, 32), (), r"words are .*, not \(batch, 4, 32\)"),
        ("textual-restoration-tiny", (2, 4, 32), (jnp.array(0),), "0 tasks: leave task out"),
    ],
)
def test_input_that_cannot_be_read_is_refused_in_one_line(name, shape, task, message):
    network = models.build(name)
    with pytest.raises(InputError, match=message):
        network.apply(network.abstract_params(), jnp.zeros(shape), *task)


@pytest.mark.usefixtures("unchecked")
def test_a_network_with_tasks_wants_to_be_told_one():
    network = models.build("textual-restoration-tiny", tasks=2)
    with pytest.raises(InputError, match="2 tasks: say which task"):
        network.apply(network.abstract_params(), some_words(network))
