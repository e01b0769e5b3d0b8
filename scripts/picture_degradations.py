"""Draws docs/img/degradations.jpg, realistic.jpg and optics.jpg: photographs and their damage.

It also prints how far, in PSNR, each damage, published and realistic, takes the shipped
photographs from the clean ones.

python scripts/picture_degradations.py [PHOTO ...] [--out FOLDER]
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tdr_jax.degradations import camera, recipes, weather
from tdr_jax.degradations.draws import example_rng
from tdr_jax.degradations.synthesis import (
    degrade,
    gaussian_noise,
    haze,
    rain,
    synthetic_depth,
)
from tdr_jax.degradations.vocabulary import KINDS, SYNTHESISED
from tdr_jax.images.files import read_rgb
from tdr_jax.images.folders import list_pictures

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = (
    "examples/photos/train/picosdeeuropa_by_aitzol_berasategi.jpg",
    "examples/photos/test/moose.jpg",
)
WIDTH, HEIGHT, GAP, LINE = 300, 210, 4, 20  # of a tile and its caption, in pixels
ENLARGED = 3  # times, a detail of camera noise and JPEG


def _tile(picture, caption):
    """Puts a caption under a float picture: uint8 (HEIGHT + LINE, WIDTH, 3)."""
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    sheet = Image.new("RGB", (WIDTH, HEIGHT + LINE), "white")
    sheet.paste(Image.fromarray(pixels))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(sheet).text((2, HEIGHT + 1), caption, fill="black", font=font)
    return np.asarray(sheet)


def _depth_tile(depth, name):
    shade = np.repeat(depth[..., None] / depth.max(), 3, axis=-1)
    return _tile(shade, f"{name}: {depth.min():.1f} to {depth.max():.1f}")


def _psnr(degraded, clean):
    return -10 * np.log10(np.mean((degraded - clean) ** 2))


def _block(clean, number):
    """Makes the eight tiles of a photograph: itself, two of noise, rain and haze, its depth."""
    rng = [example_rng(20, 10 * number + i) for i in range(7)]
    depth = synthetic_depth(clean.shape[:2], rng[4])
    made = {
        "noise, sigma 25": gaussian_noise(clean, 25, rng[0]),
        "noise, sigma 50": gaussian_noise(clean, 50, rng[1]),
        "rain, severity 0.2": rain(clean, rng[2], severity=0.2),
        "rain, severity 0.8": rain(clean, rng[3], severity=0.8),
        "haze, A 0.9, beta 0.08": haze(clean, depth, 0.9, 0.08),
        "haze, A 0.9, beta 0.2": haze(clean, depth, 0.9, 0.2),
    }
    tiles = [_tile(clean, "photograph")]
    tiles += [_tile(image, f"{name}: {_psnr(image, clean):.1f} dB") for name, image in made.items()]
    return [*tiles, _depth_tile(depth, "depth made for it")]


def _realistic_block(clean, number):
    """Makes the eight tiles of a photograph with the damage of `degradations.realistic`."""
    rng = [example_rng(27, 10 * number + i) for i in range(8)]
    # The first photograph looks far, the second near, which passes for a room.
    indoors, beta = number == 1, (0.2, 1.2)[number % 2]
    depth = weather.imagined_depth(clean, rng[3], indoors=indoors)
    made = {
        "rain, heaviness 0.3": weather.rain(clean, rng[0], heaviness=0.3),
        "rain, heaviness 0.8": weather.rain(clean, rng[1], heaviness=0.8),
        f"haze, A 0.95, beta {beta}": haze(clean, depth, 0.95, beta),
    }
    tiles = [_tile(image, f"{name}: {_psnr(image, clean):.1f} dB") for name, image in made.items()]
    tiles.append(_depth_tile(depth, "its depth"))

    y, x = ((side - side // ENLARGED) // 2 for side in (HEIGHT, WIDTH))
    detail = clean[y : y + HEIGHT // ENLARGED, x : x + WIDTH // ENLARGED]
    details = {
        "photograph, detail": detail,
        "camera, shot 0.002": camera.camera_noise(detail, rng[4], shot=0.002),
        "camera, shot 0.01": camera.camera_noise(detail, rng[5], shot=0.01),
        "JPEG, quality 20": camera.jpeg(detail, rng[6], quality=20),
    }
    for name, image in details.items():
        large = image.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        score = "" if image is detail else f": {_psnr(image, detail):.1f} dB"
        tiles.append(_tile(large, name + score))
    return tiles


def _optics_block(clean, number):
    """Makes the eight tiles of a photograph with blur, darkness and a recipe, as commands do."""
    names = ("shake", "motion", "defocus5", "defocus_depth8", "low_light3", "low_light5")
    recipe = "blur+noise25+jpeg30"
    made = {}
    for name in (*names, recipe, f"realistic_rain+{names[0]}+camera"):
        layers = recipes.parse(name)
        made[name] = recipes.apply(clean, layers, recipes.generators(1, layers, number))
    return [_tile(image, f"{name}: {_psnr(image, clean):.1f} dB") for name, image in made.items()]


def _print_table(folder, draws=8):
    """Prints, for each damage, percentiles of the PSNR over the photographs and `draws` of each."""
    photos = [read_rgb(path).astype(np.float32) / 255 for path in list_pictures(folder)]
    makers = {task: partial(degrade, task=task) for task in SYNTHESISED}
    makers |= {
        "realistic rain": weather.rain,
        "realistic haze": weather.haze,
        "camera noise": camera.camera_noise,
        "JPEG blocks": camera.jpeg,
    }
    for kind in list(KINDS)[len(SYNTHESISED) :]:
        if kind not in ("jpeg", "camera") and not kind.startswith("realistic"):
            makers[kind] = partial(_alone, layers=recipes.parse(kind))
    print("| degraded PSNR, dB | 5% | 25% | median | 75% | 95% | mean |")
    print("|---" * 7 + "|")
    for name, make in makers.items():
        values = [
            _psnr(make(photo, rng=example_rng(0, draws * i + k)), photo)
            for i, photo in enumerate(photos)
            for k in range(draws)
        ]
        marks = [*np.percentile(values, [5, 25, 50, 75, 95]), np.mean(values)]
        print(f"| {name} | " + " | ".join(f"{mark:.1f}" for mark in marks) + " |")


def _alone(image, rng, layers):
    return recipes.apply(image, layers, [rng])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path, default=[ROOT / name for name in PHOTOS])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    args = parser.parse_args()

    parts = {"degradations": _block, "realistic": _realistic_block, "optics": _optics_block}
    for name, block in parts.items():
        rows = []
        for number, path in enumerate(args.photos):
            photo = Image.fromarray(read_rgb(path))
            scale = max(WIDTH / photo.width, HEIGHT / photo.height)
            photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
            clean = np.asarray(photo, np.float32)[:HEIGHT, :WIDTH] / 255
            tiles = [
                np.pad(tile, ((0, 0), (0, GAP), (0, 0)), constant_values=255)
                for tile in block(clean, number)
            ]
            rows += [np.concatenate(tiles[:4], axis=1), np.concatenate(tiles[4:], axis=1)]
        # Quality 68: at more, half of the file is noise.
        file = args.out / f"{name}.jpg"
        Image.fromarray(np.concatenate(rows)[:, :-GAP]).save(file, quality=68, optimize=True)
        print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")
    _print_table(ROOT / "examples" / "photos")


if __name__ == "__main__":
    main()
