"""Pictures told from one another: how a vision tower learns without captions."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from tdr_jax.models import clip


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Find, for each crop, the other crop of the same picture in the batch.

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
            batch: `seen` and `seen_too` float32 (B, H, W, 3) in [0, 1].
            rng: a key; unused.

        Returns:
            the loss, a float32 scalar, and `top1`, the share of crops whose nearest is the right
            one.
        """
        del rng
        ours, theirs = (self._project(params, batch[name]) for name in ("seen", "seen_too"))
        logits = ours @ theirs.T / self.temperature
        right = jnp.arange(len(logits))
        loss = sum(
            optax.softmax_cross_entropy_with_integer_labels(side, right).mean()
            for side in (logits, logits.T)
        )
        return 0.5 * loss, {"top1": (logits.argmax(-1) == right).mean()}

    def _project(self, params, pictures):
        pixels = clip.normalise(pictures)
        vectors = self.network.apply(params, pixels, method="project").astype(jnp.float32)
        return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
