"""The guided objective: DINOv2 chooses the windows that torch chooses; the loss is the paper's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from configs import common
from tdr_jax import convert, models
from tdr_jax.models import dinov2, matching
from tdr_jax.objectives import pixels
from tdr_jax.objectives.guided import GuidedLoss
from tests.support.parity import nhwc, shaken

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56)


@pytest.fixture(scope="module")
def selector():
    """A network of transformers with patches of 14, and ours with its parameters."""
    torch.manual_seed(0)
    module = transformers.Dinov2Model(transformers.Dinov2Config(patch_size=14, **SIZES)).eval()
    shaken(module, 0.1)
    return (
        module,
        models.build("dinov2", **SIZES),
        convert.from_torch("dinov2", module.state_dict(), **SIZES),
    )


@torch.no_grad()
def chosen(module, degraded, guidance):
    """TDR's choice, one picture and one window at a time: (B, 3, P, P), and all cosines."""
    size = degraded.shape[-1]
    side = -(-size // 14) * 14

    def vector(picture):
        resized = F.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False)
        return F.normalize(module(resized).last_hidden_state[0, 1:].flatten(), dim=0)

    found, cosines = [], []
    for picture, whole in zip(degraded, guidance, strict=True):
        windows = whole.unfold(1, size, size // 4).unfold(2, size, size // 4)
        windows = windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)
        scores = torch.stack([vector(window) @ vector(picture) for window in windows])
        found.append(windows[scores.argmax()])
        cosines.append(scores)
    return torch.stack(found), torch.stack(cosines)


@pytest.mark.parametrize("size, whole, count", [(24, 40, 9), (28, 28, 1), (20, 37, 16)])
def test_the_window_is_the_one_that_torch_chooses(selector, size, whole, count):
    module, network, params = selector
    generator = torch.Generator().manual_seed(size)
    guidance = torch.rand(6, 3, whole, whole, generator=generator)
    # Noisy parts of the guidance, so that not the same window is the best of all.
    starts = torch.randint(0, whole - size + 1, (6, 2), generator=generator)
    degraded = torch.stack(
        [g[:, y : y + size, x : x + size] for g, (y, x) in zip(guidance, starts, strict=True)]
    )
    degraded = degraded + 0.1 * torch.randn(degraded.shape, generator=generator)
    expected, cosines = chosen(module, degraded, guidance)
    assert cosines.shape == (6, count)
    if count > 1:
        best = cosines.topk(2, 1).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-5 and len(set(cosines.argmax(1).tolist())) > 2
    choose = jax.jit(functools.partial(dinov2.most_alike, network))
    ours = choose(params, nhwc(degraded), nhwc(guidance))
    np.testing.assert_array_equal(ours, nhwc(expected))


def test_no_gradient_goes_through_the_choice_and_grey_and_two_views_are_seen(selector):
    _, network, params = selector
    rng = np.random.default_rng(0)
    grey = rng.random((1, 24, 24, 1), np.float32)
    guidance = rng.random((1, 30, 30, 3), np.float32)

    @jax.jit
    def both(degraded):
        choose = functools.partial(dinov2.most_alike, network, params)
        colour = jnp.repeat(degraded, 3, -1)
        views = jnp.concatenate([colour, jnp.zeros_like(colour)], -1)
        gradient = jax.grad(lambda x: choose(x, guidance).sum())(degraded)
        return [choose(x, guidance) for x in (degraded, colour, views)], gradient

    (first, *others), gradient = both(grey)
    assert not np.any(gradient)
    for other in others:
        np.testing.assert_array_equal(first, other)


class Blend:
    """A stand-in for the interface alone: shows the loss which inputs it was given."""

    def apply(self, params, degraded, guidance=None, vector=None, method="__call__"):
        if method == "features":
            return [degraded, degraded * params["a"]]
        restored = params["a"] * degraded + params["b"] * guidance[:, :1, :1]
        if vector is not None:
            restored = restored + vector[:, None, None, :1]
        if method == "__call__":
            return restored
        return (restored, pixels.reduced(restored, 2)), {"count": params["a"] + 1}


def test_the_loss_is_l1_on_every_grid_and_words_and_guidance_go_together(selector):
    _, network, selecting = selector
    rng = np.random.default_rng(1)
    batch = {
        name: rng.random((2, size, size, 3), np.float32)
        for name, size in (("degraded", 24), ("clean", 24), ("guidance", 40))
    }
    params = {"a": jnp.float32(0.9), "b": jnp.float32(0.2)}
    measured = GuidedLoss(Blend(), common.get_config().loss)
    loss, metrics = measured(params, batch, jax.random.key(0))
    restored = 0.9 * batch["degraded"] + 0.2 * batch["guidance"][:, :1, :1]
    full = np.abs(restored - batch["clean"]).mean()
    half = np.abs(pixels.reduced(restored, 2) - pixels.reduced(batch["clean"], 2)).mean()
    assert float(loss) == pytest.approx(full + half, rel=1e-5)
    assert float(metrics["l1"]) == pytest.approx(full, rel=1e-5)
    assert set(metrics) == {"l1", "psnr", "batch_stats"}
    prompted = batch | {"vector": np.full((2, 5), 0.5, np.float32)}
    _, metrics = measured(params, prompted, jax.random.key(0))
    told = np.abs(restored + 0.5 - batch["clean"]).mean()
    assert float(metrics["l1"]) == pytest.approx(told, rel=1e-5)

    # Beyond the paper, and off as published.
    weights = common.get_config().loss
    weights.align = 0.5
    aligned, metrics = GuidedLoss(Blend(), weights)(params, batch, jax.random.key(0))
    deepest = 0.9 * batch["degraded"], 0.9 * batch["clean"]
    assert float(metrics["align"]) == pytest.approx(float(matching.alignment(*deepest)), rel=1e-5)
    assert float(aligned) == pytest.approx(full + half + 0.5 * float(metrics["align"]), rel=1e-5)

    # With a selector the loss sees the window.
    cropped = GuidedLoss(Blend(), measured.weights, network)

    @jax.jit
    def both(batch):
        window = dinov2.most_alike(network, selecting, batch["degraded"], batch["guidance"])
        seen, _ = cropped(params, batch, jax.random.key(0), selecting)
        told, _ = measured(params, batch | {"guidance": window}, jax.random.key(0))
        return seen, told

    seen, told = both(batch)
    assert float(seen) == pytest.approx(float(told), rel=1e-6)
