"""Our BERT computes what torch's does, from the same files, and refuses what it would get wrong."""

import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest

from tdr_jax import text
from tdr_jax.convert import bert
from tdr_jax.errors import InputError
from tdr_jax.models import build
from tdr_jax.text import encoder_files

SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
)
WORDS = ("remove", "the", "rain", "fog", "noise", "from", "this", "photo", ".")
SENTENCES = [
    "remove the rain",
    "The fog hides the valley; please clear the view so that I can see the far mountains again.",
    "Denoise!",
    "remove the rain " * 150,  # 600 words: cut off at 256 tokens
]


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def run(network, params, tokens, mask, method="__call__"):
    return jax.jit(functools.partial(network.apply, method=method))(params, tokens, mask)


def torch_bert(seed=0, **overrides):
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(**SMALL | overrides)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for p in model.parameters():  # away from zero biases and unit scales
        p.data += 0.2 * torch.randn(p.shape)
    return model


def numpy_state(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def minilm():
    return text.TextEncoder.from_pretrained("minilm")


@pytest.fixture
def saved(tmp_path):
    """A small BERT as transformers saves it, with a word list as its tokenizer."""
    folder = tmp_path / "encoder"
    torch_bert().save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_a_random_bert_equals_torch(activation):
    import torch

    model = torch_bert(hidden_act=activation)
    network = bert.network_of(model.config.to_dict())
    params = bert.from_torch(network, numpy_state(model))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 60, (3, 20))
    mask = np.arange(20) < np.array([[20], [7], [1]])
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), torch.tensor(mask).long()).last_hidden_state.numpy()
    ours = run(network, params, tokens, mask)
    assert relative(ours[mask], theirs[mask]) < 1e-5
    means = np.stack([row[keep].mean(0) for row, keep in zip(theirs, mask, strict=True)])
    assert relative(run(network, params, tokens, mask, "mean_pool"), means) < 1e-5


def test_bfloat16_computes_close_to_float32():
    network = build("bert", **SMALL)
    params = network.init(0)
    tokens, mask = np.arange(20)[None], np.ones((1, 20), bool)
    full = run(network, params, tokens, mask)
    half = run(build("bert", dtype="bfloat16", **SMALL), params, tokens, mask)
    assert half.dtype == "bfloat16"
    assert 0 < relative(half.astype("float32"), full) < 0.05


def test_the_shipped_encoder_equals_torch(minilm):
    import torch
    import transformers

    folder = encoder_files.SHIPPED["minilm"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model = transformers.BertModel.from_pretrained(
        str(folder), add_pooling_layer=False, dtype=torch.float32
    ).eval()
    inputs = tokenizer(
        SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    weight = inputs["attention_mask"][..., None].float()
    theirs = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    ours = minilm.encode(SENTENCES)
    assert ours.dtype == np.float32 and ours.shape == (4, 384)
    assert relative(ours, theirs.numpy()) < 1e-5


@pytest.mark.parametrize("prefix", ["", "bert.", "0.auto_model."])
def test_import_then_export_is_bit_identical(prefix):
    state, network = numpy_state(torch_bert()), build("bert", **SMALL)
    extra = {"pooler.dense.weight": np.ones(3), "embeddings.position_ids": np.arange(20)[None]}
    given = {prefix + name: value for name, value in (state | extra).items()}
    back = bert.to_torch(network, bert.from_torch(network, given), prefix)
    assert back.keys() == {prefix + name for name in state}
    for name, value in state.items():
        np.testing.assert_array_equal(back[prefix + name], value, strict=True)


def test_torch_loads_what_we_export():
    import torch

    network, model = build("bert", **SMALL), torch_bert()
    params = network.init(3)
    state = {name: torch.tensor(value) for name, value in bert.to_torch(network, params).items()}
    model.load_state_dict(state, strict=True)
    tokens, mask = np.arange(20)[None], np.ones((1, 20), bool)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).last_hidden_state.numpy()
    assert relative(run(network, params, tokens, mask), theirs) < 1e-5


def test_old_norm_names_are_read():
    state, network = numpy_state(torch_bert()), build("bert", **SMALL)
    old = {
        re.sub("LayerNorm.bias$", "LayerNorm.beta", re.sub("Norm.weight$", "Norm.gamma", name)): v
        for name, v in state.items()
    }
    assert len(old.keys() - state.keys()) == 14  # two for the embeddings, four a layer
    ours, theirs = bert.from_torch(network, old), bert.from_torch(network, state)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_all_wrong_keys_are_reported_together():
    state = numpy_state(torch_bert())
    del state["encoder.layer.1.output.dense.bias"], state["embeddings.LayerNorm.weight"]
    state["encoder.layer.9.output.dense.bias"] = np.zeros(32)
    state["embeddings.word_embeddings.weight"] = np.zeros((61, 32))
    with pytest.raises(InputError) as error:
        bert.from_torch(build("bert", **SMALL), state)
    for part in (
        "missing encoder.layer.1.output.dense.bias",
        "missing embeddings.LayerNorm.weight",
        "unexpected encoder.layer.9.output.dense.bias",
        "embeddings.word_embeddings.weight is (61, 32), not (60, 32)",
    ):
        assert part in str(error.value)


def test_padding_and_company_do_not_change_a_vector(minilm):
    sentence = "Please take the grain out of this photo."
    ids = minilm.tokenizer([sentence])["input_ids"][0]
    vectors = []
    for length in (len(ids), 16, 64):
        tokens = np.full((1, length), 7, np.int32)  # padding holds some word: it must not count
        tokens[0, : len(ids)] = ids
        mask = np.arange(length)[None] < len(ids)
        vector = np.asarray(minilm._pool(minilm.params, tokens, mask)[0])
        vectors.append(vector / np.linalg.norm(vector))
    vectors.append(minilm._compute([sentence])[0])
    vectors.append(minilm._compute([*SENTENCES, sentence])[-1])
    for vector in vectors[1:]:
        assert relative(vector, vectors[0]) < 1e-5


def test_meaning_decides_about_distance(minilm):
    fog, haze, night, pasta = minilm.encode(
        ["get rid of the fog", "remove the haze", "brighten the dark room", "cook the spaghetti"]
    )
    assert float(fog @ haze) > float(fog @ night) + 0.1
    assert float(fog @ night) > float(fog @ pasta) + 0.1
    np.testing.assert_allclose(np.linalg.norm([fog, haze, night, pasta], axis=-1), 1, rtol=1e-6)


def test_few_programs_serve_any_number_of_sentences(saved):
    encoder = text.TextEncoder.from_pretrained(saved)
    for count in (1, 2, 7, 17, 40):
        words = ["rain " * (1 + i % 25) + "fog " * count for i in range(count)]
        assert encoder.encode(words).shape == (count, 32)
    assert encoder._pool._cache_size() <= 4  # {1, 16} sentences x {16, 20} tokens


def test_order_and_repetition_are_kept(minilm):
    a, b = minilm.encode(["clear the fog", "sharpen it"])
    np.testing.assert_array_equal(
        minilm.encode(["sharpen it", "clear the fog", "sharpen it"]), [b, a, b]
    )
    assert minilm.encode([]).shape == (0, 384)


def test_any_saved_bert_is_read(saved):
    import torch

    encoder = text.TextEncoder.from_pretrained(saved)
    assert (encoder.dim, encoder.max_length, encoder.normalise) == (32, 20, False)
    ids = torch.tensor([[2, 5, 6, 7, 13, 3]])  # [CLS] remove the rain . [SEP]
    with torch.no_grad():
        theirs = torch_bert()(ids).last_hidden_state.mean(1).numpy()
    assert relative(encoder.encode(["Remove the RAIN."]), theirs) < 1e-5


def test_a_sentence_transformers_folder_is_read(saved, tmp_path):
    plain = text.TextEncoder.from_pretrained(saved).encode(["remove the fog"])[0]
    folder = tmp_path / "modular"
    shutil.copytree(saved, folder / "0_Transformer")
    steps = [("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"), ("Normalize", "2_Norm")]
    modules = [{"idx": i, "path": p, "type": f"a.b.{t}"} for i, (t, p) in enumerate(steps)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    encoder = text.TextEncoder.from_pretrained(folder)
    assert (encoder.max_length, encoder.normalise) == (4, True)
    # Four tokens are the marks and two words: the rest of the sentence is cut off.
    cut, same = encoder._compute(["remove the fog"])[0], encoder._compute(["remove the"])[0]
    np.testing.assert_allclose(cut, same, rtol=1e-6)
    (folder / "0_Transformer" / "sentence_bert_config.json").unlink()
    whole = text.TextEncoder.from_pretrained(folder).encode(["remove the fog"])[0]
    assert relative(whole, plain / np.linalg.norm(plain)) < 1e-6


@pytest.mark.parametrize("precision, error", [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_files_are_widened(saved, precision, error):
    import safetensors.torch
    import torch

    path = saved / "model.safetensors"
    exact = text.TextEncoder.from_pretrained(saved).encode(["remove the fog"])
    state = safetensors.torch.load_file(path)
    half = {k: v.to(getattr(torch, precision)) for k, v in state.items()}
    safetensors.torch.save_file(half, path)
    encoder = text.TextEncoder.from_pretrained(saved)
    assert {p.dtype.name for p in encoder.params.values()} == {"float32"}
    assert 0 < relative(encoder.encode(["remove the fog"]), exact) < error


def _cls_pooling(folder):
    (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "1_Pooling"}]')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')


def _dense_module(folder):
    (folder / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Dense"}]')


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _other_model(folder):
    (folder / "config.json").write_text('{"model_type": "roberta"}')


def _too_many_words(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(60)), "rain"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_cls_pooling, "pooling_mode_cls_token.*only mean pooling"),
        (_dense_module, "Dense module"),
        (_cut_weights, "model.safetensors is not a whole safetensors file"),
        (_other_model, "model_type='roberta'"),
        (_too_many_words, "token 65, but the encoder knows 60 words"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "vocab.txt").unlink(), "neither tokenizer.json nor vocab.txt"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read as a tokenizer"),
    ],
)
def test_what_cannot_be_read_right_is_refused_in_one_line(saved, spoil, message):
    spoil(saved)
    with pytest.raises(InputError, match=message) as error:
        text.TextEncoder.from_pretrained(saved).encode(["rain"])
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="no text encoder 'bert-base-uncased'.*minilm"):
        text.TextEncoder.from_pretrained("bert-base-uncased")


@pytest.mark.parametrize("texts", [[""], ["fine", " \n"], "a bare string", [None]])
def test_an_empty_prompt_is_refused(minilm, texts):
    with pytest.raises(InputError, match="is empty|list of strings"):
        minilm.encode(texts)
