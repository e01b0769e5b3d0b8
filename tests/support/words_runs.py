"""Runs of the stages that learn words, on a stack and on pictures that are as small as can be."""

import skimage.data

from configs import tdr_i2t, tdr_tr
from tdr_jax.images.files import write_rgb

NETWORKS = {"i2t": "image-to-text-tiny", "tr": "textual-restoration-tiny"}
RECIPES = {"i2t": tdr_i2t, "tr": tdr_tr}


def photos(folder):
    """Writes three photographs of several shapes to `folder`, and gives it back."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (("astronaut", (64, 96)), ("chelsea", (90, 70)), ("coffee", (80, 80))):
        write_rgb(folder / f"{name}.png", getattr(skimage.data, name)()[: shape[0], : shape[1]])
    return folder


def config(objective, stack, pictures, *, steps=3, batch=4, size=16, **given):
    """The tiny recipe of a stage, for networks of `tests.support.stacks`.

    Args:
        objective: "i2t" or "tr".
        stack, pictures: folders.
        steps, batch, size: of the only stage of the run.
        **given: further arguments of the recipe.
    """
    given = dict(size="tiny", stack=stack, data=pictures) | given
    argument = ",".join(f"{name}={value}" for name, value in given.items())
    config = RECIPES[objective].get_config(argument)
    config.network.name = NETWORKS[objective]
    config.loss.denoise = 1.0
    config.data.distinct = 0
    config.data.stages = ((steps, size, batch),)
    config.optim.schedule = "constant"
    config.optim.weight_decay = 0.0  # it would move what has no gradient
    config.log_every, config.save_every = 1, 100
    return config
