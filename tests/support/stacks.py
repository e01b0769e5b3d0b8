"""A small stack with random weights: what describes pictures, beside a pipeline of diffusers."""

from tdr_jax import models, weights
from tests.support import pipelines

SIZES = {
    "image_encoder": "clip-vit-tiny",
    "image_to_text": "image-to-text-tiny",
    "textual_restoration": "textual-restoration-tiny",
}


def make(folder, version: int = 2):
    """Writes a stack to `folder`.

    Args:
        folder: made if missing.
        version: of Stable Diffusion, whose sort of pipeline it holds.

    Returns:
        the stack as it was loaded back, and diffusers' pipeline of the same folder.
    """
    whole = pipelines.pipeline(folder, version)
    for seed, (part, name) in enumerate(SIZES.items()):
        network = models.build(name)
        weights.save(folder / part, network, network.init(seed))
    return weights.load_tdr_pipeline(folder), whole
