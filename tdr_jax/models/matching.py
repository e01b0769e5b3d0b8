"""Finds a picture's patches in a reference picture, coarse to fine, and brings features over.

The search of MASA-SR (Lu et al., 2021) as TDR uses it, on the deepest level of an encoder: the
middle of every 8x8 block is looked for on the whole reference, then each 3x3 patch of the block in
a window around that place. No patch is ever written out: the product of two patches is a sum of
products of positions, and an average of overlapping patches gathers positions.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Float, Float32, Int32

from tdr_jax.errors import InputError
from tdr_jax.nn import backend
from tdr_jax.nn.typing import Array

TAPS = tuple(itertools.product((-1, 0, 1), repeat=2))  # of a 3x3 patch, from its centre
# Products that the coarse search holds at once on a device, 16 MB: those of all blocks with the
# whole reference would grow with the square of the picture.
PRODUCTS = 2**22
LEAST_NORM = 1e-12  # F.normalize's


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Match:
    """What was found for each position of the query, and how sure that is.

    Attributes:
        rows, columns: centre of the matched 3x3 patch, which lies on the reference.
        confidence: in [-1, 1], the cosine of the two patches.
        reference: height and width of the reference that the rows and columns count.
    """

    rows: Int32[Array, "b h w"]
    columns: Int32[Array, "b h w"]
    confidence: Float32[Array, "b h w"]
    reference: tuple[int, int] = dataclasses.field(metadata={"static": True})


def match(
    query: Float[Array, "b h w c"],
    reference: Float[Array, "b h2 w2 c"],
    *,
    block: int = 8,
    ratio: float = 1.5,
    dilations: tuple[int, ...] = (1, 2, 3),
) -> Match:
    """Finds the patch of the reference that is most alike to each patch of the query.

    Args:
        query: features; h and w are multiples of `block`.
        reference: features of 3x3 positions or more.
        block: side of the query's blocks, in positions; each is looked for in one window.
        ratio: of a window's side to the block's share of the reference.
        dilations: of the 3x3 samples around a block's middle that place its window; all count alike
            and stay within the block.

    Returns:
        The match, computed in float32; its confidence has gradients. The first of equals wins.

    Raises:
        InputError: the query is not made of whole blocks, or the reference holds no patch.
    """
    (height, width), sides = query.shape[1:3], reference.shape[1:3]
    if height % block or width % block:
        raise InputError(
            f"a query of {height}x{width} positions is not made of {block}x{block} blocks: "
            "pad the picture"
        )
    if min(sides) < 3:
        raise InputError(
            f"a reference of {sides[0]}x{sides[1]} positions holds no 3x3 patch: give a larger one"
        )
    query, reference = query.astype(jnp.float32), reference.astype(jnp.float32)
    grid = height // block, width // block
    # Centres of patches up to this far from the middle are looked at, where the reference goes on.
    reach = [int(side // (2 * n) * ratio) for side, n in zip(sides, grid, strict=True)]
    window = [min(2 * r + 3, side) for r, side in zip(reach, sides, strict=True)]
    middles = _find_middles(*lax.stop_gradient((query, reference)), block, dilations)
    corners = [
        jnp.clip(middle - r - 1, 0, side - w)
        for middle, r, side, w in zip(middles, reach, sides, window, strict=True)
    ]

    cosines = _cosines(*lax.stop_gradient((query, reference)), block, corners, window)
    best = jnp.argmax(cosines, -1, keepdims=True)
    confidence = jnp.take_along_axis(cosines, best, -1)
    found = [
        corner[..., None, None] + inside + 1
        for corner, inside in zip(corners, jnp.divmod(best, window[1] - 2), strict=True)
    ]

    def whole(values):
        return _merge(values.reshape(-1, *grid, block, block))

    rows, columns = map(whole, found)
    confidence = _as_cosines(query, reference, rows, columns, whole(confidence))
    return Match(rows, columns, confidence, tuple(sides))


@jax.custom_vjp
def _as_cosines(query, reference, rows, columns, confidence):
    """Gives the confidence its gradients without going back through all cosines of a window."""
    return confidence


def _as_cosines_forward(query, reference, rows, columns, confidence):
    return confidence, (query, reference, rows, columns)


def _as_cosines_backward(residuals, dy):
    query, reference, rows, columns = residuals

    def cosines(query, reference):
        padded = _edged(query)
        height, width = query.shape[1:3]
        products = ours = theirs = 0.0
        for i, j in TAPS:
            x = padded[:, 1 + i : height + 1 + i, 1 + j : width + 1 + j]
            y = jax.vmap(lambda z, r, c: z.at[r, c].get(mode="promise_in_bounds"))(
                reference, rows + i, columns + j
            )
            products += (x * y).sum(-1)
            ours += jnp.square(x).sum(-1)
            theirs += jnp.square(y).sum(-1)
        return products * _inverse_root(ours) * _inverse_root(theirs)

    dquery, dreference = jax.vjp(cosines, query, reference)[1](dy)
    return dquery, dreference, None, None, None


_as_cosines.defvjp(_as_cosines_forward, _as_cosines_backward)


def _edged(x):
    """Repeats the outermost positions once, so that each position is the middle of a patch."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def alignment(
    query: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    temperature: float = 0.1,
    step: int = 2,
) -> Float32[Array, ""]:
    """Tells how far patches are from being most alike to the one at their own place.

    Args:
        query, reference: features of one scene in two states.
        temperature: of the softmax over all patches of the reference.
        step: between the patches of the query that are asked; neighbours would answer much alike.

    Returns:
        the mean cross-entropy in nats.

    Source: InfoNCE (arXiv 1807.03748), with the cosines of `match`.
    """

    def patches(x, step):
        b, h, w, _ = x.shape
        x = _edged(x.astype(jnp.float32))
        taps = [x[:, 1 + i : h + 1 + i : step, 1 + j : w + 1 + j : step] for i, j in TAPS]
        x = jnp.concatenate(taps, -1).reshape(b, -1, 9 * x.shape[3])
        return x * _inverse_root(jnp.square(x).sum(-1, keepdims=True))

    logits = _products(patches(query, step), patches(reference, 1)) / temperature
    own = np.arange(logits.shape[2]).reshape(query.shape[1:3])[::step, ::step].ravel()
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.broadcast_to(own, logits.shape[:2])
    ).mean()


def _find_middles(query, reference, block, dilations):
    """Where the middle of each block is found best on the reference: rows and columns, (B, N).

    The score is the sum of the cosines of the 3x3 samples with each dilation; around the reference
    there are zeros.
    """
    b, h, w, c = reference.shape
    far = max(dilations)
    offsets = [[(i * d, j * d) for i, j in TAPS] for d in dilations]
    samples = [
        [query[:, block // 2 + i :: block, block // 2 + j :: block] for i, j in taps]
        for taps in offsets
    ]
    samples = jnp.stack([jnp.stack(taps, -2) for taps in samples], -3)
    samples *= _inverse_root(jnp.square(samples).sum((-2, -1), keepdims=True))
    samples = samples.reshape(b, -1, 9 * len(dilations), c)

    reference = jnp.pad(reference, ((0, 0), (far, far), (far, far), (0, 0)))
    squares = jnp.square(reference).sum(-1)
    norms = [_inverse_root(sum(_seen(squares, tap, far) for tap in taps)) for taps in offsets]
    flat = reference.reshape(b, -1, c)

    def some(samples):
        products = _products(samples.reshape(b, -1, c), flat)
        products = products.reshape(b, -1, len(dilations), 9, *reference.shape[1:3])
        scores = 0.0
        for k, (taps, norm) in enumerate(zip(offsets, norms, strict=True)):
            sums = sum(_seen(products[:, :, k, t], tap, far) for t, tap in enumerate(taps))
            scores += sums * norm[:, None]
        return jnp.argmax(scores.reshape(b, -1, h * w), -1)

    count = samples.shape[1]
    own = max(1, b // backend.sharing())
    size = max(1, PRODUCTS // (own * samples.shape[2] * flat.shape[1]))
    size = -(-count // -(-count // size))  # as many turns, equally long
    samples = jnp.pad(samples, ((0, 0), (0, -count % size), (0, 0), (0, 0)))
    turns = samples.reshape(b, -1, size, *samples.shape[2:]).swapaxes(0, 1)
    best = lax.map(some, turns).swapaxes(0, 1).reshape(b, -1)[:, :count]
    return jnp.divmod(best, w)


def _cosines(query, reference, block, corners, window):
    """Cosines (B, N, patches of a block, patches of its window) of 3x3 patches."""
    b, height, width, c = query.shape
    n = corners[0].shape[1]
    query = _edged(query)
    down, across = (
        np.arange(0, side, block)[:, None] + np.arange(block + 2) for side in (height, width)
    )
    blocks = query[:, down][:, :, :, across].swapaxes(2, 3)
    windows = _cut(reference, corners, window)
    products = _products(blocks.reshape(b, n, -1, c), windows.reshape(b, n, -1, c))
    products = products.reshape(b, n, block + 2, block + 2, *window)
    products = sum(
        _seen(products[:, :, 1 + i : 1 + i + block, 1 + j : 1 + j + block], (i, j), 1)
        for i, j in TAPS
    )

    def norms(x):
        squares = jnp.square(x).sum(-1)
        return _inverse_root(sum(_seen(squares, tap, 1) for tap in TAPS))

    ours = norms(query).reshape(b, height // block, block, width // block, block).swapaxes(2, 3)
    theirs = _cut(norms(reference), corners, [side - 2 for side in window])
    cosines = products * ours.reshape(b, n, block, block, 1, 1) * theirs[:, :, None, None]
    return cosines.reshape(b, n, block * block, -1)


def _products(x, y):
    """Scalar products of every row of (..., N, C) with every row of (..., M, C): (..., N, M)."""
    return jnp.einsum("...nc,...mc->...nm", x, y, precision=lax.Precision.HIGHEST)


def _seen(x, tap, margin):
    """What lies `tap` away from the positions of (..., H, W) that leave a margin all around."""
    (i, j), (h, w) = tap, x.shape[-2:]
    return x[..., margin + i : h - margin + i, margin + j : w - margin + j]


def _inverse_root(squares):
    return lax.rsqrt(jnp.maximum(squares, LEAST_NORM**2))


def _cut(x, corners, window):
    """Cuts windows of one size from (B, H, W, ...) at (B, N) corners: (B, N, h, w, ...)."""

    def one(x, row, column):
        start = row, column, *(0 for _ in x.shape[2:])
        return lax.dynamic_slice(x, start, (*window, *x.shape[2:]))

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(x, *corners)


def _merge(blocks):
    """(B, rows, columns, h, w) -> (B, rows h, columns w)."""
    b, rows, columns, h, w = blocks.shape
    return blocks.swapaxes(2, 3).reshape(b, rows * h, columns * w)


def transfer(
    features: Float[Array, "b h2 w2 d"], match: Match, *, block: int = 8
) -> Float[Array, "b h w d"]:
    """Brings features of the reference to where the query has matched them.

    Every position carries over a 3x3 patch of cells; where the patches of a block overlap, they
    are averaged, and the confidence, enlarged bilinearly within the block, weighs the result.

    Args:
        features: a level of the reference, s x s pixels for each of its positions, s whole.
        match: of b pictures with a reference of h2 / s x w2 / s positions.
        block: as for `match`.

    Returns:
        Features of the same dtype, s x s pixels for each position of the query.

    Raises:
        InputError: the features do not have the reference's proportions.
    """
    sides, reference = features.shape[1:3], match.reference
    scale = sides[0] // reference[0]
    if sides != tuple(scale * side for side in reference) or not scale:
        raise InputError(
            f"features of {sides[0]}x{sides[1]} do not fit a reference of "
            f"{reference[0]}x{reference[1]} positions: give a whole multiple of that"
        )
    return _transfer(features, match.rows, match.columns, match.confidence, block, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _transfer(features, rows, columns, confidence, block, scale):
    """JAX's own gradient would hold nine pictures, and on CPU add them up cell by cell."""
    average = _average(features, rows, columns, block, scale)
    return (average * _enlarge(confidence, block, scale)[..., None]).astype(features.dtype)


def _average(features, rows, columns, block, scale):
    """The mean of what the patches of a block say about each pixel, float32."""
    kept, shares = _overlaps(rows.shape[1:], block)
    average = 0.0
    for (i, j), keep in zip(TAPS, kept, strict=True):
        # The patch centred (i, j) away sees this position (i, j) before its own centre.
        row, column = (
            _spread((jnp.roll(centres, (-i, -j), (1, 2)) - step) * scale, scale)
            for centres, step in ((rows, i), (columns, j))
        )
        row += (np.arange(row.shape[1]) % scale)[:, None]
        column += np.arange(column.shape[2]) % scale
        seen = jax.vmap(lambda x, r, c: x.at[r, c].get(mode="promise_in_bounds"))(
            features, row, column
        )
        average += seen * _spread((keep * shares)[None], scale)[..., None]
    return average


def _overlaps(sides, block):
    """Which of the nine patches around each position are its block's, and one over their number.

    Returns:
        bool (9, H, W) and float32 (H, W).
    """
    places = [np.arange(side) % block for side in sides]
    within = [
        {step: (0 <= place + step) & (place + step < block) for step in (-1, 0, 1)}
        for place in places
    ]
    kept = np.stack([within[0][i][:, None] & within[1][j] for i, j in TAPS])
    return kept, (1 / kept.sum(0)).astype(np.float32)


def _spread(cells, scale):
    """Repeats each of (B, H, W) for the scale x scale pixels of its cell."""
    return jnp.repeat(jnp.repeat(cells, scale, 1), scale, 2)


def _enlarge(confidence, block, scale):
    """Bilinear, block by block, with half-pixel centres: (B, H, W) -> (B, s H, s W)."""
    b, h, w = confidence.shape
    blocks = confidence.reshape(b, h // block, block, w // block, block).swapaxes(2, 3)
    side = block * scale
    return _merge(jax.image.resize(blocks, (*blocks.shape[:3], side, side), "linear"))


def _transfer_forward(*arguments):
    return _transfer(*arguments), arguments[:4]


def _transfer_backward(block, scale, residuals, dy):
    features, rows, columns, confidence = residuals
    weights, pull = jax.vjp(lambda x: _enlarge(x, block, scale), confidence)
    backward = _backward_by_patches if backend.name() == "cpu" else _backward_by_taps
    dfeatures, dweights = backward(features, rows, columns, weights, dy, block, scale)
    return dfeatures.astype(features.dtype), None, None, *pull(dweights)


_transfer.defvjp(_transfer_forward, _transfer_backward)


def _backward_by_taps(features, rows, columns, weights, dy, block, scale):
    """Gradients of the features and of the enlarged confidence, one tap for all cells at a time."""
    b, h, w = rows.shape
    kept, shares = _overlaps((h, w), block)

    def cells(x):
        """(B, s H, s W, ...) -> (B, H W, s s, ...)."""
        height, width = x.shape[1] // scale, x.shape[2] // scale
        x = x.reshape(b, height, scale, width, scale, -1).swapaxes(2, 3)
        return x.reshape(b, height * width, scale**2, -1)

    def pixels(x, height, width):
        x = x.reshape(b, height, width, scale, scale, -1).swapaxes(2, 3)
        return x.reshape(b, height * scale, width * scale, -1)

    height, width = features.shape[1] // scale, features.shape[2] // scale
    features, dy = cells(features), cells(dy.astype(jnp.float32))
    weighted = dy * cells(weights)
    places = [
        jnp.roll(rows * width + columns, (-i, -j), (1, 2)).reshape(b, -1) - i * width - j
        for i, j in TAPS
    ]

    def step(sums, tap):
        places, share = tap
        dfeatures, dweights = sums
        share = share[:, None, None]
        add = jax.vmap(lambda x, at, y: x.at[at].add(y, mode="promise_in_bounds"))
        seen = jax.vmap(lambda x, at: x.at[at].get(mode="promise_in_bounds"))(features, places)
        dweights += (seen * dy).sum(-1, keepdims=True) * share
        return (add(dfeatures, places, weighted * share), dweights), None

    sums = jnp.zeros(features.shape, jnp.float32), jnp.zeros((*dy.shape[:3], 1), jnp.float32)
    taps = jnp.stack(places), jnp.asarray((kept * shares).reshape(len(TAPS), -1))
    dfeatures, dweights = lax.scan(step, sums, taps)[0]
    return pixels(dfeatures, height, width), pixels(dweights, h, w)[..., 0]


def _backward_by_patches(features, rows, columns, weights, dy, block, scale):
    """The same one patch at a time, all taps at once: on CPU in a third of the time.

    A patch and what it adds to stay in the cache, and nothing is put into another order.
    """
    b, h, w = rows.shape
    kept, _ = _overlaps((block, block), block)
    kept = jnp.asarray(kept.reshape(3, 3, block, block).transpose(2, 3, 0, 1))
    shares = _spread(_overlaps((h, w), block)[1][None], scale)
    margins = (0, 0), (scale, scale), (scale, scale), (0, 0)
    dy, weights, shares = (jnp.pad(x, margins) for x in (dy, weights[..., None], shares[..., None]))
    rows, columns = rows.reshape(-1), columns.reshape(-1)

    def window(x, at):
        return lax.dynamic_slice(x, (*at, 0), (1, 3 * scale, 3 * scale, x.shape[3]))

    def step(n, sums):
        dfeatures, dweights = sums
        picture, row, column = n // (h * w), n // w % h, n % w
        here = picture, row * scale, column * scale
        there = picture, (rows[n] - 1) * scale, (columns[n] - 1) * scale
        share = _spread(kept[row % block, column % block][None], scale)[..., None]
        share = share * window(shares, (0, *here[1:]))
        given = window(dy, here).astype(jnp.float32) * share
        dots = (window(features, there) * given).sum(-1, keepdims=True)
        given *= window(weights, here)
        return (
            lax.dynamic_update_slice(dfeatures, window(dfeatures, there) + given, (*there, 0)),
            lax.dynamic_update_slice(dweights, window(dweights, here) + dots, (*here, 0)),
        )

    sums = jnp.zeros(features.shape, jnp.float32), jnp.zeros(weights.shape, jnp.float32)
    dfeatures, dweights = lax.fori_loop(0, b * h * w, step, sums)
    return dfeatures, dweights[:, scale:-scale, scale:-scale, 0]
