"""Guided restoration: a network sees a second, clean picture of something like its input.

TDR's third stage (arXiv 2312.17334). One encoder reads both pictures; `matching` finds each place
of the degraded one in the guidance; the guidance's features, brought over, join those of the
backbone where they enter each level of its encoder. The blocks that join them start as identities,
so that a guided network begins as exactly its backbone.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.models import fusion, matching
from tdr_jax.nn import layers
from tdr_jax.nn.batch_norm import Running, prefixed
from tdr_jax.nn.typing import Array

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV turns pictures grey
# By the class of the backbone: its field with the width of the first level.
_WIDTHS = {"NAFNet": "width", "SFNet": "base_channel"} | dict.fromkeys(
    fusion.TRANSFORMER_BLOCKS, "dim"
)


@dataclasses.dataclass(frozen=True)
class GuidedConfig:
    """A backbone and what guides it, under the reference's names where it has them.

    Args:
        backbone: one of `models.names()`, of a network that restores pictures.
        overrides: names and values of the backbone's config; `models.build` puts those of its
            arguments here that are not fields of this class.
        nf: width of the reference encoder's first level; 0 becomes the backbone's, as published.
        n_blks: residual blocks of the reference encoder, level by level; () becomes four each.
        reffusion_n_blocks: blocks that join the features, level by level; () becomes two each, but
            one at NAFNet's bottleneck.
        encoder_channels: of the pictures that the reference encoder sees: 3, 1 for grey, or 6 for
            two views. Pictures of other channels are made to fit: grey is repeated, colour weighed
            as luma (BT.601), a left view taken out, a single view shown twice.
        lr_block_size: side of a block that is looked for as a whole, on the deepest level.
        ref_down_block_size: of the window it is looked for in; see `matching.match`.
        padding: of sides that do not fit. "reflect": the backbone continues the picture as it does
            alone, so that any size starts as the backbone. "zeros": up to whole blocks of the
            deepest level before anything is computed, as TDR's networks do: their weights give
            their numbers with it alone. Guidance gets zeros either way.
        dtype: of the computation, also the backbone's; so are the following.
        remat: what the backward pass finds kept of a block, see `tdr_jax.nn.remat`.
        scan_unroll: blocks per scan iteration.
        microbatches: a stage works on the batch in so many parts, one after the other; deeper ones
            in fewer.

    Raises:
        InputError: the backbone restores no pictures, the counts are not one a level, or the blocks
            are too small.
    """

    backbone: str = "nafnet"
    overrides: tuple[tuple[str, Any], ...] = ()
    nf: int = 0
    n_blks: tuple[int, ...] = ()
    reffusion_n_blocks: tuple[int, ...] = ()
    encoder_channels: int = 3
    lr_block_size: int = 8
    ref_down_block_size: float = 1.5
    padding: str = "reflect"
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1
    guided: ClassVar[bool] = True

    def __post_init__(self):
        kind = models.config_class(self.backbone).__name__.removesuffix("Config")
        if kind not in _WIDTHS:  # and may lack the fields that are shared
            raise InputError(
                f"backbone {self.backbone} cannot be guided; networks of these kinds can: "
                f"{', '.join(_WIDTHS)}"
            )
        if self.lr_block_size < 7:
            raise InputError(
                f"lr_block_size is {self.lr_block_size}; a block is looked for by samples up to 3 "
                "positions from its middle, so it must be 7 or more"
            )
        layers.check_padding(self.padding)
        if self.encoder_channels not in (1, 3, 6):
            raise InputError(f"encoder_channels is {self.encoder_channels}; give 3, 1 or 6")
        last = 1 if kind == "NAFNet" else 2
        published = {
            "n_blks": (4,) * self.levels,
            "reffusion_n_blocks": (2,) * (self.levels - 1) + (last,),
        }
        for field, counts in published.items():
            counts = getattr(self, field) or counts
            if len(counts) != self.levels or min(counts) < 1:
                raise InputError(
                    f"{field} is {counts}; {self.backbone} has {self.levels} levels, so give "
                    f"{self.levels} numbers from 1 on, or () for the published ones"
                )
            object.__setattr__(self, field, counts)
        object.__setattr__(self, "nf", self.nf or self.width)

    @functools.cached_property
    def base(self) -> models.Network:
        """The backbone, as a network of its own."""
        names = ("dtype", "remat", "scan_unroll", "microbatches")
        shared = {name: getattr(self, name) for name in names}
        return models.build(self.backbone, **dict(self.overrides) | shared)

    @property
    def levels(self) -> int:
        """Levels of the backbone's encoder, the bottleneck included."""
        if self.base.kind == "NAFNet":
            return len(self.base.config.enc_blk_nums) + 1
        return 3 if self.base.kind == "SFNet" else 4

    @property
    def width(self) -> int:
        """Features of the backbone's first level."""
        return getattr(self.base.config, _WIDTHS[self.base.kind])

    @property
    def shuffle(self) -> int:
        """Side of the squares of pixels that the backbone's first features stand for."""
        return getattr(self.base.config, "input_shuffle", 1)

    @property
    def stride(self) -> int:
        """Pixels a position of the deepest level stands for, along each side."""
        return self.shuffle * 2 ** (self.levels - 1)

    @property
    def blocks(self) -> int:
        """Pixels a block that is looked for stands for, along each side: 64 as published, but 128
        around NAFNet and 32 around SFNet."""
        return self.stride * self.lr_block_size

    @property
    def multiple(self) -> int:
        """Heights and widths that the backbone works on are multiples of this."""
        alone = self.base.config.multiple
        return alone if self.padding == "reflect" else math.lcm(alone, self.blocks)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the degraded picture and of the restored one; guidance has three."""
        return self.base.config.channels

    @property
    def text_dim(self) -> int:
        """Width of the sentence vectors; there is no such attribute where there are none."""
        return self.base.config.text_dim


SIZES = {"guided": {}}


class Guided(nnx.Module):
    """Restores a picture with the help of another one."""

    def __init__(self, config: GuidedConfig):
        self.config = config
        self.base = config.base.module()
        self.masa_enc = fusion.Encoder(config)
        self.masa_blk = fusion.Fusion(config)

    def __call__(
        self,
        degraded: Float[Array, "b h w c"],
        guidance: Float[Array, "b h2 w2 3"],
        *sentence: Float[Array, "b e"],
    ) -> Float32[Array, "b h w d"]:
        """Restores a batch of pictures.

        Args:
            degraded: in [0, 1], of any size; c and d are the backbone's channels.
            guidance: in [0, 1], of any other size.
            *sentence: for a backbone that reads one, of length 1 or shorter; e = text_dim.

        Returns:
            About [0, 1], not clipped.

        Raises:
            InputError: the pictures do not go together or with the network.
        """
        degraded, sides = self._filled(degraded)
        fuse, _ = self._guide(degraded, guidance, training=False)
        return self.base(degraded, *sentence, fuse=fuse)[sides]

    def training(
        self,
        degraded: Float[Array, "b h w c"],
        guidance: Float[Array, "b h2 w2 3"],
        *sentence: Float[Array, "b e"],
    ) -> tuple[tuple[Float32[Array, "b _ _ d"], ...], Running]:
        """Restores a batch with the statistics of the batch.

        Args:
            degraded, guidance, *sentence: as of the call; for SFNet the sides of `degraded` are
                multiples of `config.multiple`, and B is at least 2.

        Returns:
            the pictures, full size first, as the backbone's own `training` gives them or one alone,
            and the new running statistics by their dotted names.
        """
        degraded, sides = self._filled(degraded)
        fuse, fused = self._guide(degraded, guidance, training=True)
        if not hasattr(self.base, "training"):
            return (self.base(degraded, *sentence, fuse=fuse)[sides],), {}
        outputs, running = self.base.training(degraded, *sentence, fuse=fuse)
        return outputs, prefixed("base", running) | prefixed("masa_blk", fused)

    def confidence(
        self, degraded: Float[Array, "b h w c"], guidance: Float[Array, "b h2 w2 3"]
    ) -> Float32[Array, "b h w"]:
        """Tells how alike what was found in the guidance is to each place of the picture.

        Args:
            degraded, guidance: as of the call.

        Returns:
            Cosines, in [-1, 1].
        """
        _, height, width, _ = degraded.shape
        cosines = self._match(degraded, guidance)[0].confidence
        batch, rows, columns = cosines.shape
        whole = (batch, rows * self.config.stride, columns * self.config.stride)
        return jax.image.resize(cosines, whole, "bilinear")[:, :height, :width]

    def _filled(self, degraded):
        """The picture that the backbone is given, and what of its answer is the picture's own."""
        if self.config.padding == "reflect":
            return degraded, ...
        self._check(degraded)
        _, height, width, _ = degraded.shape
        sides = (slice(None), slice(height), slice(width))
        return layers.pad_to_multiple(degraded, self.config.multiple, "zeros"), sides

    def _match(self, degraded, guidance) -> tuple[matching.Match, list[Float[Array, "b _ _ _"]]]:
        """Where each place is found in the guidance, and the guidance's features."""
        self._check(degraded)
        if guidance.ndim != 4 or guidance.shape[-1] != 3 or len(guidance) != len(degraded):
            raise InputError(
                f"guidance is {guidance.shape}; for {len(degraded)} degraded pictures it must be "
                f"({len(degraded)}, h, w, 3)"
            )
        features = self.features(guidance)
        options = dict(block=self.config.lr_block_size, ratio=self.config.ref_down_block_size)
        return matching.match(self.features(degraded)[-1], features[-1], **options), features

    def features(self, images: Float[Array, "b h w c"]) -> list[Float[Array, "b _ _ _"]]:
        """Encodes pictures as they are seen when they are matched.

        Args:
            images: in [0, 1]: grey, colour, or two views, of which the left one is seen unless the
                encoder sees both.

        Returns:
            the features of each level, the largest first, of the pictures padded with zeros to
            whole blocks of the deepest.
        """
        images = _with_channels(images, self.config.encoder_channels)
        images = layers.pad_to_multiple(images, self.config.blocks, "zeros")
        images = images.astype(self.config.dtype)
        return self.masa_enc(layers.pixel_unshuffle(images, self.config.shuffle))

    def _guide(self, degraded, guidance, *, training: bool):
        """The backbone's `fuse`, and the statistics it will have written when that has run."""
        match, features = self._match(degraded, guidance)
        running = {}

        def fuse(level: int, x, *context):
            warped = matching.transfer(features[level], match, block=self.config.lr_block_size)
            x, new = self.masa_blk(level, x, warped, *context, training=training)
            running.update(new)
            return x

        return fuse, running

    def _check(self, degraded) -> None:
        channels = self.config.channels[0]
        if degraded.ndim != 4 or degraded.shape[-1] != channels:
            raise InputError(
                f"degraded is {degraded.shape}; {self.config.backbone} restores pictures "
                f"(B, H, W, {channels})"
            )


def _with_channels(images, count: int):
    """Pictures of 1, 3 or 6 channels as the encoder sees them."""
    if images.shape[-1] == count:
        return images
    left = images[..., :3]
    if count == 1:
        return (left * jnp.asarray(LUMA, left.dtype)).sum(-1, keepdims=True)
    left = jnp.repeat(left, 3, -1) if left.shape[-1] == 1 else left
    return left if count == 3 else jnp.concatenate([left, left], -1)


def with_base(params: models.Params, base_params: models.Params) -> models.Params:
    """Puts a trained backbone into a guided network.

    Args:
        params: of the guided network.
        base_params: of its backbone, under that network's own names.

    Returns:
        a dict with the parameters of both.

    Raises:
        InputError: the names or shapes are not those of the guided network's backbone.
    """
    prefix = "base."
    given = {prefix + name: value for name, value in base_params.items()}
    expected = {name: value for name, value in params.items() if name.startswith(prefix)}
    models.check(given, expected, "the backbone of the guided network")
    return params | given
