"""Read damaged picture files of every format and count what comes of them.

    python scripts/fuzz_pictures.py                      # a few hundred files, in seconds
    python scripts/fuzz_pictures.py --full               # 2,000
    python scripts/fuzz_pictures.py --count 50 --seed 7 --keep DIR    # and keep what went wrong

Each file is a sound one, made here, that is cut, overwritten, stretched or mixed with another. It
may be read, or refused in one line; a traceback, a crash, more than 20 seconds, more than 2 GB of
memory or a line on the terminal is a failure. Workers are processes of their own, so that a crash
is counted and does not end the count.
"""

import argparse
import collections
import contextlib
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tdr_jax import images
from tdr_jax.errors import InputError

SECONDS = 20  # after which a file counts as hanging
MEMORY = 2 * 10**9  # bytes that reading may add to a worker
FEW, MANY = 300, 2000
LEAST = 100  # bytes of a header that are cut at every length


def sound_files() -> dict[str, bytes]:
    """Return a small sound file of each kind that is read, by a name that ends in its suffix."""
    import imagecodecs
    import pillow_heif
    import tifffile
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:24, 0:32]
    colour = np.stack([rows * 9, columns * 7, (rows + columns) * 4], -1).astype(np.uint8)
    colour ^= rng.integers(0, 8, colour.shape, dtype=np.uint8)
    alpha = np.tile(columns[..., None] * 8, (1, 1, 1)).astype(np.uint8)
    clear = np.concatenate([colour, alpha], -1)
    deep, deep_clear = colour * np.uint16(257), clear * np.uint16(257)
    floats = colour.astype(np.float32) / 64
    image, see_through = Image.fromarray(colour), Image.fromarray(clear)
    grey = image.convert("L")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    travels = {"exif": exif.tobytes(), "dpi": (300, 300)}
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}

    def saved(shown, form, **options) -> bytes:
        buffer = io.BytesIO()
        shown.save(buffer, form, **options)
        return buffer.getvalue()

    def tiff(samples, **options) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, samples, **({"photometric": "rgb", "metadata": None} | options))
        return buffer.getvalue()

    def heic(mode, samples) -> bytes:
        buffer = io.BytesIO()
        file = pillow_heif.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
        file.save(buffer, quality=80)
        return buffer.getvalue()

    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        for page in (deep, deep[::-1], deep[:, ::-1]):
            writer.write(page, photometric="rgb", compression="zlib", metadata=None)
    written = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".exr", ".tif"):
            path = Path(folder, f"x{suffix}")
            images.write_picture(path, images.Picture(floats, depth=32, linear=True))
            written[suffix] = path.read_bytes()
    cmyk = image.convert("CMYK")
    return {
        "rgb.png": saved(image, "PNG", **travels),
        "rgba.png": saved(see_through, "PNG"),
        "grey.png": saved(grey, "PNG"),
        "palette.png": saved(image.quantize(16), "PNG", transparency=0),
        "bits.png": saved(image.convert("1"), "PNG"),
        "deep.png": imagecodecs.png_encode(deep),
        "deep-clear.png": imagecodecs.png_encode(deep_clear),
        "deep-grey.png": imagecodecs.png_encode(deep[..., 0].copy()),
        "animated.png": saved(image, "PNG", duration=50, **frames),
        "rgb.jpg": saved(image, "JPEG", **travels),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "grey.jpg": saved(grey, "JPEG", restart_marker_blocks=2),
        "cmyk.jpg": saved(cmyk, "JPEG"),
        "several.mpo": saved(image, "MPO", **frames),
        "lossy.webp": saved(image, "WEBP", exif=travels["exif"]),
        "lossless.webp": saved(see_through, "WEBP", lossless=True),
        "animated.webp": saved(image, "WEBP", duration=50, **frames),
        "rgb.tif": saved(image, "TIFF", **travels),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(image, "TIFF", compression="jpeg"),
        "fax.tif": saved(image.convert("1"), "TIFF", compression="group4"),
        "cmyk.tif": saved(cmyk, "TIFF"),
        "deep.tif": tiff(deep, compression="lzw", predictor=True, rowsperstrip=5),
        "planes.tif": tiff(np.moveaxis(deep, -1, 0), planarconfig="separate"),
        "white.tif": tiff(deep[..., 0], photometric="miniswhite"),
        "alpha.tif": tiff(deep_clear, extrasamples=["assocalpha"], compression="zlib"),
        "tiled.tif": tiff(deep, tile=(16, 16), compression="packbits"),
        "floats.tif": written[".tif"],
        "inks.tif": tiff(deep_clear, photometric="separated"),
        "big.tif": tiff(deep, bigtiff=True),
        "pages.tif": pages.getvalue(),
        "rgb.avif": saved(image, "AVIF", exif=travels["exif"]),
        "deep.avif": imagecodecs.avif_encode(deep >> 6, bitspersample=10),
        "animated.avif": saved(image, "AVIF", duration=50, **frames),
        "rgb.heic": heic("RGB", colour),
        "rgba.heic": heic("RGBA", clear),
        "deep.heic": heic("RGB;16", deep),
        "light.exr": written[".exr"],
        "rgb.bmp": saved(image, "BMP"),
        "palette.bmp": saved(image.quantize(16), "BMP"),
        "still.gif": saved(image, "GIF"),
        "animated.gif": saved(image, "GIF", duration=50, **frames),
        "rgb.ppm": saved(image, "PPM"),
        "deep.ppm": b"P6 32 24 65535\n" + deep.astype(">u2").tobytes(),
        "text.pgm": b"P2\n# made by hand\n3 2 1000\n0 500 1000\n1 2 3\n",
    }


def damaged(files: dict[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """Make one damaged file.

    Args:
        files: sound ones.
        number: of the damaged one; all kinds take their turn.
        seed: of what is done to them.

    Returns:
        its name, which tells what was done; its bytes.
    """
    rng = np.random.default_rng((seed, number))
    names = sorted(files)
    name = names[number % len(names)]
    data = bytearray(files[name])
    size = len(data)
    place = int(rng.integers(size))
    deed = ["cut", "cut-header", "bytes", "header", "run", "number", "insert", "delete", "mix"][
        number // len(names) % 9
    ]
    if deed == "cut":
        del data[place:]
    elif deed == "cut-header":
        del data[int(rng.integers(min(LEAST, size))) :]
    elif deed in ("bytes", "header"):
        end = size if deed == "bytes" else min(size, 400)
        for at in rng.integers(end, size=int(rng.integers(1, 12))):
            data[at] = int(rng.integers(256))
    elif deed == "run":
        length = int(rng.integers(1, 200))
        data[place : place + length] = bytes([int(rng.choice((0, 255)))]) * length
    elif deed == "number":  # a size, offset or count that is as large, or as small, as can be
        at = int(rng.integers(min(size, 300)))
        value = (b"\xff\xff\xff\xff", b"\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")
        data[at : at + 4] = value[int(rng.integers(4))]
    elif deed == "insert":
        data[place:place] = rng.bytes(int(rng.integers(1, 100)))
    elif deed == "delete":
        del data[place : place + int(rng.integers(1, 100))]
    else:
        other = files[names[int(rng.integers(len(names)))]]
        data[place:] = other[int(rng.integers(len(other))) :]
    stem, _, suffix = name.rpartition(".")
    return f"{number}-{stem}-{deed}.{suffix}", bytes(data)


def outcome(path: Path) -> str:
    """Read a file as a command would: "read", "refused", or what went wrong."""
    try:
        frames = images.read_frames(path)
        for picture in frames.pictures:
            if not np.isfinite(picture.pixels).all() or min(picture.pixels.shape) < 1:
                return "wrong: no pixels"
        if frames.count == 1:
            images.read_rgb(path)
    except InputError as error:
        return "refused" if "\n" not in str(error) and str(path) in str(error) else "wrong: lines"
    except BaseException as error:
        return f"wrong: {type(error).__name__}: {error}"
    return "read"


def _work(numbers: range, seed: int, folder: str, pipe) -> None:
    """Read the damaged files of these numbers, telling before and after each of them."""
    files = sound_files()
    for name, content in files.items():  # so that all that is loaded once is loaded
        path = Path(folder, name)
        path.write_bytes(content)
        assert outcome(path) == "read", name
    usual = _memory()
    log = tempfile.TemporaryFile(dir=folder)
    os.dup2(log.fileno(), 2)
    for number in numbers:
        name, content = damaged(files, number, seed)
        path = Path(folder, name)
        path.write_bytes(content)
        pipe.send((number, name, None, 0.0))
        began, before = time.monotonic(), os.fstat(2).st_size
        result = outcome(path)
        seconds = time.monotonic() - began
        if _memory() - usual > MEMORY:
            result, usual = "wrong: memory", _memory()
        elif os.fstat(2).st_size > before:
            log.seek(before)
            result = f"wrong: says {log.read(200)!r}"
        pipe.send((number, name, result, seconds))
        if not result.startswith("wrong"):
            path.unlink()


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes


def run(count: int, seed: int = 0, folder: str | None = None) -> dict[str, tuple[str, float]]:
    """Read so many damaged files.

    Args:
        count: how many.
        seed: of what is done to them.
        folder: for the files; those that went wrong stay in it.

    Returns:
        name -> what came of it, and the seconds that it took.
    """
    context = multiprocessing.get_context("spawn")
    results: dict[str, tuple[str, float]] = {}
    number, name = 0, ""
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory())
        while number < count:
            receiver, sender = context.Pipe(duplex=False)
            numbers = range(number, count)
            worker = context.Process(target=_work, args=(numbers, seed, folder, sender))
            worker.start()
            sender.close()
            patience = 120  # for the start
            try:
                while receiver.poll(patience):
                    number, name, result, seconds = receiver.recv()
                    patience = SECONDS
                    if result is not None:
                        results[name] = (result, seconds)
                        number += 1
                else:
                    results[name] = (f"wrong: hangs over {SECONDS} s", SECONDS)
                    number += 1
            except EOFError:
                worker.join()
                if number < count:
                    results[name] = (f"wrong: ends by status {worker.exitcode}", 0.0)
                    if not name:
                        raise RuntimeError("the worker does not start") from None
                    number += 1
            finally:
                worker.kill()
                worker.join()
    return results


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=FEW, help=f"how many files ({FEW})")
    parser.add_argument("--full", action="store_true", help=f"{MANY} files")
    parser.add_argument("--seed", type=int, default=0, help="of what is done to them (0)")
    parser.add_argument("--keep", metavar="DIR", help="a folder for those that went wrong")
    args = parser.parse_args()
    if args.keep:
        Path(args.keep).mkdir(parents=True, exist_ok=True)
    results = run(MANY if args.full else args.count, args.seed, args.keep)
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, (result, _) in results.items():
        table[name.rpartition(".")[2]][result.split(":")[0]] += 1
    for suffix, counts in sorted(table.items()):
        print(f"{suffix:5}", ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    wrong = {name: result for name, (result, _) in results.items() if result.startswith("wrong")}
    for name, result in wrong.items():
        print(f"{name}: {result}")
    slowest = max(results.items(), key=lambda each: each[1][1])
    total = collections.Counter(result.split(":")[0] for result, _ in results.values())
    print(f"{len(results)} files:", ", ".join(f"{n} {kind}" for kind, n in sorted(total.items())))
    print(f"the slowest took {slowest[1][1]:.2f} s ({slowest[0]})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
