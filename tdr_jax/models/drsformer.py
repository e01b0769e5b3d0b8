"""DRSformer (arXiv 2303.11950): a sparse transformer that removes rain.

Restormer's U with a top-k sparse attention (TKSA), a feed-forward on two scales (MSFN), and a
mixture of experts (MEFC) before the first level and after the last. `mefc=False` leaves the experts
out: the network published for Rain200L and SPA-Data.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Int, Shaped

from tdr_jax.nn import blocks, extent, layers, ops, remat
from tdr_jax.nn.typing import Array


@dataclasses.dataclass(frozen=True)
class DRSformerConfig:
    """Hyper-parameters under the reference's names; the defaults are the published network."""

    inp_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    LayerNorm_type: str = "WithBias"
    mefc: bool = True
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1
    microbatches: int = 1

    @property
    def multiple(self) -> int:
        """The sides of the padded picture are multiples of this: three halvings."""
        return 8

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the pictures that go in and come out."""
        return self.inp_channels, self.out_channels

    @property
    def heeds_extent(self) -> bool:
        """Whether pictures may fill less than the arrays they come in, see `nn.extent`."""
        return True


SIZES = {
    "drsformer": {},
    "drsformer-200l": dict(mefc=False),  # Rain200L and SPA-Data
}


class SparseAttention(blocks.Attention):
    """Top-k sparse attention (TKSA): four softmaxes over the largest 1/2, 2/3, 3/4, 4/5 logits.

    Their sum, weighted by attn1 to attn4, is one matrix a head, folded into the output projection:
    the values are read once instead of four times.
    """

    def __init__(self, channels: int, heads: int, *, bias: bool = False):
        super().__init__(channels, heads, bias=bias)
        self.attn1, self.attn2, self.attn3, self.attn4 = (
            layers.param((1,), constant=0.2) for _ in range(4)
        )

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps normalised features to what is added to them, of the same dtype."""
        b, h, w, c = z.shape
        heads = self.temperature.shape[0]
        logits, v = self.cosines(z)
        logits = jnp.einsum("bhchd->bhcd", logits.reshape(b, heads, c // heads, heads, c // heads))
        weights = self.sparse_softmax(logits * self.temperature[...])
        kernel = self.project_out.kernel[...].reshape(heads, c // heads, c)
        folded = jnp.einsum("bhcd,hce->bhde", weights, kernel).reshape(b, c, c)
        folded = folded.astype(z.dtype)
        return self.project_out.add_bias(ops.matmul(v, folded).reshape(b, h, w, c))

    def sparse_softmax(self, logits: Float32[Array, "*n c c"]) -> Float32[Array, "*n c c"]:
        """Maps logits to the weighted sum of the four sparse softmaxes."""
        count = logits.shape[-1]
        rank = ranks(logits)
        # In this order of the operations: count * (2 / 3) can round to another integer.
        shares = (count // 2, int(count * 2 / 3), int(count * 3 / 4), int(count * 4 / 5))
        scales = (self.attn1, self.attn2, self.attn3, self.attn4)
        return sum(
            scale[...] * jax.nn.softmax(jnp.where(rank < share, logits, -jnp.inf), axis=-1)
            for scale, share in zip(scales, shares, strict=True)
        )


def ranks(x: Shaped[Array, "*n c"]) -> Int[Array, "*n c"]:
    """Places of the entries along the last axis, the largest 0; of equal ones the first leads.

    Counting who comes before whom beats sorting at some fifty entries, on every backend, and keeps
    exactly k of them below rank k: torch.topk does too, but leaves open which of equal ones.
    """
    index = jnp.arange(x.shape[-1])
    other, own = x[..., None, :], x[..., :, None]
    before = (other > own) | ((other == own) & (index < index[:, None]))
    return before.sum(-1)


def product(x: Float[Array, "b h w c"], kernel: Float[Array, "#b c d"]) -> Float[Array, "b h w d"]:
    """Multiplies each pixel by the picture's kernel, or by one for all, in x's dtype."""
    b, h, w, c = x.shape
    rows = x.reshape(kernel.shape[0], -1, c)
    return ops.matmul(rows, kernel.astype(x.dtype)).reshape(b, h, w, -1)


class PairConv(nnx.Module):
    """Parameters of a convolution whose output g reads channels 2g and 2g + 1 of its input."""

    def __init__(self, features: int, size: int, *, bias: bool = False):
        fan_in = 2 * size * size
        self.kernel = layers.param((size, size, 2, features), fan_in=fan_in)
        self.bias = layers.param((features,), fan_in=fan_in) if bias else None

    def __call__(
        self,
        first: Float[Array, "b h w n"],
        second: Float[Array, "b h w n"],
        order: tuple[int, int],
        features: slice,
    ) -> Float[Array, "b h w n"]:
        """Computes relu of some outputs from the two inputs of each.

        Args:
            first, second: one input of each of the n outputs.
            order: which of the two inputs each is.
            features: the n outputs.

        Returns:
            The outputs, of the same dtype, none negative.
        """
        kernel = self.kernel[...][..., features].astype(first.dtype)
        y = ops.depthwise(first, kernel[:, :, order[0]])
        y += ops.depthwise(second, kernel[:, :, order[1]])
        return nnx.relu(y if self.bias is None else y + self.bias[...][features].astype(y.dtype))


class FeedForward(nnx.Module):
    """Mixed-scale feed-forward (MSFN): filters of 3x3 and 5x5, paired and filtered once more.

    The first half u of the hidden channels goes through both filters to (f3(u), f5(u)), a list of
    2h channels of which each output of `dwconv3x3_1` reads two neighbours; the second half goes to
    `dwconv5x5_1` in the same way. Neighbours are an even and an odd channel of u, so project_in
    computes these apart and no activation is ever concatenated or read with a stride.
    """

    def __init__(self, channels: int, expansion: float, *, bias: bool = False):
        hidden = int(channels * expansion)
        self.project_in = layers.Linear(channels, 2 * hidden, bias=bias)
        self.dwconv3x3 = layers.DepthwiseConv(2 * hidden, size=3, bias=bias)
        self.dwconv5x5 = layers.DepthwiseConv(2 * hidden, size=5, bias=bias)
        self.dwconv3x3_1 = PairConv(hidden, 3, bias=bias)
        self.dwconv5x5_1 = PairConv(hidden, 5, bias=bias)
        self.project_out = layers.Linear(2 * hidden, channels, bias=bias)

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps normalised features to what is added to them, of the same dtype."""
        hidden = self.project_out.kernel.shape[0] // 2
        half, odd = divmod(hidden, 2)
        kernel = self.project_out.kernel[...]
        y = 0
        for start, pair in ((0, self.dwconv3x3_1), (hidden, self.dwconv5x5_1)):
            evens = start + np.arange(0, hidden, 2)
            odds = start + np.arange(1, hidden, 2)
            if odd:
                # The list's middle pair: the last channel filtered by 3x3, the first by 5x5.
                odds = np.append(start + hidden - 1, odds)
            a, b = self.project_in(z, evens), self.project_in(z, odds)

            a3 = nnx.relu(self.dwconv3x3(a[..., :half], evens[:half]))
            b3 = nnx.relu(self.dwconv3x3(b[..., odd:], odds[odd:]))
            y += product(pair(a3, b3, (0, 1), slice(half)), kernel[None, start : start + half])

            a5 = nnx.relu(self.dwconv5x5(a, evens))
            b5 = nnx.relu(self.widened(b, odds, odd))
            order = (odd, 1 - odd)
            rows = slice(start + half, start + hidden)
            y += product(pair(a5, b5, order, slice(half, hidden)), kernel[None, rows])
        return self.project_out.add_bias(y)

    def widened(
        self, x: Float[Array, "b h w n"], channels: Int[np.ndarray, " n"], narrow: int
    ) -> Float[Array, "b h w n"]:
        """dwconv5x5 with dwconv3x3's filters, in a rim of zeros, on the first `narrow` channels."""
        small, large = self.dwconv3x3, self.dwconv5x5
        kernel = large.kernel[...][..., channels[narrow:]]
        rim = jnp.pad(small.kernel[...][..., channels[:narrow]], ((1, 1), (1, 1), (0, 0)))
        y = ops.depthwise(x, jnp.concatenate([rim, kernel], -1).astype(x.dtype))
        if large.bias is None:
            return y
        bias = [small.bias[...][channels[:narrow]], large.bias[...][channels[narrow:]]]
        return y + jnp.concatenate(bias).astype(x.dtype)


class TransformerBlock(nnx.Module):
    """Restormer's block with the sparse attention and the mixed-scale feed-forward."""

    def __init__(self, channels: int, heads: int, config: DRSformerConfig):
        self.norm1 = blocks.layer_norm(channels, config.LayerNorm_type)
        self.attn = SparseAttention(channels, heads, bias=config.bias)
        self.norm2 = blocks.layer_norm(channels, config.LayerNorm_type)
        self.ffn = FeedForward(channels, config.ffn_expansion_factor, bias=config.bias)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype."""
        x = remat.half(x + self.attn(self.norm1(x)))
        return x + self.ffn(self.norm2(x))


class SeparableConv(nnx.Module):
    """Depthwise filter, product, ReLU, and both filters once more: an expert without dilation."""

    def __init__(self, channels: int, size: int):
        self.filter1 = layers.DepthwiseConv(channels, size=size)
        self.mix1 = layers.Linear(channels, channels, bias=False)
        self.filter2 = layers.DepthwiseConv(channels, size=size)
        self.mix2 = layers.Linear(channels, channels, bias=False)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Computes all but the last product, `mix2`, in x's dtype."""
        return self.filter2(nnx.relu(self.mix1(self.filter1(x))))


class DilatedConv(nnx.Module):
    """Depthwise filter of dilation 2 and product: the other expert."""

    def __init__(self, channels: int, size: int):
        self.filter2 = layers.DepthwiseConv(channels, size=size, dilation=2)
        self.mix2 = layers.Linear(channels, channels, bias=False)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Computes all but the last product, `mix2`, in x's dtype."""
        return self.filter2(x)


def neighbourhood_mean(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Means over 3x3 neighbours, of those inside the picture alone, in x's dtype."""
    _, h, w, c = x.shape
    if extent.known():
        counts = ops.depthwise(jnp.ones((1, h, w, 1)), jnp.ones((3, 3, 1)))
        inverse = 1 / jnp.maximum(counts, 1)
    else:
        rows, columns = (
            np.minimum(np.arange(n) + 2, n) - np.maximum(np.arange(n) - 1, 0) for n in (h, w)
        )
        inverse = 1 / (rows[:, None] * columns)[:, :, None]
    return ops.depthwise(x, jnp.ones((3, 3, c), x.dtype)) * inverse.astype(x.dtype)


class ExpertStep(nnx.Module):
    """Eight experts side by side, weighted for each picture, mixed and added to the features.

    An expert's last product, its weight and its part of the mixing are one kernel a picture, so
    the eight results never exist, nor does the list of 8C channels.
    """

    def __init__(self, channels: int, message: int):
        experts = [SeparableConv(channels, size) for size in (1, 3, 5, 7)]
        experts += [DilatedConv(channels, size) for size in (3, 5, 7)]
        self.ops = nnx.List(experts)
        self.ca_fc = layers.Linear(message, len(experts) + 1)
        self.out = layers.Linear((len(experts) + 1) * channels, channels, bias=False)

    def __call__(
        self, x: Float[Array, "b h w c"], message: Float32[Array, "b m"]
    ) -> Float[Array, "b h w c"]:
        """Maps features, none negative, and a message to such features, of the same dtype."""
        c = x.shape[-1]
        weights = jax.nn.softmax(self.ca_fc(message), axis=-1)
        kernels = self.out.kernel[...].reshape(-1, c, c)
        kernels = weights[:, :, None, None] * jnp.concatenate(
            [jnp.stack([op.mix2.kernel[...] for op in self.ops]) @ kernels[:-1], kernels[-1:]]
        )
        y = product(neighbourhood_mean(x), kernels[:, -1])
        for i, op in enumerate(self.ops):
            y += product(op(x), kernels[:, i])
        # The reference takes relu of the sum too; a sum of what is not negative stays as it is.
        return x + nnx.relu(y)


class Compensator(nnx.Module):
    """Mixture of experts feature compensator (MEFC): four steps of eight experts.

    Two dense layers turn the picture's channel means into the weights of all steps; the second
    lies in the steps, each of which holds the rows of its own eight weights.
    """

    def __init__(self, channels: int, config: DRSformerConfig, steps: int = 4):
        message = 2 * 8 * steps
        self.ca_fc = layers.Linear(channels, message)
        self.preprocess = layers.Linear(channels, channels, bias=False)
        self.steps = layers.Stage(
            functools.partial(ExpertStep, channels, message),
            steps,
            remat=config.remat,
            unroll=config.scan_unroll,
            microbatches=config.microbatches,
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps features to features of the same dtype, none negative."""
        message = nnx.relu(self.ca_fc(extent.mean(x)))
        return self.steps(nnx.relu(self.preprocess(x)), message)


class DRSformer(nnx.Module):
    """Removes rain from a picture."""

    def __init__(self, config: DRSformerConfig):
        self.config = config
        dim, heads, depth = config.dim, config.heads, config.num_blocks

        def stage(level: int, channels: int, heads: int, depth: int) -> layers.Stage:
            make_block = functools.partial(TransformerBlock, channels, heads, config)
            options = dict(remat=config.remat, unroll=config.scan_unroll)
            pieces = (
                config.microbatches * channels // (dim * 4**level)
            )  # of arrays of about the same size
            return layers.Stage(make_block, depth, microbatches=max(1, pieces), **options)

        self.patch_embed = layers.Conv(config.inp_channels, dim)
        self.encoder_level0 = Compensator(dim, config) if config.mefc else None
        self.encoder_level1 = stage(0, dim, heads[0], depth[0])
        self.down1_2 = layers.Downsample(dim)
        self.encoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.down2_3 = layers.Downsample(2 * dim)
        self.encoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.down3_4 = layers.Downsample(4 * dim)
        self.latent = stage(3, 8 * dim, heads[3], depth[3])
        self.up4_3 = layers.Upsample(8 * dim)
        self.reduce_chan_level3 = layers.Linear(8 * dim, 4 * dim, bias=config.bias)
        self.decoder_level3 = stage(2, 4 * dim, heads[2], depth[2])
        self.up3_2 = layers.Upsample(4 * dim)
        self.reduce_chan_level2 = layers.Linear(4 * dim, 2 * dim, bias=config.bias)
        self.decoder_level2 = stage(1, 2 * dim, heads[1], depth[1])
        self.up2_1 = layers.Upsample(2 * dim)
        self.decoder_level1 = stage(0, 2 * dim, heads[0], depth[0])
        self.refinement = Compensator(2 * dim, config) if config.mefc else None
        self.output = layers.Conv(2 * dim, config.out_channels, bias=config.bias)

    def __call__(
        self, images: Float[Array, "b h w c"], *, fuse: Callable | None = None
    ) -> Float32[Array, "b h w d"]:
        """Restores a batch of pictures.

        Args:
            images: in [0, 1], of any size, c = inp_channels.
            fuse: changes what enters a level of the encoder, as `layers.keep` does not; the first
                level's experts have run by then.

        Returns:
            About [0, 1], not clipped; d = out_channels.
        """
        config, fuse = self.config, fuse or layers.keep
        _, height, width, _ = images.shape
        padded = layers.pad_to_multiple(images, config.multiple)
        level1 = self.patch_embed(padded.astype(config.dtype))
        if self.encoder_level0 is not None:
            level1 = self.encoder_level0(level1)
        level1 = self.encoder_level1(fuse(0, level1))
        level2 = self.encoder_level2(fuse(1, self.down1_2(level1)))
        level3 = self.encoder_level3(fuse(2, self.down2_3(level2)))
        x = self.latent(fuse(3, self.down3_4(level3)))

        x = jnp.concatenate([self.up4_3(x), level3], -1)
        x = self.decoder_level3(self.reduce_chan_level3(x))
        x = jnp.concatenate([self.up3_2(x), level2], -1)
        x = self.decoder_level2(self.reduce_chan_level2(x))
        x = jnp.concatenate([self.up2_1(x), level1], -1)
        x = self.decoder_level1(x)
        if self.refinement is not None:
            x = self.refinement(x)
        residual = self.output(x)[:, :height, :width]
        return images.astype(jnp.float32) + residual.astype(jnp.float32)
