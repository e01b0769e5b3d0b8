"""Fine-tuning brings sentences of one meaning together, moves only what it should, any way cut."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, text_encoder
from tdr_jax import objectives, text
from tdr_jax.data.sentence_pairs import SentencePairs
from tdr_jax.degradations.vocabulary import MEANINGS
from tdr_jax.errors import InputError
from tdr_jax.objectives import text_encoder as learning
from tdr_jax.text import intent, phrasings
from tdr_jax.train import loop
from tests.support import tiny_bert
from tests.support.small import records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert.make(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture
def few_sentences(monkeypatch):
    """A head is fitted to some hundred sentences rather than to all, for time."""
    whole = phrasings.part

    def some(name):
        return whole(name)[:: 6 if name == "training" else 1]

    monkeypatch.setattr(phrasings, "part", some)
    monkeypatch.setattr(intent, "VARIANTS", 1)


def batch_of(objective, size=16):
    objective.config.data.stages = ((1, 16, size),)
    return next(objective.batches(0))


def test_pairs_are_told_apart_after_training(folder, tmp_path, few_sentences):
    config = tiny_bert.config(folder, steps=120, batch=64)
    loop.run(config, tmp_path)
    errors = [record["cosine"] for record in records(tmp_path)]
    assert len(errors) == 120
    assert np.mean(errors[-30:]) < 0.75 * np.mean(errors[:10])
    model = intent.Understanding.from_pretrained(tmp_path / "text_encoder")
    training = [w for w in phrasings.part("training") if len(w.meanings) == 1]
    right = [MEANINGS.index(w.meanings[0]) for w in training]
    found = model([w.sentence for w in training]).argmax(-1)
    assert (found == right).mean() > 0.7


@pytest.mark.parametrize("layers", [1, 2])
def test_only_the_last_layers_move(folder, tmp_path, layers, few_sentences):
    loop.run(tiny_bert.config(folder, steps=3, layers=layers), tmp_path)
    before = text.TextEncoder.from_pretrained(folder).params
    after = text.TextEncoder.from_pretrained(tmp_path / "text_encoder").params
    for name, value in before.items():
        if name.startswith(learning.STACK):
            np.testing.assert_array_equal(after[name][:-layers], value[:-layers])
            if name.endswith("kernel"):
                assert (np.asarray(after[name][-layers:]) != value[-layers:]).any((-2, -1)).all()
        else:
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("layers", [0, 2])
def test_what_learns_is_computed_as_the_whole_encoder_is(folder, tmp_path, layers):
    objective = objectives.make(tiny_bert.config(folder, layers=layers), tmp_path)
    batch = batch_of(objective)
    tokens, mask = (batch[name][:, 0] for name in learning.TOKENS)
    whole = objective.encoder.network.apply(
        objective.encoder.params, tokens, mask, method="mean_pool"
    )
    own = objective.initial_params()
    found = objective.network.pool(own, objective.frozen[0], tokens, mask)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    joined = objective.network.join(objective.encoder.params, own)
    assert joined.keys() == objective.encoder.params.keys()
    for name, value in objective.encoder.params.items():
        np.testing.assert_array_equal(joined[name], value)


def test_the_loss_is_the_squared_difference_of_cosine_and_label(folder, tmp_path):
    objective = objectives.make(tiny_bert.config(folder), tmp_path)
    batch = batch_of(objective)
    params, frozen = objective.initial_params(), objective.frozen[0]
    loss, metrics = objective.loss(params, batch, jax.random.key(0), frozen)
    first, second = (
        np.asarray(
            objective.network.pool(params, frozen, batch["tokens"][:, i], batch["mask"][:, i])
        )
        for i in (0, 1)
    )
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    errors = ((first * second).sum(-1) / norms - batch["label"]) ** 2
    assert float(loss) == pytest.approx(errors.mean(), rel=1e-4)
    # A pair's loss is its own: that of a batch is the mean of its halves, wherever it is cut.
    halves = [{n: v[i::2] for n, v in batch.items()} for i in (0, 1)]
    parts = [float(objective.loss(params, half, jax.random.key(0), frozen)[0]) for half in halves]
    assert np.mean(parts) == pytest.approx(float(loss), rel=1e-5)


def test_the_contrastive_loss_is_supcons():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    kinds = np.array([0, 0, 1, 1, 1, 2, 0])  # the sixth is alone and does not count
    meaning = np.eye(3)[kinds]
    each = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        total = sum(np.exp(vectors[i] @ vectors[j] / 0.1) for j in others)
        alike = [j for j in others if kinds[j] == kinds[i]]
        terms = [-np.log(np.exp(vectors[i] @ vectors[j] / 0.1) / total) for j in alike]
        each += [np.mean(terms)] if alike else []
    found = float(learning.same(jnp.asarray(vectors), jnp.asarray(meaning)))
    assert len(each) == 6 and found == pytest.approx(np.mean(each), rel=1e-4)
    gradient = jax.grad(lambda v: learning.same(v, jnp.asarray(meaning)))(jnp.asarray(vectors))
    assert np.isfinite(gradient).all()


def test_a_run_with_the_contrastive_loss_learns_it(folder, tmp_path, few_sentences):
    config = tiny_bert.config(folder, steps=60)
    config.loss.cosine, config.loss.same = 0.0, 1.0
    loop.run(config, tmp_path)
    losses = [record["same"] for record in records(tmp_path)]
    assert np.mean(losses[-15:]) < np.mean(losses[:15]) - 0.1


def test_a_probe_learns_beside_the_encoder_and_becomes_the_head(folder, tmp_path, few_sentences):
    config = tiny_bert.config(folder, steps=120, batch=64)
    config.loss.cosine, config.loss.meaning = 0.0, 1.0
    config.optim.lr_of = text_encoder.get_config().optim.lr_of
    loop.run(config, tmp_path)
    losses = [record["meaning"] for record in records(tmp_path)]
    assert losses[0] == pytest.approx(np.log(len(MEANINGS)), rel=0.01)
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])
    before = text.TextEncoder.from_pretrained(folder).params
    after = text.TextEncoder.from_pretrained(tmp_path / "text_encoder").params
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert name.startswith("embeddings") == np.array_equal(after[name], value), name
    model = intent.Understanding.from_pretrained(tmp_path / "text_encoder")
    assert not model.head.bias.any()
    training = [w for w in phrasings.part("training") if len(w.meanings) == 1]
    right = [MEANINGS.index(w.meanings[0]) for w in training]
    assert (model([w.sentence for w in training]).argmax(-1) == right).mean() > 0.5


def test_pairs_are_a_pure_function_of_seed_and_number(folder):
    encoder = text.TextEncoder.from_pretrained(folder)

    def make(seed):
        return SentencePairs(phrasings.part("training"), encoder.tokenizer, seed, typos=0.5)

    for n in (0, 7, 123_456):
        one, same, other = make(0)(n, 16), make(0)(n, 16), make(1)(n, 16)
        for name, value in one.items():
            np.testing.assert_array_equal(value, same[name])
        assert any((one[name] != other[name]).any() for name in ("tokens", "meaning"))


def test_half_of_the_pairs_mean_the_same_and_every_meaning_is_drawn(folder):
    encoder = text.TextEncoder.from_pretrained(folder)
    pairs = SentencePairs(phrasings.part("training"), encoder.tokenizer, 0, typos=0.0)
    made = [pairs(n, 16) for n in range(600)]
    labels = np.array([pair["label"] for pair in made])
    assert 0.5 < (labels > 0.999).mean() < 0.68  # half, and those that meet by chance
    assert ((labels > 0.1) & (labels < 0.9)).any()  # mixtures share a wish
    drawn = np.concatenate([pair["meaning"] for pair in made]).sum(0)
    assert drawn[:-1].min() > 0.6 * drawn[:-1].max()
    assert 1.5 < drawn[-1] / drawn[:-1].mean() < 2.5  # "none" is the widest


def test_sentences_are_drawn_whole(folder, monkeypatch):
    monkeypatch.setattr(phrasings, "varied", lambda sentence, rng, share: sentence)
    encoder = text.TextEncoder.from_pretrained(folder)
    known = [wording.sentence for wording in phrasings.part("training")]
    whole = {tuple(ids) for ids in encoder.tokenizer(known)["input_ids"]}
    assert max(map(len, whole)) > 12
    pairs = SentencePairs(phrasings.part("training"), encoder.tokenizer, 0, typos=0.0)
    for pair in (pairs(n, 12) for n in range(200)):
        for tokens, mask in zip(pair["tokens"], pair["mask"], strict=True):
            assert tuple(tokens[mask]) in whole


def test_every_sentence_of_a_batch_keeps_its_marks(folder, tmp_path):
    batch = batch_of(objectives.make(tiny_bert.config(folder), tmp_path))
    assert batch["tokens"].shape == batch["mask"].shape == (16, 2, 16)
    assert batch["mask"][..., :3].all()  # two marks, and a word at least
    assert (batch["tokens"][..., 0] == 2).all() and not batch["tokens"][~batch["mask"]].any()
    shapes = objectives.make(tiny_bert.config(folder), tmp_path).shapes(16, 16)
    assert {n: (s.shape, s.dtype) for n, s in shapes.items()} == {
        n: (v.shape, v.dtype) for n, v in batch.items()
    }


def test_the_config_has_the_fields_of_all_configs():
    def fields(node, prefix=""):
        for key, value in node.items():
            yield prefix + key
            if hasattr(value, "items") and key != "overrides":
                yield from fields(value, f"{prefix}{key}.")

    for argument in ("", "encoder=folder,layers=1,steps=3,batch=8,tokens=32"):
        config = text_encoder.get_config(argument)
        assert set(fields(config)) == set(fields(common.get_config()))
    assert (config.encoder, config.network.layers) == ("folder", 1)
    assert config.data.stages == ((3, 32, 8),)
    with pytest.raises(ValueError, match="'speed=2' is unknown; known: encoder, layers"):
        text_encoder.get_config("speed=2")


MISTAKES = {
    "network.layers is 3, but .* has 3 layers; give 1 to 2": dict(network=dict(layers=3)),
    "panel_every is 5, but objective": dict(panel_every=5),
    "config.init_from is 'x'.*config.encoder says": dict(init_from="x"),
    "config.encoder is empty": dict(encoder=""),
    "no text encoder 'nowhere'": dict(encoder="nowhere"),
    "sentences of 99 tokens; give 3 to 24": dict(data=dict(stages=((1, 99, 8),))),
    "data.typos is 2": dict(data=dict(typos=2.0)),
    "there is nothing to learn": dict(loss=dict(cosine=0.0)),
    "config.loss.same compares all": dict(loss=dict(same=1.0), accumulate=2),
}


@pytest.mark.parametrize("complaint, changes", list(MISTAKES.items()))
def test_a_mistake_is_told_in_a_line(folder, tmp_path, complaint, changes):
    config = tiny_bert.config(folder)
    config.update(changes)
    with pytest.raises(InputError, match=complaint) as error:
        objectives.make(config, tmp_path)
    assert "\n" not in str(error.value)


def test_likeness_is_graded_for_mixtures():
    shares = {
        m: phrasings.shares(m)
        for m in itertools.chain(
            [(one,) for one in MEANINGS], [("noise", "rain"), ("rain", "haze")]
        )
    }
    assert phrasings.likeness(shares["noise",], shares["noise",]) == 1
    assert phrasings.likeness(shares["noise",], shares["none",]) == 0
    assert phrasings.likeness(shares["noise", "rain"], shares["rain",]) == pytest.approx(0.5**0.5)
    assert phrasings.likeness(shares["noise", "rain"], shares["rain", "haze"]) == pytest.approx(0.5)
