"""Restoration with a guidance picture beside the degraded one: the third stage of TDR."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.degradations.draws import GUIDANCE, example_rng
from tdr_jax.errors import InputError
from tdr_jax.models import matching
from tdr_jax.models.dinov2 import most_alike
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import pixels, pretrained
from tdr_jax.objectives.base import Batch, Shapes
from tdr_jax.objectives.restore import RestoreObjective, inputs


@dataclasses.dataclass(frozen=True)
class GuidedLoss:
    """How far pictures are from the clean ones that were restored with a clean one beside them.

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

    def __call__(
        self,
        params: models.Params,
        batch: Batch,
        rng: PRNGKeyArray,
        frozen: models.Params | None = None,
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""] | models.Params]]:
        """Measures a batch.

        Args:
            params: the network's.
            batch: `degraded` float32 (b, h, w, c), `clean` (b, h, w, d) and `guidance`
                (b, g, g, 3), in [0, 1], and `vector` float32 (b, e) for a network that takes one.
            rng: a key; unused.
            frozen: parameters of the selector, where there is one.

        Returns:
            the loss, and a dict as that of `restore.RestorationLoss`.
        """
        del rng
        if self.selector is not None:
            guidance = most_alike(self.selector, frozen, batch["degraded"], batch["guidance"])
            batch = batch | {"guidance": guidance}
        outputs, batch_stats = self.network.apply(params, *inputs(batch), method="training")
        loss, metrics = pixels.on_every_grid(self.weights, outputs, batch["clean"])
        if self.weights.align:
            states = (
                self.network.apply(params, batch[name], method="features")[-1]
                for name in ("degraded", "clean")
            )
            metrics["align"] = matching.alignment(*states)
            loss += self.weights.align * metrics["align"]
        return loss, metrics | ({"batch_stats": batch_stats} if batch_stats else {})


class GuidedObjective(RestoreObjective):
    """A network that restores pictures with guidance beside them."""

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        selector, params = pretrained.selector(config, weights=weights)
        self.loss = GuidedLoss(self.network, config.loss, selector)
        self.frozen = () if selector is None else (params,)

    def initial_params(self) -> models.Params:
        """As of any network; around the weights that `config.init_base` names, where it does."""
        params, config = super().initial_params(), self.config
        if not config.init_base:
            return params
        if config.init_from:
            raise InputError(
                f"config.init_from={config.init_from} and config.init_base={config.init_base} both "
                "say where the network starts; set one of them to ''"
            )
        from tdr_jax import weights
        from tdr_jax.models import guided

        _, base = weights.load(config.init_base)
        try:
            return guided.with_base(params, base)
        except InputError as error:
            raise InputError(f"config.init_base={config.init_base}: {error}") from None

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch looks like, examples in the first axis."""
        side = self.config.guidance.size
        guidance = jax.ShapeDtypeStruct((batch, side, side, 3), "float32")
        return super().shapes(batch, crop) | {"guidance": guidance}

    def eval_guidance(self) -> str | Callable:
        """The folder that the config names, or else another view of each clean picture."""
        return self.config.eval_data.guidance or second_view

    def _guidance(self, pictures):
        from tdr_jax.data.guidance import Guidance

        config = self.config
        return Guidance(
            pictures, config.guidance, config.seed, config.data.cache_mb, data=config.data
        )


def second_view(example: Any) -> Float32[np.ndarray, "h w 3"]:
    """Guidance for a picture that is measured: its scene once more, a function of its place.

    Args:
        example: a `tdr_jax.evaluate.protocols.Example`.

    Returns:
        In [0, 1], as large as the picture, see `data.guidance.view`.
    """
    from tdr_jax.data import guidance

    height, width, _ = example.clean.shape
    side = max(height, width)
    picture = np.broadcast_to(example.clean, (height, width, 3))
    rng = example_rng(0, example.index, GUIDANCE)
    square = guidance.view(picture, side, (0, 0, height, width), rng)
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width]
