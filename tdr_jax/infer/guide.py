"""From a degraded picture to the picture of its restored words, which guides a restoration."""

import functools
import zlib
from collections.abc import Sequence
from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from tdr_jax import weights
from tdr_jax.diffusion import tdr_pipeline
from tdr_jax.diffusion.samplers import Sampler
from tdr_jax.diffusion.tdr_pipeline import IMAGE_ENCODER, IMAGE_TO_TEXT, RESTORATION
from tdr_jax.errors import InputError
from tdr_jax.models import clip_vision, mapper
from tdr_jax.nn.typing import Array
from tdr_jax.text import templates

# One after another, of any sizes, or all in one array.
Pictures = Sequence[Shaped[np.ndarray, "_ _ 3"]] | Shaped[np.ndarray, "_ _ _ 3"]


def central_square(
    picture: Shaped[Array, "h w 3"], side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Cuts the square of the shorter side out of a picture's middle and resizes it.

    Args:
        picture: of any size, uint8, or float in [0, 1], which is rounded to 8 bits as
            files hold it.
        side: of the result, in pixels.

    Returns:
        Resized as Pillow's bicubic filter does, with antialiasing: what CLIP was trained on.

    Raises:
        InputError: the array is something else, or holds NaN.
    """
    from PIL import Image

    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise InputError(f"a picture is {picture.shape}; expected (height, width, 3)")
    shorter = min(picture.shape[:2])
    # torchvision's CenterCrop rounds the margin to even, as Python does.
    top, left = (round((length - shorter) / 2) for length in picture.shape[:2])
    square = picture[top : top + shorter, left : left + shorter]
    if np.issubdtype(square.dtype, np.floating):
        if not np.isfinite(square).all():
            raise InputError("a picture holds NaN or infinite values")
        square = np.rint(np.clip(square, 0, 1) * 255).astype(np.uint8)
    if square.dtype != np.uint8:
        raise InputError(f"a picture is {square.dtype}; expected uint8 or float in [0, 1]")
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


class Guide:
    """Describes pictures in pseudo-words, restores these and draws what they say.

    Words, context, sampling and decoding are one compiled program for each batch size. With
    several devices the pictures of a batch are spread over them.

    Args:
        parts: of `weights.load_tdr_pipeline`; they need an "image_to_text" among them, and
            restore words where there is a "textual_restoration".
        dtype: the networks compute in, "float32", "bfloat16" or "float16".
        template: the sentence around the pseudo-words, which stand where its word S is.
        word: draws one of the words alone, counted from 0; None draws all of them.

    Raises:
        InputError: the pipeline has no mapper, or the template no S or too many words; or there is
            no such word.
    """

    def __init__(
        self,
        parts: tdr_pipeline.TDRPipeline,
        *,
        dtype: str = "float32",
        template: str = templates.TEMPLATE,
        word: int | None = None,
    ):
        if IMAGE_TO_TEXT not in parts.networks:
            raise InputError(
                f"the model has no {IMAGE_TO_TEXT}/, without which no words come from pictures: "
                "put one into its folder or give the path of one"
            )
        tokenizer = parts.tokenizer
        self._sampler = Sampler(parts.networks, parts.params, parts.scheduler, tokenizer, dtype)
        count, length = parts.networks[IMAGE_TO_TEXT].config.num_words, self._sampler.length
        if word is not None and not 0 <= word < count:
            raise InputError(f"there are {count} words; number {word + 1} is none of them")
        self._drawn = slice(count) if word is None else slice(word, word + 1)
        count = count if word is None else 1
        ids, self._position = templates.prepare(tokenizer, template, num_words=count, length=length)
        empty = templates.empty(tokenizer, length)
        self._ids, self._empty = (self._sampler.check_tokens(x)[None] for x in (ids, empty))
        # Programs live as long as their guide; a cache of the class would keep guides alive.
        self._words = functools.lru_cache(maxsize=8)(self._compile_words)
        self._draw = functools.lru_cache(maxsize=8)(self._compile_draw)

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike = "tdr-tiny",
        *,
        dtype: str = "float32",
        template: str = templates.TEMPLATE,
        word: int | None = None,
        **parts: str | PathLike | None,
    ) -> "Guide":
        """Loads a pipeline with what describes pictures to it.

        Args:
            path: what `weights.load_tdr_pipeline` takes: a shipped name, a folder, or a hub id.
            dtype: of parameters and computation.
            template, word: as for the class.
            **parts: from elsewhere, as in `weights.load_tdr_pipeline`.

        Raises:
            InputError: there is no pipeline, or it is damaged or lacks something.
        """
        loaded = weights.load_tdr_pipeline(path, dtype=dtype, **parts)
        return cls(loaded, dtype=dtype, template=template, word=word)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that are drawn."""
        return self._sampler.size

    @property
    def side(self) -> int:
        """Height and width at which pictures are looked at."""
        return self._sampler.networks[IMAGE_ENCODER].config.image_size

    @property
    def restores(self) -> bool:
        """Whether there is a textual restoration."""
        return RESTORATION in self._sampler.networks

    def words(
        self,
        pictures: Pictures,
        *,
        restore: bool = True,
        task: int | None = None,
    ) -> tuple[Float32[np.ndarray, "n words c"], Float32[np.ndarray, "n words c"]]:
        """Describes pictures.

        Args:
            pictures: n, each as in `central_square`.
            restore: False leaves the words as they are, as does a pipeline without restoration.
            task: the degradation of all the pictures, where the restoration tells tasks apart.

        Returns:
            the pseudo-words before and after restoration, token embeddings.

        Raises:
            InputError: a picture is none, or the task is missing or unknown.
        """
        pixels = self._pixels(pictures)
        (spread,) = self._sampler.spread(pixels)
        found = self._words(self._mode(restore, task))(self._sampler.params, spread)
        return tuple(np.asarray(words)[: len(pixels)] for words in found)

    def features(self, pictures: Pictures) -> Float32[np.ndarray, "n c"]:
        """Says what whole pictures look like to the vision tower.

        Args:
            pictures: n, each as in `central_square`.

        Returns:
            Of unit length: the mean over patches of the states that words are read
            from, without the head for whose training any change of sharpness was another picture.
        """
        pixels = self._pixels(pictures)
        (spread,) = self._sampler.spread(pixels)
        return np.asarray(self._features(self._sampler.params, spread))[: len(pixels)]

    def nearest(self, words: Float[Array, "n c"], k: int = 5) -> list[list[tuple[str, float]]]:
        """Finds the tokens that the text tower embeds most like each pseudo-word.

        Args:
            words: of one picture.
            k: how many.

        Returns:
            for each pseudo-word, k times a token as text and the cosine of the angle to its
            embedding, the largest first.
        """
        tokenizer = self._sampler.tokenizer
        table = self._sampler.params["text_encoder"]["embeddings.token_embedding.weight"]
        table = table[: len(tokenizer)]  # a table may have rows that no token uses
        values, rows = _nearest(jnp.asarray(words), table, min(k, len(table)))
        return [
            [(_readable(tokenizer, int(i)), float(v)) for v, i in zip(*pair, strict=True)]
            for pair in zip(np.asarray(values), np.asarray(rows), strict=True)
        ]

    def noise(self, seed: int, names: Sequence[str | None]) -> Float32[jax.Array, "n h w c"]:
        """Returns start noise N(0, 1), each picture's from the seed and its name.

        Args:
            seed: in [0, 2^32).
            names: one for each picture; all that are called None start from the same noise.
        """

        def key(name: str | None):
            base = jax.random.key(seed)
            return base if name is None else jax.random.fold_in(base, zlib.crc32(name.encode()))

        return self._sampler.noise(jnp.stack([key(name) for name in names]), self.size)

    def __call__(
        self,
        pictures: Pictures,
        *,
        steps: int = 100,
        scale: float = 5.0,
        sampler: str = "ddim",
        seed: int = 42,
        names: Sequence[str | None] | None = None,
        restore: bool = True,
        task: int | None = None,
        noise: Float[Array, "n h w c"] | None = None,
    ) -> Float32[np.ndarray, "n h2 w2 3"]:
        """Draws one picture for each that is given.

        Args:
            pictures: n, each as in `central_square`.
            steps: how often the UNet runs.
            scale: of classifier-free guidance, away from the empty prompt; 1 for none.
            sampler: "ddim" or "dpm++" (DPM-Solver++ 2M, good from 20 steps).
            seed: of the start noise, the same for every picture, in [0, 2^32).
            names: of the pictures, where each is to start from noise of its own: that of the seed
                and its name.
            restore: False draws from the words as they are.
            task: as in `words`.
            noise: N(0, 1) to start from, instead of the seed's.

        Returns:
            In [0, 1], of `size`.

        Raises:
            InputError: a picture is none; the sampler, seed, task or number of steps cannot be
                had.
        """
        pixels = self._pixels(pictures)
        count = len(pixels)
        if noise is None:
            if not 0 <= seed < 2**32:
                raise InputError(f"seed {seed}: must be from 0 to {2**32 - 1}")
            noise = self.noise(seed, [None] * count if names is None else names)
        if len(noise) != count:
            raise InputError(f"{count} pictures, but noise or names for {len(noise)}; give as many")
        draw = self._draw(steps, float(scale), sampler, self._mode(restore, task))
        return np.asarray(draw(self._sampler.params, *self._sampler.spread(pixels, noise)))[:count]

    def _pixels(self, pictures) -> np.ndarray:
        if not len(pictures):
            raise InputError("no picture is given; give at least one")
        return np.stack([central_square(picture, self.side) for picture in pictures])

    def _mode(self, restore: bool, task: int | None) -> tuple[bool, int | None]:
        """Whether to restore and as which task, after a look at whether that can be."""
        if not (restore and self.restores):
            return False, None
        tasks = self._sampler.networks[RESTORATION].config.tasks
        if task is None and tasks:
            raise InputError(
                f"the {RESTORATION} tells {tasks} tasks apart; say which, from 0 to {tasks - 1}"
            )
        if task is not None and not 0 <= task < tasks:
            known = f"from 0 to {tasks - 1}" if tasks else "none; leave it out"
            raise InputError(f"task {task}: the {RESTORATION} knows {known}")
        return True, task

    def _describe(self, params: dict, pixels: jax.Array, mode: tuple[bool, int | None]):
        """(N, H, W, 3) uint8 -> words before and after restoration; to be traced."""
        networks = self._sampler.networks
        shown = clip_vision.normalise(pixels.astype(jnp.float32) / 255)
        hidden, _ = networks[IMAGE_ENCODER].apply(params[IMAGE_ENCODER], shown)
        words = networks[IMAGE_TO_TEXT].apply(params[IMAGE_TO_TEXT], hidden)
        restore, task = mode
        if not restore:
            return words, words
        return words, networks[RESTORATION].apply(params[RESTORATION], words, task)

    @functools.cached_property
    def _features(self):
        """Compiles picture to features."""
        tower = self._sampler.networks[IMAGE_ENCODER]

        def features(params, pixels):
            shown = clip_vision.normalise(pixels.astype(jnp.float32) / 255)
            states, _ = tower.apply(params[IMAGE_ENCODER], shown)
            found = states[:, 1:].mean(1, dtype=jnp.float32)
            return found / jnp.linalg.norm(found, axis=-1, keepdims=True)

        return jax.jit(features)

    def _compile_words(self, mode: tuple[bool, int | None]):
        """Compiles picture to words."""

        def words(params, pixels):
            return [x.astype(jnp.float32) for x in self._describe(params, pixels, mode)]

        return jax.jit(words)

    def _compile_draw(self, steps: int, scale: float, sampler: str, mode: tuple[bool, int | None]):
        """Compiles picture to guidance for these settings."""
        text = self._sampler.networks["text_encoder"]

        def draw(params, pixels, noise):
            words = self._describe(params, pixels, mode)[1][:, self._drawn]
            embeddings = text.apply(params["text_encoder"], self._ids, method="embed")
            embeddings = mapper.inject(embeddings, words.astype(embeddings.dtype), self._position)
            context = text.apply(params["text_encoder"], embeddings, method="from_embeddings")
            uncond = text.apply(params["text_encoder"], self._empty)
            # The copies serve the empty prompt too, as they did in training.
            kv = mapper.kv(params[IMAGE_TO_TEXT])
            return self._sampler.draw(
                params, context, uncond, noise, steps=steps, scale=scale, sampler=sampler, kv=kv
            )

        return jax.jit(draw)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(words: jax.Array, table: jax.Array, k: int):
    """The k largest cosines, and their rows: (N, C), (V, C) -> (N, k), (N, k)."""

    def unit(x):
        x = x.astype(jnp.float32)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    return jax.lax.top_k(jnp.matmul(unit(words), unit(table).T, precision="highest"), k)


def _readable(tokenizer, number: int) -> str:
    """A token as text, without the mark of a word's end; a part of a letter as it is listed."""
    text = tokenizer.decode([number]).strip()
    if not text or "\ufffd" in text:
        text = tokenizer.convert_ids_to_tokens(number).removesuffix("</w>")
    return text
