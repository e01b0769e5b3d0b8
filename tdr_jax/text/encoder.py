"""From words to vectors: the instruction bank and the sentence encoder.

A restoration network is told what to do by one vector a sentence. The bank holds the sentences it
is trained with; `TextEncoder` turns those, and any free sentence, into vectors.
"""

import copy
import functools
import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tdr_jax import disk, runtime
from tdr_jax.errors import InputError

TASKS = ("noise", "rain", "haze", "blur", "low_light")
STRENGTHS = ("mild", "strong")

_ASSETS = Path(__file__).parents[1] / "assets"
_SHIPPED = {"minilm": _ASSETS / "minilm", "minilm-tasks": _ASSETS / "minilm-tasks"}
# A folder that holds only what differs from another encoder names it here.
_BASE, _CHANGED = "base.json", "changed.safetensors"
# Sentences are padded to one of few lengths and batch sizes, so that few programs are compiled.
_SHORTEST, _BATCH = 16, 16
_REMEMBERED = 4096

_log = logging.getLogger(__name__)


@functools.cache
def _bank() -> dict:
    return json.loads((_ASSETS / "instructions.json").read_text(encoding="utf-8"))


def sentences(task: str, strength: str | None = None) -> tuple[str, ...]:
    """Returns the bank's sentences that ask to undo one degradation.

    Args:
        task: one of `TASKS`.
        strength: None for sentences that say nothing of strength; "mild" or "strong" for those that
            do. The three sets share no sentence.

    Raises:
        InputError: unknown task or strength.
    """
    if task not in TASKS:
        raise InputError(f"no task {task!r} in the instruction bank; use one of {', '.join(TASKS)}")
    if strength not in (None, *STRENGTHS):
        raise InputError(f"no strength {strength!r}; use None, {' or '.join(STRENGTHS)}")
    return tuple(_bank()[task][strength or "plain"])


def mixed_sentences() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Returns (tasks, sentence) pairs whose sentence asks to undo two or three degradations."""
    return tuple((tuple(tasks), sentence) for tasks, sentence in _bank()["mixed"])


def understand(sentence: str) -> dict[str, float]:
    """Says what a sentence asks for.

    Args:
        sentence: in English.

    Returns:
        "noise", "rain", "haze", "blur", "low light" and "none" (something else, or nothing) -> how
        likely that is; of sum 1. Two wishes share it. See `tdr_jax.text.intent` for many at once.

    Raises:
        InputError: the sentence is empty.
    """
    from tdr_jax.text import intent

    (shares,) = intent.shipped()([sentence])
    return dict(zip(intent.MEANINGS, map(float, shares), strict=True))


class TextEncoder:
    """Turns sentences into vectors with a BERT; made by `TextEncoder.from_pretrained`.

    Attributes:
        network, params: the BERT as `models.build` gives it, and its float32 parameters.
        tokenizer: turns sentences into the BERT's tokens.
        dim: length of a sentence vector.
        max_length: tokens kept of a sentence, start and end marks included.
        normalise: whether vectors are divided by their Euclidean norm.
        lower: whether sentences become lower case before the tokenizer sees them.
        fingerprint: hex digest of everything that decides what the vectors are.
        folder: where the tokenizer and the sizes were read from.
    """

    def __init__(
        self, network, params, tokenizer, *, max_length, normalise, lower, fingerprint, folder
    ):
        import jax

        self.network, self.params = network, params
        self.dim = network.config.hidden_size
        self.max_length, self.normalise, self.lower = max_length, normalise, lower
        self.fingerprint, self.folder = fingerprint, folder
        self.tokenizer = tokenizer
        self._pool = jax.jit(functools.partial(network.apply, method="mean_pool"))
        self._memory: dict[str, np.ndarray] = {}
        self._tables: dict[str, np.ndarray] = {}

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike = "minilm") -> "TextEncoder":
        """Reads an encoder from disk; nothing is downloaded.

        Args:
            name_or_folder: "minilm" (shipped, 384-d), "minilm-tasks" (the same, fine-tuned to tell
                what a sentence asks for), or a folder in the format of Hugging Face or
                sentence-transformers that holds a BERT: config.json, model.safetensors (float32,
                float16 or bfloat16), tokenizer.json or vocab.txt. `modules.json`, where present,
                decides about normalisation; without it vectors are plain means over tokens.

        Raises:
            InputError: a file is missing or broken, or the folder asks for something else than
                BERT, mean pooling and normalisation.
        """
        from tdr_jax.models import bert, build

        folder = folder_of(name_or_folder)
        changed = folder / _CHANGED if (folder / _BASE).exists() else None
        if changed:
            folder = folder_of(_read_json(folder / _BASE)["base"])
        body, pooling = _modules(folder)
        config = bert.config_from_hf(_read_json(body / "config.json"))
        overrides = {field: getattr(config, field) for field in config.__dataclass_fields__}
        limits = _read_json(body / "sentence_bert_config.json", optional=True)
        tokens = _read_json(body / "tokenizer_config.json", optional=True)
        asked = limits.get("max_seq_length") or tokens.get("model_max_length")
        positions = config.max_position_embeddings
        max_length = int(min(asked or positions, positions))
        tokenizer, tokenizer_file = _tokenizer(body)
        weights = body / "model.safetensors"
        tensors = _read_weights(weights) | (_read_weights(changed) if changed else {})
        params = bert.from_hf(config, tensors)
        files = [weights, tokenizer_file, *([changed] if changed else [])]
        lower = bool(limits.get("do_lower_case"))
        settings = json.dumps([overrides, max_length, pooling, lower, tokens], sort_keys=True)
        return cls(
            build("bert", **overrides),
            params,
            tokenizer,
            max_length=max_length,
            normalise=pooling["normalise"],
            lower=lower,
            fingerprint=_digest(files, settings),
            folder=body,
        )

    def with_params(self, params) -> "TextEncoder":
        """Returns an encoder with other parameters of the same names and shapes."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for name in sorted(params):
            digest.update(np.asarray(params[name]).tobytes())
        other = copy.copy(self)
        other.params, other.fingerprint = params, digest.hexdigest()
        other._memory, other._tables = {}, {}
        return other

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes a folder that transformers, sentence-transformers and `from_pretrained` read.

        Args:
            folder: is made; what it holds is replaced, once the new one is whole.

        Returns:
            the folder.
        """
        from tdr_jax.text import folder as folders

        return folders.write(self, folder)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Turns sentences into vectors; those seen lately come from memory.

        Args:
            texts: sentences, in the language the encoder was trained for (the shipped one:
                English); what exceeds `max_length` tokens is cut off.

        Returns:
            float32 (len(texts), dim), of norm 1 where `normalise` is set.

        Raises:
            InputError: a sentence is empty, or `texts` is not a list of strings.
        """
        texts = checked(texts)
        fresh = [t for t in dict.fromkeys(texts) if t not in self._memory]
        vectors = dict(zip(fresh, self._compute(fresh), strict=True)) if fresh else {}
        known = {t: self._memory[t] for t in texts if t in self._memory}
        self._memory.update(vectors)
        while len(self._memory) > _REMEMBERED:  # the oldest go first
            self._memory.pop(next(iter(self._memory)))
        known.update(vectors)
        return np.array([known[t] for t in texts], np.float32).reshape(len(texts), self.dim)

    def cached(self, texts: Sequence[str]) -> np.ndarray:
        """Like `encode`, but keeps the whole table in the user's cache folder, for fixed lists.

        Args:
            texts: as in `encode`.

        Returns:
            float32 (len(texts), dim), read-only. The file's name is a hash of the encoder and the
            sentences, so that nothing stale is ever read; a damaged file is computed anew.

        Raises:
            InputError: as in `encode`.
        """
        texts = checked(texts)
        key = _digest([], json.dumps([self.fingerprint, texts]))
        if key not in self._tables:
            root = runtime.cache_folder()
            path = root / "sentences" / f"{key}.npz" if root else None
            table = _read_table(path, (len(texts), self.dim)) if path else None
            if table is None:
                table = self.encode(texts)
                if path:
                    _write_table(path, table)
            table.flags.writeable = False
            self._tables[key] = table
        return self._tables[key]

    def _compute(self, texts: list[str]) -> np.ndarray:
        """Tokenises, pads to a bucket and runs the network: (len(texts), dim)."""
        import jax

        prepared = [t.lower() for t in texts] if self.lower else texts
        ids = self.tokenizer(prepared, truncation=True, max_length=self.max_length)["input_ids"]
        if not all(ids):
            raise InputError(f"the encoder has no token for {texts[ids.index([])]!r}; use words")
        highest, limit = max(map(max, ids)), self.network.config.vocab_size
        if highest >= limit:
            raise InputError(
                f"the tokenizer gives token {highest}, but the encoder knows {limit} words; "
                "tokenizer and weights are of different models"
            )
        buckets: dict[int, list[int]] = {}
        for row, sentence in enumerate(ids):
            length = _SHORTEST
            while length < len(sentence):
                length *= 2
            buckets.setdefault(min(length, self.max_length), []).append(row)
        batches = [
            (length, rows[start : start + _BATCH])
            for length, rows in buckets.items()
            for start in range(0, len(rows), _BATCH)
        ]
        vectors = np.empty((len(texts), self.dim), np.float32)
        for length, rows in batches:
            shape = (1 if len(rows) == 1 else _BATCH, length)
            tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
            for row, i in enumerate(rows):
                tokens[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = True
            # Accelerators multiply in lower precision unless told; a vector is computed once.
            with jax.default_matmul_precision("highest"):
                vectors[rows] = np.asarray(self._pool(self.params, tokens, mask))[: len(rows)]
        if self.normalise:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return vectors


def bank_vectors(
    encoder: TextEncoder, tasks: Iterable[str] = TASKS, strength: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the vectors of the bank's sentences, from the cache when they are there.

    Args:
        encoder: turns sentences into vectors.
        tasks: of `TASKS`.
        strength: as in `sentences`.

    Returns:
        task -> float32 (number of sentences, encoder.dim), rows in the order of `sentences`.

    Raises:
        InputError: unknown task or strength.
    """
    return {task: encoder.cached(sentences(task, strength)) for task in tasks}


def checked(texts) -> list[str]:
    """Returns sentences as a list; an InputError says what is wrong with them."""
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"sentences must come as a list of strings, not {texts!r}")
    for index, text in enumerate(texts):
        if not text.strip():
            raise InputError(
                f'sentence {index} is empty; say what to undo, for instance "remove the rain"'
            )
    return list(texts)


def folder_of(name_or_folder: str | os.PathLike) -> Path:
    """Returns the folder of an encoder: the shipped one of that name, or the folder itself.

    Raises:
        InputError: it is neither.
    """
    folder = _SHIPPED.get(str(name_or_folder)) or Path(name_or_folder)
    if not folder.is_dir():
        raise InputError(
            f"no text encoder {str(name_or_folder)!r}: neither a shipped name "
            f"({', '.join(_SHIPPED)}) nor a folder; download the model first and give its folder"
        )
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


def _read_table(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Reads a cached table; None where there is none, or none that can be trusted."""
    try:
        with np.load(path, allow_pickle=False) as file:  # the container checks its CRC
            table = file["vectors"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        _log.warning("%s is damaged and is computed anew (%s)", path, error)
        return None
    if table.shape != shape or table.dtype != np.float32 or not np.isfinite(table).all():
        _log.warning("%s holds something else than sentence vectors; computed anew", path)
        return None
    return table


def _write_table(path: Path, table: np.ndarray) -> None:
    """Writes a cached table; a folder that cannot be written is only told."""
    try:
        with disk.replacing(path) as (partial,), partial.open("wb") as file:
            np.savez(file, vectors=table)
    except InputError as error:
        _log.warning("sentence vectors are not cached (%s); set TDR_CACHE to a folder", error)
