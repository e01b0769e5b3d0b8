"""Draws docs/img/degradations.jpg: photographs beside what is made of them.

It also prints how far, in PSNR, each degradation takes the shipped photographs from the clean ones.

python scripts/picture_degradations.py [PHOTO ...] [--out FILE]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tdr_jax.degradations.synthesis import (
    SYNTHESISED,
    degrade,
    example_rng,
    gaussian_noise,
    haze,
    rain,
    synthetic_depth,
)
from tdr_jax.images.files import list_pictures, read_rgb

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = (
    "examples/photos/train/picosdeeuropa_by_aitzol_berasategi.jpg",
    "examples/photos/test/moose.jpg",
)
WIDTH, HEIGHT, GAP, LINE = 300, 210, 4, 20  # of a tile and its caption, in pixels


def _tile(picture, caption):
    """Puts a caption under a float picture: uint8 (HEIGHT + LINE, WIDTH, 3)."""
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    sheet = Image.new("RGB", (WIDTH, HEIGHT + LINE), "white")
    sheet.paste(Image.fromarray(pixels))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(sheet).text((2, HEIGHT + 1), caption, fill="black", font=font)
    return np.asarray(sheet)


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
    shade = np.repeat(depth[..., None] / depth.max(), 3, axis=-1)
    return [*tiles, _tile(shade, f"depth made for it: {depth.min():.1f} to {depth.max():.1f}")]


def _print_table(folder, draws=8):
    """Prints, for each task, percentiles of the PSNR over the photographs and `draws` of each."""
    photos = [read_rgb(path).astype(np.float32) / 255 for path in list_pictures(folder)]
    print("| degraded PSNR, dB | 5% | 25% | median | 75% | 95% | mean |")
    print("|---" * 7 + "|")
    for task in SYNTHESISED:
        values = [
            _psnr(degrade(photo, task, example_rng(0, draws * i + k)), photo)
            for i, photo in enumerate(photos)
            for k in range(draws)
        ]
        marks = [*np.percentile(values, [5, 25, 50, 75, 95]), np.mean(values)]
        print(f"| {task} | " + " | ".join(f"{mark:.1f}" for mark in marks) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path, default=[ROOT / name for name in PHOTOS])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "degradations.jpg")
    args = parser.parse_args()

    rows = []
    for number, path in enumerate(args.photos):
        photo = Image.fromarray(read_rgb(path))
        scale = max(WIDTH / photo.width, HEIGHT / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        clean = np.asarray(photo, np.float32)[:HEIGHT, :WIDTH] / 255
        tiles = [
            np.pad(tile, ((0, 0), (0, GAP), (0, 0)), constant_values=255)
            for tile in _block(clean, number)
        ]
        rows += [np.concatenate(tiles[:4], axis=1), np.concatenate(tiles[4:], axis=1)]
    # Quality 68: at more, half of the file is noise.
    Image.fromarray(np.concatenate(rows)[:, :-GAP]).save(args.out, quality=68, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")
    _print_table(ROOT / "examples" / "photos")


if __name__ == "__main__":
    main()
