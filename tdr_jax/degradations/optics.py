"""What blurs a picture in the camera: a hand that shakes, things that move, a lens out of focus.

Pictures are float32 (H, W, 3) or (H, W, 1) in [0, 1], of any size from 16 pixels on; each draw
comes from the generator that is passed in. Ranges are (lowest, highest), beside what they are of.
Light is what adds up on a sensor, so pictures are blurred as light and turned back: highlights
spread as they do in photographs, which those of `synthesis.motion_blur` do not.
"""

from typing import NamedTuple

import numpy as np

from tdr_jax.degradations.draws import Place, draw
from tdr_jax.degradations.weather import INDOORS, imagined_depth

GAMMA = 2.2  # light = value ** GAMMA; GoPro's frames were averaged so (Nah et al., 2017)

# A shaken exposure: the path of the picture's middle, in pixels, and how far the camera rolls.
PATHS, ROLL = (4.0, 32.0), 1.5  # degrees at most, from one end of the path to the other
STEPS, INERTIA = 64, 0.92  # of the path; the share of its velocity that a step keeps
JERKED, JERK = 0.3, 8.0  # share of paths with a jerk; how much stronger than a step's change

# A moving picture: frames that are averaged, as GoPro's 7 to 13 are; paths in pixels.
FRAMES = (7, 15)
PANS, TRAVELS = (0.0, 16.0), (4.0, 28.0)  # of the camera, and of an object past it
ZOOM = 0.02  # most by which the picture grows or shrinks meanwhile
OBJECTS, SIZES = 2, (0.1, 0.35)  # most of them, and their radii over the shorter side

# Out of focus: the aperture's radius on the sensor, in pixels, and its form.
RADII = (1.0, 8.0)
BLADES = (0, 0, 5, 6, 6, 7, 8)  # drawn evenly; 0 is a disc
DEPTHS = 7  # radii that pictures with depth are blended of


def to_light(image):
    """Turn values of a picture into light: float32 of any shape, clipped to [0, 1]."""
    return np.power(np.clip(image, 0, 1), np.float32(GAMMA))


def from_light(light):
    """Turn light into values of a picture: float32 of any shape, clipped to [0, 1]."""
    return np.power(np.clip(light, 0, 1), np.float32(1 / GAMMA))


def averaged(frames):
    """Average the frames of a moving picture, as one long exposure would have seen them.

    Args:
        frames: of float32 (H, W, C) in [0, 1], in any number; real ones or made ones.

    Returns:
        float32 (H, W, C) in [0, 1].

    Source: Nah et al., "Deep multi-scale convolutional neural network for dynamic scene deblurring"
    (2017), equation 2, with the inverse of their camera's curve, a gamma of 2.2.
    """
    return from_light(_mean([to_light(frame) for frame in frames]))


class Shake(NamedTuple):
    """What is drawn for a shaken exposure, beside the changes of its velocity."""

    length: float
    roll: float
    jerked: float
    jerk_at: float


def trajectory(rng, *, length=None):
    """Draw the path of a camera that a hand holds while the shutter is open.

    Args:
        rng: `numpy.random.Generator`; the number of draws does not depend on the length.
        length: of the path of the picture's middle, in pixels; None draws one of `PATHS`.

    Returns:
        float64 (STEPS, 3): down and to the right in pixels, and degrees that it is turned by, of
        mean 0.

    Source: the random motion with inertia and sudden jerks of Boracchi and Foi, "Modeling the
    performance of image restoration from motion blur" (2012), in constants of our own.
    """
    drawn = draw(Shake, rng)
    length = PATHS[0] + drawn.length * (PATHS[1] - PATHS[0]) if length is None else length
    change = rng.standard_normal((STEPS, 3))
    if drawn.jerked < JERKED:
        change[int(drawn.jerk_at * STEPS)] *= JERK
    # v[t] = INERTIA v[t - 1] + change[t], all at once.
    kept = INERTIA ** np.arange(STEPS)[:, None]
    path = np.cumsum(kept * np.cumsum(change / kept, axis=0), axis=0)
    path -= path.mean(0)
    walked = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum()
    path[:, :2] *= length / walked
    path[:, 2] *= ROLL * drawn.roll / np.ptp(path[:, 2])
    return path


def shake(image, rng, *, length=None):
    """Blurs a picture by a shaken camera: it shifts and rolls, so corners differ from the middle.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        length: see `trajectory`.

    Returns:
        float32 (H, W, C) in [0, 1].
    """
    import cv2

    path = trajectory(rng, length=length)
    # Positions about two thirds of a pixel apart, evenly along the time.
    walked = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum()
    count = int(np.clip(np.ceil(1.5 * walked), 8, STEPS))
    times = np.linspace(0, STEPS - 1, count)
    down, right, roll = (np.interp(times, np.arange(STEPS), each) for each in path.T)
    height, width = image.shape[:2]
    middle = ((width - 1) / 2, (height - 1) / 2)
    light, seen = to_light(image), []
    for y, x, turned in zip(down, right, roll, strict=True):
        matrix = cv2.getRotationMatrix2D(middle, turned, 1.0)
        matrix[:, 2] += x, y
        seen.append(
            cv2.warpAffine(light, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        )
    return from_light(_mean(seen).reshape(image.shape))


class Pan(NamedTuple):
    """What is drawn for the camera of a moving picture."""

    frames: float
    length: float
    heading: float
    roll: float
    zoom: float
    objects: float


class Moving(NamedTuple):
    """What is drawn for an object that moves by itself."""

    place: Place
    radius: float
    slant: float
    length: float
    heading: float


def motion(image, rng, *, length=None):
    """Blurs a picture by what moves while it is taken: averages the frames of a moving picture.

    The camera pans, zooms and rolls a little; up to two soft-edged parts of the picture go their
    own way. Frames are some pixels apart where that is fast, as in averaged videos.

    Args:
        image: float32 (H, W, C) in [0, 1], the frame in the middle.
        rng: `numpy.random.Generator`; the number of draws is always the same.
        length: of the camera's pan in pixels; None draws one of `PANS`.

    Returns:
        float32 (H, W, C) in [0, 1].

    Source: our own; averaged as in `averaged`.
    """
    import cv2

    drawn, others = draw(Pan, rng), [draw(Moving, rng) for _ in range(OBJECTS)]
    length = _between(PANS, drawn.length) if length is None else length
    height, width = image.shape[:2]
    ys = np.arange(height, dtype=np.float32)[:, None]
    xs = np.arange(width, dtype=np.float32)
    up, left = ys - np.float32((height - 1) / 2), xs - np.float32((width - 1) / 2)
    roll, zoom = np.deg2rad(ROLL) * (2 * drawn.roll - 1), ZOOM * (2 * drawn.zoom - 1)
    pan = length * _direction(drawn.heading)
    # How far each place has moved when all the frames are over.
    flow_y = np.float32(pan[0]) + np.float32(zoom) * up + np.float32(roll) * left
    flow_x = np.float32(pan[1]) + np.float32(zoom) * left - np.float32(roll) * up
    for each in others[: int(drawn.objects * (OBJECTS + 1))]:
        radius = _between(SIZES, each.radius) * min(height, width)
        y, x = each.place.row * height, each.place.column * width
        squeezed = 0.5 + each.slant  # wide or tall
        far = ((ys - y) / (radius * squeezed)) ** 2 + ((xs - x) / (radius / squeezed)) ** 2
        inside = np.exp(-(far**2))
        travel = _between(TRAVELS, each.length) * _direction(each.heading)
        flow_y, flow_x = flow_y + inside * travel[0], flow_x + inside * travel[1]
    flow_y, flow_x = (np.broadcast_to(each, (height, width)) for each in (flow_y, flow_x))
    count = int(_between((FRAMES[0], FRAMES[1] + 1), drawn.frames))
    light, frames = to_light(image), []
    for time in np.linspace(-0.5, 0.5, count, dtype=np.float32):
        where = (xs - time * flow_x).astype(np.float32), (ys - time * flow_y).astype(np.float32)
        frames.append(cv2.remap(light, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))
    return from_light(_mean(frames).reshape(image.shape))


def aperture(radius, *, blades=0, turn=0.0):
    """Make the image of a point of light that a lens out of focus gives.

    Args:
        radius: of the disc, or of the circle through the corners, in pixels; > 0.
        blades: corners of the aperture, at least 3; 0 for a disc.
        turn: how far a corner is turned, in parts of the angle between two.

    Returns:
        float32 (k, k) with an odd k, of sum 1; edges are smooth to an eighth of a pixel.
    """
    reach, fine = int(np.ceil(radius)), 8
    side = 2 * reach + 1
    at = (np.arange(side * fine) + 0.5) / fine - side / 2
    if blades:
        angles = 2 * np.pi * (np.arange(blades) + turn) / blades
        sides = np.sin(angles)[:, None, None] * at[:, None] + np.cos(angles)[:, None, None] * at
        inside = sides.max(0) <= radius * np.cos(np.pi / blades)
    else:
        inside = np.hypot(at[:, None], at) <= radius
    kernel = inside.reshape(side, fine, side, fine).mean((1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


class Focus(NamedTuple):
    """What is drawn for a lens out of focus."""

    radius: float
    blades: float
    turn: float


def defocus(image, rng, *, radius=None, blades=None):
    """Puts all of a picture out of focus alike.

    Args:
        image: float32 (H, W, C) in [0, 1].
        rng: `numpy.random.Generator`.
        radius, blades: see `aperture`; None draws them, of `RADII` and `BLADES`.

    Returns:
        float32 (H, W, C) in [0, 1].
    """
    radius, shape = _lens(draw(Focus, rng), radius, blades)
    return from_light(_spread(to_light(image), radius, shape))


class Scene(NamedTuple):
    """What is drawn for a scene with depth, beside the depth."""

    focus: float
    indoors: float


def defocus_depth(image, rng, *, radius=None, blades=None, window=None, shape=None, guide=None):
    """Puts a picture out of focus by its depth: sharp at one distance, the more blurred off it.

    The circle of confusion grows with the difference of inverse depths, as a thin lens has it.
    Pictures of `DEPTHS` radii are blended pixel by pixel; nothing hides what lies behind it.

    Args:
        image: float32 (h, w, C) in [0, 1].
        rng: `numpy.random.Generator`.
        radius: where the picture is least sharp, see `aperture`; None draws one of `RADII`.
        blades: see `aperture`; None draws them.
        window, shape: where `image` lies in a larger picture, see `weather.imagined_depth`.
        guide: float32 (h, w, C), the picture whose edges the depth has; None for `image`.

    Returns:
        float32 (h, w, C) in [0, 1].

    Source: the thin lens; depth as that of `weather.haze`.
    """
    drawn, scene = draw(Focus, rng), draw(Scene, rng)
    radius, lens = _lens(drawn, radius, blades)
    depth = imagined_depth(
        image if guide is None else guide,
        rng,
        indoors=scene.indoors < INDOORS,
        window=window,
        shape=shape,
    )
    near = 1 / depth
    off = np.abs(near - np.quantile(near, scene.focus))
    at = off / max(float(off.max()), 1e-6) * np.float32(DEPTHS - 1)
    light = to_light(image)
    out = np.zeros_like(light)
    for number in range(DEPTHS):
        share = np.clip(1 - np.abs(at - number), 0, 1).astype(np.float32)[..., None]
        out += share * _spread(light, radius * number / (DEPTHS - 1), lens)
    return from_light(out)


def _lens(drawn, radius, blades):
    """The radius and the form of an aperture, drawn where they are not given."""
    radius = _between(RADII, drawn.radius) if radius is None else radius
    blades = BLADES[int(drawn.blades * len(BLADES))] if blades is None else blades
    return radius, {"blades": blades, "turn": drawn.turn}


def _spread(light, radius, lens):
    """Light as an aperture spreads it; borders are reflected."""
    import cv2

    if radius < 0.3:  # which leaves a kernel of nearly one pixel
        return light
    kernel = aperture(radius, **lens)
    spread = cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return spread.reshape(light.shape)


def _mean(pictures):
    total = np.zeros(pictures[0].shape, np.float32)
    for picture in pictures:
        total += picture
    return total / np.float32(len(pictures))


def _between(span, number) -> float:
    return span[0] + number * (span[1] - span[0])


def _direction(number):
    """A unit vector, down and to the right, of an even number in [0, 1)."""
    return np.array([np.sin(2 * np.pi * number), np.cos(2 * np.pi * number)])
