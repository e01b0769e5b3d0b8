"""A text encoder as a folder of sentence-transformers, which transformers reads too."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from tdr_jax import disk

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def write(encoder, folder: str | os.PathLike) -> Path:
    """Writes the folder, whole or not at all.

    Args:
        encoder: a `tdr_jax.text.TextEncoder`; its tokenizer's files are copied.
        folder: what it holds already is replaced.

    Returns:
        the folder: config.json, model.safetensors in float32, the tokenizer's files, modules.json,
        1_Pooling/config.json and sentence_bert_config.json.
    """
    import safetensors.numpy

    from tdr_jax.models import bert

    folder = Path(folder)
    with disk.replacing_folder(folder) as made:
        config = json.loads((encoder.folder / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        config |= {"architectures": ["BertModel"], "torch_dtype": "float32"}
        disk.write_json(made / "config.json", config)
        tensors = bert.to_hf(encoder.network.config, encoder.params)
        tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
        weights = made / "model.safetensors"
        safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # the library leaves it readable by its owner alone
        for name in TOKENIZER:
            if (encoder.folder / name).exists():
                shutil.copyfile(encoder.folder / name, made / name)
        steps = MODULES if encoder.normalise else MODULES[:2]
        kind = "sentence_transformers.models."
        disk.write_json(
            made / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": kind + name}
                for i, (path, name) in enumerate(steps)
            ],
        )
        pooling = {"word_embedding_dimension": encoder.dim, "pooling_mode_mean_tokens": True}
        pooling |= {f"pooling_mode_{mode}": False for mode in ("cls_token", "max_tokens")}
        disk.write_json(made / "1_Pooling" / "config.json", pooling)
        limits = {"max_seq_length": encoder.max_length, "do_lower_case": encoder.lower}
        disk.write_json(made / "sentence_bert_config.json", limits)
    return folder
