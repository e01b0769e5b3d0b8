"""What is measured: settings, sources of pictures, and the examples they give.

The protocol of the all-in-one restoration papers (AirNet, PromptIR, TextPromptIR), with two
repairs: files are sorted, and the degradation of a picture is keyed by (seed, task, sigma, index)
instead of following one stream through an unsorted folder. Beside it the noise of the denoising
papers (Restormer): added in floats, not clipped, with the same generator anew for every file.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tdr_jax.data import guidance_folders, pairs, places, sources
from tdr_jax.degradations import recipes
from tdr_jax.degradations.draws import named_rng
from tdr_jax.degradations.vocabulary import CLEAN, TASKS
from tdr_jax.errors import InputError
from tdr_jax.evaluate.scoring import MULTIPLE
from tdr_jax.images.files import grey_of, read_rgb
from tdr_jax.infer.conditioning import AUTO

DEFAULT_SETTINGS = ("noise15", "noise25", "noise50", "rain", "haze")
NOISES = ("uint8", "float")  # how noise is added: clipped whole levels, or exactly
FLOAT_SEED = 0  # of the float noise, whatever the evaluation's seed: that of the papers' scripts
COLOUR = (3, 3)  # channels in and out of most networks


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the table: a degradation, and the task that the words ask for.

    Attributes:
        task: one of `tdr_jax.text.TASKS`, or "clean".
        sigma: noise level on the scale of 255, for synthesised noise only.
        words: task whose sentences are used, or "auto" for what the picture shows; differs from
            `task` to show that words matter.
        noise: "uint8" or "float", for synthesised noise only; see docs/evaluation.md.
        over: what the picture went through before, for two degradations; or None.
        recipe: all of it, in order, where the fields above cannot say it.
    """

    task: str
    sigma: float | None = None
    words: str = ""
    noise: str = "uint8"
    over: "Setting | None" = None
    recipe: tuple[recipes.Layer, ...] = ()

    def __post_init__(self):
        if not self.words:
            object.__setattr__(self, "words", self.asked)

    @property
    def layers(self) -> tuple[recipes.Layer, ...]:
        """What is done to a clean picture, in order."""
        if self.recipe:
            return self.recipe
        own = recipes.Layer(self.task, self.sigma, self.sigma is not None and self.noise == "float")
        return (own,) if self.over is None else (*self.over.layers, own)

    @property
    def asked(self) -> str:
        """What the right words ask for: "noise", "rain+noise"."""
        return "+".join(dict.fromkeys(layer.task for layer in self.layers))

    @property
    def degradation(self) -> str:
        """Name of what is done to the picture: "noise25", "noise25float", "blur+noise25+jpeg"."""
        return recipes.spell(self.layers)

    @property
    def name(self) -> str:
        """Name of the row: "noise25", or "noise25@haze" when the words ask for something else."""
        return self.degradation + (f"@{self.words}" if self.words != self.asked else "")

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a row's name: a recipe of `degradations.recipes`, "@task" for the words of another.

        Args:
            text: such as "noise25", "noise25float", "rain", "noise25@haze", "rain+noise25",
                "blur+noise25+jpeg30" or "clean@auto".

        Raises:
            InputError: unknown task or sigma that is not a number.
        """
        degradation, _, words = text.strip().partition("@")
        layers = recipes.parse(degradation)
        for name in words.split("+") if words not in ("", AUTO) else ():
            if name not in TASKS:
                raise _unknown(text)
        kinds = [layer.kind for layer in layers]
        if len(layers) > 1 and CLEAN in kinds:
            raise InputError(f"{text!r}: {CLEAN} goes with nothing else")
        if len(layers) > 1 and any(layer.exact for layer in layers):
            raise InputError(f"{text!r}: noise in floats goes with nothing else; use whole levels")
        plain = [k in (*TASKS, CLEAN) and (n is None or k == recipes.NOISE) for k, n, _ in layers]
        if all(plain) and (len(layers) == 1 or recipes.of_the_world(layers)):
            parts = [cls(k, n, noise="float" if exact else "uint8") for k, n, exact in layers]
            over = parts[0] if len(parts) == 2 else None
            return dataclasses.replace(parts[-1], words=words, over=over)
        return cls(layers[-1].task, words=words, recipe=layers)


def _unknown(text: str) -> InputError:
    return InputError(
        f"unknown setting {text!r}; after @ stand {', '.join(TASKS)}, two of them joined by +, or "
        f"{AUTO} for what the picture shows"
    )


@dataclasses.dataclass(frozen=True)
class Example:
    """A degraded picture and its target, float32; H and W are multiples of 16 unless left whole.

    Attributes:
        index: place in the sorted source.
        name: of the file, relative to its folder.
        degraded: (H, W, 3), grey (H, W, 1), or left and right view (H, W, 6); in [0, 1], except
            under noise in floats.
        clean: (H, W, 3), or grey (H, W, 1), in [0, 1].
    """

    index: int
    name: str
    degraded: np.ndarray
    clean: np.ndarray


def settings_of(settings, wrong_prompt: str | None = None, noise: str = "uint8") -> list[Setting]:
    """Names or `Setting`s as a list, followed by the rows with another task's words.

    Args:
        settings: sequence of names (`Setting.parse`) or `Setting`s, or names joined by commas.
        wrong_prompt: task whose words are tried on every other degradation as well, or None.
        noise: "float" adds all synthesised noise in floats.

    Raises:
        InputError: an unknown name, no setting at all or one given twice.
    """
    if noise not in NOISES:
        raise InputError(f"noise is {noise!r}; use one of {', '.join(NOISES)}")
    if isinstance(settings, str):
        settings = [part for part in settings.split(",") if part.strip()]
    rows = [s if isinstance(s, Setting) else Setting.parse(s) for s in settings]
    if noise == "float":
        alone = [s.sigma is not None and s.over is None for s in rows]
        rows = [
            dataclasses.replace(s, noise=noise) if one else s
            for s, one in zip(rows, alone, strict=True)
        ]
    if wrong_prompt:
        Setting.parse(wrong_prompt)  # a clear error for an unknown task
        wrong = [s for s in rows if s.asked != wrong_prompt]
        rows += [dataclasses.replace(s, words=wrong_prompt) for s in wrong]
    names = [s.name for s in rows]
    if not rows or len(set(names)) < len(names):
        raise InputError(f"settings must be named once each, given {', '.join(names) or 'none'}")
    return rows


def center_crop(image: np.ndarray, size: int | None = None) -> np.ndarray:
    """The middle of a picture, its sides cut down to multiples of 16.

    Args:
        image: `(H, W, C)`, any dtype.
        size: also cut both sides to at most this many pixels (quick looks during training).

    Returns:
        a view `(H - H % 16, W - W % 16, C)`; an odd remainder leaves its extra pixel at the end.

    Raises:
        InputError: a side shorter than 16 pixels.
    """
    height, width = image.shape[:2]
    h, w = (side - side % MULTIPLE for side in (min(s, size or s) for s in (height, width)))
    if not h or not w:
        raise InputError(
            f"a picture is {width}x{height}; the protocol crops to multiples of {MULTIPLE}, "
            "so both sides need at least that many pixels"
        )
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def example_streams(seed: int, setting: Setting, index: int):
    """The two random generators of an example: one degrades it, one draws its sentence.

    Args:
        seed: of the evaluation.
        setting: only its degradation counts, so a row with the wrong words sees equal pictures.
        index: place of the picture in the sorted list.
    """
    name = setting.degradation
    return named_rng(seed, name, index), named_rng(seed, name, index, stream=1)


def open_source(source):
    """Find the pictures to measure on.

    Args:
        source: a place of `tdr_jax.data.places`: a folder of clean pictures or of pairs, `tfds:`
            and a data set that was built, or several; a tuple of two or three folders, of degraded
            pictures or two views and of clean ones (names matched by `tdr_jax.data.pairs`); a list
            of uint8 arrays (H, W, 3); or a source of `tdr_jax.data.sources`.

    Returns:
        a source of `tdr_jax.data.sources`; files are sorted by name.

    Raises:
        InputError: a folder that is not there or empty, or names without a partner.
    """
    if isinstance(source, str | Path):
        return places.open_any(source)
    if isinstance(source, list | tuple):
        if len(source) in (2, 3) and all(isinstance(part, str | Path) for part in source):
            kind = sources.Pairs if len(source) == 2 else sources.DualPixel
            return kind(*source, None)
        return sources.Pictures(source)
    return source


def is_paired(source) -> bool:
    """Whether a source from `open_source` gives degraded pictures with their clean ones."""
    return sources.views_of(source) != ("image",)


def open_guidance(guidance, source, setting: Setting, limit: int | None = None) -> Callable | None:
    """Find what guides the restoration of the pictures.

    Args:
        guidance: a folder with a picture for each degraded one, see `tdr_jax.data.pairs`, or with
            such a folder for each row, of the degradation's name ("noise25"); a function from an
            `Example` to an array; or None.
        source: from `open_source`.
        setting: the row.
        limit: only the first so many pictures need any.

    Returns:
        a function from an `Example` to uint8 or float (h, w, 3) of any size; or None.

    Raises:
        InputError: there is no such folder, or pictures that have none in it, all of them named.
    """
    if not isinstance(guidance, str | Path):
        return guidance
    folder = guidance_folders.of_level(guidance, setting.degradation, source)
    wanted = set(source.names[:limit])
    paths = {}
    for group in sources.name_groups(source):
        names = [name for name in group if name in wanted]
        paths |= zip(names, pairs.find(folder, names, "guidance"), strict=True)
    return lambda example: read_rgb(paths[example.name])


def example(
    source,
    index: int,
    setting: Setting,
    seed: int,
    size: int | None = None,
    channels: tuple[int, int] = COLOUR,
    whole: bool = False,
) -> Example:
    """Picture `index` of a source under a setting.

    Args:
        source: from `open_source`.
        index: place in the sorted source.
        setting: for pairs it names the task only; clean pictures are degraded by it.
        seed: of noise, rain and haze.
        size: see `center_crop`.
        channels: of what goes into the network and comes out: (3, 3), (1, 1) for grey, which the
            picture is turned to before it is degraded, or (6, 3) for two views.
        whole: do not crop, which draws otherwise.

    Raises:
        InputError: a setting or a number of channels that does not go with the pictures, or a
            picture that is too small.
    """
    item = source[index]
    name, paired = item["name"], "degraded" in item
    if paired and any(layer.level is not None for layer in setting.layers):
        raise InputError(
            f"setting {setting.name} asks for synthesised damage, but the pictures come in pairs; "
            f"name the task alone ({setting.asked}), or give a folder of clean pictures"
        )
    if paired and setting.task == CLEAN:
        raise InputError("row clean needs clean pictures; these come in pairs")
    if not paired:
        try:
            recipes.check(setting.layers)
        except InputError as error:
            raise InputError(f"{error}; or give pairs of degraded and clean pictures") from None
    given, wanted = item["degraded"].shape[-1] if paired else 3, channels[0]
    if (given == 6) != (wanted == 6):
        raise InputError(
            f"{name} has {given // 3} views, but the network takes {max(wanted // 3, 1)}; "
            "two views are a left and a right picture, from two folders"
        )
    prepare = grey_of if channels == (1, 1) else lambda image: image
    try:
        # Cropped first, then degraded, as the papers do.
        crop = (lambda image: image) if whole else partial(center_crop, size=size)
        clean = _unit(prepare(crop(item["clean" if paired else "image"])))
        if paired:
            degraded = _unit(prepare(crop(item["degraded"])))
            return Example(index, name, degraded, clean)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if setting.noise == "float" and setting.sigma is not None:
        noise = np.random.RandomState(FLOAT_SEED).normal(0, setting.sigma / 255, clean.shape)
        return Example(index, name, (clean + noise).astype(np.float32), clean)
    rngs = recipes.generators(seed, setting.layers, index)
    return Example(index, name, recipes.apply(clean, setting.layers, rngs), clean)


def examples(
    source,
    setting: Setting,
    *,
    seed: int = 0,
    start: int = 0,
    limit: int | None = None,
    size: int | None = None,
    channels: tuple[int, int] = COLOUR,
    whole: bool = False,
) -> Iterator[Example]:
    """The examples of a setting in sorted order, made one at a time.

    Args:
        source: as for `open_source`.
        setting: a row of the table.
        seed: of noise, rain and haze.
        start, limit: only pictures start to start + limit - 1; they are the same as among all.
        size: see `center_crop`.
        channels, whole: see `example`.
    """
    source = open_source(source)
    stop = len(source) if limit is None else min(len(source), start + limit)
    for index in range(start, stop):
        yield example(source, index, setting, seed, size, channels, whole)


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
