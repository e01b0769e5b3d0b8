"""How much tiles show at their borders, beside the same picture restored whole.

    tdr restore noisy.png -o whole.png --prompt "remove the noise" --memory 4GB
    tdr restore noisy.png -o tiles.png --prompt "remove the noise" --max-pixels 100000
    python scripts/measure_seams.py whole.png tiles.png --max-pixels 100000 [--multiple 16]

A seam is a step in the difference of the two pictures from one row or column to the next, where a
tile begins or ends. Steps are means along the border, in 8-bit levels: the largest and the mean of
all borders, and the same of all other rows and columns, which no border explains.
"""

import argparse

import numpy as np

from tdr_jax import images
from tdr_jax.infer import tiles


def borders(length: int, tile: int) -> set[int]:
    """Return the first pixel of each tile, and the one behind its last."""
    firsts = tiles.starts(length, tile)
    return {place for first in firsts for place in (first, first + tile) if 0 < place < length}


def main() -> None:
    """Prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("whole")
    parser.add_argument("tiles")
    parser.add_argument("--max-pixels", type=int, required=True)
    parser.add_argument("--multiple", type=int, default=16, help="of the network's sides")
    args = parser.parse_args()
    whole, tiled = (images.read_rgb(path).astype(float) for path in (args.whole, args.tiles))
    difference = tiled - whole
    shape = tiles.tile_shape(*whole.shape[:2], args.max_pixels, args.multiple)
    print(f"tiles of {shape[1]}x{shape[0]}; they differ from the whole by up to", end=" ")
    print(f"{np.abs(difference).max():.0f} levels, {np.abs(difference).mean():.2f} in the mean")
    for axis, name in ((0, "rows"), (1, "columns")):
        steps = np.abs(np.diff(difference.mean(1 - axis), axis=0)).max(-1)
        at = sorted(place - 1 for place in borders(whole.shape[axis], shape[axis]))
        others = np.delete(steps, at)
        if at:
            print(
                f"{name}: at {len(at)} borders {steps[at].max():.2f} at most, "
                f"{steps[at].mean():.2f} in the mean; elsewhere {others.max():.2f} and "
                f"{others.mean():.2f}"
            )


if __name__ == "__main__":
    main()
