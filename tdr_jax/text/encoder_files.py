"""A text encoder as a folder of sentence-transformers, which transformers reads too."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.errors import InputError

_ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {name: _ASSETS / name for name in ("minilm", "minilm-tasks")}
# A folder that holds only what differs from another encoder names it here.
BASE, CHANGED = "base.json", "changed.safetensors"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def folder_of(name_or_folder: str | os.PathLike) -> Path:
    """Returns the folder of an encoder.

    Args:
        name_or_folder: a shipped name, or a folder, which is returned.

    Raises:
        InputError: it is neither.
    """
    folder = SHIPPED.get(str(name_or_folder)) or Path(name_or_folder)
    if not folder.is_dir():
        raise InputError(
            f"no text encoder {str(name_or_folder)!r}: neither a shipped name "
            f"({', '.join(SHIPPED)}) nor a folder; download the model first and give its folder"
        )
    return folder


def read(name_or_folder: str | os.PathLike) -> dict:
    """Reads what a `TextEncoder` is made of.

    Args:
        name_or_folder: see `TextEncoder.from_pretrained`.

    Returns:
        the arguments of `TextEncoder` by name.

    Raises:
        InputError: see `TextEncoder.from_pretrained`.
    """
    from tdr_jax.convert import bert

    folder = folder_of(name_or_folder)
    changed = folder / CHANGED if (folder / BASE).exists() else None
    if changed:
        folder = folder_of(_read_json(folder / BASE)["base"])
    body, pooling = _modules(folder)
    network = bert.network_of(_read_json(body / "config.json"))
    config = network.config
    overrides = {field: getattr(config, field) for field in config.__dataclass_fields__}
    limits = _read_json(body / "sentence_bert_config.json", optional=True)
    tokens = _read_json(body / "tokenizer_config.json", optional=True)
    asked = limits.get("max_seq_length") or tokens.get("model_max_length")
    positions = config.max_position_embeddings
    max_length = int(min(asked or positions, positions))
    tokenizer, tokenizer_file = _tokenizer(body)
    weights = body / "model.safetensors"
    tensors = _read_weights(weights) | (_read_weights(changed) if changed else {})
    files = [weights, tokenizer_file, *([changed] if changed else [])]
    lower = bool(limits.get("do_lower_case"))
    settings = json.dumps([overrides, max_length, pooling, lower, tokens], sort_keys=True)
    return {
        "network": network,
        "params": bert.from_torch(network, tensors),
        "tokenizer": tokenizer,
        "max_length": max_length,
        "normalise": pooling["normalise"],
        "lower": lower,
        "fingerprint": _digest(files, settings),
        "name": Path(name_or_folder).name,
        "folder": body,
    }


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

    from tdr_jax.convert import bert

    folder = Path(folder)
    with disk.replacing_folder(folder) as made:
        config = json.loads((encoder.folder / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        config |= {"architectures": ["BertModel"], "torch_dtype": "float32"}
        disk.write_json(made / "config.json", config)
        tensors = bert.to_torch(encoder.network, encoder.params)
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


def _modules(folder: Path) -> tuple[Path, dict]:
    """Reads the steps of a sentence-transformers folder: the BERT's own folder, and the pooling."""
    steps = _read_json(folder / "modules.json", optional=True) or [{"type": "Transformer"}]
    body, normalise = folder, False
    for step in steps:
        kind, path = step["type"].rsplit(".", 1)[-1], folder / step.get("path", "")
        if kind == "Transformer":
            body = path
        elif kind == "Pooling":
            pooling = _read_json(path / "config.json")
            modes = [k for k, v in pooling.items() if k.startswith("pooling_mode_") and v is True]
            named = pooling.get("pooling_mode", "mean")
            if modes not in ([], ["pooling_mode_mean_tokens"]) or named not in ("mean", ["mean"]):
                raise InputError(
                    f"{path / 'config.json'} asks for {modes or named}; only mean pooling "
                    "(pooling_mode_mean_tokens) is supported"
                )
        elif kind == "Normalize":
            normalise = True
        else:
            raise InputError(
                f"{folder / 'modules.json'} has a {kind} module; only Transformer, Pooling (mean) "
                "and Normalize are supported"
            )
    return body, {"pooling": "mean", "normalise": normalise}


def _tokenizer(folder: Path):
    """Returns the tokenizer and the file it was read from."""
    path = folder / "tokenizer.json"
    # Else every command says that PyTorch is missing, which it need not have.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        if path.exists():
            # Not AutoTokenizer: that imports torch where it is installed, three seconds more.
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast(tokenizer_file=str(path)), path
        path = folder / "vocab.txt"
        if path.exists():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True), path
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InputError(f"{path} cannot be read as a tokenizer: {error}") from error
    raise InputError(f"{folder} has neither tokenizer.json nor vocab.txt; add one of them")


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    if not path.exists():
        raise InputError(f"{path} is missing; save the model as one safetensors file")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error


def _read_json(path: Path, *, optional: bool = False):
    if optional and not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give the folder of a saved BERT") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def _digest(files: Iterable[Path], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
