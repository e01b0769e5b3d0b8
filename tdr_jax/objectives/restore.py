"""Restoration by a network of its own, told in words what to remove or not told anything."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, PRNGKeyArray

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.infer import core
from tdr_jax.nn.typing import Array
from tdr_jax.objectives import networks, pixels
from tdr_jax.objectives.base import (
    Batch,
    ConfiguredObjective,
    Evaluator,
    Frozen,
    Shapes,
    first_rows,
    side_by_side,
)


@dataclasses.dataclass(frozen=True)
class RestorationLoss:
    """How far restored pictures are from the clean ones.

    A network that has a method `training` gives its pictures on several grids, and each counts
    against the clean picture shrunk to its grid.

    Args:
        network: a `tdr_jax.models.Network` whose `apply(params, images)`, or with sentences
            `apply(params, images, vectors)`, restores images.
        weights: the loss configuration: `l1`, `charbonnier`, `psnr` and `fft`, see
            `pixels.weighted`, and `mixup`, see `blend`.

    Source: L1 is the loss of TextPromptIR, Restormer, PromptIR and DRSformer, the PSNR term that of
    NAFNet; the sum over three grids of L1 and 0.1 times the spectra's L1 that of SFNet (ICLR 2023,
    section 3). The spectral term (MIMO-UNet, arXiv 2108.05054, equation 9) grows with the crop, so
    its weight is small.
    """

    network: Any
    weights: Any

    def __call__(
        self, params: models.Params, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""] | models.Params]]:
        """Measures a batch.

        Args:
            params: the network's.
            batch: `degraded` float32 (b, h, w, c) and `clean` (b, h, w, d), clean in [0, 1], and
                `vector` float32 (b, e) for a network that takes one.
            rng: a key, for `blend`.

        Returns:
            the loss, and a dict of values of the full-size picture: the terms of `pixels.weighted`,
            and `psnr`; and `batch_stats`, see `base.Objective`, with a network that keeps running
            statistics.
        """
        degraded, *sentence = inputs(batch)
        clean = batch["clean"]
        if self.weights.mixup:
            degraded, clean = blend(rng, self.weights.mixup, degraded, clean)
        batch_stats = {}
        if self.network.has("training"):
            outputs, batch_stats = self.network.apply(
                params, degraded, *sentence, method="training"
            )
        else:
            outputs = (self.network.apply(params, degraded, *sentence),)
        loss, metrics = pixels.on_every_grid(self.weights, outputs, clean)
        return loss, metrics | ({"batch_stats": batch_stats} if batch_stats else {})


def inputs(batch: Batch) -> list[Float[Array, "b ..."]]:
    """What of a batch goes into a network, in the order in which it takes it."""
    return [batch[name] for name in ("degraded", "guidance", "vector") if name in batch]


def blend(
    rng: PRNGKeyArray, beta: float, *batches: Float[Array, "b ..."]
) -> tuple[Float[Array, "b ..."], ...]:
    """Mix each picture with another one of the batch, in half of the steps.

    Args:
        rng: a key.
        beta: both parameters of the Beta distribution that the share is drawn from.
        *batches: of any range; all are mixed alike.

    Returns:
        the batches, as they were or each x_i as s x_i + (1 - s) x_p(i), with one share s and one
        permutation p for the whole batch.

    Source: mixup (arXiv 1710.09412), as Restormer's Gaussian denoising is trained.
    """
    keys = jax.random.split(rng, 3)
    share = jax.random.beta(keys[0], beta, beta)
    share = jnp.where(jax.random.bernoulli(keys[1]), share, 1.0)
    order = jax.random.permutation(keys[2], len(batches[0]))
    return tuple(share * batch + (1 - share) * batch[order] for batch in batches)


class RestoreObjective(ConfiguredObjective):
    """A network that restores pictures; see `base.ConfiguredObjective`."""

    def __init__(self, config, workdir, *, weights: bool = True):
        super().__init__(config, workdir, weights=weights)
        self.network = networks.of_config(config)
        check(config, self.network)
        self.loss = RestorationLoss(self.network, config.loss)

    def predict(
        self, params: models.Params, batch: Batch, *frozen: Frozen
    ) -> Float32[Array, "b h w c"]:
        """Restores a batch, guided by the whole guidance where there is any.

        Args:
            params: the network's.
            batch: as for the loss.

        Returns:
            About [0, 1], not clipped.
        """
        return core.program(self.network)(params, *inputs(batch))

    def batches(self, step: int) -> Iterator[Batch]:
        """Degraded and clean pictures, see `data.pipeline.batches`."""
        from tdr_jax.data import pipeline, places

        config, pictures = self.config, places.from_config(self.config.data)
        views = {count // 3 for count in places.channels(pictures)}
        _refuse_channels(config, self.network, {count * config.data.channels for count in views})
        return pipeline.batches(
            pictures,
            config.data,
            vectors=self.encoder and _vectors(self.encoder, config.data),
            seed=config.seed,
            guidance=self._guidance(pictures),
            step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def shapes(self, batch: int, crop: int) -> Shapes:
        """What a whole batch looks like, examples in the first axis."""
        given, made = self.network.config.channels
        found = {
            "degraded": jax.ShapeDtypeStruct((batch, crop, crop, given), "float32"),
            "clean": jax.ShapeDtypeStruct((batch, crop, crop, made), "float32"),
            "task": jax.ShapeDtypeStruct((batch,), "int32"),
        }
        if self.network.takes_sentence:
            width = self.network.config.text_dim
            found["vector"] = jax.ShapeDtypeStruct((batch, width), "float32")
        return found

    def evaluators(self) -> tuple[Evaluator, ...]:
        """The protocol of `tdr eval` on the pictures of `config.eval_data`."""
        from tdr_jax.data import places
        from tdr_jax.evaluate import Restoration

        given = self.config.eval_data
        if not given.path:
            return ()
        return (
            Restoration(
                self.network,
                self.encoder,
                places.of_evaluation(self.config, places.open_any),
                tuple(given.settings),
                limit=given.limit or None,
                size=given.size or None,
                guidance=self.eval_guidance(),
            ),
        )

    def eval_guidance(self) -> str | Callable | None:
        """What guides the restoration of the pictures that are measured: nothing."""
        return None

    def panel(self, params: models.Params, batch: Batch) -> Float32[np.ndarray, "h w 3"]:
        """Degraded, restored and clean pictures side by side; guidance, if any, comes first."""
        restored = {"restored": self.predict(params, batch)}
        columns = [_colour(first_rows(batch | restored, of)) for of in PANEL]
        if "guidance" in batch:
            guidance = first_rows(batch, "guidance")
            columns.insert(0, jax.image.resize(guidance, columns[0].shape, "linear"))
        return side_by_side(columns)

    @functools.cached_property
    def encoder(self):
        """The text encoder; None for a network that takes no sentence."""
        return networks.text_encoder(self.config, self.network)

    def _guidance(self, pictures):
        return None


PANEL = ("degraded", "restored", "clean")


def check(config: Any, network: models.Network) -> None:
    """Refuses a loss or data that do not fit the network, with an InputError."""
    guided, sentence = network.takes_guidance, network.takes_sentence
    if guided != (config.objective == "guided"):
        raise InputError(
            f"config.objective is {config.objective!r}, but {network.name} takes "
            f"{'guidance' if guided else 'no guidance'}; set it to "
            f"{'guided' if guided else 'restore'!r}"
        )
    if (guided or sentence) and config.loss.mixup:
        raise InputError(
            f"config.loss.mixup is {config.loss.mixup}, but {network.name} takes "
            f"{'guidance' if guided else 'a sentence'}, which two blended pictures do not share; "
            "set it to 0"
        )
    if not sentence:
        _check_channels(config, network)
    if not networks.has_batch_stats(network):
        return
    if min(batch for _, _, batch in config.data.stages) < 2:
        raise InputError(
            f"config.data.stages has a batch of 1; {network.name} normalises by the statistics of "
            "its batch and needs at least 2 pictures"
        )
    if config.accumulate > 1:
        raise InputError(
            f"config.accumulate is {config.accumulate}, but {network.name} normalises by the "
            "statistics of its whole batch; set it to 1"
        )


def _check_channels(config, network) -> None:
    data = config.data
    # What a place holds that is both sides, or was built, is seen when it is opened.
    views = {1 for degraded, clean, *_ in data.pairs if isinstance(degraded, str) and clean}
    views |= {len(degraded) for degraded, *_ in data.pairs if not isinstance(degraded, str)}
    views |= {1} if data.path and "tfds:" not in data.path else set()
    _refuse_channels(config, network, {count * data.channels for count in views})


def _refuse_channels(config, network, given) -> None:
    """Refuses channels of degraded pictures, `given`, that the network does not take."""
    data = config.data
    wanted, made = network.config.channels
    if given - {wanted} or data.channels != made:
        raise InputError(
            f"{network.name} takes pictures of {wanted} channels and gives {made}, but config.data "
            f"has {', '.join(map(str, sorted(given)))} and {data.channels}; set "
            "network.overrides.inp_channels, data.channels or data.pairs"
        )


def _vectors(encoder, data):
    """Those of the bank by task and, where two tasks come together, of sentences that name both."""
    from tdr_jax import text
    from tdr_jax.text import phrasings

    found = dict(text.bank_vectors(encoder, data.tasks))
    return found | phrasings.mixed_vectors(encoder, data.tasks) if data.p_joint else found


def _colour(pictures: Float32[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n h w 3"]:
    """Three channels to look at: grey repeated, of two views the left one."""
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures[..., :3]
