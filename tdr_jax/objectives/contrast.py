"""Pictures told from one another: how a vision tower learns without captions."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from tdr_jax.models import clip_vision


@dataclasses.dataclass(frozen=True)
class Contrast:
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

    def loss(self, params, batch, rng):
        """Measure how often the wrong crop looks nearer.

        Args:
            params: flat dict of the tower's parameters.
            batch: `seen`, `seen_too` and `seen_other` float32 (B, H, W, 3) in [0, 1], see
                `tdr_jax.data.latents`.
            rng: a key; unused.

        Returns:
            the loss, a float32 scalar, and `top1`, the share of crops whose nearest is the right
            one.
        """
        del rng
        names = ("seen", "seen_too", "seen_other")
        ours, theirs, wrong = (self._project(params, batch[name]) for name in names)
        right = jnp.arange(len(ours))

        def against(crops, others):
            logits = crops @ jnp.concatenate([others, wrong]).T / self.temperature
            return optax.softmax_cross_entropy_with_integer_labels(logits, right).mean(), logits

        loss, logits = against(ours, theirs)
        loss = loss + against(theirs, ours)[0]
        return 0.5 * loss, {"top1": (logits.argmax(-1) == right).mean()}

    def _project(self, params, pictures):
        pixels = clip_vision.normalise(pictures)
        vectors = self.network.apply(params, pixels, method="project").astype(jnp.float32)
        return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
