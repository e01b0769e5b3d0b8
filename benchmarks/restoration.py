"""Forward and training-step time of a restoration network beside its PyTorch twin, in one process.

    python benchmarks/restoration.py                      # published size, 128 and 256 pixels
    python benchmarks/restoration.py --sizes 128 --skip-step

Prints our time over PyTorch's, each the best of interleaved runs, and our compile times, first from
an empty compilation cache and then as a second start finds them. Both use the same threads and
random float32 weights; the step is forward, backward and AdamW on a batch of one, with the
`scan_unroll` that configs/textpromptir.py trains with. Absolute times are printed on accelerators
only, where they say something about other machines too.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the twin in tests/support


UNROLL = 3


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="pixels a side")
    parser.add_argument("--step-size", type=int, default=128, help="pixels a side of the step")
    parser.add_argument("--skip-step", action="store_true", help="forward only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def race(ours, theirs, repeats: int) -> tuple[float, float]:
    """Runs both in turn after a warm-up; returns the best seconds of each."""
    ours(), theirs()
    best = [float("inf")] * 2
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0], best[1]


def main():
    args = parse()
    cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cpus)  # XLA sizes its thread pool by this

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    import torch

    from tdr_jax import convert, models
    from tests.support.torch_textpromptir import TextPromptIR

    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_accelerator = jax.default_backend() != "cpu"
    print(
        f"textpromptir, batch 1, float32, {args.threads} threads, {jax.devices()[0].device_kind}; "
        f"jax {jax.__version__}, torch {torch.__version__}"
    )

    twin = TextPromptIR().to(device)
    network = models.build("textpromptir")
    params = convert.from_torch("textpromptir", twin.state_dict())
    draws = np.random.default_rng(0)
    text = draws.standard_normal((1, 768), np.float32)

    def compiled(function, *inputs, **options):
        """Compiles twice, the second time from the cache on disk; returns seconds of both."""
        seconds = []
        for _ in range(2):
            jax.clear_caches()
            start = time.perf_counter()
            program = jax.jit(function, **options).lower(*inputs).compile()
            seconds.append(time.perf_counter() - start)
        return program, seconds

    def report(name, times, seconds):
        line = f"{name}: {times[0] / times[1]:.2f} of PyTorch's time"
        if on_accelerator:
            line += f" ({1e3 * times[0]:.1f} against {1e3 * times[1]:.1f} ms)"
        print(
            f"{line}; compiled in {seconds[0]:.0f} s, at a second start {seconds[1]:.0f} s",
            flush=True,
        )

    def picture(size):
        image = draws.random((1, size, size, 3), np.float32)
        return image, torch.tensor(image).permute(0, 3, 1, 2).contiguous().to(device)

    torch_text = torch.tensor(text).to(device)
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    for size in args.sizes:
        image, torch_image = picture(size)
        forward, seconds = compiled(network.apply, params, image, text)

        def torch_forward(torch_image=torch_image):
            with torch.inference_mode():
                twin(torch_image, torch_text)
            synchronise()

        def our_forward(forward=forward, image=image):
            forward(params, image, text).block_until_ready()

        report(f"forward {size} px", race(our_forward, torch_forward, args.repeats), seconds)

    if args.skip_step:
        return
    image, torch_image = picture(args.step_size)
    target = 0.5
    optimiser = optax.adamw(2e-4, weight_decay=0.01)

    # A scan over single blocks copies every residual into a stack and out again.
    unrolled = models.build("textpromptir", scan_unroll=UNROLL)

    def step(params, state, image, text):
        def loss(params):
            return jnp.abs(unrolled.apply(params, image, text) - target).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = params, optimiser.init(params)
    program, seconds = compiled(step, *state, image, text, donate_argnums=(0, 1))
    torch_optimiser = torch.optim.AdamW(twin.parameters(), 2e-4)

    def our_step():
        nonlocal state
        state = program(*state, image, text)
        jax.block_until_ready(state)

    def torch_step():
        torch_optimiser.zero_grad()
        (twin(torch_image, torch_text) - target).abs().mean().backward()
        torch_optimiser.step()
        synchronise()

    report(f"step {args.step_size} px", race(our_step, torch_step, args.repeats), seconds)


if __name__ == "__main__":
    main()
