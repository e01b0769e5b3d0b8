"""Forward and training-step time of every restoration network beside its PyTorch twin.

    python benchmarks/restoration.py      # every network, forward at 256 pixels
    python benchmarks/restoration.py --networks textpromptir --sizes 128 256 --step 128

Prints our time over PyTorch's, each the best of interleaved runs, and our compile times, first from
an empty compilation cache and then as a second start finds them. Both run in one process with the
same threads and the same random float32 weights; the step is forward, backward and AdamW on a batch
of one with the L1 loss. Absolute times are printed on accelerators only, where they say something
about other machines too.
"""

import argparse
import atexit
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the twins in tests/support

# name -> module and class of the twin; the published sizes are the defaults of both sides
TWINS = {
    "textpromptir": ("tdr_jax.convert.torch_modules", "TextPromptIR"),
    "restormer": ("tdr_jax.convert.torch_modules", "Restormer"),
    "promptir": ("tdr_jax.convert.torch_modules", "PromptIR"),
    "nafnet": ("tests.support.torch_nafnet", "NAFNet"),
    "sfnet": ("tests.support.torch_sfnet", "SFNet"),
    "drsformer": ("tests.support.torch_drsformer", "DRSformer"),
}
# A scan over single blocks copies every residual of a step into a stack and out again;
# configs/textpromptir.py trains with this too.
STEP_UNROLL = 3


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(TWINS), choices=TWINS, metavar="NAME")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256], help="sides of the forward")
    parser.add_argument("--step", type=int, metavar="SIZE", help="also time a step at this side")
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


def prepare(threads: int, what: str) -> None:
    """Gives both sides equal threads and XLA an empty compilation cache; says what is measured."""
    # PyTorch wants memory of the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # XLA sizes its thread pool by this
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    import jax
    import torch

    torch.set_num_threads(threads)
    cache = tempfile.TemporaryDirectory()
    atexit.register(cache.cleanup)
    jax.config.update("jax_compilation_cache_dir", cache.name)
    print(
        f"{what}, {threads} threads, {jax.devices()[0].device_kind}; "
        f"jax {jax.__version__}, torch {torch.__version__}",
        flush=True,
    )


def compiled(function, *inputs, **options):
    """Compiles twice, the second time from the cache on disk; returns seconds of both."""
    import jax

    seconds = []
    for _ in range(2):
        jax.clear_caches()
        start = time.perf_counter()
        program = jax.jit(function, **options).lower(*inputs).compile()
        seconds.append(time.perf_counter() - start)
    return program, seconds


def report(name, times, seconds):
    import jax

    line = f"{name}: {times[0] / times[1]:.2f} of PyTorch's time"
    if jax.default_backend() != "cpu":
        line += f" ({1e3 * times[0]:.1f} against {1e3 * times[1]:.1f} ms)"
    first, second = seconds
    print(f"{line}; compiled in {first:.0f} s, at a second start {second:.0f} s", flush=True)


class Pair:
    """One network with random weights on both sides, and its inputs."""

    def __init__(self, name: str):
        import numpy as np
        import torch

        from tdr_jax import convert

        self.name = name
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        module, class_name = TWINS[name]
        torch.manual_seed(0)
        self.twin = getattr(importlib.import_module(module), class_name)().to(self.device).eval()
        self.params = convert.from_torch(name, self.twin.state_dict())
        self.draws = np.random.default_rng(0)

    def inputs(self, side: int, batch: int = 1):
        """The same picture (and sentence) for both sides."""
        import numpy as np
        import torch

        from tdr_jax import models

        config = models.build(self.name).config
        image = self.draws.random((batch, side, side, config.channels[0]), np.float32)
        ours, theirs = [image], [torch.tensor(image).permute(0, 3, 1, 2).contiguous()]
        if hasattr(config, "text_dim"):
            text = self.draws.standard_normal((batch, config.text_dim), np.float32)
            ours.append(text)
            theirs.append(torch.tensor(text))
        return ours, [tensor.to(self.device) for tensor in theirs]

    def synchronise(self):
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, side: int, repeats: int):
        import torch

        from tdr_jax import models

        ours, theirs = self.inputs(side)
        program, seconds = compiled(models.build(self.name).apply, self.params, *ours)

        def our_forward():
            program(self.params, *ours).block_until_ready()

        def torch_forward():
            with torch.inference_mode():
                self.twin(*theirs)
            self.synchronise()

        times = race(our_forward, torch_forward, repeats)
        report(f"{self.name} forward {side} px", times, seconds)

    def step(self, side: int, repeats: int):
        import jax
        import jax.numpy as jnp
        import optax
        import torch

        from tdr_jax import models

        network = models.build(self.name, scan_unroll=STEP_UNROLL)
        multiscale = network.has("training")  # SFNet: three outputs, statistics of the batch
        ours, theirs = self.inputs(side, batch=2 if multiscale else 1)
        optimiser = optax.adamw(2e-4, weight_decay=0.01)
        target = 0.5

        def loss(params, *inputs):
            if multiscale:
                outputs, _ = network.apply(params, *inputs, method="training")
            else:
                outputs = [network.apply(params, *inputs)]
            return sum(jnp.abs(output - target).mean() for output in outputs)

        def step(params, state, *inputs):
            updates, state = optimiser.update(jax.grad(loss)(params, *inputs), state, params)
            return optax.apply_updates(params, updates), state

        own = {name: jnp.array(value, copy=True) for name, value in self.params.items()}
        state = own, optimiser.init(own)
        program, seconds = compiled(step, *state, *ours, donate_argnums=(0, 1))
        self.twin.train()
        torch_optimiser = torch.optim.AdamW(self.twin.parameters(), 2e-4)

        def our_step():
            nonlocal state
            state = program(*state, *ours)
            jax.block_until_ready(state)

        def torch_step():
            torch_optimiser.zero_grad()
            outputs = self.twin(*theirs)
            outputs = outputs if multiscale else [outputs]
            sum((output - target).abs().mean() for output in outputs).backward()
            torch_optimiser.step()
            self.synchronise()

        times = race(our_step, torch_step, repeats)
        report(f"{self.name} step {side} px, batch {len(ours[0])}", times, seconds)
        self.twin.eval()


def main():
    args = parse()
    prepare(args.threads, "batch 1, float32")
    for name in args.networks:
        pair = Pair(name)
        for side in args.sizes:
            pair.forward(side, args.repeats)
        if args.step:
            pair.step(args.step, args.repeats)


if __name__ == "__main__":
    main()
