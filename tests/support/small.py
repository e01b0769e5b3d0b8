"""A network that compiles in a second, and runs of it: the promises of the loop are no network's.

It takes and gives what every prompted network here does.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from configs import common
from tdr_jax import models
from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.synthesis import degrade
from tests.support.sizes import LEVELS


@dataclasses.dataclass(frozen=True)
class SmallConfig:
    text_dim: int = 4
    width: int = 8
    multiple: int = 1
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1
    channels = (3, 3)


@dataclasses.dataclass(frozen=True)
class Small(models.Capabilities):
    """Two convolutions and a gate by the sentence, with a `Network`'s methods."""

    config: SmallConfig = SmallConfig()
    name: str = "small"
    kind: str = "Small"
    size: int = 0  # the number of parameters, which the first line of a run tells
    encoder: models.EncoderRecord | None = None

    def init(self, seed=0):
        keys = jax.random.split(jax.random.key(seed), 3)
        return {
            name: 0.1 * jax.random.normal(key, spec.shape)
            for key, (name, spec) in zip(keys, self.abstract_params().items(), strict=True)
        }

    def abstract_params(self):
        dim, width = self.config.text_dim, self.config.width
        shapes = {"into": (3, 3, 3, width), "gate": (dim, width), "out": (3, 3, width, 3)}
        return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}

    def has(self, method):
        return method == "__call__"

    def apply(self, params, images, vectors):
        def conv(x, kernel):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=numbers
            )

        gate = 1 + vectors @ params["gate"]
        hidden = jnp.maximum(conv(images, params["into"]), 0) * gate[:, None, None]
        return images + conv(hidden, params["out"])


def build(name, **overrides):
    """What `models.build` gives, and beside it the network "small"."""
    if name != "small":
        return BUILD(name, **overrides)
    given = {key: value for key, value in overrides.items() if value is not None}
    return Small(SmallConfig(**given))


BUILD = models.build


@pytest.fixture(scope="module", autouse=True)
def small_network():
    """Adds the network "small" to those that the loop can build, for each test of a module that
    imports this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (models, models.registry):  # the second builds what files name
            patch.setattr(module, "build", build)
        yield


def tiny_config():
    """Twenty steps of a real network as small as it gets; a test that keeps `optim` shares its
    compiling."""
    config = small_config(20)
    config.network.name = "textpromptir-tiny"
    config.network.overrides.update(LEVELS)
    config.data.stages = ((20, 32, 4),)
    config.optim.lr = 5e-3
    config.save_every = 100
    return config


def small_config(steps):
    """A run of `steps` steps that saves every 4 and writes every step."""
    config = common.get_config()
    config.network.name = "small"
    config.data.stages = ((steps, 16, 2),)
    config.optim.lr = 1e-3
    config.optim.warmup = 3
    config.ema = 0.9
    config.log_every = 1
    config.save_every = 4
    config.panel_every = 0
    return config


def photo_batches(step, *, size=16, batch=2, sigma=50, dim=4):
    """Noisy crops of a photograph: batch k is a function of k, as the pipeline's are."""
    photo = skimage.data.astronaut().astype(np.float32) / 255
    while True:
        rng = example_rng(0, step)
        corners = rng.integers(0, photo.shape[0] - size, (batch, 2))
        clean = np.stack([photo[y : y + size, x : x + size] for y, x in corners])
        degraded = np.stack([degrade(image, "noise", rng, sigma=sigma) for image in clean])
        vector = np.ones((batch, dim), np.float32)
        yield {
            "degraded": degraded,
            "clean": clean,
            "vector": vector,
            "task": np.zeros(batch, np.int32),
        }
        step += 1


def records(workdir):
    """What the run wrote to metrics.jsonl, a dict a line."""
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def assert_bit_identical(a, b):
    """Compares two states: every leaf, every bit."""
    ours, theirs = (jax.tree_util.tree_leaves_with_path(jax.device_get(s)) for s in (a, b))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    wrong = [
        jax.tree_util.keystr(path)
        for (path, x), (_, y) in zip(ours, theirs, strict=True)
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]
    assert not wrong, f"{len(wrong)} of {len(ours)} leaves differ: {wrong[:5]}"
