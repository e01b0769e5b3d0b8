"""What fine-tuning writes, transformers computes alike, pooled as the folder itself says."""

import json

import numpy as np
import pytest

from tdr_jax import disk, text
from tdr_jax.text import intent
from tdr_jax.train import loop
from tests.support import tiny_bert

SENTENCES = [
    "remove the rain",
    "Could you please clear the fog and lift the shadows? It is far too dark for me to see.",
    "denoise!",
    "its blurry, fix",
]


def by_torch(folder, sentences):
    """The vectors by transformers alone, as sentence-transformers reads such a folder."""
    import torch
    import transformers

    steps = json.loads((folder / "modules.json").read_text())
    kinds = [step["type"] for step in steps]
    assert kinds[:2] == [f"sentence_transformers.models.{k}" for k in ("Transformer", "Pooling")]
    limits = json.loads((folder / steps[0]["path"] / "sentence_bert_config.json").read_text())
    pooling = json.loads((folder / steps[1]["path"] / "config.json").read_text())
    assert pooling.pop("pooling_mode_mean_tokens") is True
    width = pooling.pop("word_embedding_dimension")
    assert not any(pooling.values())  # no other mode
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model = transformers.AutoModel.from_pretrained(
        str(folder), local_files_only=True, add_pooling_layer=False
    ).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    inputs = tokenizer(
        sentences,
        padding=True,
        truncation=True,
        max_length=limits["max_seq_length"],
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    assert hidden.shape[-1] == width
    weight = inputs["attention_mask"][..., None].float()
    vectors = (hidden * weight).sum(1) / weight.sum(1)
    if kinds[2:] == ["sentence_transformers.models.Normalize"]:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    else:
        assert not kinds[2:]
    return vectors.numpy()


@pytest.mark.parametrize("normalise, layers", [(True, 1), (False, 0)])
def test_a_trained_encoder_gives_the_same_vectors_in_torch(
    tmp_path, monkeypatch, normalise, layers
):
    monkeypatch.setattr(intent, "STEPS", 10)  # the head is not what this is about
    monkeypatch.setattr(intent, "VARIANTS", 1)
    given = tiny_bert.make(tmp_path / "given", normalise=normalise)
    loop.run(tiny_bert.config(given, steps=5, layers=layers), tmp_path / "run")
    folder = tmp_path / "run" / "text_encoder"
    encoder = text.TextEncoder.from_pretrained(folder)
    assert encoder.normalise is normalise
    theirs = by_torch(folder, SENTENCES)
    ours = encoder.encode(SENTENCES)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    first = text.TextEncoder.from_pretrained(given).encode(SENTENCES)
    assert np.abs(ours - first).max() > 1e-3  # it has learnt
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "head.safetensors",
    }
    assert list((tmp_path / "run").rglob(disk.PARTIAL)) == []


def test_the_shipped_encoder_saved_whole_gives_the_same_vectors_in_torch(tmp_path):
    encoder = text.TextEncoder.from_pretrained("minilm-tasks")
    folder = encoder.save(tmp_path / "whole")
    ours, theirs = encoder.encode(SENTENCES), by_torch(folder, SENTENCES)
    assert ours.shape == (4, 384) and np.abs(ours - theirs).max() <= 1e-5
    plain = text.TextEncoder.from_pretrained("minilm").encode(SENTENCES)
    assert np.abs(ours - plain).max() > 1e-2
    again = text.TextEncoder.from_pretrained(folder)
    np.testing.assert_allclose(again.encode(SENTENCES), ours, rtol=0, atol=1e-6)


def test_saving_over_a_folder_replaces_all_of_it(tmp_path):
    encoder = text.TextEncoder.from_pretrained(tiny_bert.make(tmp_path / "given"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.txt").write_text("of another model")
    (tmp_path / "out" / "tokenizer.json").write_text("{}")
    encoder.save(tmp_path / "out")
    found = text.TextEncoder.from_pretrained(tmp_path / "out").encode(SENTENCES)
    np.testing.assert_allclose(found, encoder.encode(SENTENCES), rtol=0, atol=1e-6)
    assert list(tmp_path.rglob(disk.PARTIAL)) == []
