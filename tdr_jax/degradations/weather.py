"""Rain and haze as the world makes them: layers of rain, haze behind the picture's own edges.

Pictures are float32 (H, W, 3) or (H, W, 1) in [0, 1], of any size from 16 pixels on; each draw
comes from the generator that is passed in. Ranges are (lowest, highest), beside what they are of.
"""

import numpy as np

from tdr_jax.degradations import synthesis

# Rain. Lengths and widths are of the nearest layer, in pixels; further layers shrink.
LAYERS = (1, 4)
LENGTHS = (25.0, 110.0)
WIDTHS = (0.55, 1.2)  # standard deviation across a streak
COVERS = (0.08, 2.5)  # sum of the streaks' areas over the picture's; a shower to a cloudburst
LIGHTS = (0.15, 0.8)  # of a layer's brightest streaks
VEIL = 0.2  # most of the grey light that hangs between the drops
ADDED, CROSSED, VEILED = 0.6, 0.25, 0.5  # shares of pictures

# Haze. RESIDE's indoor and outdoor sets: depth is 1 at a room's far wall; its unit outdoors is that
# of `synthesis.synthetic_depth`.
INDOOR = {"airlight": (0.7, 1.0), "beta": (0.6, 1.8)}
OUTDOOR = {"airlight": (0.8, 1.0), "beta": (0.04, 0.2)}
INDOORS = 0.5  # share of pictures
TINT = 0.02  # most that a channel of the light departs from grey
PARTS = (6, 40)  # of a picture, that stand at depths of their own
SOFTNESS = (1e-4, 1e-2)  # of the depth's edges: what the guided filter adds to the variance


def log_between(span, rng):
    """Draws a number whose logarithm is spread evenly between those of a range: float."""
    return float(np.exp(rng.uniform(*np.log(span))))


def streaks(shape, rng, *, angle, length, width, cover):
    """Draws one layer of rain, all of it falling in one direction.

    Args:
        shape: (H, W).
        rng: `numpy.random.Generator`.
        angle: degrees from the vertical, positive to the right on the way down.
        length: of the longest streaks in pixels; the others have 0.55 of it.
        width: standard deviation across a streak in pixels.
        cover: sum of the streaks' areas over the picture's.

    Returns:
        float32 (H, W) >= 0: about 1 along the middle of a bright drop, more where some cross.
    """
    import cv2

    height, breadth = shape
    # Streaks are drawn upright on a sheet that covers the picture when it is turned, which makes
    # their blurs separable: no cost in length or number of drops.
    turned = np.deg2rad(angle)
    cos, sin = np.cos(turned), np.sin(turned)
    pad = int(length) + 2
    rows = int(np.ceil(height * abs(cos) + breadth * abs(sin))) + 2 * pad
    cols = int(np.ceil(breadth * abs(cos) + height * abs(sin))) + 6
    sheet = np.zeros((rows, cols), np.float32)
    for size in (length, 0.55 * length):
        drops = rng.poisson(cover * rows * cols / (2 * size * 2.5 * width))
        place = rng.integers(0, rows * cols, drops)
        light = rng.uniform(0.3, 1.0, drops)
        points = np.bincount(place, light, minlength=rows * cols)
        points = points.reshape(rows, cols).astype(np.float32)
        # Two boxes: a trapezium with soft ends, of height 1.
        body, end = max(1, round(size * 0.8)), max(1, round(size * 0.3))
        points = cv2.blur(points, (1, body), borderType=cv2.BORDER_CONSTANT)
        sheet += np.float32(body) * cv2.blur(points, (1, end), borderType=cv2.BORDER_CONSTANT)
    reach = 2 * int(np.ceil(3 * width)) + 1
    across = np.exp(-0.5 * (np.arange(reach) - reach // 2) ** 2 / width**2)
    sheet = cv2.sepFilter2D(sheet, -1, across, np.ones(1), borderType=cv2.BORDER_CONSTANT)

    turn = np.array([[cos, -sin, 0], [sin, cos, 0]])
    middle = np.array([(breadth - 1) / 2, (height - 1) / 2])
    turn[:, 2] = (cols - 1) / 2, (rows - 1) / 2
    turn[:, 2] += rng.uniform(-0.5, 0.5, 2) - turn[:, :2] @ middle
    return cv2.warpAffine(sheet, turn, (breadth, height), flags=cv2.WARP_INVERSE_MAP)


def rain(image, rng, *, heaviness=None, added=None, veil=None):
    """Adds rain in one to four layers of depth, with or without a veil of fine drops.

    Near layers hold few long streaks, broad since they are out of focus; far ones many short, thin,
    faint ones. Layers fall alike or cross each other.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        heaviness: from 0, the cover and light of a shower (Rain100L), to 1, a cloudburst (beyond
            Rain100H); None draws it.
        added: True for light that is added and clipped, as in Rain100L and Rain100H, False for
            light that is screened, I + s (1 - I), as a film does; None draws it.
        veil: share of grey light mixed in, 0 to `VEIL`; None draws it.

    Returns:
        float32 (H, W, C) in [0, 1].

    Source: our own; the statistics it was fitted to stand in docs/degradations.md.
    """
    # Every value is drawn whether it is given or not: fixing one keeps the others.
    drawn_heaviness, drawn_added, has_veil, drawn_veil = rng.random(4)
    heaviness = drawn_heaviness if heaviness is None else heaviness
    added = drawn_added < ADDED if added is None else added
    if veil is None:
        veil = VEIL * heaviness * drawn_veil * (has_veil < VEILED)
    layers = rng.integers(LAYERS[0], LAYERS[1] + 1)
    angle = np.clip(14 * rng.standard_normal(), -45, 45)
    spread = 20 if rng.random() < CROSSED else 3
    near_length = log_between(LENGTHS, rng)
    near_width = log_between(WIDTHS, rng)
    colour = rng.uniform(0.75, 1.0)
    # Cover and light grow with heaviness, each with luck of its own.
    luck = np.clip(heaviness + rng.uniform(-0.25, 0.25, 2), 0, 1)
    cover, light = (
        low * (high / low) ** at for (low, high), at in zip((COVERS, LIGHTS), luck, strict=True)
    )

    fallen = np.zeros(image.shape[:2], np.float32)
    for k in range(layers):
        far = 1 / (1 + 0.4 * k * rng.uniform(0.5, 1.5))  # size at this distance, 1 for the nearest
        layer = streaks(
            image.shape[:2],
            rng,
            angle=angle + spread * rng.uniform(-1, 1),
            length=max(8.0, near_length * far),
            width=max(0.45, near_width * (far**0.5 if k else rng.uniform(1.0, 1.25))),
            cover=cover / layers * rng.uniform(0.6, 1.4),
        )
        fallen += layer * np.float32(light * (0.4 + 0.6 * far))

    # The veil is thicker on one side.
    lean = rng.uniform(-0.4, 0.4, 2)
    ys, xs = (np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape[:2])
    hung = np.float32(veil) * (1 + np.float32(lean[0]) * ys[:, None] + np.float32(lean[1]) * xs)
    out = image + hung[..., None] * (np.float32(0.8 * colour) - image)
    fallen = np.minimum(fallen, 1)[..., None] * np.float32(colour)
    out = out + fallen if added else out + fallen * (1 - out)
    return np.clip(out, 0, 1)


def room(shape, rng, window=None):
    """Draws the depth of an empty room seen from inside: floor, ceiling and three walls.

    Args:
        shape: (H, W) of the whole picture.
        rng: `numpy.random.Generator`.
        window: (y, x, h, w) within the picture, or None for all of it.

    Returns:
        float32 (h, w), 1 at the far wall, at least 0.2.
    """
    height, width = shape
    top, left, h, w = window if window is not None else (0, 0, height, width)
    middle = rng.uniform((0.2, 0.3), (0.55, 0.7)) * shape  # where the lines of the room run to
    focal = max(shape)
    y = ((np.arange(top, top + h) - middle[0]) / focal).astype(np.float32)[:, None]
    x = ((np.arange(left, left + w) - middle[1]) / focal).astype(np.float32)
    # A ray (x, y, 1) meets the plane at a side's distance a where its depth is a / |x|.
    ceiling, floor = rng.uniform((0.08, 0.05), (0.4, 0.2))
    walls = rng.uniform(0.08, 0.4, 2)
    tiny = np.float32(1e-4)
    across = np.where(x < 0, walls[0], walls[1]) / np.maximum(np.abs(x), tiny)
    along = np.where(y < 0, ceiling, floor) / np.maximum(np.abs(y), tiny)
    return np.clip(np.minimum(across, along), 0.2, 1).astype(np.float32)


def parts_of(image, count, rng):
    """Cuts a picture into connected parts whose borders follow its edges.

    Args:
        image: float32 (H, W, C) in [0, 1].
        count: how many parts, about.
        rng: `numpy.random.Generator`, for the places they grow from.

    Returns:
        int32 (H, W), the number of each pixel's part, from 0 to `count`.

    Source: the watershed of Meyer (1992).
    """
    import cv2

    colour = cv2.GaussianBlur(image, (0, 0), 1).reshape(image.shape)
    levels = (np.broadcast_to(colour, (*image.shape[:2], 3)) * 255).astype(np.uint8)
    labels = np.zeros(image.shape[:2], np.int32)
    place = rng.integers(0, labels.size, count)
    labels.flat[place] = np.arange(1, count + 1)
    labels = cv2.watershed(np.ascontiguousarray(levels), labels)
    # Lines between parts, and the frame, come as -1; they join a neighbour.
    grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    return np.maximum(np.where(labels < 0, grown, labels), 0)


def guided(guide, source, radius, softness):
    """Smooths a map except where a picture has edges.

    Args:
        guide: float32 (H, W) in [0, 1].
        source: float32 (H, W), the map.
        radius: of the windows in pixels.
        softness: variance of the guide below which a window counts as flat.

    Returns:
        float32 (H, W).

    Source: He, Sun and Tang, "Guided image filtering" (2013), equations 5, 6 and 8.
    """
    import cv2

    def mean(values):
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    guide_mean, source_mean = mean(guide), mean(source)
    covariance = mean(guide * source) - guide_mean * source_mean
    slope = covariance / (mean(guide * guide) - guide_mean**2 + np.float32(softness))
    return mean(slope) * guide + mean(source_mean - slope * guide_mean)


def imagined_depth(image, rng, *, indoors, window=None, shape=None):
    """Draws the depth of an imaginary scene whose edges are those of the picture.

    A room or a landscape is drawn without looking; connected parts of the picture then stand in
    front of it, each at a depth of its own, and a guided filter lays the edges on the picture's.

    Args:
        image: float32 (h, w, C) in [0, 1], the clear picture or a window of it.
        rng: `numpy.random.Generator`.
        indoors: whether the scene is a room.
        window: (y, x, h, w) of `image` within its picture, or None if it is all of it.
        shape: (H, W) of that picture.

    Returns:
        float32 (h, w): 0.05 to 1 indoors, 0.2 to 11 in the unit of 1 / beta outdoors. Unlike
        `synthesis.synthetic_depth` a window's is not that of the whole: its parts are its own.
    """
    whole = shape or image.shape[:2]
    scene = (room if indoors else synthesis.synthetic_depth)(whole, rng, window)
    parts = parts_of(image, rng.integers(PARTS[0], PARTS[1] + 1), rng)
    count = parts.max() + 1
    sizes = np.maximum(np.bincount(parts.ravel(), minlength=count), 1)
    depths = np.bincount(parts.ravel(), scene.ravel(), minlength=count) / sizes
    depths *= np.exp(rng.uniform(-0.7, 0.2, count))  # things stand in front of walls and sky
    standing = rng.random(count) < rng.uniform(0.3, 1.0)
    depth = np.where(standing[parts], depths.astype(np.float32)[parts], scene)
    radius = max(2, int(min(depth.shape) * rng.uniform(0.03, 0.12)))
    depth = guided(image.mean(-1), depth, radius, log_between(SOFTNESS, rng))
    lowest, highest = (0.05, 1.0) if indoors else (0.2, synthesis.SKY_DEPTH[1])
    return np.clip(depth, lowest, highest)


def haze(image, rng, *, indoors=None, window=None, shape=None, guide=None):
    """Adds haze over an imaginary depth, with airlight and beta from RESIDE's ranges.

    Args:
        image: float32 (h, w, C) in [0, 1].
        rng: `numpy.random.Generator`.
        indoors: whether `INDOOR` or `OUTDOOR` holds; None draws it.
        window, shape: see `imagined_depth`.
        guide: float32 (h, w, C), the picture whose edges the depth has; None for `image`.

    Returns:
        float32 (h, w, C) in [0, 1].

    Source: I = J t + A (1 - t), t = exp(-beta d); ranges: Li et al., "Benchmarking single-image
    dehazing and beyond" (2019).
    """
    drawn = rng.random() < INDOORS
    indoors = drawn if indoors is None else indoors
    ranges = INDOOR if indoors else OUTDOOR
    airlight, beta = rng.uniform(*ranges["airlight"]), rng.uniform(*ranges["beta"])
    colour = np.clip(airlight + TINT * rng.uniform(-1, 1, 3), 0, 1)[: image.shape[-1]]
    guide = image if guide is None else guide
    depth = imagined_depth(guide, rng, indoors=indoors, window=window, shape=shape)
    return synthesis.haze(image, depth, colour, beta)
