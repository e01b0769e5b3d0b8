"""What is drawn for an example stays what it was: a run begun before goes on as it would have.

`streams.json` holds what was drawn when draws still had numbers for names. Written anew, where a
change is meant, by `python -m tests.data.test_draws_keep_their_streams`.
"""

import json
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from configs import common
from tdr_jax.data import degradation_labels, guidance, latents, pipeline, sources
from tdr_jax.data.sentence_pairs import SentencePairs
from tdr_jax.degradations import recipes, synthesis
from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.vocabulary import KINDS as DAMAGE
from tdr_jax.degradations.vocabulary import SYNTHESISED, TASKS
from tdr_jax.text import phrasings

RECORDED = Path(__file__).with_name("streams.json")
SIZE, SEED = 24, 3


def pictures(count=3, seed=0):
    """Pictures of flat squares: equal on every machine."""
    rng = np.random.default_rng(seed)
    sides = ((8, 10), (10, 8), (9, 9))
    small = [rng.integers(0, 256, (*sides[i % 3], 3), np.uint8) for i in range(count)]
    return [picture.repeat(8, 0).repeat(8, 1) for picture in small]


def pairs():
    """A source of degraded and clean pictures, in memory."""
    both = zip(pictures(seed=1), pictures(seed=2), strict=True)
    return [
        {"degraded": one, "clean": two, "name": str(i), "task": SYNTHESISED[i]}
        for i, (one, two) in enumerate(both)
    ]


def data(**fields):
    found = common.get_config().data
    found.update(dict(tasks=SYNTHESISED, weights=(1.0, 2.0, 1.0, 1.0)) | fields)
    return found


def vectors():
    """Each row tells task and sentence; some sentences are for two tasks."""
    banks = [*TASKS, *((a, b) for i, a in enumerate(TASKS) for b in TASKS[i + 1 :])]
    return {
        bank: np.array([[i, row] for row in range(5 + i % 3)], np.float32)
        for i, bank in enumerate(banks)
    }


def batches(source, guided=False, vectors=None, **fields):
    settings = data(stages=((2, SIZE, 8), (1, 32, 4)), **fields)
    if guided:
        given = common.get_config().guidance
        given.update(kinds=("view", "part", "other"), weights=(2.0, 1.0, 1.0), size=32, path="")
        guided = guidance.Guidance(source, given, SEED)
    return list(
        islice(
            pipeline.batches(source, settings, vectors=vectors, seed=SEED, guidance=guided or None),
            3,
        )
    )


def words_of(sentences, truncation=False, max_length=None):
    """A tokenizer: a number for each word, 1 to 97."""
    ids = [[1 + zlib.crc32(w.encode()) % 97 for w in s.split()] for s in sentences]
    return {"input_ids": [row[:max_length] for row in ids]}


def restoring():
    asked = dict(
        vectors=vectors(), p_absent=0.2, p_keep_one=0.25, p_joint=0.25, p_partial_strength=0.5
    )
    photos = sources.Pictures(pictures())
    yield "asked", batches(photos, **asked)
    yield "asked and guided", batches(photos, guided=True, **asked)
    yield "any sigma", batches(photos, sigma_range=(0.0, 50.0), noise_mode="float")
    yield "grey and upright", batches(photos, channels=1, dihedral=(0, 4))
    yield "pairs", batches(pairs(), vectors=vectors(), p_absent=0.3, p_partial_strength=0.5)


def labelling():
    fields = dict(p_absent=0.2, p_joint=0.4, color_jitter=0.5, sigma_range=(5.0, 50.0))
    make = degradation_labels.LabelledExamples(sources.Pictures(pictures()), data(**fields), SEED)
    yield "labels", [make(n, SIZE) for n in range(12)]


def diffusing():
    free = dict(cover=(0.4, 1.0), oversample=(1.0, 3.0), color_jitter=0.5)
    free |= dict(tasks=("clean", *SYNTHESISED), weights=(1.0,) * 5, sigma_range=(5.0, 50.0))
    plain = dict(cover=(), oversample=(1.0, 1.0), sigma_range=())
    for wanted in latents.WANTED:
        for name, source, fields in (
            ("free", sources.Pictures(pictures()), free),
            ("plain", sources.Pictures(pictures()), free | plain),
            ("pairs", pairs(), free),
        ):
            make = latents.LatentExamples(
                source, data(**fields), SEED, wanted=wanted, view=16, encode=_letters
            )
            yield f"{wanted}, {name}", [make(n, SIZE) for n in range(6)]


def _letters(caption):
    return np.frombuffer(caption.encode()[:60].ljust(60), np.uint8)


def degrading():
    picture = pipeline.as_float(pictures(1)[0])
    for task in SYNTHESISED:
        yield task, [synthesis.degrade(picture, task, _rng(i)) for i in range(4)]
    window = dict(window=(8, 16, 24, 32), shape=picture.shape[:2])
    yield "haze, a window", [synthesis.degrade(picture[8:32, 16:48], "haze", _rng(0), **window)]
    yield "haze, tinted", [synthesis.random_haze(picture, _rng(1), tint=0.1)]
    yield "rain, given", [synthesis.rain(picture, _rng(2), severity=0.5, angle=10, layers=2)]
    yield "blur, noisy", [synthesis.motion_blur(picture, _rng(3), length=9, sigma=5)]
    yield "noise, exact", [synthesis.gaussian_noise(picture, 25, _rng(4), "float")]
    yield "depth", [synthesis.synthetic_depth((40, 60), _rng(5))]


def mixing():
    picture = pipeline.as_float(pictures(1)[0])
    alone = [f"{kind}25" if kind == "noise" else kind for kind in DAMAGE]
    for name in (*alone, "rain+noise25", "noise25+rain", "blur+noise25+jpeg30"):
        layers = recipes.parse(name)
        made = (recipes.generators(SEED, layers, index) for index in range(2))
        yield name, [recipes.apply(picture, layers, rngs) for rngs in made]


def _rng(n):
    return example_rng(SEED, n)


def writing():
    make = SentencePairs(phrasings.part("training"), words_of, SEED, typos=0.5, lower=True)
    yield "sentences", [make(n, 16) for n in range(24)]
    mistyped = [phrasings.mistyped("Please remove the heavy rain!", seed) for seed in range(20)]
    yield "typing mistakes", [np.frombuffer("|".join(mistyped).encode(), np.uint8)]


KINDS = dict(restoring=restoring, labelling=labelling, diffusing=diffusing)
KINDS |= dict(degrading=degrading, mixing=mixing, writing=writing)


def summary(examples):
    """Two numbers for each array of each example: its mean, and a sum in which each place counts
    otherwise."""
    found = []
    for example in examples:
        arrays = example.values() if isinstance(example, dict) else [example]
        for array in arrays:
            flat = np.asarray(array, np.float64).ravel()
            waves = np.cos(1 + np.arange(flat.size)) / np.sqrt(flat.size)
            found.append([round(float(flat.mean()), 5), round(float(flat @ waves), 5)])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_those_that_were_recorded(kind):
    recorded = json.loads(RECORDED.read_text())[kind]
    made = dict(KINDS[kind]())
    assert list(made) == list(recorded)
    for name, examples in made.items():
        # Another draw moves a picture by hundredths, another processor by millionths.
        np.testing.assert_allclose(
            summary(examples), recorded[name], rtol=1e-3, atol=2e-3, err_msg=name
        )


if __name__ == "__main__":
    made = {kind: {n: summary(e) for n, e in make()} for kind, make in KINDS.items()}
    lines = [
        f'"{kind}": {{\n'
        + ",\n".join(f'"{name}": {json.dumps(rows)}' for name, rows in cases.items())
        + "\n}"
        for kind, cases in made.items()
    ]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
