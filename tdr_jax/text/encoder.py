"""From words to vectors: sentences become what a restoration network is told to do."""

import copy
import functools
import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tdr_jax import disk, runtime
from tdr_jax.errors import InputError
from tdr_jax.text import encoder_files

# Sentences are padded to one of few lengths and batch sizes, so that few programs are compiled.
_SHORTEST, _BATCH = 16, 16
_REMEMBERED = 4096

_log = logging.getLogger(__name__)


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
        name: a shipped one's, or of the folder it was read from.
        folder: where the tokenizer and the sizes were read from.
    """

    def __init__(
        self, network, params, tokenizer, *, max_length, normalise, lower, fingerprint, name, folder
    ):
        import jax

        self.network, self.params = network, params
        self.dim = network.config.hidden_size
        self.max_length, self.normalise, self.lower = max_length, normalise, lower
        self.fingerprint, self.name, self.folder = fingerprint, name, folder
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
        return cls(**encoder_files.read(name_or_folder))

    @property
    def record(self):
        """What weights that were trained with this encoder say of it: an `EncoderRecord`."""
        from tdr_jax.models import EncoderRecord

        digest = hashlib.sha256()
        for name in sorted(self.params):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.params[name]).view(np.uint8).reshape(-1))
        return EncoderRecord(self.name, digest.hexdigest()[:16])

    def with_params(self, params) -> "TextEncoder":
        """Returns an encoder with other parameters.

        Args:
            params: flat dict of the names and shapes of `params`.

        Returns:
            a TextEncoder with a fingerprint of its own; this one stays as it is.
        """
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
        return encoder_files.write(self, folder)

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
        key = hashlib.sha256(json.dumps([self.fingerprint, texts]).encode()).hexdigest()
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


def checked(texts) -> list[str]:
    """Returns sentences as a list.

    Args:
        texts: an iterable of strings.

    Raises:
        InputError: it is a string itself, or holds something else or an empty sentence.
    """
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"sentences must come as a list of strings, not {texts!r}")
    for index, text in enumerate(texts):
        if not text.strip():
            raise InputError(
                f'sentence {index} is empty; say what to undo, for instance "remove the rain"'
            )
    return list(texts)


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
