"""Time and memory of guided restoration beside PyTorch.

    python benchmarks/guided.py                              # matching and transfer at 512 pixels
    python benchmarks/guided.py --parts network --backbone nafnet --size 256
    python benchmarks/guided.py --size 384 --step            # and the gradients of both

Prints our time over PyTorch's, each the best of interleaved runs, by the clock and, on CPU, by the
processors' time, which other programs disturb less; then how far apart the outputs are, what memory
each side takes beyond its inputs and weights, and our compile times, first from an empty
compilation cache and then as a second start finds them. Both run in one process with the same
threads and the same random float32 inputs and weights. PyTorch's side is a twin of the reference
code, whose outputs it equals.
"""

import argparse
import ctypes
import gc
import os
import sys
import time
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.restoration import compiled, prepare, report  # noqa: E402

# name -> width and number of the encoder's levels, as published
BACKBONES = {"restormer": (48, 4), "nafnet": (64, 5)}
MIB = 2**20


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", default=["transfer"], choices=PARTS, help="transfer by default"
    )
    parser.add_argument("--backbone", default="restormer", choices=BACKBONES)
    parser.add_argument("--size", type=int, default=512, help="side of the degraded picture")
    parser.add_argument("--guidance", type=int, default=512, help="side of the guidance")
    parser.add_argument("--step", action="store_true", help="also time transfer with gradients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    degraded, guidance = sides(args)
    if 2 * int(guidance // (degraded // 4) * 1.5) + 3 > guidance:
        parser.error(
            "the reference code cannot serve so small a guidance: give a larger --guidance"
        )
    return args


def sides(args) -> tuple[int, int]:
    """Positions a side of the deepest level, which is padded to whole blocks, of both pictures."""
    stride = 2 ** (BACKBONES[args.backbone][1] - 1)
    return tuple(-(-side // (8 * stride)) * 8 for side in (args.size, args.guidance))


def race(ours, theirs, repeats: int):
    """Runs both in turn after a warm-up; the best seconds of each, by clock and by processors."""
    ours(), theirs()
    clocks = time.perf_counter, time.process_time
    best = [[float("inf")] * 2 for _ in clocks]
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = [clock() for clock in clocks]
            run()
            for times, clock, begin in zip(best, clocks, start, strict=True):
                times[i] = min(times[i], clock() - begin)
    return best


def peak(run) -> float | None:
    """The most MiB that a run holds beyond what is held before it; None where Linux is not."""
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not forget.exists():
        return None

    def most():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else the run finds memory that its predecessors left
    forget.write_text("5")  # the peak is now what is held now
    before = most()
    run()
    return most() - before


class Bench:
    """The two sides of a comparison and how to report on them."""

    def __init__(self, args):
        import jax
        import numpy as np
        import torch

        self.args = args
        self.draws = np.random.default_rng(0)
        self.accelerated = jax.default_backend() != "cpu"
        self.device = "cuda" if self.accelerated and torch.cuda.is_available() else "cpu"

    def draw(self, *shape):
        """The same picture or features, (B, H, W, C), for both sides."""
        import jax.numpy as jnp
        import numpy as np
        import torch

        ours = self.draws.standard_normal(shape, np.float32)
        theirs = torch.tensor(ours).permute(0, 3, 1, 2).contiguous()
        return jnp.asarray(ours), theirs.to(self.device)

    def compare(self, what: str, function, inputs: tuple, theirs):
        """Times `function(*inputs)` against `theirs()`; both return one picture or several."""
        import jax
        import numpy as np
        import torch

        program, seconds = compiled(function, *inputs)

        def our_run():
            return jax.block_until_ready(program(*inputs))

        def torch_run():
            out = theirs()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return out

        apart = 0.0
        for a, b in zip(jax.tree.leaves(our_run()), torch_run(), strict=True):
            b = b.detach().permute(0, 2, 3, 1).cpu().numpy()
            apart = max(apart, np.abs(np.asarray(a) - b).max() / np.abs(b).max())
        del a, b
        clock, processors = race(our_run, torch_run, self.args.repeats)
        report(f"{what}, {apart:.0e} apart", clock, seconds)
        if not self.accelerated:
            print(f"  {processors[0] / processors[1]:.3f} of its processor time")
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch_run()
            reference = (torch.cuda.max_memory_allocated() - before) / MIB
            plan = program.memory_analysis()
            own = (plan.temp_size_in_bytes + plan.output_size_in_bytes) / MIB
        else:
            own, reference = peak(our_run), peak(torch_run)
        if own is not None:
            print(f"  {own:.0f} MiB against {reference:.0f}", flush=True)


def transfer(bench: Bench):
    """Search on the deepest level and transfer of all levels."""
    import jax
    import torch

    from tdr_jax.models import matching
    from tests.support import torch_masa

    args = bench.args
    width, levels = BACKBONES[args.backbone]
    degraded, guidance = sides(args)
    deepest = width * 2 ** (levels - 1)
    query, query_torch = bench.draw(1, degraded, degraded, deepest)
    features, features_torch = zip(
        *(
            bench.draw(1, guidance * s, guidance * s, deepest // s)
            for s in (2**level for level in range(levels))
        ),
        strict=True,
    )

    def ours(query, features):
        match = matching.match(query, features[0])
        return [matching.transfer(level, match) for level in features]

    def theirs():
        with torch.inference_mode():
            found = torch_masa.search_and_transfer(query_torch, features_torch[0], features_torch)
        return found[3]

    what = f"{levels} levels of {args.backbone}, {args.size} px with guidance of {args.guidance} px"
    bench.compare(f"match and transfer, {what}", ours, (query, features), theirs)
    if not args.step:
        return

    def our_gradients(query, features):
        def objective(query, features):
            return sum(level.sum() for level in ours(query, features))

        return jax.grad(objective, (0, 1))(query, features)

    def torch_gradients():
        inputs = [x.detach().requires_grad_() for x in (query_torch, *features_torch)]
        warped = torch_masa.search_and_transfer(inputs[0], inputs[1], inputs[1:])[3]
        sum(level.sum() for level in warped).backward()
        return [x.grad for x in inputs]

    bench.compare(f"gradients, {what}", our_gradients, (query, features), torch_gradients)


def network(bench: Bench):
    """The whole guided network, of published size."""
    import torch

    from tdr_jax import convert, models
    from tests.support import torch_guided

    args = bench.args
    torch.manual_seed(0)
    if args.backbone == "restormer":
        sizes = dict(n_blks=(4,) * 4, reffusion_n_blocks=(2,) * 4, dim=48, heads=(1, 2, 4, 8))
        twin = torch_guided.GuidedRestormer(**sizes)
    else:
        sizes = dict(n_blks=(4,) * 5, reffusion_n_blocks=(2, 2, 2, 2, 1), width=64)
        twin = torch_guided.GuidedNAFNet(**sizes)
    twin.to(bench.device).eval().requires_grad_(False)
    guided = models.build("guided", backbone=args.backbone)
    params = convert.from_torch("guided", twin.state_dict(), backbone=args.backbone)
    image, image_torch = bench.draw(1, args.size, args.size, 3)
    guidance, guidance_torch = bench.draw(1, args.guidance, args.guidance, 3)

    def theirs():
        with torch.inference_mode():
            return [twin.guided_by(image_torch, guidance_torch)(image_torch)]

    what = f"guided {args.backbone}, {args.size} px with guidance of {args.guidance} px"
    bench.compare(what, guided.apply, (params, image, guidance), theirs)


PARTS = {"transfer": transfer, "network": network}


def main():
    args = parse()
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    prepare(args.threads, "batch 1, float32")
    bench = Bench(args)
    for part in args.parts:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
