"""A few steps of objectives on meshes of eight simulated devices, for a process of its own.

    python -m tests.support.meshes FOLDER small prompted ...

Writes `FOLDER/<objective>/<run>.npz` for each run: the losses, and the parameters by name. The
devices are simulated by XLA_FLAGS; `FOLDER/i2t/stack` holds what image to text needs.
"""

import copy
import sys
from pathlib import Path

import jax
import numpy as np

from configs import estimator, tdr_guided, textpromptir
from tdr_jax import models, objectives
from tdr_jax.train import sharding
from tdr_jax.train.state import create, from_config
from tests.support import small as small_networks
from tests.support import tiny_bert, words_runs
from tests.support.sizes import GUIDED, LEVELS

STEPS = 3
BATCH = 32
# devices, fsdp, accumulate
RUNS = {
    "single": (1, 1, 1),
    "8x1": (8, 1, 1),
    "1x8": (8, 8, 1),
    "4x2": (8, 2, 1),
    "accumulated": (8, 2, 4),
}


def small(folder, photos):
    """A prompted network of two convolutions."""
    models.build = small_networks.build
    config = small_networks.small_config(STEPS)
    config.network.overrides.text_dim = 384
    config.data.path = str(photos)
    config.data.stages = ((STEPS, 16, BATCH),)
    return config


def prompted(folder, photos):
    """A prompted network in a size that compiles in seconds."""
    config = textpromptir.get_config(f"size=tiny,data={photos}")
    config.network.overrides.update(LEVELS)
    config.network.overrides.microbatches = 2
    config.data.stages = ((STEPS, 16, BATCH),)
    return config


def guided(folder, photos):
    """A network with guidance, around one that is drawn."""
    config = tdr_guided.get_config(
        f"size=tiny,data={photos},steps={STEPS},crop=16,batch={BATCH},base=x"
    )
    config.init_base = ""
    config.network.overrides.update(GUIDED)
    config.guidance.size = 32
    return config


def i2t(folder, photos):
    """Image to text, with frozen networks that are drawn."""
    return words_runs.config("i2t", folder / "stack", photos, steps=STEPS, batch=BATCH)


def text_encoder(folder, photos):
    """The last layers of a BERT, on pairs of sentences."""
    bert = tiny_bert.make(folder / "bert")
    return tiny_bert.config(bert, steps=STEPS, batch=BATCH, layers=2)


def estimate(folder, photos):
    """What is wrong with pictures."""
    config = estimator.get_config(f"data={photos}")
    config.network.overrides.widths = (16, 16, 16)
    # At the rate of the others: Adam turns rounding into steps of this over its epsilon.
    config.optim.lr = 3e-4
    config.data.stages = ((STEPS, 16, BATCH),)
    config.mesh.min_size = 2**8
    return config


def run(config, folder, devices: int, fsdp: int, accumulate: int) -> dict[str, np.ndarray]:
    """Trains on the first `devices`, as the loop does."""
    config.mesh.fsdp, config.mesh.min_size, config.accumulate = fsdp, 64, accumulate
    # What has no gradient but rounding must not be moved by it: Adam divides a gradient by itself.
    config.optim.eps = 1e-6
    config.optim.warmup = 0
    objective = objectives.make(config, folder)
    layout = sharding.make(config.mesh, jax.devices()[:devices])
    optimiser, step = from_config(config, objective.loss, layout)
    params = objective.initial_params()
    state = create(params, optimiser, ema_decay=config.ema, layout=layout)
    frozen = layout.put(objective.frozen)
    batches, losses = objective.batches(0), []
    for _ in range(STEPS):
        state, metrics = step(state, layout.put_batch(next(batches)), *frozen)
        losses.append(float(metrics["loss"]))
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    kept = jax.device_get(layout.gather(state.params))
    return {"losses": np.array(losses), "arrays cut": np.array(cut), **kept}


OBJECTIVES = {
    "small": small,
    "i2t": i2t,
    "text_encoder": text_encoder,
    "estimate": estimate,
}
FULL = {"prompted": prompted, "guided": guided}
# The layouts each is tried on beside one device; those that compile for long on few.
LAYOUTS = dict.fromkeys([*OBJECTIVES, *FULL], ("1x8", "accumulated")) | {
    "small": ("8x1", "1x8", "4x2", "accumulated"),
    "i2t": ("accumulated",),
}


if __name__ == "__main__":
    root, *names = sys.argv[1:]
    photos = words_runs.photos(Path(root, "photos"))
    for name in names:
        folder = Path(root, name)
        folder.mkdir(exist_ok=True)
        config = (OBJECTIVES | FULL)[name](folder, photos)
        for layout in ("single", *LAYOUTS[name]):
            found = run(copy.deepcopy(config), folder / layout, *RUNS[layout])
            np.savez(folder / f"{layout}.npz", **found)
            print(name, layout, found["losses"], flush=True)
