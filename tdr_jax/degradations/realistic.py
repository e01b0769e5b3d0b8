"""Damage as the world makes it: rain, haze, camera noise and JPEG blocks for training.

Wider ranges than those of `degradations.synthesis`, whose streams evaluation keeps. Pictures are float32
(H, W, 3) or (H, W, 1) in [0, 1], of any size from 16 pixels on; each draw comes from the generator
that is passed in. Ranges are (lowest, highest) and stand beside what they are of.
"""

import numpy as np

from tdr_jax.degradations import synthesis as published
from tdr_jax.errors import InputError

# Rain. Lengths and widths are of the nearest layer, in pixels; further layers shrink.
LAYERS = (1, 4)
LENGTHS = (25.0, 110.0)
WIDTHS = (0.55, 1.2)  # standard deviation across a streak
COVERS = (0.08, 2.5)  # sum of the streaks' areas over the picture's; a shower to a cloudburst
LIGHTS = (0.15, 0.8)  # of a layer's brightest streaks
VEIL = 0.2  # most of the grey light that hangs between the drops
ADDED, CROSSED, VEILED = 0.6, 0.25, 0.5  # shares of pictures

# Haze. RESIDE's indoor and outdoor sets: depth is 1 at a room's far wall; its unit outdoors is that
# of `degrade.synthetic_depth`.
INDOOR = {"airlight": (0.7, 1.0), "beta": (0.6, 1.8)}
OUTDOOR = {"airlight": (0.8, 1.0), "beta": (0.04, 0.2)}
INDOORS = 0.5  # share of pictures
TINT = 0.02  # most that a channel of the light departs from grey
PARTS = (6, 40)  # of a picture, that stand at depths of their own
SOFTNESS = (1e-4, 1e-2)  # of the depth's edges: what the guided filter adds to the variance

# Noise of a sensor: variance = shot * light + read, light of 1 saturates it. Shot and read go
# together as in Brooks et al. (2019); (1e-4, 1.2e-2) there, from phones.
SHOT = (3e-4, 1.2e-2)
WHITE = (1.2, 2.4)  # gains of red and blue that make grey grey
CONTRAST = (0.3, 1.0)  # of the tone curve: 0 none, 1 all of 3 x^2 - 2 x^3
SCALES = (0.7, 1.6)  # sides of the sensor's picture over those of the saved one
LUMA_BLUR, CHROMA_BLUR = (0.0, 1.1), (0.0, 2.5)  # of the noise by the camera, in sensor pixels
CHROMA_KEPT = (0.3, 1.0)  # of the noise in colours
SAVED = 0.7  # share of camera pictures that are saved as JPEG ...
SAVED_QUALITY = (70, 99)  # ... and how well
BLOCK_QUALITY = (10, 75)  # where JPEG itself is the damage
SUBSAMPLED = 0.5  # share of JPEG files with half the rows and columns of colour

# Of a typical sensor's colours to sRGB; rows sum to 1, so grey stays grey.
COLOURS = np.array([[1.65, -0.5, -0.15], [-0.25, 1.55, -0.3], [0.05, -0.6, 1.55]], np.float32)
NOISES = ("gaussian", "camera", "jpeg")  # that one sentence asks to remove


def _log_between(span, rng):
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
    near_length = _log_between(LENGTHS, rng)
    near_width = _log_between(WIDTHS, rng)
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
      `degrade.synthetic_depth` a window's is not that of the whole: its parts are its own.
    """
    whole = shape or image.shape[:2]
    scene = (room if indoors else published.synthetic_depth)(whole, rng, window)
    parts = parts_of(image, rng.integers(PARTS[0], PARTS[1] + 1), rng)
    count = parts.max() + 1
    sizes = np.maximum(np.bincount(parts.ravel(), minlength=count), 1)
    depths = np.bincount(parts.ravel(), scene.ravel(), minlength=count) / sizes
    depths *= np.exp(rng.uniform(-0.7, 0.2, count))  # things stand in front of walls and sky
    standing = rng.random(count) < rng.uniform(0.3, 1.0)
    depth = np.where(standing[parts], depths.astype(np.float32)[parts], scene)
    radius = max(2, int(min(depth.shape) * rng.uniform(0.03, 0.12)))
    depth = guided(image.mean(-1), depth, radius, _log_between(SOFTNESS, rng))
    lowest, highest = (0.05, 1.0) if indoors else (0.2, published.SKY_DEPTH[1])
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
    return published.haze(image, depth, colour, beta)


def sensor_noise(light, shot, read, rng):
    """Draws the noise of a sensor: that of counting photons, and that of reading them out.

    Args:
      light: float32 of any shape, >= 0; 1 saturates the sensor.
      shot, read: the variance is shot * light + read.
      rng: `numpy.random.Generator`.

    Returns:
      float32 of the same shape, of mean 0.

    Source: the Poisson-Gaussian model of Foi et al. (2008), its photons many enough to be normal.
    """
    sigma = np.sqrt(np.float32(shot) * light + np.float32(read))
    return sigma * rng.standard_normal(light.shape, dtype=np.float32)


def _star(centre, near, far_along, far_down, corner):
    """A 5x5 kernel from a site's weights; `near` is (along, down)."""
    kernel = np.zeros((5, 5), np.float32)
    kernel[2, 2] = centre
    kernel[2, 1] = kernel[2, 3] = near[0]
    kernel[1, 2] = kernel[3, 2] = near[1]
    kernel[2, 0] = kernel[2, 4] = far_along
    kernel[0, 2] = kernel[4, 2] = far_down
    kernel[1::2, 1::2] = corner
    return kernel


# Bilinear, and what Malvar, He and Cutler (2004) add to it: green at red and blue, red and blue at
# green along their row, and red at blue or blue at red.
BILINEAR = (
    _star(0, (1 / 4, 1 / 4), 0, 0, 0),
    _star(0, (1 / 2, 0), 0, 0, 0),
    _star(0, (0, 0), 0, 0, 1 / 4),
)
CORRECTION = (
    _star(1 / 2, (0, 0), -1 / 8, -1 / 8, 0),
    _star(5 / 8, (0, 0), -1 / 8, 1 / 16, -1 / 8),
    _star(3 / 4, (0, 0), -3 / 16, -3 / 16, 0),
)


def mosaic(colours):
    """Keeps the one colour of each pixel that a sensor sees: float32 (H, W, 3) to (H, W), RGGB."""
    sites = colours[..., 1].copy()
    sites[0::2, 0::2] = colours[0::2, 0::2, 0]
    sites[1::2, 1::2] = colours[1::2, 1::2, 2]
    return sites


def demosaic(sites, correction=1.0):
    """Fills in the two colours that a pixel of a sensor does not see.

    Args:
      sites: float32 (H, W), RGGB.
      correction: from 0, bilinear, to 1, Malvar's, where the other colours' curvature helps.

    Returns:
      float32 (H, W, 3); linear in `sites`.

    Source: Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of
    Bayer-patterned color images" (2004).
    """
    import cv2

    green, along, diagonal = (
        cv2.filter2D(sites, -1, plain + np.float32(correction) * more)
        for plain, more in zip(BILINEAR, CORRECTION, strict=True)
    )
    down = cv2.filter2D(sites, -1, (BILINEAR[1] + np.float32(correction) * CORRECTION[1]).T)
    out = np.repeat(sites[..., None], 3, axis=-1)
    for red, blue, y in ((0, 2, 0), (2, 0, 1)):  # rows with red, rows with blue
        x = y  # where the row's own colour stands; green stands beside it
        out[y::2, x::2, 1] = green[y::2, x::2]
        out[y::2, x::2, blue] = diagonal[y::2, x::2]
        out[y::2, 1 - x :: 2, red] = along[y::2, 1 - x :: 2]
        out[y::2, 1 - x :: 2, blue] = down[y::2, 1 - x :: 2]
    return out


def developed(light, contrast):
    """Turns light into the values of a picture: gamma 2.2, then an S-shaped tone curve.

    Args:
      light: float32 in [0, 1].
      contrast: from 0, no tone curve, to 1, 3 x^2 - 2 x^3.

    Returns:
      float32 of the same shape in [0, 1].

    Source: Brooks et al., "Unprocessing images for learned raw denoising" (2019), section 3.1.
    """
    x = np.power(light, np.float32(1 / 2.2))
    curved = x * x * (3 - 2 * x)
    return x + np.float32(contrast) * (curved - x)


def undeveloped(image, contrast):
    """The inverse of `developed` to within a 500th: float32 in [0, 1] to light in [0, 1]."""
    grid = np.linspace(0, 1, 1024) ** 3  # close where the curve is steep
    curve = developed(grid.astype(np.float32), contrast)
    table = np.interp(np.linspace(0, 1, 1024), curve, grid).astype(np.float32)
    return table[(np.clip(image, 0, 1) * np.float32(1023) + np.float32(0.5)).astype(np.int32)]


def camera_noise(image, rng, *, shot=None, scale=None, quality=None):
    """Gives a picture the noise that a camera would have saved it with.

    The picture goes back to the sensor (tone curve, gamma, colour matrix, white balance, mosaic),
    noise is drawn there and comes back the same way, smoothed by the camera, resized, and perhaps
    through JPEG. Demosaicing and resizing are linear, so only the noise is led through them: the
    picture stays as sharp as it was.

    Args:
      image: float32 (H, W, 3) in [0, 1].
      rng: `numpy.random.Generator`.
      shot: see `sensor_noise`; None draws one of `SHOT`. The read noise is drawn to go with it.
      scale: the sensor's sides over the picture's; None draws one of `SCALES`.
      quality: of JPEG, 0 for none; None draws it.

    Returns:
      float32 (H, W, 3) in [0, 1], in whole levels of 255.

    Source: Brooks et al. (2019), sections 3.1 and 3.2, for the inverse camera and its noise.
    """
    import cv2

    height, width = image.shape[:2]
    drawn_shot, drawn_scale = _log_between(SHOT, rng), _log_between(SCALES, rng)
    shot = drawn_shot if shot is None else shot
    scale = drawn_scale if scale is None else scale
    read = np.exp(2.18 * np.log(shot) + 1.2 + 0.26 * rng.standard_normal())
    contrast, correction, saturation = rng.uniform(*CONTRAST), rng.random(), rng.random()
    red, blue = rng.uniform(*WHITE, 2)
    luma_blur, chroma_blur = rng.uniform(*LUMA_BLUR), rng.uniform(*CHROMA_BLUR)
    chroma_kept = np.float32(rng.uniform(*CHROMA_KEPT))
    saved, drawn_quality = rng.random() < SAVED, int(rng.uniform(*SAVED_QUALITY))
    quality = drawn_quality * saved if quality is None else quality

    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    seen = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    gains = np.array([red, 1, blue], np.float32)
    colours = np.eye(3, dtype=np.float32) * np.float32(1 - saturation)
    colours += COLOURS * np.float32(saturation)
    light = undeveloped(seen, contrast)
    raw = np.maximum(cv2.transform(light, np.linalg.inv(colours) / gains[:, None]), 0)
    noise = sensor_noise(mosaic(raw), shot, read, rng)
    # White is balanced before the mosaic is filled in, as cameras do.
    noise *= mosaic(np.broadcast_to(gains, seen.shape))
    noise = cv2.transform(demosaic(noise, correction), colours)
    # Half the way from -noise to noise: gamma alone would darken the mean, which the means of many
    # exposures that real noise is measured against show as well.
    brighter, darker = (
        developed(np.clip(light + sign * noise, 0, 1), contrast) for sign in (1, -1)
    )
    noise = (brighter - darker) / 2

    luma = cv2.transform(noise, np.float32([[0.299, 0.587, 0.114]]))[..., None]
    chroma = (noise - luma) * chroma_kept
    if luma_blur > 0.3:  # less leaves a kernel of one pixel
        luma = cv2.GaussianBlur(luma, (0, 0), luma_blur)[..., None]
    if chroma_blur > 0.3:
        chroma = cv2.GaussianBlur(chroma, (0, 0), chroma_blur)
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    out = image + cv2.resize(luma + chroma, (width, height), interpolation=how)
    if quality:
        return jpeg(out, rng, quality=quality)
    return np.rint(np.clip(out, 0, 1) * np.float32(255)) / np.float32(255)


def jpeg(image, rng, *, quality=None):
    """Saves a picture as JPEG and reads it again; its blocks of 8 or 16 lie anywhere.

    Args:
      image: float32 (H, W, 3); clipped to [0, 1].
      rng: `numpy.random.Generator`.
      quality: 1 to 100; None draws one of `BLOCK_QUALITY`.

    Returns:
      float32 (H, W, 3) in [0, 1], in whole levels of 255.
    """
    import cv2

    drawn_quality = int(_log_between(BLOCK_QUALITY, rng))
    y, x = rng.integers(0, 16, 2)  # a crop's corner seldom is one of a block
    half = rng.random() < SUBSAMPLED
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if half else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    levels = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)[..., ::-1]
    levels = np.pad(levels, ((y, 0), (x, 0), (0, 0)), mode="symmetric")
    options = (
        cv2.IMWRITE_JPEG_QUALITY,
        int(quality or drawn_quality),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        factor,
    )
    _, file = cv2.imencode(".jpg", levels, options)
    saved = cv2.imdecode(file, cv2.IMREAD_COLOR)[y:, x:, ::-1]
    return saved.astype(np.float32) / np.float32(255)


def noise(image, rng, *, sigma, shares, mode="uint8"):
    """Adds one of the noises that a single sentence asks to remove.

    Args:
      image: float32 (H, W, C) in [0, 1].
      rng: `numpy.random.Generator`.
      sigma: of Gaussian noise, on the scale of 0 to 255.
      shares: how often each of `NOISES` is drawn.
      mode: of Gaussian noise, see `synthesis.gaussian_noise`.

    Returns:
      float32 (H, W, C).
    """
    weights = np.asarray(shares, np.float64)
    kind = NOISES[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), "right"))]
    if kind == "gaussian":
        return published.gaussian_noise(image, sigma, rng, mode)
    make = camera_noise if kind == "camera" else jpeg
    if image.shape[-1] == 1:
        return make(np.repeat(image, 3, axis=-1), rng).mean(-1, keepdims=True)
    return make(image, rng)


def degrade(
    image,
    task,
    rng,
    *,
    sigma,
    shares,
    window=None,
    shape=None,
    noise_mode="uint8",
    guide=None,
):
    """Degrades a picture, or a window of one, for a task, as `synthesis.degrade` does.

    Args:
      image: float32 (h, w, C) in [0, 1].
      task: "noise", "rain", "haze", or "blur", which is `degradations.synthesis`'s.
      rng: `numpy.random.Generator`, for instance of `synthesis.example_rng`.
      sigma, shares, noise_mode: see `noise`.
      window, shape, guide: see `haze`.

    Returns:
      float32 (h, w, C).

    Raises:
      InputError: for a task that cannot be synthesised.
    """
    if task == "noise":
        return noise(image, rng, sigma=sigma, shares=shares, mode=noise_mode)
    if task == "rain":
        return rain(image, rng)
    if task == "haze":
        return haze(image, rng, window=window, shape=shape, guide=guide)
    if task == "blur":
        return published.motion_blur(image, rng)
    raise InputError(
        f"cannot make {task!r}; the degradations are {', '.join(published.SYNTHESISED)}"
    )
