"""Pictures told from one another: how a vision tower learns without captions."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.models import clip_vision
from tdr_jax.nn.typing import Array
from tdr_jax.objectives.base import Batch, Frozen, Measured
from tdr_jax.objectives.latent_examples import VIEWS, LatentObjective


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss:
    """Find, for each crop, the other crop of the same picture in the same state.

    The batch's other pictures are wrong, and so are all pictures in another state, degraded where
    they were clean or clean where they were degraded: a tower that ignores degradation cannot tell.

    Args:
        network: a ClipVision with projection.
        temperature: that similarities are divided by.

    Source: SimCLR (arXiv 2002.05709), eq. 1, with CLIP's symmetric loss over the two sets of crops.
    """

    network: Any
    temperature: float = 0.1

    def __call__(self, params: models.Params, batch: Batch, rng: PRNGKeyArray) -> Measured:
        """Measure how often the wrong crop looks nearer.

        Args:
            params: the tower's.
            batch: `clip_image`, `clip_image_other_crop` and `clip_image_other_state` float32
                (b, h, w, 3) in [0, 1], see `tdr_jax.data.latents`.
            rng: a key; unused.

        Returns:
            the loss, in nats, and `top1`, the share of crops whose nearest is the right
            one.
        """
        del rng
        ours, theirs, wrong = (project(self.network, params, batch[name]) for name in VIEWS)
        right = jnp.arange(len(ours))

        def against(crops, others):
            logits = crops @ jnp.concatenate([others, wrong]).T / self.temperature
            return optax.softmax_cross_entropy_with_integer_labels(logits, right).mean(), logits

        loss, logits = against(ours, theirs)
        loss = loss + against(theirs, ours)[0]
        return 0.5 * loss, {"top1": (logits.argmax(-1) == right).mean()}


def project(
    network: models.Network, params: models.Params, pictures: Float32[Array, "b h w 3"]
) -> Float32[Array, "b d"]:
    """Carries pictures into the space that both towers share.

    Args:
        network: a ClipVision with projection and, `params`, its parameters.
        pictures: in [0, 1].

    Returns:
        Vectors of norm 1.
    """
    pixels = clip_vision.normalise(pictures)
    vectors = network.apply(params, pixels, method="project").astype(jnp.float32)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


class ContrastObjective(LatentObjective):
    """A vision tower, from pairs of crops."""

    wanted, folder = "views", "image_encoder"

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = self.build()
        self.view = self.network.config.image_size
        self.loss = ContrastiveLoss(self.network)

    def predict(
        self, params: models.Params, batch: Batch, *frozen: Frozen
    ) -> Float32[Array, "b d"]:
        """The vectors of `clip_image`, see `project`."""
        return project(self.network, params, batch["clip_image"])
