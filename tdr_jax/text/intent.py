"""What a sentence asks for: a small head on the vectors of an encoder that was fine-tuned for it.

`understand` answers for one sentence with what ships. The head is a multinomial logistic
regression; its temperature comes from families of phrasing that it was not fitted to.
"""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.vocabulary import MEANINGS, NO_TASK
from tdr_jax.errors import InputError
from tdr_jax.text import phrasings, spelling
from tdr_jax.text.encoder import TextEncoder, checked
from tdr_jax.text.encoder_files import folder_of

SHIPPED = "minilm-tasks"
HEAD = "head.safetensors"
# What was understood is told when it has a quarter; it is sure when all that is told has so much.
LEAST, SURE = 0.25, 0.7
DECAY = 1e-4  # of the head's weights; chosen on the calibration families
VARIANTS = 3  # of each sentence, two of them with mistakes, that the head is fitted to
STEPS, RATE = 400, 0.3
TEMPERATURES = np.geomspace(0.2, 5.0, 65)


@dataclasses.dataclass(frozen=True)
class Head:
    """Logits of the meanings from a sentence vector; the temperature is in them.

    Args:
        kernel: float32 (D, 6).
        bias: float32 (6,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Turns vectors into shares of `MEANINGS`.

        Args:
            vectors: float32 (N, D), as the encoder gives them.

        Returns:
            float32 (N, 6) in [0, 1], rows of sum 1.
        """
        return _softmax(vectors @ self.kernel + self.bias)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `head.safetensors`, under another name until it is whole.

        Args:
            folder: that is there.
        """
        import safetensors.numpy

        path = Path(folder) / HEAD
        # safetensors writes memory as it lies, whatever the strides say.
        tensors = {"kernel": np.ascontiguousarray(self.kernel), "bias": self.bias}
        with disk.replacing(path) as (partial,):
            safetensors.numpy.save_file(tensors, partial, metadata={"meanings": ",".join(MEANINGS)})


def load_head(folder: str | os.PathLike, dim: int) -> Head:
    """Reads what `Head.save` wrote.

    Args:
        folder: that holds `head.safetensors`.
        dim: of the encoder's vectors.

    Returns:
        the Head.

    Raises:
        InputError: there is none, or it is of another encoder.
    """
    import safetensors
    import safetensors.numpy

    path = Path(folder) / HEAD
    if not path.exists():
        raise InputError(
            f"{path} is missing; give the folder text_encoder/ of a run of configs/text_encoder.py"
        )
    try:
        tensors = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error
    shapes = {name: value.shape for name, value in tensors.items()}
    wanted = {"kernel": (dim, len(MEANINGS)), "bias": (len(MEANINGS),)}
    if shapes != wanted:
        raise InputError(f"{path} holds {shapes}, but this encoder's head has {wanted}")
    return Head(**tensors)


class Understanding:
    """An encoder and its head.

    Args:
        encoder: a `tdr_jax.text.TextEncoder`.
        head: fitted to its vectors.
    """

    def __init__(self, encoder, head: Head):
        self.encoder, self.head = encoder, head

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike = SHIPPED) -> "Understanding":
        """Reads an encoder and its head.

        Args:
            name_or_folder: "minilm-tasks" (shipped), or the folder that a run of
                `configs/text_encoder.py` wrote.

        Raises:
            InputError: there is no such encoder, or it has no head.
        """
        encoder = TextEncoder.from_pretrained(name_or_folder)
        return cls(encoder, load_head(folder_of(name_or_folder), encoder.dim))

    def __call__(self, sentences) -> np.ndarray:
        """Says what sentences ask for.

        Args:
            sentences: list of strings.

        Returns:
            float32 (len(sentences), 6): how likely each of `MEANINGS` is, rows of sum 1.

        Raises:
            InputError: a sentence is empty, or `sentences` is not a list of strings.
        """
        return self.head(self.encoder.encode(_spelled(self.encoder, checked(sentences))))


@functools.cache
def shipped() -> Understanding:
    """Returns what ships, read once a process."""
    return Understanding.from_pretrained()


def understand(sentence: str) -> dict[str, float]:
    """Says what a sentence asks for, by what ships; `shipped` answers for many at once.

    Args:
        sentence: in English.

    Returns:
        "noise", "rain", "haze", "blur", "low light" and "none" (something else, or nothing) -> how
        likely that is; of sum 1. Two wishes share it.

    Raises:
        InputError: the sentence is empty.
    """
    (shares,) = shipped()([sentence])
    return dict(zip(MEANINGS, map(float, shares), strict=True))


def fit(encoder, *, kernel: np.ndarray | None = None, seed: int = 0) -> Head:
    """Fits a head to the training sentences, and its temperature to the calibration families.

    Args:
        encoder: whose vectors it reads.
        kernel: float32 (D, 6) of a head that is there already; only its temperature is fitted.
        seed: of the typing mistakes that sentences are shown with.

    Returns:
        a Head; the same for the same encoder and seed.
    """
    bias = np.zeros(len(MEANINGS), np.float32)
    if kernel is None:
        kernel, bias = _regression(*_examples(encoder, "training", seed))
    vectors, shares = _examples(encoder, "calibration", seed)
    logits = vectors @ kernel + bias
    entropy = [
        -(shares * np.log(_softmax(logits / t) + 1e-12)).sum(-1).mean() for t in TEMPERATURES
    ]
    temperature = TEMPERATURES[int(np.argmin(entropy))]
    return Head(*(np.asarray(x / temperature, np.float32) for x in (kernel, bias)))


def _examples(encoder, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of each sentence and of variants of it, and their shares."""
    sentences, shares = [], []
    for n, wording in enumerate(phrasings.part(part)):
        rng = example_rng(seed, n)
        sentences.append(wording.sentence)
        sentences += [phrasings.varied(wording.sentence, rng, 1.0) for _ in range(VARIANTS - 1)]
        shares += [phrasings.shares(wording.meanings)] * VARIANTS
    return encoder.encode(_spelled(encoder, sentences)), np.array(shares)


def _spelled(encoder, sentences: list[str]) -> list[str]:
    """The sentences as the encoder gets them: with typing mistakes put right where that is easy."""
    return list(map(_spelling(encoder.tokenizer), sentences))


@functools.lru_cache(maxsize=4)
def _spelling(tokenizer) -> spelling.Spelling:
    return spelling.Spelling.of(tokenizer)


def _regression(vectors, shares) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression where each meaning counts alike, by Adam on all at once."""
    import jax
    import jax.numpy as jnp
    import optax

    weight = (shares / shares.sum(0)).sum(-1)
    weight = (weight / weight.sum()).astype(np.float32)
    scale = np.linalg.norm(vectors, axis=-1).mean()  # encoders differ in length of vectors
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(params, given):
        logits = given @ params["kernel"] + params["bias"]
        wrong = weight @ optax.softmax_cross_entropy(logits, shares)
        return wrong + DECAY * jnp.square(params["kernel"]).sum()

    @jax.jit
    def fitted(params, given):
        def step(_, carry):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params, given), state)
            return optax.apply_updates(params, updates), state

        params, _ = jax.lax.fori_loop(0, STEPS, step, (params, optimiser.init(params)))
        return params

    sizes = {"kernel": (vectors.shape[1], len(MEANINGS)), "bias": (len(MEANINGS),)}
    start = {name: jnp.zeros(shape, jnp.float32) for name, shape in sizes.items()}
    # Accelerators multiply in lower precision unless told; a head is fitted once.
    with jax.default_matmul_precision("highest"):
        params = fitted(start, vectors / scale)
    return np.asarray(params["kernel"]) / scale, np.asarray(params["bias"])


def told(shares: np.ndarray) -> tuple[list[tuple[str, float]], bool]:
    """Puts shares in order for people.

    Args:
        shares: float32 (6,) in [0, 1], of one sentence.

    Returns:
        the meanings that have at least a quarter, or else the likeliest, with their shares; and
        whether they are sure.
    """
    order = np.argsort(-shares, kind="stable")
    kept = [i for i in order if shares[i] >= LEAST] or [order[0]]
    sure = shares[kept].sum() >= SURE and MEANINGS[kept[0]] != NO_TASK
    return [(MEANINGS[i], float(shares[i])) for i in kept], bool(sure)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
