"""A torch twin of DRSformer, written from its formulas, with the reference's tensor names.

Pictures are (B, C, H, W) with sides that are multiples of 8. Nothing here is computed the way ours
is: four products with the values, whole lists of channels, one result an expert.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tdr_jax.convert.torch_modules import LayerNorm, PatchEmbed, Resample


def conv(inputs, outputs, size, groups=1, bias=False, dilation=1):
    padding = dilation * (size // 2)
    return nn.Conv2d(
        inputs, outputs, size, padding=padding, groups=groups, bias=bias, dilation=dilation
    )


class Attention(nn.Module):
    def __init__(self, channels, heads, bias):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = conv(3 * channels, 3 * channels, 3, 3 * channels, bias)
        self.project_out = conv(channels, channels, 1, bias=bias)
        for number in "1234":
            setattr(self, f"attn{number}", nn.Parameter(torch.full((1,), 0.2)))

    def forward(self, x):
        b, c, h, w = x.shape
        heads = self.temperature.shape[0]
        qkv = self.qkv_dwconv(self.qkv(x))
        q, k, v = (t.reshape(b, heads, c // heads, h * w) for t in qkv.chunk(3, 1))
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        logits = logits * self.temperature
        count = c // heads
        kept = int(count / 2), int(count * 2 / 3), int(count * 3 / 4), int(count * 4 / 5)
        out = 0
        for number, k in zip("1234", kept, strict=True):
            chosen = logits.topk(k).indices
            sparse = torch.full_like(logits, -torch.inf)
            sparse = sparse.scatter(-1, chosen, logits.gather(-1, chosen))
            out = out + (sparse.softmax(-1) @ v) * getattr(self, f"attn{number}")
        return self.project_out(out.reshape(b, c, h, w))


class FeedForward(nn.Module):
    def __init__(self, channels, expansion, bias):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = conv(channels, 2 * hidden, 1, bias=bias)
        self.dwconv3x3 = conv(2 * hidden, 2 * hidden, 3, 2 * hidden, bias)
        self.dwconv5x5 = conv(2 * hidden, 2 * hidden, 5, 2 * hidden, bias)
        self.dwconv3x3_1 = conv(2 * hidden, hidden, 3, hidden, bias)
        self.dwconv5x5_1 = conv(2 * hidden, hidden, 5, hidden, bias)
        self.project_out = conv(2 * hidden, channels, 1, bias=bias)

    def forward(self, x):
        x = self.project_in(x)
        small = F.relu(self.dwconv3x3(x)).chunk(2, 1)
        large = F.relu(self.dwconv5x5(x)).chunk(2, 1)
        first, second = (torch.cat(pair, 1) for pair in zip(small, large, strict=True))
        results = F.relu(self.dwconv3x3_1(first)), F.relu(self.dwconv5x5_1(second))
        return self.project_out(torch.cat(results, 1))


class TransformerBlock(nn.Module):
    def __init__(self, channels, heads, expansion=2.66, bias=False, LayerNorm_type="WithBias"):
        super().__init__()
        self.norm1 = LayerNorm(channels, LayerNorm_type)
        self.attn = Attention(channels, heads, bias)
        self.norm2 = LayerNorm(channels, LayerNorm_type)
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Expert(nn.Module):
    def __init__(self, channels, size, dilation):
        super().__init__()
        filtered = conv(channels, channels, size, channels, dilation=dilation)
        self.op = nn.Sequential(filtered, conv(channels, channels, 1))
        if dilation == 1:
            again = conv(channels, channels, size, channels)
            self.op.extend([nn.ReLU(), again, conv(channels, channels, 1)])

    def forward(self, x):
        return self.op(x)


class Step(nn.Module):
    def __init__(self, channels):
        super().__init__()
        kinds = [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (7, 2)]
        self._ops = nn.ModuleList(Expert(channels, *kind) for kind in kinds)
        self._ops.append(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
        self._out = nn.Sequential(conv(8 * channels, channels, 1), nn.ReLU())

    def forward(self, x, weights):
        results = [op(x) * weights[:, i, None, None, None] for i, op in enumerate(self._ops)]
        return F.relu(self._out(torch.cat(results, 1)) + x)


class Chooser(nn.Module):
    def __init__(self, channels, steps):
        super().__init__()
        self.ca_fc = nn.Sequential(
            nn.Linear(channels, 16 * steps), nn.ReLU(), nn.Linear(16 * steps, 8 * steps)
        )

    def forward(self, x):
        return self.ca_fc(x.mean((2, 3))).unflatten(1, (-1, 8)).softmax(-1)


class Steps(nn.Module):
    def __init__(self, channels, steps):
        super().__init__()
        self.preprocess = nn.Module()
        self.preprocess.op = nn.Sequential(conv(channels, channels, 1), nn.ReLU())
        self._ops = nn.ModuleList(Step(channels) for _ in range(steps))

    def forward(self, x, weights):
        x = self.preprocess.op(x)
        for i, step in enumerate(self._ops):
            x = step(x, weights[:, i])
        return x


class Compensator(nn.Module):
    def __init__(self, channels, steps=4):
        super().__init__()
        self.layers = nn.ModuleList([Chooser(channels, steps), Steps(channels, steps)])

    def forward(self, x):
        return self.layers[1](x, self.layers[0](x))


class DRSformer(nn.Module):
    """The published network by default; `mefc=False` is that of Rain200L and SPA-Data."""

    def __init__(
        self,
        inp_channels=3,
        out_channels=3,
        dim=48,
        num_blocks=(4, 6, 6, 8),
        heads=(1, 2, 4, 8),
        ffn_expansion_factor=2.66,
        bias=False,
        LayerNorm_type="WithBias",
        mefc=True,
    ):
        super().__init__()

        def stage(width, heads, depth):
            block = width, heads, ffn_expansion_factor, bias, LayerNorm_type
            return nn.Sequential(*(TransformerBlock(*block) for _ in range(depth)))

        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level0 = Compensator(dim) if mefc else nn.Identity()
        self.encoder_level1 = stage(dim, heads[0], num_blocks[0])
        self.down1_2 = Resample(dim, True)
        self.encoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = Resample(2 * dim, True)
        self.encoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = Resample(4 * dim, True)
        self.latent = stage(8 * dim, heads[3], num_blocks[3])
        self.up4_3 = Resample(8 * dim, False)
        self.reduce_chan_level3 = conv(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        self.up3_2 = Resample(4 * dim, False)
        self.reduce_chan_level2 = conv(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        self.up2_1 = Resample(2 * dim, False)
        self.decoder_level1 = stage(2 * dim, heads[0], num_blocks[0])
        self.refinement = Compensator(2 * dim) if mefc else nn.Identity()
        self.output = conv(2 * dim, out_channels, 3, bias=bias)

    def forward(self, images):
        level1 = self.encoder_level1(self.encoder_level0(self.patch_embed(images)))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], 1))
        x = self.reduce_chan_level2(torch.cat([self.up3_2(self.decoder_level3(x)), level2], 1))
        x = torch.cat([self.up2_1(self.decoder_level2(x)), level1], 1)
        return self.output(self.refinement(self.decoder_level1(x))) + images
