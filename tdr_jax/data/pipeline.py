"""Batches for restoration, prompted or not: batch k is a pure function of the seed and of k.

Every example has a global number n. Its picture, crop, flip, degradations and sentence come from
`example_rng(seed, n)` alone, so the batches do not depend on the number of hosts, of workers, or
on where a run was resumed.
"""

from bisect import bisect_right
from itertools import accumulate
from sys import maxsize
from typing import NamedTuple

import numpy as np

from tdr_jax.data import steady
from tdr_jax.data.turns import turned
from tdr_jax.degradations import realistic, recipes
from tdr_jax.degradations.draws import CHOICES, draw, example_rng, index_of, pick, task_rng
from tdr_jax.degradations.synthesis import degrade
from tdr_jax.degradations.vocabulary import MADE_IN_ORDER, SYNTHESISED, TASKS
from tdr_jax.errors import InputError
from tdr_jax.images.files import grey_of

LARGEST_CROP = 4096
SYNTHESES = ("published", "realistic")


def grown(picture, size):
    """Grows a picture by reflection, below and to the right.

    Args:
        picture: (H, W, C) array.
        size: rows and columns that it has at least afterwards.

    Returns:
        (max(H, size), max(W, size), C) of the picture's type; the picture itself if it is large
        enough.
    """
    grow = [(0, max(0, size - side)) for side in picture.shape[:2]]
    return np.pad(picture, (*grow, (0, 0)), mode="reflect") if np.any(grow) else picture


def as_float(image):
    """Maps the range of an array's unsigned type to [0, 1].

    Args:
        image: of uint8 or uint16, or float32, which stays as it is.

    Returns:
        float32 of the same shape.
    """
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def sigma_of(data, rng):
    """Draws the level of noise of an example, on the scale of 0 to 255, as `batches` tells."""
    return rng.uniform(*data.sigma_range) if data.sigma_range else rng.choice(data.sigmas)


class Crop(NamedTuple):
    """What is drawn for a crop of a picture."""

    row: float
    column: float
    dihedral: float  # how it is turned


class Choices(NamedTuple):
    """What is drawn for an example, beside its degradations."""

    crop: Crop
    first: float  # which degradation
    case: float  # what is asked for: one that is not there, one of two, both, or the only one
    second: float  # which other degradation
    form: float  # of two: which one is asked for, or whether one sentence asks for both
    sentence: float
    partial: float  # whether less than full strength is asked for
    strength: float


class Examples:
    """Makes the n-th example of a run.

    Args:
        source: see `tdr_jax.data.sources`.
        data: the `data` part of a config, see `batches`.
        vectors: dict task -> float (n, D), or None for a network that takes no sentence.
        seed: int.
        guidance: a `tdr_jax.data.guidance.Guidance` of the same source and seed, or None.

    Raises:
        InputError: if the config asks for something that cannot be made.
    """

    def __init__(self, source, data, vectors, seed, guidance=None):
        self.source, self.data, self.seed = source, data, seed
        self.guidance = guidance
        _check(data)
        if len(source) == 0:
            raise InputError("the source holds no picture; give at least one")
        self.tasks, self.dihedral = tuple(data.tasks), tuple(data.dihedral)
        missing = [task for task in self.tasks if vectors is not None and task not in vectors]
        if missing:
            raise InputError(f"no sentence vectors for the task {missing[0]!r} of data.tasks")
        self.vectors = vectors and {
            what: np.asarray(rows, np.float32) for what, rows in vectors.items()
        }
        # Only what can be made from a clean picture is ever drawn; other tasks come in pairs.
        weights = dict(zip(self.tasks, data.weights, strict=True))
        self.ways = recipes.Ways(data.recipes, self.tasks) if data.recipes else {}
        self.makeable = [t for t in self.tasks if t in SYNTHESISED or t in self.ways]
        self.weights = np.array([weights[task] for task in self.makeable], np.float64)

    def _draw_task(self, number, but=None):
        """Chooses a degradation that can be made, by weight, other than `but`."""
        weights = self.weights * [task != but for task in self.makeable]
        if weights.sum() == 0:
            raise InputError(
                f"no degradation can be drawn from data.tasks {self.tasks} (weights "
                f"{tuple(self.data.weights)}) beside {but!r}; can be made: {', '.join(SYNTHESISED)}"
            )
        return self.makeable[bisect_right(np.cumsum(weights) / weights.sum(), number)]

    def _render(self, crop, present, how, n, window, shape, guide):
        """Degrades a crop by every task in `present` and turns it.

        Haze comes before the turn, since its depth belongs to the upright picture; rain, blur and
        noise come after it, since rain falls downwards, the camera shakes while it rains and noise
        belongs to the sensor.
        """

        def apply(task, image):
            if task in self.ways:
                where = dict(guide=guide, window=window, shape=shape)
                if task != "haze":  # which alone comes before the turn
                    where = dict(guide=turned(np.ascontiguousarray(guide), how))
                return self.ways(image, task, self.seed, n, **where)
            rng = task_rng(self.seed, n, task)
            sigma = sigma_of(self.data, rng) if task == "noise" else None
            mode = self.data.noise_mode
            options = dict(sigma=sigma, window=window, shape=shape, noise_mode=mode)
            if self.data.synthesis == "published":
                return degrade(image, task, rng, **options)
            shares = self.data.noise_shares
            return realistic.degrade(image, task, rng, guide=guide, shares=shares, **options)

        image = apply("haze", crop) if "haze" in present else crop
        image = turned(np.ascontiguousarray(image), how)
        for task in MADE_IN_ORDER:
            if task in present and task != "haze":
                image = apply(task, image)
        return image

    def __call__(self, n, size):
        """Makes example n.

        Args:
            n: int >= 0, the global number of the example.
            size: side of the square crop in pixels.

        Returns:
            dict with `degraded` and `clean`, float32 (size, size, channels), `vector`, float32
            (D,), where there are sentences, and `task`, int32: the place in TASKS of the task to
            do, the first of several, -1 for another one; and what `guidance` adds.
        """
        drawn = draw(Choices, example_rng(self.seed, n, CHOICES))
        crops, where, item = self._crop(n, size, drawn.crop)

        # What is there, and which of it the sentence names. `present` holds what is to be made
        # here; the degradation of a pair is in its picture already.
        named = self._told(item) if "task" in item else (self._draw_task(drawn.first),)
        first, several = named[0], len(named) > 1
        present = set() if "degraded" in item else {first}
        wanted = crops[-1]
        absent, one_kept, joint = accumulate(
            (self.data.p_absent, self.data.p_keep_one, self.data.p_joint)
        )
        others = [task for task in self.tasks if task not in named]
        if drawn.case < absent and others:
            named, wanted = (pick(others, drawn.second),), crops[0]
        elif drawn.case < joint and not several:
            second = self._draw_task(drawn.second, but=first)
            present.add(second)
            if drawn.case >= one_kept:
                named = (first, second)
            elif drawn.form < 0.5:
                named, wanted = (second,), crops[0]
        # The same generators serve both calls: what stays in the target is equal in the input.
        degraded = self._render(crops[0], present, **where)
        clean = self._render(wanted, present - set(named), **where)
        strength = np.float32(drawn.strength if drawn.partial < self.data.p_partial_strength else 1)
        if strength < 1:
            clean = degraded + strength * (clean - degraded)

        example = {"degraded": degraded, "clean": clean}
        if self.vectors is not None:
            example["vector"] = strength * self._vector(named, drawn.form, drawn.sentence)
        if self.guidance is not None:
            window, how = where["window"], where["how"]
            picture = grown(item["clean" if "clean" in item else "image"], size)
            about = n, index_of(self.source, self.seed, n), item["name"], picture, window, how
            example |= self.guidance(*about, () if "degraded" in item else present)
        known = next((task for task in named if task in TASKS), None)
        return example | {"task": np.int32(-1 if known is None else TASKS.index(known))}

    def _told(self, item):
        """What is to go from the picture of an item that says it."""
        if item["task"] is None:
            raise InputError(
                f"{item['name']} does not say what it is for; name the task of its set"
            )
        told = tuple(item["task"].split("+"))
        for task in told:
            # A network without sentences need not know the name of what it takes away.
            if task not in self.tasks and (self.vectors is not None or task in TASKS):
                raise InputError(
                    f"{item['name']} is for {task!r}; add it to data.tasks {self.tasks}"
                )
        return told

    def _crop(self, n, size, drawn):
        """Cuts one window out of the picture of example n, or out of both pictures of a pair.

        Small pictures grow by reflection first.

        Returns:
            the crops, float32, the clean one last; where they come from, for `_render`; and the
            item of the source.
        """
        item = self.source[index_of(self.source, self.seed, n)]
        pictures = (item["degraded"], item["clean"]) if "degraded" in item else (item["image"],)
        pictures = tuple(grown(picture, size) for picture in pictures)
        height, width = pictures[0].shape[:2]
        y = pick(range(height - size + 1), drawn.row)
        x = pick(range(width - size + 1), drawn.column)
        crops = [picture[y : y + size, x : x + size] for picture in pictures]
        if self.data.channels == 1:
            crops = [grey_of(crop) for crop in crops]
        where = {
            "how": pick(self.dihedral, drawn.dihedral),
            "n": n,
            "window": (y, x, size, size),
            "shape": (height, width),
        }
        crops = [as_float(crop) for crop in crops]
        # The edges of imagined depth: of the clean crop, for the input and for the target alike.
        return crops, where | {"guide": crops[-1]}, item

    def _vector(self, named, form, sentence):
        """Draws the condition: a sentence's vector, or of several sentences the mean.

        Half of the pairs of tasks are asked for in one sentence, where there are such sentences.
        """
        both = tuple(sorted(named, key=TASKS.index))
        if len(named) > 1 and form < 0.5 and both in self.vectors:
            named = (both,)
        banks = [self.vectors[what] for what in named]
        # Either half of `form` gives all of [0, 1), and either quarter.
        numbers = (sentence, 2 * form % 1, 4 * form % 1)
        return np.mean([pick(*each) for each in zip(banks, numbers, strict=False)], axis=0)


def _check(data):
    """Refuses fields that ask for something that cannot be made, with an InputError."""
    tasks, weights = tuple(data.tasks), tuple(data.weights)
    if len(weights) != len(tasks) or not tasks or min(weights) < 0:
        raise InputError(
            f"data.weights {weights} must hold one number >= 0 for each of data.tasks {tasks}"
        )
    if unknown := [task for task in tasks if task not in TASKS]:
        raise InputError(
            f"no task {unknown[0]!r}, given in data.tasks; use some of {', '.join(TASKS)}"
        )
    if data.channels not in (1, 3):
        raise InputError(f"data.channels is {data.channels}; give 3 for colour or 1 for grey")
    ways = tuple(data.dihedral)
    if not ways or not set(ways) <= set(range(8)):
        raise InputError(f"data.dihedral is {ways}; give some of the numbers 0 to 7")
    if data.sigma_range and not 0 <= data.sigma_range[0] <= data.sigma_range[-1] < np.inf:
        raise InputError(f"data.sigma_range is {data.sigma_range}; give (lowest, highest)")
    if data.synthesis not in SYNTHESES:
        raise InputError(f"data.synthesis is {data.synthesis!r}; use one of {', '.join(SYNTHESES)}")
    shares = np.asarray(data.noise_shares, np.float64)
    if shares.shape != (len(realistic.NOISES),) or shares.min() < 0 or shares.sum() <= 0:
        raise InputError(
            f"data.noise_shares is {data.noise_shares}; give one number >= 0 for each of "
            f"{', '.join(realistic.NOISES)}"
        )
    names = "data.p_absent, data.p_keep_one and data.p_joint"
    cases = (data.p_absent, data.p_keep_one, data.p_joint)
    if sum(cases) > 0 and len(tasks) < 2:
        raise InputError(f"{names} need at least two data.tasks")
    if min(cases) < 0 or sum(cases) > 1:
        raise InputError(f"{names} must be >= 0 with a sum of at most 1")
    if not 0 <= data.p_partial_strength <= 1:
        raise InputError(
            f"data.p_partial_strength is {data.p_partial_strength}; give a share from 0 to 1"
        )


def _checked_stages(stages, process_count):
    stages = tuple(tuple(int(value) for value in stage) for stage in stages)
    if not stages:
        raise InputError("data.stages is empty; give ((steps, crop, batch), ...)")
    for steps, crop, batch in stages:
        if steps < 1 or not 1 <= crop <= LARGEST_CROP or batch < 1:
            raise InputError(
                f"stage (steps {steps}, crop {crop}, batch {batch}) of data.stages: steps and "
                f"batch must be >= 1, the crop 1 to {LARGEST_CROP} pixels"
            )
        if batch % process_count:
            raise InputError(
                f"batch {batch} of data.stages does not divide by {process_count} processes"
            )
    return stages


def batches(
    source, data, *, vectors, seed, guidance=None, step=0, process_index=0, process_count=1
):
    """Iterates over batches from batch `step` on, without end.

    Args:
        source: random-access source, see `tdr_jax.data.sources`.
        data: config with the fields tasks, weights: the tasks and how often each is drawn for a
            picture without a task; sigmas: noise levels of 255, drawn evenly; sigma_range: (lowest,
            highest) to draw any level in between instead, or (); noise_mode: "uint8" or "float";
            synthesis: "published", made by `degradations.synthesis`, or "realistic", by
            `realistic`; noise_shares: how often "realistic" noise is Gaussian, a camera's and
            blocks of JPEG; recipes: ((task, recipe, weight), ...), what makes a task's damage in
            place of these, see `recipes.Ways`; channels: 3, or 1 to turn pictures grey before
            anything is added; dihedral: which of the eight ways of `turn` are drawn; stages:
            ((steps, crop, batch), ...), run one after another, the last one without end; p_absent:
            share of examples whose sentence names a degradation that is not there and whose target
            is the input itself; p_keep_one: share of examples with two degradations, of which the
            sentence names one; the target keeps the other; p_joint: share of examples with two
            degradations, both of them named and to go; p_partial_strength: share of examples that
            ask for less than all, by a shorter vector: at strength s, drawn evenly, the vector is s
            times the sentence's and the target s of the way from the input to the picture restored;
            workers: worker processes; 0 makes batches on one thread of this process.
        vectors: dict task -> float (n, D), and (task, task), in the order of TASKS, -> float (n, D)
            of sentences that name both; a row is drawn evenly for every example. None for a network
            that takes no sentence.
        seed: int.
        guidance: a `tdr_jax.data.guidance.Guidance` of the same source and seed, or None.
        step: number of the first batch; iterating from here gives what a run from 0 would give.
        process_index, process_count: the host and the number of hosts; each gets its rows of the
            global batch, in order.

    Returns:
        Iterator of dicts with `degraded`, `clean`: float32 (B, h, w, channels), six for the
        degraded ones of a dual-pixel source; `vector`: float32 (B, D), where vectors are given;
        `task`: int32 (B,), the place in TASKS of the task to do; and what `guidance` adds. B is the
        batch of the stage divided by process_count. Pictures are in [0, 1] unless noise_mode is
        "float".

    Raises:
        InputError: if the config or the source cannot give such batches; while iterating, if a
            picture is unreadable.
    """
    wishes = data.p_absent + data.p_keep_one + data.p_joint + data.p_partial_strength
    if wishes > 0 and vectors is None:
        raise InputError(
            "data.p_absent, data.p_keep_one, data.p_joint and data.p_partial_strength are for "
            "networks that take a sentence"
        )
    return stream(
        Examples(source, data, vectors, seed, guidance),
        data,
        step=step,
        process_index=process_index,
        process_count=process_count,
    )


def stream(make, data, *, step=0, process_index=0, process_count=1):
    """Iterates over batches of examples from batch `step` on, without end.

    Args:
        make: `make(n, size)` gives example n as a dict of arrays; a function of its arguments
            alone.
        data: config with `stages` and `workers`, see `batches`.
        step, process_index, process_count: see `batches`.

    Returns:
        Iterator of dicts of arrays, stacked along a new first axis; where `data.on_damaged` is
        "skip" with `damaged`, float32 (B,), 1 for examples of which a picture was replaced.

    Raises:
        InputError: the stages do not fit; while iterating, what `make` raises.
    """
    import grain

    make, stages = steady.watched(make, data), _checked_stages(data.stages, process_count)
    starts = (0, *accumulate(steps for steps, _, _ in stages))
    firsts = (0, *accumulate(steps * batch for steps, _, batch in stages))

    def make_batch(k):
        k = int(k)
        stage = min(bisect_right(starts, k), len(stages)) - 1
        _, crop, batch = stages[stage]
        rows = batch // process_count
        first = firsts[stage] + (k - starts[stage]) * batch + process_index * rows
        # An example depends on its number only, so making this host's rows alone gives what
        # making the whole batch and slicing it would give.
        examples = [make(n, crop) for n in range(first, first + rows)]
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

    dataset = grain.MapDataset.range(step, maxsize).map(make_batch)
    # grain's defaults (16 threads, 500 elements ahead) are meant for single examples.
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if data.workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain's processes read absl flags
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(
            num_workers=int(data.workers), per_worker_buffer_size=2
        )
        dataset = dataset.mp_prefetch(options)
    return steady.telling(dataset, data)
