"""Measuring a network: `evaluate` for tables, `Restoration` for the training loop."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from tdr_jax.degradations.vocabulary import CLEAN
from tdr_jax.errors import InputError
from tdr_jax.evaluate import protocols, report, scoring, tally
from tdr_jax.evaluate.protocols import DEFAULT_SETTINGS, Example, Setting
from tdr_jax.images.arrays import open_guidance
from tdr_jax.images.files import write_rgb
from tdr_jax.infer import blind, conditioning
from tdr_jax.infer.restorer import Restorer
from tdr_jax.infer.spread import Spread, in_eight_ways
from tdr_jax.text import bank_vectors, mixed_sentences, sentences

UNCHANGED = 100.0  # dB that a clean picture counts which comes back as it went


@dataclasses.dataclass(frozen=True)
class Result:
    """One restored example: the pictures, clipped to [0, 1], the sentence if any, the scores."""

    example: Example
    prompt: str | None
    restored: np.ndarray
    scores: report.Scores


@dataclasses.dataclass(frozen=True)
class How:
    """How pictures are restored and scored.

    Attributes:
        measure: the protocol, and further scores.
        ensemble: restore each picture turned and mirrored in eight ways, and take the mean.
        devices: so many pictures at once, each on a device of its own; 0 for all that there are.
        over_rows: devices that each picture is cut over instead, by its rows; 0 or 1 for one.
    """

    measure: scoring.Measure = scoring.Measure()
    ensemble: bool = False
    devices: int = 0
    over_rows: int = 1


HOW = How()


def results(
    network,
    params,
    encoder,
    source,
    setting: Setting,
    *,
    seed: int = 0,
    prompt: str | None = None,
    guidance=None,
    start: int = 0,
    limit: int | None = None,
    size: int | None = None,
    how: How = HOW,
) -> Iterator[Result]:
    """Restore and score the pictures of one setting, whole.

    Args:
        network, params: what is measured; pictures are multiples of 16 pixels.
        encoder: a `tdr_jax.text.TextEncoder`; None for a network that takes no sentence.
        source, start, limit, size: see `protocols.examples`.
        setting: the degradation and the task whose words are used.
        seed: of the degradations and of the choice of sentences.
        prompt: one sentence for every picture; "auto" for what each picture shows (`infer.blind`);
            None draws one from the bank for each.
        guidance, how: see `evaluate`.

    Returns:
        A result for each picture, in order, but that with several devices pictures of one shape
        come together.

    Raises:
        InputError: pictures that cannot be used, a network that does not fit the protocol or the
            encoder, words or guidance for a network that takes none, guidance that is missing, or
            an output that is not a number.
    """
    check(network, encoder, [setting], prompt, guidance)
    stop = None if limit is None else start + limit
    guide = protocols.open_guidance(guidance, protocols.open_source(source), setting, stop)
    restore, at_once = _restoring(network, params, encoder, how)
    words = _words(network, encoder, setting, prompt)
    waiting: dict[tuple, list] = {}

    def restored(group):
        examples, sentences, inputs = zip(*group, strict=True)
        try:
            answers = restore(inputs)
        except InputError as error:
            names = ", ".join(example.name for example in examples)
            raise InputError(f"{names} ({setting.name}): {error}") from None
        for example, sentence, answer in zip(examples, sentences, answers, strict=True):
            yield _result(example, sentence, np.clip(answer, 0, 1), setting, how.measure)

    for example in protocols.examples(
        source,
        setting,
        seed=seed,
        start=start,
        limit=limit,
        size=size,
        channels=network.config.channels,
        whole=how.measure.protocol.whole,
    ):
        _, rng = protocols.example_streams(seed, setting, example.index)
        asked, others = words(example, rng)
        if asked == blind.NOTHING:
            same = np.clip(example.degraded, 0, 1)
            yield _result(example, asked, same, setting, how.measure)
            continue
        if guide is not None:
            pixels = example.clean.shape[0] * example.clean.shape[1]
            others = (open_guidance(guide(example), pixels), *others)
        inputs = (example.degraded, *others)
        alike = waiting.setdefault(tuple(each.shape for each in inputs), [])
        alike.append((example, asked, inputs))
        if len(alike) == at_once:
            yield from restored(alike)
            alike.clear()
    for rest in waiting.values():
        if rest:
            yield from restored(rest)


def _restoring(network, params, encoder, how: How) -> tuple[Callable, int]:
    """What restores a group of inputs of one shape, and of how many at most."""
    at_once = how.devices or jax.local_device_count()
    if how.over_rows > 1 or at_once == 1:
        restorer = Restorer(network, params, encoder, rows=how.over_rows)
        at_once, restore = 1, lambda group: [restorer.whole(*inputs) for inputs in group]
    else:
        restore = Spread(network, params, at_once)
    return (in_eight_ways(restore) if how.ensemble else restore), at_once


def evaluate(
    network,
    params,
    encoder,
    source,
    settings=DEFAULT_SETTINGS,
    *,
    seed: int = 0,
    prompt: str | None = None,
    wrong_prompt: str | None = None,
    noise: str = "uint8",
    guidance=None,
    panels: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    how: How = HOW,
    progress: Callable[[str, int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    each: Callable[[Setting, Result], None] | None = None,
) -> list[report.Row]:
    """Measure a network by the protocol of docs/evaluation.md.

    Args:
        network, params: from `tdr_jax.load`.
        encoder: `tdr_jax.text.TextEncoder` with the network's sentence width; None for a network
            that takes no sentence.
        source: a folder of clean pictures, a folder with `degraded/` and `clean/`, two or three
            folders, or a list of arrays (see `protocols.open_source`).
        settings: rows of the table: names such as "noise25", "rain", "noise25@haze", or `Setting`s.
        seed: of the degradations and of the choice of sentences.
        prompt: one sentence for every picture, "auto" for what each shows; None draws one from the
            bank for each.
        wrong_prompt: a task; adds a row for every other degradation with the words of this task.
        noise: "uint8", or "float" for the noise of the denoising papers.
        guidance: for a guided network, a folder with a picture for each degraded one, found by its
            name, or with such a folder for each row ("noise25"); or a function that makes it of an
            `Example`. Both may be of any size; what is larger than the picture is shrunk as by
            `Restorer`.
        panels: folder for pictures "input | restored | clean", `<row>/<place>_<name>.jpg`, or None.
        limit: only the first so many pictures.
        size: centre-crop pictures to at most so many pixels a side: not the protocol, but quick.
        how: the protocol, further scores, self-ensemble and devices.
        progress: called with (row name, pictures done, pictures in all).
        share: (number, count) of processes that measure together: each its part of the pictures.
            All of them call this and get the whole result, the same as from one process.
        each: called with a setting and each of its results, for what is to be kept of pictures.

    Returns:
        one `report.Row` for each setting, in order.

    Raises:
        InputError: see `results`.
    """
    source = protocols.open_source(source)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; measure at least one picture")
    total = len(source) if limit is None else min(len(source), limit)
    rows = []
    settings = protocols.settings_of(settings, wrong_prompt, noise)
    check(network, encoder, settings, prompt, guidance)
    guides = {row: protocols.open_guidance(guidance, source, row, limit) for row in settings}
    # Parts are of one size but for the last ones, which may be shorter or empty.
    part = -(-total // share[1])
    first = min(part * share[0], total)
    for setting in settings:
        found, done = tally.Tally.empty(), 0
        for result in results(
            network,
            params,
            encoder,
            source,
            setting,
            seed=seed,
            prompt=prompt,
            guidance=guides[setting],
            start=first,
            limit=min(part, total - first),
            size=size,
            how=how,
        ):
            values = dataclasses.asdict(result.scores)
            more = {f"more/{name}": [value] for name, value in values.pop("more").items()}
            columns = {name: [value] for name, value in values.items()}
            found = found.merge(tally.of(number=[result.example.index], **columns, **more))
            done += 1
            if panels is not None:
                _write_panel(Path(panels) / setting.name, result)
            if each is not None:
                each(setting, result)
            if progress is not None:
                progress(setting.name, done, min(part, total - first))
        columns = tally.over_hosts(found) if share[1] > 1 else found.compute()["examples"]
        rows.append(report.row(setting.name, columns))
    return rows


def panel(result: Result) -> np.ndarray:
    """Input, restored and clean picture side by side, uint8 (H + caption, 3 W + gaps, 3).

    Of two views the left one is the input; grey is shown as such.
    """
    scores = result.scores
    pictures = [_input(result.example), result.restored, result.example.clean]
    return report.panel(
        [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures],
        [f"input {scores.input_psnr:.2f} dB", f"restored {scores.psnr:.2f} dB", "clean"],
    )


def check(network, encoder, settings=(), prompt: str | None = None, guidance=None) -> None:
    """Refuse a network that the protocol, the encoder, the words or the guidance do not fit.

    Args:
        network, encoder, prompt, guidance: see `evaluate`.
        settings: list of `Setting`.

    Raises:
        InputError: sides that are multiples of 16 are continued by reflection, vectors of another
            width, words of any kind for a network that takes no sentence, or guidance just where it
            is not needed.
    """
    network.check_restores(encoder)
    conditioning.check_guidance(network, guidance)
    if prompt is not None:
        conditioning.check_prompt(network, prompt)
    if network.padding == "reflect" and protocols.MULTIPLE % network.config.multiple:
        raise InputError(
            f"network {network.name} needs sides that are multiples of {network.config.multiple}, "
            f"the protocol crops to multiples of {protocols.MULTIPLE}"
        )
    if network.takes_sentence:
        return
    for setting in settings:
        if setting.words != setting.asked:
            raise InputError(
                f"network {network.name} takes no sentence; row {setting.name} means nothing to it"
            )


def _words(network, encoder, setting: Setting, prompt: str | None) -> Callable:
    """How to ask: (example, generator) -> the sentence, what goes in beside the picture."""
    if not network.takes_sentence:
        return lambda example, rng: (None, ())
    own = setting.words == setting.asked
    if setting.words == conditioning.AUTO or (prompt == conditioning.AUTO and own):
        estimate = blind.shipped()

        def look(example, rng):
            prompts = blind.prompts(estimate(example.degraded), network)
            if not prompts:
                return blind.NOTHING, ()
            return " ".join(prompts), (conditioning.vector(encoder, prompts),)

        return look
    if prompt is not None and own:
        bank, vectors = (prompt,), encoder.encode([prompt])
    elif setting.words == CLEAN:
        raise InputError(
            "row clean has no words of its own; name what is asked (clean@noise, clean@auto) or "
            "give --prompt"
        )
    elif "+" in setting.words:
        tasks = setting.words.split("+")
        bank = [s for both, s in mixed_sentences() if set(both) == set(tasks)]
        if not bank:  # several wishes at once
            wishes = [sentences(task) for task in tasks]

            def several(example, rng):
                asked = [bank[int(rng.integers(len(bank)))] for bank in wishes]
                return " ".join(asked), (conditioning.vector(encoder, asked),)

            return several
        vectors = encoder.cached(bank)
    else:
        bank, vectors = sentences(setting.words), bank_vectors(encoder, [setting.words])
        vectors = vectors[setting.words]

    def draw(example, rng):
        chosen = int(rng.integers(len(bank)))
        return bank[chosen], (np.asarray(vectors[chosen], np.float32),)

    return draw


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Scores of a source of pictures while a run trains.

    Args:
        network, encoder, source, settings: see `evaluate`.
        seed: the same degraded pictures at every visit.
        limit, size: keep a visit short.
        guidance: for a guided network, see `evaluate`.
    """

    network: object
    encoder: object
    source: object
    settings: tuple = DEFAULT_SETTINGS
    seed: int = 0
    limit: int | None = None
    size: int | None = None
    guidance: object = None

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yield "<setting>/psnr", "<setting>/ssim" and "<setting>/gain" (dB over the input).

        Where a run has several processes, each measures its share, and all must call this.

        Args:
            params: flat dict of the network's parameters, for instance `state.best_params`.
        """
        for row in evaluate(
            self.network,
            params,
            self.encoder,
            self.source,
            self.settings,
            seed=self.seed,
            guidance=self.guidance,
            limit=self.limit,
            size=self.size,
            share=(jax.process_index(), jax.process_count()),
        ):
            yield f"{row.setting}/psnr", row.psnr
            yield f"{row.setting}/ssim", row.ssim
            yield f"{row.setting}/gain", row.gain


def _write_panel(folder: Path, result: Result) -> None:
    # The place keeps a.png and sub/a.jpg apart.
    name = f"{result.example.index:04d}_{Path(result.example.name).stem}.jpg"
    write_rgb(folder / name, panel(result))


def _input(example: Example) -> np.ndarray:
    """The degraded picture that the clean one is compared with, clipped to [0, 1]."""
    return np.clip(example.degraded[..., : example.clean.shape[-1]], 0, 1)


def _result(
    example: Example,
    prompt: str | None,
    restored: np.ndarray,
    setting: Setting,
    measure: scoring.Measure,
) -> Result:
    # A clean picture that comes back as it went would make the mean over all of them infinite.
    most = UNCHANGED if setting.task == CLEAN else np.inf
    after = measure(restored, example.clean)
    before = measure(_input(example), example.clean)
    scores = report.scores(example.name, prompt, after, before, most)
    return Result(example, prompt, restored, scores)
