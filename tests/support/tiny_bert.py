"""A BERT that compiles in a second, in a folder as sentence-transformers has it."""

import collections
import json
import re
from pathlib import Path

import safetensors.numpy

from configs import text_encoder
from tdr_jax.convert import bert
from tdr_jax.models import build
from tdr_jax.text import phrasings

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
)


def make(folder: Path, *, normalise: bool = True) -> Path:
    """Writes a BERT that is drawn, and a tokenizer of the commonest words of the wordings."""
    sentences = [w.sentence for w in phrasings.part("training")]
    counts = collections.Counter(re.findall("[a-z]+", " ".join(sentences).lower()))
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted(w for w, _ in counts.most_common(400)),
    ]
    sizes = dict(SIZES, vocab_size=len(words))
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    network = build("bert", **sizes)
    tensors = bert.to_torch(network, network.init(0))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(sizes, model_type="bert")))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalise else 2]
    steps = [
        {"idx": i, "path": f"{i}_Pooling" if i == 1 else "", "type": f"a.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def config(folder: Path, *, steps: int = 40, batch: int = 16, layers: int = 0):
    """A run that takes seconds."""
    given = f"encoder={folder},layers={layers}"
    found = text_encoder.get_config(given)
    found.data.stages = ((steps, 16, batch),)
    found.data.typos, found.loss.same, found.loss.meaning = 0.0, 0.0, 0.0
    found.optim.lr_of = ()
    found.optim.lr, found.optim.warmup, found.ema = 3e-3, 5, 0.0
    found.log_every, found.save_every = 1, 1000
    return found
