"""Time of TDR's mappers beside the loop over words that PyTorch runs for them.

    python benchmarks/mappers.py                # published sizes, one picture, float32
    python benchmarks/mappers.py --gradient

Prints our time over PyTorch's, the best of interleaved runs in one process with equal threads and
random weights, how far apart the outputs are, and our compile times. The patches' last layer runs
after the mean over patches here, and before it there.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.restoration import compiled, prepare, race, report  # noqa: E402

READS = ("image-to-text", "image-to-text-sd15")


def main(args) -> None:
    prepare(args.threads, f"batch {args.batch}, float32")

    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from tdr_jax import convert, models
    from tests.support import torch_mapper

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in args.networks:
        options = {"cross_attention": ()} if name in READS else {}
        network = models.build(name, **options)
        config = network.config
        sizes = config.num_words, config.input_dim, config.hidden_dim
        if name in READS:
            twin = torch_mapper.Mapper(*sizes, config.output_dim)
            shape = args.batch, 257, config.input_dim
        else:
            twin = torch_mapper.CleanMapper(*sizes)
            shape = args.batch, config.num_words, config.input_dim
        twin = twin.to(device)
        params = convert.from_torch(name, twin.state_dict(), **options)
        ours = np.random.default_rng(0).standard_normal(shape, np.float32)
        theirs = torch.tensor(ours).to(device)

        def loss(params, x, network=network):
            return jnp.square(network.apply(params, x)).mean()

        function = jax.grad(loss) if args.gradient else network.apply
        program, seconds = compiled(function, params, ours)

        def run_ours(program=program, params=params, ours=ours):
            jax.block_until_ready(program(params, ours))

        def run_torch(twin=twin, theirs=theirs):
            if args.gradient:
                twin.zero_grad()
                twin(theirs).square().mean().backward()
            else:
                with torch.inference_mode():
                    twin(theirs)
            if device == "cuda":
                torch.cuda.synchronize()

        times = race(run_ours, run_torch, args.repeats)
        what = "gradient" if args.gradient else "forward"
        report(f"{name} {what}", times, seconds)
        with torch.inference_mode():
            wanted = twin(theirs).cpu().numpy()
        apart = np.abs(np.asarray(network.apply(params, ours)) - wanted).max()
        print(f"  outputs differ by {apart / np.abs(wanted).max():.1e} of the largest")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    both = ("image-to-text", "textual-restoration")
    parser.add_argument("--networks", nargs="+", default=both)
    parser.add_argument("--gradient", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    main(parser.parse_args())
