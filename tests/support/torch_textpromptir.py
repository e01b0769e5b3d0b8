"""A torch twin of TextPromptIR, written from its formulas, with the reference's tensor names.

Only live tensors exist here. `num` picks the level-specific text head that a block uses, as the
names `linear1*`, `linear2*`, `linear3*`, `linear7*` say.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x):
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Fusion(nn.Module):
    def __init__(self, channels):
        super().__init__()
        size = int(abs(math.log2(channels) + 1) / 2)
        size = size if size % 2 else size + 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0]


class Conditioned(nn.Module):
    def __init__(self, channels, text, num):
        super().__init__()
        self.num = num
        self.fusion = Fusion(channels)
        self.add_module(f"linear{num}", nn.Linear(text, channels))
        self.add_module(f"linear{num}_1", nn.Linear(channels, channels))
        self.add_module(f"linear{num}_2", nn.Linear(channels, channels))

    def modulate(self, x, text):
        first, scale, shift = (getattr(self, f"linear{self.num}{end}") for end in ("", "_1", "_2"))
        message = first(text) * self.fusion(x)
        return x * scale(message)[:, :, None, None] + shift(message)[:, :, None, None]


class Attention(Conditioned):
    def __init__(self, channels, heads, text, num):
        super().__init__(channels, text, num)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x, text):
        b, c, h, w = x.shape
        heads = self.temperature.shape[0]
        qkv = self.qkv_dwconv(self.qkv(self.modulate(x, text)))
        q, k, v = (t.reshape(b, heads, c // heads, h * w) for t in qkv.chunk(3, 1))
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        out = (logits * self.temperature).softmax(-1) @ v
        return self.project_out(out.reshape(b, c, h, w))


class FeedForward(Conditioned):
    def __init__(self, channels, expansion, text, num):
        super().__init__(channels, text, num)
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x, text):
        a, b = self.dwconv(self.project_in(self.modulate(x, text))).chunk(2, 1)
        return self.project_out(F.gelu(a) * b)


class TransformerBlock(nn.Module):
    def __init__(self, channels, heads, num, expansion=2.66, text=384):
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = Attention(channels, heads, text, num)
        self.norm2 = LayerNorm(channels)
        self.ffn = FeedForward(channels, expansion, text, num)

    def forward(self, x, text):
        x = x + self.attn(self.norm1(x), text)
        return x + self.ffn(self.norm2(x), text)


class Stage(nn.ModuleList):
    def forward(self, x, text):
        for block in self:
            x = block(x, text)
        return x


class Resample(nn.Module):
    def __init__(self, channels, down):
        super().__init__()
        out = channels // 2 if down else 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.PixelUnshuffle(2) if down else nn.PixelShuffle(2),
        )

    def forward(self, x):
        return self.body(x)


class PatchEmbed(nn.Module):
    def __init__(self, channels, dim):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 3, padding=1, bias=False)

    def forward(self, x):
        return self.proj(x)


class TextPromptIR(nn.Module):
    """The published network by default; (B, 3, H, W) pictures and (B, text_dim) sentences."""

    def __init__(
        self,
        dim=48,
        num_blocks=(4, 6, 6, 8),
        num_refinement_blocks=4,
        heads=(1, 2, 4, 8),
        expansion=2.66,
        text_dim=768,
        text_hidden=(576, 384),
        input_shuffle=1,
    ):
        super().__init__()

        def stage(width, heads, num, depth):
            return Stage(
                TransformerBlock(width, heads, num, expansion, text_hidden[1]) for _ in range(depth)
            )

        self.shuffle = input_shuffle
        channels = 3 * input_shuffle**2
        self.linear1 = nn.Linear(text_dim, text_hidden[0])
        self.linear2 = nn.Linear(*text_hidden)
        self.patch_embed = PatchEmbed(channels, dim)
        self.encoder_level1 = stage(dim, heads[0], 1, num_blocks[0])
        self.down1_2 = Resample(dim, True)
        self.encoder_level2 = stage(2 * dim, heads[1], 2, num_blocks[1])
        self.down2_3 = Resample(2 * dim, True)
        self.encoder_level3 = stage(4 * dim, heads[2], 3, num_blocks[2])
        self.down3_4 = Resample(4 * dim, True)
        self.latent = stage(8 * dim, heads[3], 7, num_blocks[3])
        self.up4_3 = Resample(8 * dim, False)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = stage(4 * dim, heads[1], 3, num_blocks[2])
        self.up3_2 = Resample(4 * dim, False)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = stage(2 * dim, heads[1], 2, num_blocks[1])
        self.up2_1 = Resample(2 * dim, False)
        self.decoder_level1 = stage(2 * dim, heads[0], 2, num_blocks[0])
        self.refinement = stage(2 * dim, heads[0], 2, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, channels, 3, padding=1, bias=False)

    def forward(self, images, text):
        text = F.leaky_relu(self.linear2(F.leaky_relu(self.linear1(text), 0.2)), 0.2)
        x = self.patch_embed(F.pixel_unshuffle(images, self.shuffle))
        level1 = self.encoder_level1(x, text)
        level2 = self.encoder_level2(self.down1_2(level1), text)
        level3 = self.encoder_level3(self.down2_3(level2), text)
        x = self.latent(self.down3_4(level3), text)
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], 1))
        x = self.decoder_level3(x, text)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], 1))
        x = self.decoder_level2(x, text)
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], 1), text)
        return images + F.pixel_shuffle(self.output(self.refinement(x, text)), self.shuffle)
