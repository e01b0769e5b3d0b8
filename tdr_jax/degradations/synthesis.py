"""Noise, rain, haze and blur made on the host: pure functions of a picture and a generator.

Pictures are float32 (H, W, 3) in [0, 1], or (H, W, 1) where they are grey. Every draw comes from
the random generator that is passed in, so an example made from `draws.example_rng(seed, index)` is
the same in any process and on any host.
"""

import numpy as np

from tdr_jax.degradations.vocabulary import SIGMAS, SYNTHESISED
from tdr_jax.errors import InputError

# The values RESIDE's outdoor training set (OTS) was rendered with; its file names carry them.
AIRLIGHTS = (0.8, 0.85, 0.9, 0.95, 1.0)
BETAS = (0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)
# Depth of the sky in the unit of 1/beta. 7 to 11 leaves t = exp(-beta d) between 0.11 and 0.76
# there, the span of OTS pictures.
SKY_DEPTH = (7.0, 11.0)
BLUR_LENGTHS = (5.0, 25.0)  # of a shaken exposure's path, in pixels


def gaussian_noise(image, sigma, rng, mode="uint8"):
    """Adds white Gaussian noise.

    Args:
        image: float32 (..., 3) in [0, 1].
        sigma: standard deviation on the scale of 0 to 255.
        rng: `numpy.random.Generator`.
        mode: "uint8" clips to [0, 255] and truncates to integers, which lowers the mean by about
            half a level and is what published numbers were made with; "float" adds the noise
            exactly, without clipping.

    Returns:
        float32 of the picture's shape; in [0, 1] for "uint8", unbounded for "float".

    Raises:
        InputError: for another mode.

    Source: the protocol of AirNet, PromptIR and TextPromptIR (uint8 mode).
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if mode == "float":
        return (image + noise * np.float32(sigma / 255)).astype(np.float32)
    if mode != "uint8":
        raise InputError(f"noise mode {mode!r} does not exist; use 'uint8' or 'float'")
    # float32 k/255*255 gives back k exactly for k = 0..255, so sigma 0 is the identity here too.
    # In place: half of the time of a crop goes into this.
    noise *= np.float32(sigma)
    noise += image * np.float32(255)
    np.floor(np.clip(noise, 0, 255, out=noise), out=noise)
    noise /= np.float32(255)
    return noise


def _rain_layer(shape, rng, angle, length, width, coverage):
    """Draws one depth layer of streaks: float32 `shape` in [0, 1], the share of light they hide."""
    import cv2

    height, breadth = shape
    pad = int(np.ceil(0.75 * length)) + 4  # streaks may come in from outside the picture
    rows, cols = height + 2 * pad, breadth + 2 * pad
    # A streak covers about length * 2.5 width; coverage is the wanted share of the picture.
    count = rng.poisson(coverage * rows * cols / (length * 2.5 * width))
    y = rng.random(count, np.float32) * np.float32(rows)
    x = rng.random(count, np.float32) * np.float32(cols)
    lengths = np.float32(length) * (np.float32(0.5) + rng.random(count, np.float32))
    light = np.float32(0.35) + np.float32(0.65) * rng.random(count, np.float32)
    tilt = np.float32(angle) + rng.standard_normal(count, np.float32) * np.float32(np.deg2rad(1.5))

    # Every drop is splatted at `steps` points along its path, bilinearly: no loop over drops, and
    # no stair steps at any angle.
    steps = int(np.ceil(1.5 * length)) + 1
    along = np.linspace(-0.5, 0.5, steps, dtype=np.float32)
    taper = 1 - (2 * along) ** 4  # soft ends
    py = y[:, None] + (lengths * np.cos(tilt))[:, None] * along
    px = x[:, None] + (lengths * np.sin(tilt))[:, None] * along
    weight = (light * lengths / np.float32(steps))[:, None] * taper
    inside = (py >= 0) & (py < rows - 1) & (px >= 0) & (px < cols - 1)
    py, px, weight = py[inside], px[inside], weight[inside]
    iy, ix = py.astype(np.int32), px.astype(np.int32)
    fy, fx = py - iy, px - ix
    cell = iy * cols + ix
    sheet = np.zeros(rows * cols)
    for step, part in (
        (0, (1 - fy) * (1 - fx)),
        (1, (1 - fy) * fx),
        (cols, fy * (1 - fx)),
        (cols + 1, fy * fx),
    ):
        sheet += np.bincount(cell + step, weight * part, minlength=rows * cols)
    sheet = cv2.GaussianBlur(sheet.reshape(rows, cols).astype(np.float32), (0, 0), width)
    # The blur spreads a line of height 1 to height 1 / (sqrt(2 pi) sigma); bilinear splatting adds
    # a variance of about 1/6. Undo both, so that a bright drop peaks near 1.
    sheet *= np.float32(np.sqrt(2 * np.pi * (width**2 + 1 / 6)))
    return np.clip(sheet[pad : pad + height, pad : pad + breadth], 0, 1)


def rain(image, rng, *, severity=None, angle=None, layers=None, veil=None):
    """Adds rain streaks in one to three layers of depth, and a slight veil.

    Near layers hold few long, broad, bright streaks, far layers many short, thin, faint ones. All
    layers fall in nearly the same direction.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        rng: `numpy.random.Generator`.
        severity: from 0, a light shower, to 1, heavy rain; it sets how much the streaks cover and
            hide. None draws it.
        angle: mean direction in degrees from the vertical; None draws one, mostly within 30.
        layers: 1, 2 or 3; None draws it, more for heavier rain.
        veil: share of grey light mixed in, 0 to 0.1; None draws it in proportion to the severity.

    Returns:
        float32 (H, W, 3) in [0, 1].

    Source: our own; strengths are chosen to span light to heavy sets such as Rain100L and Rain100H.
    """
    # Every value is drawn whether it is given or not: fixing one keeps the others.
    drawn_severity, second, third, drawn_veil, drawn_length, drawn_light = rng.random(6)
    severity = float(drawn_severity if severity is None else severity)
    drawn_angle = np.clip(14 * rng.standard_normal(), -45, 45)
    angle = float(drawn_angle if angle is None else angle)
    if layers is None:
        layers = 1 + int(second < 0.3 + 0.7 * severity) + int(third < severity)
    veil = float(0.06 * severity * drawn_veil if veil is None else veil)
    near_length = 26 + 30 * drawn_length
    light = np.float32(0.8 + 0.2 * drawn_light)

    out = image * np.float32(1 - veil) + np.float32(0.75 * veil)
    for k in range(layers):
        size, width, coverage, opacity, turn = rng.random(5)
        mask = _rain_layer(
            image.shape[:2],
            rng,
            angle=np.deg2rad(angle + 6 * (turn - 0.5)),
            length=near_length * (0.8 + 0.4 * size) * (1.0, 0.7, 0.5)[k],
            width=(0.7 + 0.6 * width) * (1.0, 0.75, 0.6)[k],
            coverage=(0.04 + 0.09 * severity) * (0.6 + 0.8 * coverage) * (1.0, 1.3, 1.6)[k],
        )
        hidden = mask * np.float32((0.4 + 0.3 * severity + 0.2 * opacity) * (1, 0.75, 0.5)[k])
        out = out + hidden[..., None] * light * (1 - out)
    return np.clip(out, 0, 1).astype(np.float32)


def haze(image, depth, airlight, beta):
    """Applies the scattering model I = J t + A (1 - t) with t = exp(-beta d).

    Args:
        image: float32 (H, W, 3) in [0, 1], the clear picture J.
        depth: float32 (H, W) >= 0, in the unit of 1 / beta.
        airlight: A, one value or three in [0, 1].
        beta: scattering coefficient >= 0.

    Returns:
        float32 (H, W, 3) in [0, 1].

    Source: the atmospheric scattering model with which RESIDE (Li et al., 2019) was rendered.
    """
    clear = np.exp(np.float32(-beta) * depth.astype(np.float32))[..., None]
    return image * clear + np.asarray(airlight, np.float32) * (1 - clear)


def synthetic_depth(shape, rng, window=None):
    """Draws the depth map of an imaginary outdoor scene, or a window of it.

    A ground plane runs from the viewer to the horizon, smooth masses (trees, hills, houses) stand
    up to a wavy skyline, the sky lies behind them; broad waves bend all of it.

    Args:
        shape: (H, W) of the whole picture.
        rng: `numpy.random.Generator`; the number of draws does not depend on shape or window.
        window: (y, x, h, w) within the picture, or None for all of it.

    Returns:
        float32 (h, w), from 0.3 to 11 in the unit of 1 / beta. A window equals that part of the
        whole map bit for bit and costs only its own pixels: each pixel is a function of its place.
    """
    height, width = shape
    top, left, h, w = window if window is not None else (0, 0, height, width)
    # Unit: the longer side, so that an upright and a wide picture hold the same structures.
    side = max(height, width)
    v = ((np.arange(top, top + h) + 0.5) / height)[:, None]
    ys = (np.arange(top, top + h) + 0.5) / side
    xs = (np.arange(left, left + w) + 0.5) / side

    horizon = rng.uniform(0.1, 0.6)
    near = rng.uniform(0.7, 1.8)
    sky = rng.uniform(*SKY_DEPTH)
    roll = rng.uniform(-0.1, 0.1)
    # One-dimensional waves: where the skyline runs and how far the masses below it stand away.
    rate = rng.uniform(0.4, 3.0, (2, 3))
    phase = rng.uniform(0, 2 * np.pi, (2, 3))
    size = rng.uniform(0.3, 1.0, (2, 3)) / (1 + rate / 2)
    curves = (size[..., None] * np.sin(rate[..., None] * 2 * np.pi * xs + phase[..., None])).sum(1)
    base, reach = rng.uniform(0.0, 0.35), rng.uniform(0.05, 0.2)
    standing = rng.uniform(2.5, 7.0)
    # The border of sky and masses is broad: a sharp one that misses the real one looks painted on.
    border = rng.uniform(0.25, 0.6)
    # Two-dimensional waves, as products of sines so that they cost two multiplications a pixel.
    rate2 = rng.uniform(0.3, 2.5, (4, 2))
    phase2 = rng.uniform(0, 2 * np.pi, (4, 2))
    size2 = rng.uniform(0.03, 0.12, 4)

    level = np.clip(horizon + roll * (xs - 0.5), 0.05, 0.95)
    # Pinhole over a plane: depth goes with 1 / (distance below the horizon), `near` at the bottom.
    ground = near * (1 - level) / np.maximum(v - level, 1e-3)
    skyline = level - np.maximum(base + reach * curves[0], 0)
    mass = np.clip(standing * (1 + 0.35 * curves[1]), 1.5, 0.9 * sky)
    edge = np.clip((skyline - v) / border + 0.5, 0, 1)
    edge = edge * edge * (3 - 2 * edge)  # 1 in the sky, 0 in the masses
    behind = mass + (sky - mass) * edge
    depth = ground * behind / np.sqrt(ground * ground + behind * behind)  # the nearer, smoothly

    bend = np.ones((h, w))
    for r, p, a in zip(rate2, phase2, size2, strict=True):
        row = np.sin(2 * np.pi * r[0] * ys + p[0])
        bend += a * row[:, None] * np.sin(2 * np.pi * r[1] * xs + p[1])
    return np.clip(depth * bend, 0.3, sky).astype(np.float32)


def random_haze(image, rng, window=None, shape=None, depth=None, tint=0.0):
    """Adds haze with airlight and density drawn from the values of OTS.

    Args:
        image: float32 (h, w, 3) in [0, 1], the whole picture or a window of it.
        rng: `numpy.random.Generator`.
        window: (y, x, h, w) of `image` within the picture, or None.
        shape: (H, W) of the picture; needed with a window.
        depth: float32 (h, w) to use instead of a synthetic one.
        tint: largest change of the airlight by channel, 0 for the grey light of OTS.

    Returns:
        float32 (h, w, 3) in [0, 1].
    """
    airlight = rng.choice(AIRLIGHTS)
    beta = rng.choice(BETAS)
    colour = np.clip(airlight + tint * rng.uniform(-1, 1, 3), 0, 1)[: image.shape[-1]]
    if depth is None:
        depth = synthetic_depth(shape or image.shape[:2], rng, window)
    return haze(image, depth, colour, beta)


def motion_kernel(rng, length=None):
    """Draws the path that a shaken camera leaves of a point of light.

    The path keeps its heading for a while, bends, and runs now faster, now slower, as a hand does.

    Args:
        rng: `numpy.random.Generator`; the number of draws does not depend on the length.
        length: of the path in pixels; None draws one of `BLUR_LENGTHS`.

    Returns:
        float32 (k, k) with an odd k, at least 0, with the sum 1; the light's centre is in the
            middle.

    Source: our own; the lengths span those of hand-held exposures as GoPro's averages show them.
    """
    drawn, heading, bend, wander = rng.random(4)
    steps = 64
    pace = np.abs(1 + 0.5 * rng.standard_normal(steps))
    swing = rng.standard_normal(steps)
    length = BLUR_LENGTHS[0] + drawn * np.diff(BLUR_LENGTHS)[0] if length is None else length

    turns = 2 * np.pi * heading + np.cumsum((bend - 0.5) * 3 / steps + 0.3 * wander * swing)
    path = np.cumsum(pace[:, None] * np.stack([np.sin(turns), np.cos(turns)], 1), axis=0)
    path = (path - path.mean(0)) * (length / pace.sum())

    # Splatted bilinearly, as the drops of `rain` are.
    radius = int(np.ceil(np.abs(path).max())) + 1
    side = 2 * radius + 1
    corner = np.floor(path).astype(int)
    part = path - corner
    kernel = np.zeros((side, side))
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
        np.add.at(kernel, (corner[:, 0] + radius + dy, corner[:, 1] + radius + dx), weight)
    return (kernel / kernel.sum()).astype(np.float32)


def motion_blur(image, rng, *, length=None, sigma=0.0):
    """Blurs a picture as a shaken exposure does; borders are reflected.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        length: see `motion_kernel`.
        sigma: standard deviation of noise added afterwards, on the scale of 0 to 255; 0 for none.

    Returns:
        float32 (H, W, C) in [0, 1].
    """
    import cv2

    kernel = motion_kernel(rng, length)
    blurred = cv2.filter2D(
        np.ascontiguousarray(image), cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101
    ).reshape(image.shape)
    if sigma:
        blurred = gaussian_noise(blurred, sigma, rng, mode="float")
    return np.clip(blurred, 0, 1)


def degrade(image, task, rng, *, sigma=None, window=None, shape=None, noise_mode="uint8"):
    """Degrades a picture, or a window of one, for a task.

    Args:
        image: float32 (h, w, 3) in [0, 1].
        task: "noise", "rain", "haze" or "blur".
        rng: `numpy.random.Generator`, for instance of `draws.example_rng`.
        sigma: noise level on the scale of 0 to 255; None draws one of 15, 25, 50.
        window: (y, x, h, w) of `image` within its picture, for haze; None if it is all of it.
        shape: (H, W) of that picture.
        noise_mode: see `gaussian_noise`.

    Returns:
        float32 (h, w, 3).

    Raises:
        InputError: for a task that cannot be synthesised.
    """
    if task == "noise":
        level = rng.choice(SIGMAS) if sigma is None else sigma
        return gaussian_noise(image, level, rng, noise_mode)
    if task == "rain":
        return rain(image, rng)
    if task == "haze":
        return random_haze(image, rng, window, shape)
    if task == "blur":
        return motion_blur(image, rng)
    raise InputError(f"cannot make {task!r}; the degradations are {', '.join(SYNTHESISED)}")
