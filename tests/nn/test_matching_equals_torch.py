"""Matching and transfer equal MASA's, their gradients too, and they go where MASA's cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tdr_jax.errors import InputError
from tdr_jax.models import matching
from tests.support import parity, torch_masa

find = jax.jit(matching.match)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(array):
    return torch.tensor(array).permute(0, 3, 1, 2).requires_grad_()


def agree(ours, theirs, tolerance=1e-5):
    return parity.relative(ours, theirs.permute(0, 2, 3, 1)) < tolerance


# The third: 1280x720 against 512x512 at stride 8, the query padded to whole blocks.
@pytest.mark.parametrize(
    "query, reference, scales",
    [
        ((2, 16, 24), (24, 16), (1, 2, 4, 8)),
        ((1, 24, 16), (24, 16), (3,)),
        ((1, 96, 160), (64, 64), (1, 2)),
    ],
)
def test_matches_and_transferred_features_equal_torch(query, reference, scales):
    batch, channels = query[0], 6
    a, b = random(*query, channels), random(batch, *reference, channels, seed=1)
    levels = [random(batch, *(s * side for side in reference), 3, seed=1 + s) for s in scales]
    with torch.no_grad():
        theirs = torch_masa.search_and_transfer(tensor(a), tensor(b), list(map(tensor, levels)))

    def run(a, b, levels):
        match = matching.match(a, b)
        return match, [matching.transfer(level, match) for level in levels]

    match, warped = jax.jit(run)(a, b, levels)
    np.testing.assert_array_equal(match.rows, theirs[0])
    np.testing.assert_array_equal(match.columns, theirs[1])
    assert parity.relative(match.confidence, theirs[2]) < 1e-5
    for ours, expected in zip(warped, theirs[3], strict=True):
        assert agree(ours, expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_gradients_equal_torch(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    a, b, levels = random(2, 16, 24, 5), random(2, 24, 16, 5, seed=1), []
    for scale in (1, 2):
        levels.append((random(2, scale * 24, scale * 16, 3), random(2, scale * 16, scale * 24, 3)))
    levels, directions = zip(*levels, strict=True)
    tensors = tensor(a), tensor(b), [tensor(level) for level in levels]
    warped = torch_masa.search_and_transfer(*tensors)[3]
    sum((w * tensor(d)).sum() for w, d in zip(warped, directions, strict=True)).backward()

    def objective(a, b, levels):
        match = matching.match(a, b)
        warped = [matching.transfer(level, match) for level in levels]
        return sum((w * d).sum() for w, d in zip(warped, directions, strict=True))

    da, db, dlevels = jax.jit(jax.grad(objective, (0, 1, 2)))(a, b, levels)
    assert agree(da, tensors[0].grad, 1e-4)
    assert agree(db, tensors[1].grad, 1e-4)
    for ours, level in zip(dlevels, tensors[2], strict=True):
        assert agree(ours, level.grad, 1e-4)


def test_coarse_search_in_turns_equals_one_turn(monkeypatch):
    a, b = random(1, 24, 40, 4), random(1, 16, 16, 4, seed=1)
    whole = find(a, b)
    monkeypatch.setattr(matching, "PRODUCTS", 4 * 27 * 22 * 22)  # 15 blocks: 4, 4, 4 and 3
    parts = jax.jit(lambda a, b: matching.match(a, b))(a, b)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_picture_finds_itself_and_its_recoloured_copy():
    """8x8 positions are one block, whose window MASA's reference would have to be 15 wide for."""
    a = random(1, 8, 8, 16)
    rows, columns = np.indices((8, 8))
    for copy in (a, 0.3 * a):
        match = find(a, copy)
        # Patches whose centre is inside; the query's others go over the edge, the copy's do not.
        inside = np.s_[0, 1:-1, 1:-1]
        np.testing.assert_array_equal(match.rows[inside], rows[1:-1, 1:-1])
        np.testing.assert_array_equal(match.columns[inside], columns[1:-1, 1:-1])
        np.testing.assert_allclose(match.confidence[inside], 1, atol=1e-5)


def test_a_shifted_copy_is_found():
    scene = random(1, 40, 40, 8)
    match = find(scene[:, 8:32, 8:32], scene[:, 4:36, 10:34])
    rows, columns = np.indices((24, 24)) + np.array([4, -2]).reshape(2, 1, 1)
    inside = np.s_[2:-2, 3:-3]
    np.testing.assert_array_equal(match.rows[0][inside], rows[inside])
    np.testing.assert_array_equal(match.columns[0][inside], columns[inside])
    level = jnp.asarray(np.repeat(np.repeat(scene[:, 4:36, 10:34], 2, 1), 2, 2))
    warped = matching.transfer(level, match)
    copied = np.repeat(np.repeat(scene[:, 8:32, 8:32], 2, 1), 2, 2)
    np.testing.assert_allclose(warped[0, 6:-6, 8:-8], copied[0, 6:-6, 8:-8], atol=1e-4)


@pytest.mark.parametrize("sides", [(3, 3), (5, 12), (8, 40)])
def test_small_references_are_served_and_never_left(sides):
    match = find(random(1, 16, 24, 4), random(1, *sides, 4, seed=1))
    for centres, side in ((match.rows, sides[0]), (match.columns, sides[1])):
        assert centres.min() >= 1 and centres.max() <= side - 2
    level = 1 + np.arange(4 * sides[0] * sides[1], dtype=np.float32).reshape(1, *sides, 4)
    assert np.isfinite(matching.transfer(level, match)).all()


@pytest.mark.parametrize("step", [1, 2])
def test_alignment_and_its_gradients_equal_torch(step):
    a, b = random(2, 5, 6, 4), random(2, 5, 6, 4, seed=1)
    ta, tb = tensor(a), tensor(b)
    patches = [
        F.normalize(F.unfold(F.pad(x, (1, 1, 1, 1), "replicate"), 3), dim=1) for x in (ta, tb)
    ]
    cosines = torch.einsum("bcn,bcm->bmn", *patches)
    asked = torch.arange(30).reshape(5, 6)[::step, ::step].flatten()
    expected = F.cross_entropy(cosines[:, :, asked] / 0.2, asked.expand(2, -1))
    expected.backward()
    align = functools.partial(matching.alignment, temperature=0.2, step=step)
    ours, (da, db) = jax.jit(jax.value_and_grad(align, (0, 1)))(a, b)
    assert float(ours) == pytest.approx(expected.item(), rel=1e-5)
    assert agree(da, ta.grad, 1e-4) and agree(db, tb.grad, 1e-4)
    assert matching.alignment(a, a) < 0.1 < matching.alignment(a, b)


def test_empty_features_have_finite_gradients():
    def objective(a, b):
        return matching.transfer(b, matching.match(a, b)).sum()

    zeros = jnp.zeros((1, 8, 8, 3))
    for gradient in jax.jit(jax.grad(objective, (0, 1)))(zeros, zeros):
        np.testing.assert_array_equal(gradient, 0)


def test_bfloat16_features_stay_so_and_are_matched_in_float32():
    a, b = (jnp.asarray(random(1, 16, 16, 4, seed=i), jnp.bfloat16) for i in (0, 1))
    match = find(a, b)
    wide = find(a.astype(jnp.float32), b.astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, match, wide)
    warped, pull = jax.vjp(lambda b: matching.transfer(b, match), b)
    assert warped.dtype == pull(warped)[0].dtype == jnp.bfloat16
    exact = matching.transfer(b.astype(jnp.float32), match)
    np.testing.assert_allclose(warped.astype(jnp.float32), exact, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    "query, reference, level, line",
    [
        ((12, 16), (16, 16), (16, 16), "12x16 positions is not made of 8x8 blocks"),
        ((16, 16), (2, 16), (2, 16), "2x16 positions holds no 3x3 patch"),
        ((8, 8), (8, 16), (16, 16), "16x16 do not fit a reference of 8x16 positions"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(query, reference, level, line):
    with pytest.raises(InputError, match=line):
        match = matching.match(jnp.ones((1, *query, 1)), jnp.ones((1, *reference, 1)))
        matching.transfer(jnp.ones((1, *level, 1)), match)


def test_memory_grows_with_the_picture_not_with_its_square():
    def run(a, level):
        return matching.transfer(level, matching.match(a, a))

    sizes = []
    for side in (32, 64):
        shapes = (
            jax.ShapeDtypeStruct((1, side, side, 16), jnp.float32),
            jax.ShapeDtypeStruct((1, 2 * side, 2 * side, 16), jnp.float32),
        )
        program = jax.jit(run).lower(*shapes).compile()
        sizes.append(program.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 5 * sizes[0]
