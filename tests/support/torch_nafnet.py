"""A torch twin of NAFNet and its local variant, written from the formulas, with the same names."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class Mean(nn.Module):
    """Over the picture, or (window given) over every window in it, the outermost repeated."""

    def __init__(self, window):
        super().__init__()
        self.window = window

    def forward(self, x):
        height, width = x.shape[2:]
        window = self.window or (height, width)
        if window[0] >= height and window[1] >= width:
            return x.mean((2, 3), keepdim=True)
        y = F.avg_pool2d(x, (min(window[0], height), min(window[1], width)), stride=1)
        rows, columns = height - y.shape[2], width - y.shape[3]
        margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return F.pad(y, margins, mode="replicate")


class NAFBlock(nn.Module):
    def __init__(self, channels, window):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = nn.Sequential(Mean(window), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x):
        z = torch.mul(*self.conv2(self.conv1(self.norm1(x))).chunk(2, 1))
        x = x + self.beta * self.conv3(z * self.sca(z))
        z = torch.mul(*self.conv4(self.norm2(x)).chunk(2, 1))
        return x + self.gamma * self.conv5(z)


class NAFNet(nn.Module):
    """(B, C, H, W) of any size; `train_size` (height, width) makes the means local."""

    def __init__(
        self,
        img_channel=3,
        width=64,
        middle_blk_num=1,
        enc_blk_nums=(1, 1, 1, 28),
        dec_blk_nums=(1, 1, 1, 1),
        train_size=None,
    ):
        super().__init__()
        levels = range(len(enc_blk_nums))
        self.multiple = 2 ** len(levels)

        def stage(level, depth):
            window = None
            if train_size:
                window = tuple(
                    -(-size // self.multiple) * self.multiple // 2**level * (3 * size // 2) // size
                    for size in train_size
                )
            return nn.Sequential(*(NAFBlock(width * 2**level, window) for _ in range(depth)))

        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(map(stage, levels, enc_blk_nums))
        self.decoders = nn.ModuleList(map(stage, reversed(levels), dec_blk_nums))
        self.middle_blks = stage(len(levels), middle_blk_num)
        widths = [width * 2**level for level in levels]
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2))
            for c in reversed(widths)
        )

    def forward(self, images):
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        x, skips = self.intro(images), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return (images + self.ending(x))[:, :, :height, :width]
