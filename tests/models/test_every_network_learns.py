"""Fifty steps of every restoration network, from its config, lower the loss on photographs."""

import numpy as np
import pytest

from configs import backbone
from tdr_jax import weights
from tdr_jax.images.files import read_rgb
from tdr_jax.train import loop
from tests.support.sizes import SMALLEST
from tests.support.small import records

STEPS = 50


# One network learns in the default suite; the gradients of all equal PyTorch's there.
NETWORKS = [
    pytest.param(name, marks=() if name == "nafnet" else pytest.mark.full)
    for name in backbone.RECIPES
]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_short_run_lowers_the_loss_and_exports_what_it_learnt(tmp_path, name):
    config = backbone.get_config(
        f"name={name},task=denoise,sigma=50,size=small,steps={STEPS},batch=4,crop=32,"
        "data=package:skimage"
    )
    config.network.overrides.update(SMALLEST[name])
    config.log_every = 1
    config.panel_every, config.save_every = 0, STEPS
    state = loop.run(config, tmp_path)

    losses = [record["loss"] for record in records(tmp_path)]
    psnr = [record["psnr"] for record in records(tmp_path)]
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert np.mean(psnr[-10:]) > np.mean(psnr[:10]) + 0.5

    network, params = weights.load(tmp_path / "weights.safetensors")
    assert network.name == name
    for key, value in params.items():
        np.testing.assert_array_equal(value, state.ema[key])
    counts = [float(value) for key, value in params.items() if key.endswith("batches_tracked")]
    assert counts == [STEPS] * len(counts) and bool(counts) == (name == "sfnet")


def test_grey_pictures_are_learnt_and_shown(tmp_path):
    config = backbone.get_config(
        "name=nafnet,task=denoise,grey=1,size=small,steps=10,batch=2,crop=32,data=package:skimage"
    )
    config.network.overrides.update(SMALLEST["nafnet"])
    config.panel_every = 10
    state = loop.run(config, tmp_path)
    assert int(state.step) == 10
    panel = read_rgb(tmp_path / "panels" / "panel_0000010.png")
    assert panel.shape == (2 * 32, 3 * 32, 3)
    np.testing.assert_array_equal(panel[..., 0], panel[..., 2])
