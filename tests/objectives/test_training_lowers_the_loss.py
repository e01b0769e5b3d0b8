"""Twenty steps on a photograph make the loss fall, and what is exported is what was learnt."""

import numpy as np
import pytest

from tdr_jax import weights
from tdr_jax.images.files import read_rgb
from tdr_jax.train import loop
from tests.support.small import (
    photo_batches,
    records,
    small_network,  # noqa: F401 (a fixture)
    tiny_config,
)

REAL = "textpromptir-tiny"


@pytest.mark.parametrize("name", ["small", pytest.param(REAL, marks=pytest.mark.full)])
def test_training_lowers_the_loss_and_exports_what_it_learnt(tmp_path, name):
    config = tiny_config()
    if name == "small":
        config.network.name, config.network.overrides = name, {"text_dim": 384}
    config.panel_every = 20

    def one_batch(step):
        # The same four crops again and again: the loss then falls for no other reason than learning
        batch = next(photo_batches(0, size=32, batch=4, dim=384))
        while True:
            yield batch

    state = loop.run(config, tmp_path, batches=one_batch)
    losses = [record["loss"] for record in records(tmp_path)]
    assert len(losses) == 20
    assert losses[-1] < 0.8 * losses[0]
    assert np.mean(losses[-5:]) < np.mean(losses[5:10]) < np.mean(losses[:5])

    # The file holds the averaged parameters, bit for bit.
    network, params = weights.load(tmp_path / "weights.safetensors")
    assert network.name == name
    assert params.keys() == state.ema.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, state.ema[name])

    # The panel shows degraded, restored and clean, and restored is the nearer one to clean.
    panel = read_rgb(tmp_path / "panels" / "panel_0000020.png").astype(np.float32) / 255
    assert panel.shape == (4 * 32, 3 * 32, 3)
    degraded, restored, clean = np.split(panel, 3, axis=1)
    batch = next(one_batch(0))
    np.testing.assert_allclose(degraded[:32], batch["degraded"][0], atol=1 / 255)
    np.testing.assert_allclose(clean[:32], batch["clean"][0], atol=1 / 255)
    assert np.abs(restored - clean).mean() < np.abs(degraded - clean).mean()
