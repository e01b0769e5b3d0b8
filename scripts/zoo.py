"""Parameters and arithmetic of every restoration network: the figures of docs/zoo.md.

    python scripts/zoo.py

GMACs are half the floating-point operations that XLA counts in the program of one 256x256 picture,
everything included (norms, gates, softmax), with the stages unrolled, because XLA counts the body
of a loop once. Running statistics are no parameters. Nothing is run: the weights are shapes only.
"""

import jax

from tdr_jax import models

SIDE = 256
FULL = 1000  # more blocks than any stage has


def main():
    print("| network | parameters | GMACs |\n|---|---|---|")
    for name in models.names():
        network = models.build(name)
        if not hasattr(network.config, "channels"):
            continue  # a text encoder
        network = models.build(name, scan_unroll=FULL)
        params = network.abstract_params()
        inputs = [jax.ShapeDtypeStruct((1, SIDE, SIDE, network.config.channels[0]), "float32")]
        if network.takes_guidance:
            inputs.append(jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), "float32"))
        if network.takes_sentence:
            inputs.append(jax.ShapeDtypeStruct((1, network.config.text_dim), "float32"))
        operations = jax.jit(network.apply).lower(params, *inputs).cost_analysis()["flops"]
        print(f"| `{name}` | {network.size:,} | {operations / 2e9:.1f} |", flush=True)


if __name__ == "__main__":
    main()
