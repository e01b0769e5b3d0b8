"""What a camera does to a picture: the noise of its sensor, developed and saved, and JPEG's blocks.

Pictures are float32 (H, W, 3) or (H, W, 1) in [0, 1], of any size from 16 pixels on; each draw
comes from the generator that is passed in. Ranges are (lowest, highest), beside what they are of.
"""

from typing import NamedTuple

import numpy as np

from tdr_jax.degradations.draws import draw
from tdr_jax.degradations.weather import log_between

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
STOPS = (2.0, 5.0)  # of light that are missing in the dark, each half of the one before
DARK_SHOT = (1e-4, 2e-3)  # where the little light is amplified; see `SHOT`
CAST = 0.08  # most that a channel departs from grey there, as light or white balance is off

# Of a typical sensor's colours to sRGB; rows sum to 1, so grey stays grey.
COLOURS = np.array([[1.65, -0.5, -0.15], [-0.25, 1.55, -0.3], [0.05, -0.6, 1.55]], np.float32)


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
    drawn_shot, drawn_scale = log_between(SHOT, rng), log_between(SCALES, rng)
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


class Darkness(NamedTuple):
    """What is drawn for a picture with too little light, beside its noise."""

    stops: float
    shot: float
    contrast: float
    red: float
    green: float
    blue: float


def low_light(image, rng, *, stops=None):
    """Takes a picture with too little light: underexposed, noisy, a little off in its colours.

    The picture goes back to light, of which a share is left; the sensor adds its noise, and the
    rest is developed as the picture was.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        stops: how often the light is halved; None draws one of `STOPS`.

    Returns:
        float32 (H, W, C) in [0, 1], in whole levels of 255, of which few are left.

    Source: our own, on the sensor of `sensor_noise` and the tone curve of `developed`.
    """
    drawn = draw(Darkness, rng)
    stops = STOPS[0] + drawn.stops * (STOPS[1] - STOPS[0]) if stops is None else stops
    shot = DARK_SHOT[0] * (DARK_SHOT[1] / DARK_SHOT[0]) ** drawn.shot
    contrast = CONTRAST[0] + drawn.contrast * (CONTRAST[1] - CONTRAST[0])
    cast = 1 + CAST * (2 * np.array([drawn.red, drawn.green, drawn.blue]) - 1)
    left = (2.0**-stops * cast).astype(np.float32)[: image.shape[-1]]
    light = undeveloped(image, contrast) * left
    # Read noise as in `camera_noise`, without its luck.
    light = light + sensor_noise(light, shot, np.exp(2.18 * np.log(shot) + 1.2), rng)
    out = developed(np.clip(light, 0, 1), contrast)
    return np.rint(out * np.float32(255)) / np.float32(255)


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

    drawn_quality = int(log_between(BLOCK_QUALITY, rng))
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
