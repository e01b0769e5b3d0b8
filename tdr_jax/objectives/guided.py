"""Restoration with a guidance picture beside the degraded one: the third stage of TDR."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tdr_jax.models import matching
from tdr_jax.objectives import pixels


@dataclasses.dataclass(frozen=True)
class Guided:
    """Restore a degraded picture, given a clean one that shows what its detail may look like.

    Args:
        network: a guided `tdr_jax.models.Network`, whose `apply(params, images, guidance)`, or
            with sentences `apply(params, images, guidance, vectors)`, restores images.
        weights: the loss configuration, see `pixels.weighted`; and `align`, of
            `matching.alignment` between the degraded and the clean picture. The restoration alone
            hardly teaches the encoder to see through noise.
        selector: a Dinov2 network that chooses the window of the guidance to train with, as large
            as the crop; None hands the whole guidance over.

    Source: TDR (arXiv 2312.17334), third stage; its loss is the L1 term alone, without `align`.
    """

    network: Any
    weights: Any
    selector: Any = None

    def loss(self, params, batch, rng, frozen=None):
        """Measure how far the restored pictures are from the clean ones.

        Args:
            params: flat dict of the network's parameters.
            batch: `degraded` float32 (B, H, W, C_in), `clean` (B, H, W, C) and `guidance`
                (B, G, G, 3), in [0, 1], and `vector` float32 (B, D) for a network that takes one.
            rng: a key; unused.
            frozen: parameters of the selector, where there is one.

        Returns:
            the loss, a float32 scalar, and a dict as that of `backbone.Backbone`.
        """
        del rng
        if self.selector is not None:
            guidance = most_alike(self.selector, frozen, batch["degraded"], batch["guidance"])
            batch = batch | {"guidance": guidance}
        inputs = self._inputs(batch)
        outputs, running = self.network.apply(params, *inputs, method="training")
        loss, metrics = pixels.on_every_grid(self.weights, outputs, batch["clean"])
        if self.weights.align:
            states = (
                self.network.apply(params, batch[name], method="features")[-1]
                for name in ("degraded", "clean")
            )
            metrics["align"] = matching.alignment(*states)
            loss += self.weights.align * metrics["align"]
        return loss, metrics | ({"running": running} if running else {})

    def predict(self, params, batch):
        """Restore the batch, with the whole guidance.

        Args:
            params: flat dict of the network's parameters.
            batch: as for `loss`.

        Returns:
            float32 (B, H, W, C), not clipped.
        """
        return self.network.apply(params, *self._inputs(batch)).astype(jnp.float32)

    def _inputs(self, batch):
        sentence = (batch["vector"],) if "vector" in batch else ()
        return batch["degraded"], batch["guidance"], *sentence


def most_alike(selector, params, degraded, guidance):
    """Choose, for each crop, the window of its guidance that DINOv2 finds the most alike.

    Windows are as large as the crop and a quarter of it apart. Pictures go in as they are, in
    [0, 1], resized to whole patches; the patch features of all of a picture are one vector, and
    the highest cosine wins, the first of equal ones. No gradient goes through the choice.

    Args:
        selector: a Dinov2 network and, `params`, its parameters.
        degraded: float32 (B, P, P, C): grey, colour, or two views, of which the left one is seen.
        guidance: float32 (B, G, G, 3), G >= P.

    Returns:
        float32 (B, P, P, 3), parts of the guidance.

    Source: TDR, its training code.
    """
    size, whole = degraded.shape[1], guidance.shape[1]
    starts = jnp.arange(0, whole - size + 1, max(1, size // 4))
    corners = jnp.stack(jnp.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 2)
    side = -(-size // selector.config.patch_size) * selector.config.patch_size

    def look(pictures):
        shape = (len(pictures), side, side, 3)
        resized = jax.image.resize(pictures, shape, "bilinear", antialias=False)
        tokens = selector.apply(params, resized, method="patch_tokens").astype(jnp.float32)
        vectors = tokens.reshape(len(tokens), -1)
        return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

    def windows(corner):
        shape = (len(guidance), size, size, 3)
        return jax.lax.dynamic_slice(guidance, (0, corner[0], corner[1], 0), shape)

    seen = jnp.repeat(degraded, 3, -1) if degraded.shape[-1] == 1 else degraded[..., :3]
    wanted = look(seen)
    # One window of every picture at a time: 169 of them would not fit side by side.
    cosines = jax.lax.map(lambda corner: (look(windows(corner)) * wanted).sum(-1), corners)
    best = corners[jax.lax.stop_gradient(cosines).argmax(0)]

    def cut(picture, corner):
        return jax.lax.dynamic_slice(picture, (*corner, 0), (size, size, 3))

    return jax.vmap(cut)(guidance, best)
