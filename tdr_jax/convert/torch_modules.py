"""Restormer, PromptIR and TextPromptIR as plain PyTorch modules, written from their formulas.

Arguments carry the references' names and published defaults, the state dicts the names of the
references' live tensors, so `to_torch` feeds them strictly. Pictures are (B, C, H, W) in [0, 1]
with sides that are multiples of 8. Nothing here knows JAX: tests compare against these classes, and
PyTorch programs can run converted weights in them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class BiasFree(nn.Module):
    """x / sqrt(var(x) + 1e-5) * weight on the last axis: x itself is not centred."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.weight


class LayerNorm(nn.Module):
    """Normalises the channels of every pixel; `kind` is "WithBias" or "BiasFree"."""

    def __init__(self, channels, kind="WithBias"):
        super().__init__()
        self.body = {"WithBias": nn.LayerNorm, "BiasFree": BiasFree}[kind](channels)

    def forward(self, x):
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def depthwise(channels, bias):
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


class Attention(nn.Module):
    """MDTA: channels attend to channels within each head."""

    def __init__(self, channels, heads, bias=False):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = depthwise(3 * channels, bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x):
        b, c, h, w = x.shape
        heads = self.temperature.shape[0]
        qkv = self.qkv_dwconv(self.qkv(x))
        q, k, v = (t.reshape(b, heads, c // heads, h * w) for t in qkv.chunk(3, 1))
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        out = (logits * self.temperature).softmax(-1) @ v
        return self.project_out(out.reshape(b, c, h, w))


class FeedForward(nn.Module):
    """GDFN: project_out(gelu(a) * b)."""

    def __init__(self, channels, expansion=2.66, bias=False):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = depthwise(2 * hidden, bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x):
        a, b = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(a) * b)


class TransformerBlock(nn.Module):
    """Restormer's block: attention, then feed-forward, each after a norm and around a shortcut."""

    def __init__(self, channels, heads, expansion=2.66, bias=False, LayerNorm_type="WithBias"):
        super().__init__()
        self.norm1 = LayerNorm(channels, LayerNorm_type)
        self.attn = Attention(channels, heads, bias)
        self.norm2 = LayerNorm(channels, LayerNorm_type)
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Resample(nn.Module):
    """Conv 3x3, then pixel (un)shuffle: half the size and twice the channels, or the reverse."""

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
    """Conv 3x3, never with a bias."""

    def __init__(self, channels, dim):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 3, padding=1, bias=False)

    def forward(self, x):
        return self.proj(x)


class Restormer(nn.Module):
    """Restormer (arXiv 2111.09881); with `dual_pixel_task` six channels come in, three go out."""

    def __init__(
        self,
        inp_channels=3,
        out_channels=3,
        dim=48,
        num_blocks=(4, 6, 6, 8),
        num_refinement_blocks=4,
        heads=(1, 2, 4, 8),
        ffn_expansion_factor=2.66,
        bias=False,
        LayerNorm_type="WithBias",
        dual_pixel_task=False,
    ):
        super().__init__()

        def stage(width, heads, depth):
            block = width, heads, ffn_expansion_factor, bias, LayerNorm_type
            return nn.Sequential(*(TransformerBlock(*block) for _ in range(depth)))

        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level1 = stage(dim, heads[0], num_blocks[0])
        self.down1_2 = Resample(dim, True)
        self.encoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = Resample(2 * dim, True)
        self.encoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = Resample(4 * dim, True)
        self.latent = stage(8 * dim, heads[3], num_blocks[3])
        self.up4_3 = Resample(8 * dim, False)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        self.up3_2 = Resample(4 * dim, False)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        self.up2_1 = Resample(2 * dim, False)
        self.decoder_level1 = stage(2 * dim, heads[0], num_blocks[0])
        self.refinement = stage(2 * dim, heads[0], num_refinement_blocks)
        self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def forward(self, images):
        embedded = self.patch_embed(images)
        level1 = self.encoder_level1(embedded)
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))
        x = self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], 1))
        x = self.decoder_level3(x)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], 1))
        x = self.decoder_level2(x)
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], 1))
        x = self.refinement(x)
        if self.skip_conv is not None:
            return self.output(x + self.skip_conv(embedded))
        return images + self.output(x)


class PromptGenBlock(nn.Module):
    """Mixes learned pictures by what the features hold on average, and fits them to their size."""

    def __init__(self, prompt_dim, prompt_len, prompt_size, lin_dim):
        super().__init__()
        shape = 1, prompt_len, prompt_dim, prompt_size, prompt_size
        self.prompt_param = nn.Parameter(torch.rand(shape))
        self.linear_layer = nn.Linear(lin_dim, prompt_len)
        self.conv3x3 = nn.Conv2d(prompt_dim, prompt_dim, 3, padding=1, bias=False)

    def forward(self, x):
        weights = self.linear_layer(x.mean((2, 3))).softmax(1)
        prompt = torch.einsum("bl,lchw->bchw", weights, self.prompt_param[0])
        return self.conv3x3(F.interpolate(prompt, x.shape[2:], mode="bilinear"))


class PromptIR(nn.Module):
    """PromptIR (arXiv 2306.13090) with its decoder prompts.

    `prompt_dim`, `prompt_len` and `prompt_size` (levels 1, 2, 3) are constants in the reference.
    """

    def __init__(
        self,
        inp_channels=3,
        out_channels=3,
        dim=48,
        num_blocks=(4, 6, 6, 8),
        num_refinement_blocks=4,
        heads=(1, 2, 4, 8),
        ffn_expansion_factor=2.66,
        bias=False,
        LayerNorm_type="WithBias",
        decoder=True,
        prompt_dim=(64, 128, 320),
        prompt_len=5,
        prompt_size=(64, 32, 16),
    ):
        super().__init__()
        if not decoder:
            raise ValueError("PromptIR without decoder prompts does not fit together")

        def block(width, heads):
            return TransformerBlock(width, heads, ffn_expansion_factor, bias, LayerNorm_type)

        def stage(width, heads, depth):
            return nn.Sequential(*(block(width, heads) for _ in range(depth)))

        def prompted(level, width, out):
            wide, index = width + prompt_dim[level - 1], level - 1
            prompt = PromptGenBlock(prompt_dim[index], prompt_len, prompt_size[index], width)
            self.add_module(f"prompt{level}", prompt)
            self.add_module(f"noise_level{level}", block(wide, heads[2]))
            self.add_module(f"reduce_noise_level{level}", nn.Conv2d(wide, out, 1, bias=bias))

        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level1 = stage(dim, heads[0], num_blocks[0])
        self.down1_2 = Resample(dim, True)
        self.encoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = Resample(2 * dim, True)
        self.encoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = Resample(4 * dim, True)
        self.latent = stage(8 * dim, heads[3], num_blocks[3])
        prompted(3, 8 * dim, 4 * dim)
        self.up4_3 = Resample(4 * dim, False)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = stage(4 * dim, heads[2], num_blocks[2])
        prompted(2, 4 * dim, 4 * dim)
        self.up3_2 = Resample(4 * dim, False)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = stage(2 * dim, heads[1], num_blocks[1])
        prompted(1, 2 * dim, 2 * dim)
        self.up2_1 = Resample(2 * dim, False)
        self.decoder_level1 = stage(2 * dim, heads[0], num_blocks[0])
        self.refinement = stage(2 * dim, heads[0], num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def forward(self, images):
        level1 = self.encoder_level1(self.patch_embed(images))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))
        x = self.noise_level3(torch.cat([x, self.prompt3(x)], 1))
        x = self.up4_3(self.reduce_noise_level3(x))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, level3], 1)))
        x = self.noise_level2(torch.cat([x, self.prompt2(x)], 1))
        x = self.up3_2(self.reduce_noise_level2(x))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([x, level2], 1)))
        x = self.noise_level1(torch.cat([x, self.prompt1(x)], 1))
        x = self.up2_1(self.reduce_noise_level1(x))
        x = self.decoder_level1(torch.cat([x, level1], 1))
        return images + self.output(self.refinement(x))


class Fusion(nn.Module):
    """ECA's gate: one filter slides along the channels' means."""

    def __init__(self, channels):
        super().__init__()
        size = int(abs(math.log2(channels) + 1) / 2)
        size = size if size % 2 else size + 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0]


class Conditioned(nn.Module):
    """Mixed into a half of a block: scales and shifts its input as the sentence says.

    `num` names the level's text head: linear1*, linear2*, linear3* or linear7*.
    """

    def add_text_head(self, channels, text, num):
        self.num = num
        self.fusion = Fusion(channels)
        self.add_module(f"linear{num}", nn.Linear(text, channels))
        self.add_module(f"linear{num}_1", nn.Linear(channels, channels))
        self.add_module(f"linear{num}_2", nn.Linear(channels, channels))

    def modulate(self, x, text):
        first, scale, shift = (getattr(self, f"linear{self.num}{end}") for end in ("", "_1", "_2"))
        message = first(text) * self.fusion(x)
        return x * scale(message)[:, :, None, None] + shift(message)[:, :, None, None]


class TextAttention(Attention, Conditioned):
    """IMTA."""

    def __init__(self, channels, heads, bias, text, num):
        super().__init__(channels, heads, bias)
        self.add_text_head(channels, text, num)

    def forward(self, x, text):
        return super().forward(self.modulate(x, text))


class TextFeedForward(FeedForward, Conditioned):
    """IGFN."""

    def __init__(self, channels, expansion, bias, text, num):
        super().__init__(channels, expansion, bias)
        self.add_text_head(channels, text, num)

    def forward(self, x, text):
        return super().forward(self.modulate(x, text))


class TextTransformerBlock(nn.Module):
    """Restormer's block with both halves conditioned on a sentence."""

    def __init__(self, channels, heads, num, expansion=2.66, bias=False, text=384):
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = TextAttention(channels, heads, bias, text, num)
        self.norm2 = LayerNorm(channels)
        self.ffn = TextFeedForward(channels, expansion, bias, text, num)

    def forward(self, x, text):
        x = x + self.attn(self.norm1(x), text)
        return x + self.ffn(self.norm2(x), text)


class TextStage(nn.ModuleList):
    """Conditioned blocks in a row."""

    def forward(self, x, text):
        for block in self:
            x = block(x, text)
        return x


class TextPromptIR(nn.Module):
    """TextPromptIR (arXiv 2312.06162): pictures and sentence vectors (B, text_dim).

    `input_shuffle` is not the reference's; with 2, sides must be multiples of 16.
    """

    def __init__(
        self,
        inp_channels=3,
        out_channels=3,
        dim=48,
        num_blocks=(4, 6, 6, 8),
        num_refinement_blocks=4,
        heads=(1, 2, 4, 8),
        ffn_expansion_factor=2.66,
        bias=False,
        text_dim=768,
        text_hidden=(576, 384),
        input_shuffle=1,
    ):
        super().__init__()

        def stage(width, heads, num, depth):
            block = width, heads, num, ffn_expansion_factor, bias, text_hidden[1]
            return TextStage(TextTransformerBlock(*block) for _ in range(depth))

        self.shuffle = input_shuffle
        self.linear1 = nn.Linear(text_dim, text_hidden[0])
        self.linear2 = nn.Linear(*text_hidden)
        self.patch_embed = PatchEmbed(inp_channels * input_shuffle**2, dim)
        self.encoder_level1 = stage(dim, heads[0], 1, num_blocks[0])
        self.down1_2 = Resample(dim, True)
        self.encoder_level2 = stage(2 * dim, heads[1], 2, num_blocks[1])
        self.down2_3 = Resample(2 * dim, True)
        self.encoder_level3 = stage(4 * dim, heads[2], 3, num_blocks[2])
        self.down3_4 = Resample(4 * dim, True)
        self.latent = stage(8 * dim, heads[3], 7, num_blocks[3])
        self.up4_3 = Resample(8 * dim, False)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = stage(4 * dim, heads[1], 3, num_blocks[2])
        self.up3_2 = Resample(4 * dim, False)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = stage(2 * dim, heads[1], 2, num_blocks[1])
        self.up2_1 = Resample(2 * dim, False)
        self.decoder_level1 = stage(2 * dim, heads[0], 2, num_blocks[0])
        self.refinement = stage(2 * dim, heads[0], 2, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, out_channels * input_shuffle**2, 3, padding=1, bias=bias)

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
