"""Recipes of damage: "blur+noise25+jpeg30" is done to a picture in the order of its names."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from tdr_jax.degradations import camera, optics, realistic, synthesis, weather
from tdr_jax.degradations.draws import layer_rng, named_rng, task_rng
from tdr_jax.degradations.vocabulary import CLEAN, KINDS, LAYERS, SIGMAS, SYNTHESISED
from tdr_jax.errors import InputError

NOISE = SYNTHESISED[0]  # the one kind that has no strength of its own
NAME = re.compile(r"(?P<kind>[a-z]+(?:_[a-z]+)*?)(?P<level>\d+(?:\.\d+)?)?(?P<exact>float)?")

# kind -> (the argument that the number after its name sets, lowest, highest, what it counts).
LEVELS = {
    NOISE: ("sigma", 0, np.inf, "sigma, on the scale of 0 to 255"),
    "low_light": ("stops", 0, 12, "number of stops, up to 12"),
    "jpeg": ("quality", 1, 100, "quality, 1 to 100"),
    "shake": ("length", 1, 200, "length in pixels, 1 to 200"),
    "motion": ("length", 0, 200, "length in pixels, up to 200"),
    "defocus": ("radius", 0.5, 50, "radius in pixels, 0.5 to 50"),
    "defocus_depth": ("radius", 0.5, 50, "largest radius in pixels, 0.5 to 50"),
}
WHOLE_LEVELS = (NOISE, "low_light", "jpeg", "camera", "realistic_noise", CLEAN)
# Of realistic noise: the shares of Gaussian, a camera's and JPEG's, and the range of sigma, as in
# the configs that train on it.
SHARES, SIGMA_RANGE = (0.5, 0.4, 0.1), (1.0, 60.0)


class Layer(NamedTuple):
    """One damage of a recipe.

    Attributes:
        kind: one of `vocabulary.KINDS`, or "clean".
        level: how strong, in the unit of `LEVELS`; None leaves it to the draws.
        exact: of noise: added in floats, neither clipped nor in whole levels.
    """

    kind: str
    level: float | None = None
    exact: bool = False

    @property
    def name(self) -> str:
        """As `parse` reads it: "noise25", "noise25float", "jpeg"."""
        return f"{self.kind}{'' if self.level is None else format(self.level, 'g')}" + (
            "float" if self.exact else ""
        )

    @property
    def in_whole_levels(self) -> bool:
        """Whether 8 bits hold all of what it makes."""
        return self.kind in WHOLE_LEVELS and not self.exact

    @property
    def task(self) -> str:
        """What undoes it, of `vocabulary.TASKS`; or "clean"."""
        return KINDS.get(self.kind, self.kind)


def parse(text: str) -> tuple[Layer, ...]:
    """Read a recipe.

    Args:
        text: names joined by "+", each with a number where it takes one: "noise25", "jpeg",
            "blur+noise25+jpeg30"; "noise25float" for exact noise; "clean" for nothing.

    Raises:
        InputError: a name is unknown, or a number is not one that its kind takes.
    """
    return tuple(_layer(part, text) for part in text.strip().split("+"))


def spell(layers: Iterable[Layer]) -> str:
    """Return the name that `parse` reads as these layers."""
    return "+".join(layer.name for layer in layers)


def of_the_world(layers: tuple[Layer, ...]) -> bool:
    """Whether these are two of `vocabulary.LAYERS` in its order, of no strength but noise's sigma.

    Evaluation draws such a pair from one generator, and always has.
    """
    kinds = [layer.kind for layer in layers]
    return (
        len(kinds) == 2
        and set(kinds) <= set(LAYERS)
        and LAYERS.index(kinds[0]) < LAYERS.index(kinds[1])
        and all(layer.level is None or layer.kind == NOISE for layer in layers)
    )


def generators(seed: int, layers: tuple[Layer, ...], index: int) -> list[np.random.Generator]:
    """Give the generator of each layer for a picture of evaluation.

    A layer draws what it draws alone, whatever stands beside it; the second of a name draws anew.

    Args:
        seed: of the evaluation.
        layers: from `parse`.
        index: place of the picture in the sorted list.
    """
    if of_the_world(layers):
        return 2 * [named_rng(seed, spell(layers), index)]
    met: Counter[str] = Counter()
    found = []
    for layer in layers:
        met[layer.name] += 1
        again = f"#{met[layer.name]}" if met[layer.name] > 1 else ""
        found.append(named_rng(seed, layer.name + again, index))
    return found


class Ways:
    """How training makes the damage that a task undoes, where a config says so.

    Args:
        entries: ((task, recipe, weight), ...), as `config.data.recipes` has them.
        tasks: that are trained for.

    Raises:
        InputError: a recipe cannot be read or made, is for no task that is trained for, holds
            nothing that its task undoes, or its weight is not above 0.
    """

    def __init__(self, entries, tasks):
        self._of: dict[str, list] = {}
        for entry in entries:
            try:
                task, text, weight = entry
                weight = float(weight)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"data.recipes has {entry!r}; give (task, recipe, weight), such as "
                    '("blur", "motion", 1.0)'
                ) from error
            layers = parse(text)
            check(layers)
            if task not in {layer.task for layer in layers}:
                raise InputError(f"data.recipes: nothing of {text!r} is undone by {task!r}")
            if task not in tasks:
                raise InputError(f"data.recipes makes {task!r}; add it to data.tasks {tasks}")
            if not 0 < weight < np.inf:
                raise InputError(f"data.recipes: the weight of {text!r} is {weight:g}; give > 0")
            self._of.setdefault(task, []).append((layers, weight))

    def __contains__(self, task: str) -> bool:
        return task in self._of

    def of(self, task: str) -> list[tuple[Layer, ...]]:
        """All recipes of a task."""
        return [layers for layers, _ in self._of[task]]

    def drawn(self, task: str, seed: int, n: int) -> tuple[Layer, ...]:
        """The recipe of a task in example n."""
        layers, weights = zip(*self._of[task], strict=True)
        edges = np.cumsum(weights) / np.sum(weights)
        number = task_rng(seed, n, task).random()
        return layers[int(np.searchsorted(edges, number, side="right"))]

    def __call__(self, image, task: str, seed: int, n: int, **place):
        """Makes the damage of a task in example n; see `apply`."""
        layers = self.drawn(task, seed, n)
        met: Counter[str] = Counter()
        rngs = []
        for layer in layers:
            rngs.append(layer_rng(seed, n, layer.kind, met[layer.kind]))
            met[layer.kind] += 1
        return apply(image, layers, rngs, **place)


def apply(image, layers, rngs, *, window=None, shape=None, guide=None):
    """Degrade a picture, or a window of one, layer by layer.

    Args:
        image: float32 (h, w, C) in [0, 1], C of 3 or 1.
        layers: from `parse`; "clean" does nothing.
        rngs: a `numpy.random.Generator` for each.
        window, shape: where `image` lies in a larger picture, see `synthesis.degrade`.
        guide: float32 (h, w, C), the clean picture whose edges the depth of haze has; None for
            `image`.

    Returns:
        float32 (h, w, C), in [0, 1] unless the last layer is exact noise.

    Raises:
        InputError: noise without its sigma.
    """
    channels = image.shape[-1]
    place = dict(window=window, shape=shape)
    for layer, rng in zip(layers, rngs, strict=True):
        if layer.kind == CLEAN:
            continue
        image = _maker(layer, place, image if guide is None else guide)(image, rng=rng)
        # Haze has the three channels of its light, which are equal.
        image = np.asarray(image, np.float32)[..., :channels]
    return image


def check(layers: Iterable[Layer]) -> None:
    """Refuse what cannot be made from a clean picture.

    Raises:
        InputError: noise without its sigma.
    """
    for layer in layers:
        if layer.kind == NOISE and layer.level is None:
            some = ", ".join(f"{NOISE}{sigma}" for sigma in SIGMAS)
            raise InputError(f"{NOISE} cannot be made without its sigma; give {some} or another")


def _maker(layer, place, guide):
    """What makes a layer: (image, rng=) -> image."""
    check([layer])
    kind = layer.kind
    level = {} if layer.level is None else {LEVELS[kind][0]: layer.level}
    if kind == NOISE:
        return partial(synthesis.gaussian_noise, mode="float" if layer.exact else "uint8", **level)
    if kind in SYNTHESISED:
        return partial(synthesis.degrade, task=kind, **place)
    makers = {
        "low_light": camera.low_light,
        "jpeg": partial(_in_colour, camera.jpeg),
        "camera": partial(_in_colour, camera.camera_noise),
        "realistic_rain": weather.rain,
        "realistic_haze": partial(weather.haze, guide=guide, **place),
        "realistic_noise": _realistic_noise,
        "shake": optics.shake,
        "motion": optics.motion,
        "defocus": optics.defocus,
        "defocus_depth": partial(optics.defocus_depth, guide=guide, **place),
    }
    return partial(makers[kind], **level)


def _in_colour(make, image, rng, **level):
    """Has a camera see a grey picture as one of three equal colours."""
    if image.shape[-1] == 1:
        made = make(np.repeat(image, 3, axis=-1), rng, **level)
        return made.mean(-1, keepdims=True)
    return make(image, rng, **level)


def _realistic_noise(image, rng):
    sigma = rng.uniform(*SIGMA_RANGE)
    return realistic.noise(image, rng, sigma=sigma, shares=SHARES)


def _layer(part: str, text: str) -> Layer:
    found = NAME.fullmatch(part.strip())
    kind = found["kind"] if found else ""
    if kind not in (*KINDS, CLEAN):
        raise InputError(f"{text!r}: there is no damage {part.strip()!r}; {_known()}")
    level = None if found["level"] is None else float(found["level"])
    if found["exact"] and (kind != NOISE or level is None):
        raise InputError(f"{text!r}: float is for {NOISE} of some sigma, such as {NOISE}25float")
    if level is not None:
        if kind not in LEVELS:
            raise InputError(f"{text!r}: {kind} takes no number; leave {found['level']} out")
        _, lowest, highest, what = LEVELS[kind]
        if not lowest <= level <= highest:
            raise InputError(f"{text!r}: the number after {kind} is its {what}")
    return Layer(kind, level, bool(found["exact"]))


def _known() -> str:
    return f"use {', '.join(KINDS)}, with a number after {' and '.join(LEVELS)}, joined by +"
