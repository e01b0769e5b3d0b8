"""Time of Stable Diffusion's networks and of a whole sampling run beside PyTorch's.

    python benchmarks/diffusion.py --parts unet vae        # Stable Diffusion 2.1 base
    python benchmarks/diffusion.py --model sd21-tiny       # every part, in a minute

Prints our time over that of diffusers and transformers, each the best of interleaved runs, how far
apart the outputs are, and our compile times, first from an empty compilation cache and then as a
second start finds them. Both run in one process with the same threads, dtype and random weights.
Absolute times are printed on accelerators only, where they say something about other machines too.
"""

import argparse
import dataclasses
import functools
import gc
import importlib.util
import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.restoration import compiled, prepare, race, report  # noqa: E402

MODELS = ("sd21-base", "sd15", "sd21-tiny")
SCALE = 7.5  # of the guidance, the usual one
TOKENS = 77
# How our networks compute, which the others' configs do not know.
OURS_ALONE = ("dtype", "remat", "scan_unroll", "with_projection")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--model", default=MODELS[0], choices=MODELS)
    parser.add_argument(
        "--side",
        type=int,
        help="of the pictures, in pixels; by default the network's own for unet, half of it for "
        "vae, and for sample its own on accelerators and half of it on CPU",
    )
    parser.add_argument("--steps", type=int, help="of sample; 50 on accelerators, 2 on CPU")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--compile",
        action="store_true",
        help="on CUDA: torch.compile for PyTorch, pictures with their channels last",
    )
    return parser.parse_args()


@dataclasses.dataclass
class Bench:
    """What all parts need to know."""

    args: argparse.Namespace
    device: str  # PyTorch's
    accelerated: bool

    def side(self, *, halved: bool = False) -> int:
        """Latents a side: as asked for in pixels, or what the UNet is for, which may be halved."""
        from tdr_jax import models

        factor = models.build(f"{self.args.model}/vae").config.factor
        if self.args.side:
            if self.args.side % factor:
                sys.exit(f"--side {self.args.side} is not a multiple of {factor} pixels")
            return self.args.side // factor
        own = models.build(f"{self.args.model}/unet").config.sample_size
        return own // 2 if halved else own

    def pair(self, name: str, *, pictures: bool = False):
        """Returns our network, its parameters and the PyTorch module, of the same random weights.

        Args:
            name: of the network.
            pictures: whether the module works on pictures, whose channels may then come last.
        """
        import jax
        import torch

        from tdr_jax import convert, models

        network = models.build(name, dtype=self.args.dtype)
        torch.manual_seed(0)
        module = twin(network).eval().requires_grad_(False)
        for parameter in module.parameters():
            if parameter.ndim > 1:  # norms and biases keep their ones and zeros
                torch.nn.init.normal_(parameter, std=0.02)
        state = {
            key.removeprefix("text_model.").removeprefix("vision_model."): value
            for key, value in module.state_dict().items()
        }
        params = {
            key: value.astype(self.args.dtype)
            for key, value in convert.from_torch(name, state).items()
        }
        jax.block_until_ready(params)
        module.to(self.device, getattr(torch, self.args.dtype))
        if self.args.compile:
            if pictures:
                module.to(memory_format=torch.channels_last)
            # Compiled in place, methods by themselves: the decoder is called without the encoder.
            module.forward = torch.compile(module.forward)
            if network.has("decode"):
                module.decode = torch.compile(module.decode)
        return network, params, module

    def draw(self, *shape, pictures: bool = False):
        """The same numbers for both sides; pictures (B, H, W, C) with PyTorch's order of axes."""
        import jax.numpy as jnp
        import numpy as np
        import torch

        ours = np.random.default_rng(len(shape)).standard_normal(shape, np.float32)
        theirs = torch.tensor(ours).to(self.device, getattr(torch, self.args.dtype))
        if pictures:
            theirs = theirs.permute(0, 3, 1, 2)
            theirs = theirs.contiguous(
                memory_format=torch.channels_last if self.args.compile else torch.contiguous_format
            )
        return jnp.asarray(ours, self.args.dtype), theirs

    def compare(self, what: str, function, inputs: tuple, theirs):
        """Times `function(*inputs)` against `theirs()`, a tensor with axes in the same order."""
        import jax
        import numpy as np
        import torch

        program, seconds = compiled(function, *inputs)

        def our_run():
            return jax.block_until_ready(program(*inputs))

        def torch_run():
            with torch.inference_mode():
                out = theirs()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return out

        ours, reference = np.asarray(our_run(), np.float32), torch_run().float().cpu().numpy()
        apart = np.abs(ours - reference).max() / np.abs(reference).max()
        times = race(our_run, torch_run, self.args.repeats)
        report(f"{what}, {apart:.0e} apart", times, seconds)
        if self.accelerated:
            ours, reference = (self.args.batch / seconds for seconds in times)
            print(f"  {ours:.2f} images/s against {reference:.2f}", flush=True)


def twin(network):
    """The module of diffusers or transformers with our network's sizes."""
    if importlib.util.find_spec("torchvision"):  # one for another PyTorch would stop the next two
        from tests.support import torchvision_shim  # noqa: F401
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()  # it warns of layers to keep in float32, and has none
    fields = dataclasses.asdict(network.config)
    sizes = {key: value for key, value in fields.items() if key not in OURS_ALONE}
    if network.kind == "UNet":
        return diffusers.UNet2DConditionModel(**sizes)
    if network.kind == "AutoencoderKL":
        levels = len(network.config.block_out_channels)
        return diffusers.AutoencoderKL(
            **sizes,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
    tower = "CLIPText" if network.kind == "ClipText" else "CLIPVision"
    config = getattr(transformers, f"{tower}Config")(**sizes)
    return getattr(transformers, f"{tower}Model")(config)


def unet(bench: Bench):
    """One run of the denoising network, without guidance."""
    network, params, module = bench.pair(f"{bench.args.model}/unet", pictures=True)
    config, batch = network.config, bench.args.batch
    side = bench.side()
    x, x_torch = bench.draw(batch, side, side, config.in_channels, pictures=True)
    context, context_torch = bench.draw(batch, TOKENS, config.cross_attention_dim)
    bench.compare(
        f"{network.name}, latents {side}x{side}",
        lambda params, x, context: network.apply(params, x, 500, context),
        (params, x, context),
        lambda: module(x_torch, 500, context_torch).sample.permute(0, 2, 3, 1),
    )


def vae(bench: Bench):
    """Latents to pictures."""
    network, params, module = bench.pair(f"{bench.args.model}/vae", pictures=True)
    config = network.config
    side = bench.side(halved=True)
    z, z_torch = bench.draw(bench.args.batch, side, side, config.latent_channels, pictures=True)
    bench.compare(
        f"{network.name} decoder, latents {side}x{side}",
        functools.partial(network.apply, method="decode"),
        (params, z),
        lambda: module.decode(z_torch).sample.permute(0, 2, 3, 1),
    )


def vision(bench: Bench):
    """A picture through CLIP's vision tower."""
    tiny = bench.args.model.endswith("-tiny")
    network, params, module = bench.pair("clip-vit-tiny" if tiny else "clip-vit-h-14-laion")
    side = network.config.image_size
    x, x_torch = bench.draw(bench.args.batch, side, side, 3, pictures=True)
    bench.compare(
        f"{network.name}, {side}x{side} pixels",
        lambda params, x: network.apply(params, x)[0],
        (params, x),
        lambda: module(x_torch).last_hidden_state,
    )


def text(bench: Bench):
    """A sentence through CLIP's text tower."""
    import numpy as np
    import torch

    network, params, module = bench.pair(f"{bench.args.model}/text_encoder")
    shape = bench.args.batch, network.config.max_position_embeddings
    tokens = np.random.default_rng(0).integers(0, network.config.vocab_size, shape, np.int32)
    tokens_torch = torch.tensor(tokens, dtype=torch.int64, device=bench.device)
    bench.compare(
        f"{network.name}, {shape[1]} tokens",
        network.apply,
        (params, tokens),
        lambda: module(tokens_torch).last_hidden_state,
    )


def sample(bench: Bench):
    """Noise to pictures: DDIM with guidance and the decoder, ours as one program."""
    import jax.numpy as jnp
    import torch
    from diffusers import DDIMScheduler

    from tdr_jax import diffusion

    args = bench.args
    steps = args.steps or (50 if bench.accelerated else 2)
    denoiser, unet_params, unet_torch = bench.pair(f"{args.model}/unet", pictures=True)
    decoder, vae_params, vae_torch = bench.pair(f"{args.model}/vae", pictures=True)
    side = bench.side(halved=not bench.accelerated)
    if not bench.accelerated and not (args.steps and args.side):
        print(
            "sample: on CPU 2 steps and half the side unless --steps and --side ask for more",
            flush=True,
        )
    noise, noise_torch = bench.draw(
        args.batch, side, side, denoiser.config.in_channels, pictures=True
    )
    # Guidance runs on both contexts at once: the empty prompt's first.
    both, both_torch = bench.draw(2 * args.batch, TOKENS, denoiser.config.cross_attention_dim)
    schedule = diffusion.Schedule(steps_offset=1)
    factor = decoder.config.scaling_factor

    def ours(unet_params, vae_params, noise, both):
        uncond, context = jnp.split(both, 2)
        denoise = diffusion.guided(
            functools.partial(denoiser.apply, unet_params), context, uncond, SCALE
        )
        latents = diffusion.sample(denoise, schedule, noise, steps)
        return decoder.apply(vae_params, latents / factor, method="decode")

    scheduler = DDIMScheduler.from_config(schedule.to_config())
    scheduler.set_timesteps(steps, device=bench.device)

    def theirs():
        x = noise_torch.float()
        for t in scheduler.timesteps:
            doubled = torch.cat([x, x]).to(both_torch.dtype)
            without, prompted = unet_torch(doubled, t, both_torch).sample.float().chunk(2)
            x = scheduler.step(without + SCALE * (prompted - without), t, x).prev_sample
        x = vae_torch.decode((x / factor).to(both_torch.dtype)).sample
        return x.permute(0, 2, 3, 1)

    bench.compare(
        f"{args.model} {steps} steps and decoder, latents {side}x{side}",
        ours,
        (unet_params, vae_params, noise, both),
        theirs,
    )


PARTS = {"unet": unet, "vae": vae, "vision": vision, "text": text, "sample": sample}


def main():
    args = parse()
    from tdr_jax import runtime

    runtime.choose_cpu_kernels()
    how = "compiled, channels last" if args.compile else "eager"
    prepare(args.threads, f"batch {args.batch}, {args.dtype}, PyTorch {how}")

    import jax
    import torch

    accelerated = jax.default_backend() != "cpu"
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    if args.compile and device != "cuda":
        sys.exit("--compile is for CUDA, which JAX or PyTorch does not find here")
    # XLA multiplies float32 in TF32 where the GPU has it, and so may PyTorch.
    torch.set_float32_matmul_precision("high")
    bench = Bench(args, device, accelerated)
    for part in args.parts:
        PARTS[part](bench)
        # A full-size UNet takes 3.5 GB on each side: it goes before the next comes.
        jax.clear_caches()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
