"""Crops a second of the loader beside a torch DataLoader that does the same work.

    python benchmarks/data.py PHOTOS                     # a folder, or tfds:NAME
    python benchmarks/data.py PHOTOS --workers 0 2 4 --crop 128 --batch 16

The work, equal on both sides: a picture in a new order each epoch, decoded once and kept in memory,
a random crop, one of eight turns, Gaussian noise of sigma 15, 25 or 50 in whole levels, float32 in
[0, 1], stacked to a batch. The torch side is a plain Dataset in NumPy, as the papers' training code
has it, with torch's default collation and prefetching. `decoded each time` is that code as it is
published: it opens its file for every crop. Each row is the median of `--repeats` interleaved runs
after a warm-up that goes through all pictures; what lay ready in buffers when a run began is not
counted. The last column is the median of ours over torch's.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIGMAS = (15, 25, 50)
AHEAD = 5  # batches that lie ready for each worker at most: grain's 2 and 2, torch's 2


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", metavar="PLACE")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=40, help="of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mapped", metavar="DIR", help="ours: keep what is decoded in files there")
    return parser.parse_args()


def ours(args, workers):
    """Batches of tdr_jax, without end."""
    from configs import common
    from tdr_jax.data import pipeline, places

    data = common.get_config().data
    data.update({"path": args.pictures, "workers": workers, "cache_mb": 8192})
    data.update({"tasks": ("noise",), "weights": (1.0,), "decoded": args.mapped or ""})
    data.stages = ((10**9, args.crop, args.batch),)
    return pipeline.batches(places.from_config(data), data, vectors=None, seed=0)


class Crops:
    """What the papers' datasets do, in NumPy; `kept` in memory or decoded each time."""

    def __init__(self, source, crop, kept):
        self.source, self.crop, self.kept = source, crop, {} if kept else None

    def __len__(self):
        return len(self.source)

    def picture(self, index):
        if self.kept is None:
            return self.source[index]["image"]
        if index not in self.kept:
            self.kept[index] = self.source[index]["image"]
        return self.kept[index]

    def __getitem__(self, index):
        picture = self.picture(index)
        height, width = picture.shape[:2]
        y = np.random.randint(height - self.crop + 1)
        x = np.random.randint(width - self.crop + 1)
        clean = picture[y : y + self.crop, x : x + self.crop]
        how = np.random.randint(8)
        clean = np.ascontiguousarray(np.rot90(clean[:, ::-1] if how >= 4 else clean, how % 4))
        noise = np.random.randn(*clean.shape) * np.random.choice(SIGMAS)
        degraded = np.clip(clean + noise, 0, 255).astype(np.uint8)
        scale = np.float32(255)
        return {"degraded": degraded.astype(np.float32) / scale, "clean": clean / scale}


def torchs(args, workers, kept=True):
    """Batches of a torch DataLoader, without end."""
    import torch

    from tdr_jax.data import decoded, places

    torch.set_num_threads(1)
    source = places.open_clean(args.pictures, store=decoded.Memory(0))
    loader = torch.utils.data.DataLoader(
        Crops(source, args.crop, kept),
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def main():
    args = parse()
    from tdr_jax.data import places

    count = len(places.open_clean(args.pictures))
    warm = -(-4 * count // args.batch)  # so that every worker has met nearly every picture
    print(f"{count} pictures, crops of {args.crop} pixels, {args.batch} a batch; crops a second")
    print("| workers | ours | torch | torch, decoded each time | ours / torch |")
    print("|---|---|---|---|---|")
    for workers in args.workers:
        rivals = [ours(args, workers), torchs(args, workers), torchs(args, workers, kept=False)]
        for rival, batches in zip(rivals, (warm, warm, 4), strict=True):
            for _ in range(batches):
                next(rival)
        rates = [[] for _ in rivals]
        for _ in range(args.repeats):
            for rival, rate in zip(rivals, rates, strict=True):
                for _ in range(AHEAD * max(1, workers)):
                    next(rival)
                start = time.perf_counter()
                for _ in range(args.batches):
                    next(rival)
                rate.append(args.batches * args.batch / (time.perf_counter() - start))
        middle = [statistics.median(rate) for rate in rates]
        ratio = statistics.median(a / b for a, b in zip(*rates[:2], strict=True))
        shown = " | ".join(f"{rate:.0f}" for rate in middle)
        print(f"| {workers} | {shown} | {ratio:.2f} |", flush=True)
        del rivals


if __name__ == "__main__":
    main()
