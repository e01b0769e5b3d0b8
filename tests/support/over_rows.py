"""Pictures cut over devices that a CPU stands for: `python -m tests.support.over_rows < jobs.json`.

Devices are simulated only if the environment says so before JAX starts, so this runs in a process
of its own; `measure` starts it.
"""

import json
import re
import subprocess
import sys

from tests.support.programs import on_devices

COLLECTIVE = re.compile(r"= .*? (all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(")
SHAPE = re.compile(r"\[([0-9,]*)\]")


def measure(jobs, devices, timeout=600):
    """Runs a list of jobs, each a dict of `compare`'s arguments, with so many devices."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.over_rows"],
        input=json.dumps(jobs),
        env=on_devices(devices),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def collectives(program):
    """What a compiled program moves between devices.

    Args:
        program: its text.

    Returns:
        kind -> shapes of the results: every all-gather and all-to-all moves an activation, for the
        parameters lie whole on every device.
    """
    found = {}
    for line in program.splitlines():
        match = COLLECTIVE.search(line)
        if match:
            shape = SHAPE.search(line.split("=", 1)[1])[1]
            sides = [int(side) for side in shape.split(",") if side]
            found.setdefault(match[1], []).append(sides)
    return found


def compare(height, width, devices, name=None, overrides=None):
    """Restores one picture by one device and over several.

    Args:
        height, width: of the picture.
        devices: that it is cut over.
        name, overrides: of a network with values drawn at random, compiled quickly, on noise;
            without a name, the shipped network on photographs with noise, compiled as for use.

    Returns:
        the largest difference over the largest value; what the program exchanges; the bytes of
        intermediate results on each device and on one alone.
    """
    import jax
    import numpy as np

    from tdr_jax import models, text, weights
    from tdr_jax.infer.rows import Rows

    if name is None:
        network, params = weights.load("textpromptir-compact")
        picture = mosaic(height, width)
        vector = text.TextEncoder.from_pretrained().encode(["please remove the noise"])
    else:
        network = models.build(name, **overrides)
        params = network.init(0)
        picture = noise(height, width, network.config.channels[0])
        vector = np.full((1, getattr(network.config, "text_dim", 0)), 0.05, np.float32)
    inputs = [picture[None], *([vector] if vector.size else [])]

    one = jax.jit(network.apply).lower(params, *inputs).compile()
    expected = np.asarray(one(params, *inputs))
    rows = Rows(network, devices)
    params, inputs = rows.place(params), rows.put(*inputs)
    with jax.set_mesh(rows.mesh):
        program = rows.jit(network.apply).lower(params, *inputs).compile()
    restored = program(params, *inputs)
    heights = {shard.data.shape[1] for shard in restored.addressable_shards}
    assert heights == {height // devices}
    difference = np.abs(np.asarray(restored) - expected).max() / np.abs(expected).max()
    return {
        "difference": float(difference),
        "changed": float(np.abs(expected - picture).max()),
        "collectives": collectives(program.as_text()),
        "memory": [p.memory_analysis().temp_size_in_bytes for p in (program, one)],
    }


def gathered():
    """What `collectives` finds in a program that gathers: the rows come back on every device."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from tdr_jax.infer.rows import make_mesh

    mesh = make_mesh(2)
    x = jax.device_put(np.ones((1, 8, 4, 3)), NamedSharding(mesh, PartitionSpec(None, "rows")))
    whole = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(lambda x: 2 * x, out_shardings=whole).lower(x).compile()
    return collectives(program.as_text())


def noise(height, width, channels):
    """A picture without any structure to hide behind."""
    import numpy as np

    values = np.random.default_rng(0).uniform(size=(height, width, channels))
    return values.astype(np.float32)


def mosaic(height, width):
    """Photographs of 512x512 side by side, a different one below each, with noise of sigma 25."""
    import numpy as np
    from skimage import data

    side = 512
    photos = [data.astronaut()]
    for photo in (data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry()):
        missing = [(0, max(0, side - length)) for length in photo.shape[:2]]
        photos.append(np.pad(photo, [*missing, (0, 0)], mode="reflect")[:side, :side])
    down, across = -(-height // side), -(-width // side)
    lines = [
        np.concatenate([photos[(i + j) % len(photos)] for j in range(across)], 1)
        for i in range(down)
    ]
    clean = np.concatenate(lines)[:height, :width] / 255
    values = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    return values.clip(0, 1).astype(np.float32)


if __name__ == "__main__":
    results = [compare(**job) if job else gathered() for job in json.load(sys.stdin)]
    print(json.dumps(results))
