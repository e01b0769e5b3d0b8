"""Memory of one published training step of image to text or textual restoration, by the compiler.

    python scripts/step_memory.py --stage i2t --devices 8

Nothing is trained and no weight is read: the step is compiled for simulated CPU devices from shapes
alone, and what the compiler says of one device is printed. An accelerator's compiler fuses more and
needs less temporary memory. Compiling takes minutes.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for configs
GB = 1e9


def main(args) -> None:
    import jax
    import jax.numpy as jnp

    from configs import tdr_i2t, tdr_tr
    from tdr_jax import diffusion, models
    from tdr_jax.diffusion import pipeline
    from tdr_jax.objectives import image_to_text, pretrained, textual_restoration
    from tdr_jax.text import captions
    from tdr_jax.train import sharding, state

    config = {"i2t": tdr_i2t, "tr": tdr_tr}[args.stage].get_config(f"size={args.size}")
    (_, crop, batch), *_ = config.data.stages
    batch, config.accumulate = args.batch or batch, args.accumulate or config.accumulate
    dtype = config.stack.dtype
    networks = {part: models.build(name, dtype=dtype) for part, name in pretrained.NAMES[args.size]}
    with tempfile.TemporaryDirectory() as folder:
        captions.write_tokenizer(Path(folder))
        tokenizer = pipeline.load_tokenizer(Path(folder))
    network = models.build(config.network.name, **config.network.overrides)
    count = network.config.num_words
    scheduler = diffusion.Schedule().to_config()
    frozen_parts = pretrained.towers(
        networks, scheduler, tokenizer, template="a photo of a S", words=count, remat=True
    )
    frozen = {part: of.abstract_params() for part, of in networks.items()}
    if args.stage == "i2t":
        loss = image_to_text.ImageToTextLoss(frozen_parts, network)
    else:
        first = models.build(pretrained.MAPPERS[args.size], dtype=dtype)
        loss = textual_restoration.TextualRestorationLoss(frozen_parts, first, network, config.loss)
        frozen["image_to_text"] = first.abstract_params()

    config.mesh.fsdp = args.fsdp
    layout = sharding.make(config.mesh)

    def placed(tree, where, to=None):
        return jax.tree.map(
            lambda x, its: jax.ShapeDtypeStruct(x.shape, to or x.dtype, sharding=its),
            tree,
            where if isinstance(where, type(tree)) else jax.tree.map(lambda _: where, tree),
        )

    optimiser, step = state.from_config(config, loss, layout)
    before = jax.eval_shape(
        lambda params: state.create(params, optimiser, ema_decay=config.ema, layout=None),
        network.abstract_params(),
    )
    view = networks["image_encoder"].config.image_size
    examples = {
        "clip_image": jax.ShapeDtypeStruct((batch, view, view, 3), jnp.float32),
        "target": jax.ShapeDtypeStruct((batch, crop, crop, 3), jnp.float32),
        "kind": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    shapes = (
        placed(before, layout.of(before)),
        placed(examples, layout.by_example),
        placed(frozen, layout.replicated, dtype),
    )
    trained = sum(x.size for x in before.params.values())
    print(
        f"{args.stage} {args.size}: {trained:,} trained parameters, batch {batch} in "
        f"{config.accumulate} parts, {layout.describe()}",
        flush=True,
    )
    begun = time.perf_counter()
    memory = step.lower(*shapes).compile().memory_analysis()
    print(f"compiled in {time.perf_counter() - begun:.0f} s; of one device, in GB:")
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    for name, size in (
        ("state, batch and frozen parameters", memory.argument_size_in_bytes),
        ("temporary", memory.temp_size_in_bytes),
        ("all at once", kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes),
    ):
        print(f"  {name}: {size / GB:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=("i2t", "tr"), default="i2t")
    parser.add_argument("--size", choices=("sd21", "sd15", "tiny"), default="sd21")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1, help="devices that share one state; 0: all")
    parser.add_argument("--batch", type=int, help="effective batch (default: the config's)")
    parser.add_argument("--accumulate", type=int, help="parts (default: the config's)")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    # The program is not to be run: machine code that is quick to make has the same buffers.
    ours = (
        f"--xla_force_host_platform_device_count={arguments.devices}",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    )
    os.environ["XLA_FLAGS"] = " ".join([flags, *ours]).strip()
    main(arguments)
