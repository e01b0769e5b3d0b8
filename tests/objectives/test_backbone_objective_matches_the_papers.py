"""The plain objective: each paper's loss, targets as torch shrinks them, statistics left alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import torch
from ml_collections import ConfigDict

from configs import common
from tdr_jax.models import build
from tdr_jax.objectives import pixels
from tdr_jax.objectives.restore import RestorationLoss, blend
from tdr_jax.train import optim, state

KEY = jax.random.key(0)


def weights(**changes):
    off = {"l1": 0.0, "charbonnier": 0.0, "psnr": 0.0, "fft": 0.0, "mixup": 0.0}
    return ConfigDict(off | changes)


@pytest.fixture(scope="module")
def batch():
    photo = skimage.data.astronaut().astype(np.float32) / 255
    clean = np.stack([photo[y : y + 32, 100:140] for y in (0, 60, 120)])
    noise = 0.1 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    return {"degraded": jnp.asarray(clean + noise), "clean": jnp.asarray(clean)}


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A network of one number, on one grid or on three, with a `Network`'s methods."""

    grids: int = 1

    def has(self, method):
        return method == "__call__" or (method == "training" and self.grids > 1)

    def apply(self, params, images, method="__call__"):
        outputs = tuple(params["scale"] * images[:, :: 2**k, :: 2**k] for k in range(self.grids))
        if method == "__call__":
            return outputs[0]
        new = {"bn.running_mean": 0.9 * params["bn.running_mean"] + 0.1 * images.mean((0, 1, 2))}
        return outputs, new | {"bn.num_batches_tracked": params["bn.num_batches_tracked"] + 1}


PARAMS = {
    "scale": jnp.float32(0.9),
    "bn.running_mean": jnp.full(3, 2.0),
    "bn.num_batches_tracked": jnp.float32(6),
}


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_targets_are_shrunk_as_torch_shrinks_them(batch, factor):
    pictures = np.asarray(batch["clean"])
    theirs = torch.nn.functional.interpolate(
        torch.tensor(pictures.transpose(0, 3, 1, 2)), scale_factor=1 / factor, mode="bilinear"
    )
    ours = pixels.reduced(jnp.asarray(pictures), factor)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=0, atol=2e-7)


def test_each_weight_adds_the_loss_that_it_names(batch):
    difference = np.asarray(batch["degraded"], np.float64) * 0.9 - np.asarray(batch["clean"])
    spectrum = np.fft.fft2(difference, axes=(1, 2))
    expected = {
        "l1": np.abs(difference).mean(),
        "charbonnier": np.sqrt(difference**2 + 1e-6).mean(),
        "psnr": (10 * np.log10((difference**2).mean((1, 2, 3)))).mean(),
        "fft": (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2,
    }
    for name, value in expected.items():
        measured = RestorationLoss(Scaled(), weights(**{name: 0.5}))
        loss, metrics = measured(PARAMS, batch, KEY)
        assert float(loss) == pytest.approx(0.5 * value, rel=1e-4), name
        assert set(metrics) == {"l1", "psnr", name}
    clipped = np.clip(np.asarray(batch["degraded"]) * 0.9, 0, 1) - np.asarray(batch["clean"])
    psnr = -10 * np.log10((clipped**2).mean((1, 2, 3)))
    assert float(metrics["psnr"]) == pytest.approx(psnr.mean(), rel=1e-4)


def test_three_grids_give_sfnets_loss(batch):
    degraded, clean = (
        torch.tensor(np.asarray(batch[key]).transpose(0, 3, 1, 2)) for key in ("degraded", "clean")
    )
    expected = 0.0
    for k in range(3):
        shrunk = (
            clean
            if k == 0
            else torch.nn.functional.interpolate(clean, scale_factor=0.5**k, mode="bilinear")
        )
        output = 0.9 * degraded[..., :: 2**k, :: 2**k]
        spectra = [torch.view_as_real(torch.fft.fft2(x)) for x in (output, shrunk)]
        l1 = torch.nn.functional.l1_loss
        expected += l1(output, shrunk) + 0.1 * l1(*spectra)
    loss, metrics = RestorationLoss(Scaled(3), weights(l1=1.0, fft=0.1))(PARAMS, batch, KEY)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    finest = np.abs(0.9 * np.asarray(batch["degraded"]) - np.asarray(batch["clean"])).mean()
    assert float(metrics["l1"]) == pytest.approx(finest, rel=1e-5)
    assert set(metrics["batch_stats"]) == set(PARAMS) - {"scale"}


def test_running_statistics_are_replaced_and_never_decayed_or_averaged(batch):
    config = common.get_config().optim
    config.update({"schedule": "constant", "lr": 0.1, "weight_decay": 0.5, "clip": 0.0})
    optimiser, schedule = optim.make(config, 1)
    options = {"ema_decay": 0.9, "layout": None}
    loss = RestorationLoss(Scaled(3), weights(l1=1.0))
    step = state.make_step(loss, optimiser, schedule, seed=0, **options)
    after, metrics = step(state.create(PARAMS, optimiser, **options), batch)
    assert "batch_stats" not in metrics
    mean = np.asarray(batch["degraded"]).mean((0, 1, 2))
    for params in (after.params, after.ema):
        np.testing.assert_allclose(params["bn.running_mean"], 1.8 + 0.1 * mean, rtol=1e-5)
        assert float(params["bn.num_batches_tracked"]) == 7
    assert float(after.params["scale"]) != pytest.approx(0.9)
    assert float(after.ema["scale"]) != float(after.params["scale"])


def test_blending_mixes_both_pictures_alike_in_half_of_the_steps(batch):
    degraded, clean = (np.asarray(batch[key]) for key in ("degraded", "clean"))
    plain, shares = 0, []
    for k in range(200):
        a, b = blend(jax.random.key(k), 1.2, degraded, clean)
        # Blended linearly and alike, so the noise that tells the two apart is blended too.
        left = np.linalg.lstsq(clean.reshape(3, -1).T, np.asarray(b[0]).ravel(), rcond=None)[0]
        np.testing.assert_allclose(left.sum(), 1, atol=1e-3)
        np.testing.assert_allclose(a[0], np.tensordot(left, degraded, 1), atol=1e-3)
        shares.append(left[0])
        plain += np.array_equal(a, degraded)
    assert 75 < plain < 150  # half, and the rows that the permutation left in place
    assert min(shares) < 0.2 < max(shares)


def test_mixup_is_drawn_from_the_steps_key_and_can_be_off(batch):
    on, off = (RestorationLoss(Scaled(), weights(l1=1.0, mixup=m)) for m in (1.2, 0.0))
    losses = {float(on(PARAMS, batch, jax.random.key(k))[0]) for k in range(8)}
    assert len(losses) > 2
    assert len({float(off(PARAMS, batch, jax.random.key(k))[0]) for k in range(3)}) == 1


def test_networks_tell_which_methods_they_have():
    assert build("sfnet").has("training")
    for name in ("restormer", "promptir", "nafnet", "drsformer"):
        assert build(name).has("__call__") and not build(name).has("training")
