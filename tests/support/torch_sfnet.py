"""A torch twin of SFNet, written from its formulas, with the reference's tensor names.

Only live tensors exist here. `base_size` is the side of the test-time pooling window for features
of 256 x 256, or None for the mean over the whole picture.
"""

import torch
import torch.nn.functional as F
from torch import nn


def low_frequencies(x, base_size):
    """Means over the whole picture, or over windows whose borders are repeated outwards."""
    if base_size is None:
        return x.mean((2, 3), keepdim=True)
    height, width = x.shape[2:]
    means = F.avg_pool2d(x, (height * base_size // 256, width * base_size // 256), stride=1)
    rows, columns = height - means.shape[2], width - means.shape[3]
    margins = (columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2)
    return F.pad(means, margins, mode="replicate")


class BasicConv(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1, gelu=True, transpose=False):
        super().__init__()
        if transpose:
            conv = nn.ConvTranspose2d(inputs, outputs, size, stride=2, padding=1)
        else:
            conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
        self.main = nn.Sequential(conv, *([nn.GELU()] if gelu else []))

    def forward(self, x):
        return self.main(x)


class Modulator(nn.Module):
    def __init__(self, channels, base_size):
        super().__init__()
        hidden = max(channels // 2, 32)
        self.fc = nn.Conv2d(channels, hidden, 1)
        self.fcs = nn.ModuleList(nn.Conv2d(hidden, channels, 1) for _ in range(2))
        self.out = nn.Conv2d(channels, channels, 1)
        self.base_size = base_size

    def forward(self, low, high):
        hidden = self.fc(low_frequencies(low + high, self.base_size))
        weights = torch.cat([fc(hidden) for fc in self.fcs], 1).softmax(1)
        of_high, of_low = weights.chunk(2, 1)
        return self.out(high * of_high + low * of_low)


class DynamicFilter(nn.Module):
    def __init__(self, channels, size, base_size, groups=8):
        super().__init__()
        self.conv = nn.Conv2d(channels, groups * size**2, 1, bias=False)
        self.bn = nn.BatchNorm2d(groups * size**2)
        self.modulate = Modulator(channels, base_size)
        self.size, self.groups = size, groups

    def forward(self, x):
        b, c, h, w = x.shape
        taps = self.bn(self.conv(low_frequencies(x, None)))
        taps = taps.reshape(b, self.groups, 1, self.size**2, 1).softmax(3)
        margin = self.size // 2
        patches = F.unfold(F.pad(x, (margin,) * 4, mode="reflect"), self.size)
        patches = patches.reshape(b, self.groups, c // self.groups, self.size**2, h * w)
        low = (patches * taps).sum(3).reshape(b, c, h, w)
        return self.modulate(low, x - low)


class Gap(nn.Module):
    def __init__(self, channels, base_size):
        super().__init__()
        self.fscale_d = nn.Parameter(torch.zeros(channels))
        self.fscale_h = nn.Parameter(torch.zeros(channels))
        self.base_size = base_size

    def forward(self, x):
        low = low_frequencies(x, self.base_size)
        gain_low, gain_high = (g[:, None, None] for g in (self.fscale_d, self.fscale_h + 1))
        return gain_high * (x - low) + gain_low * low


class PatchAp(nn.Module):
    def __init__(self, channels, base_size):
        super().__init__()
        self.h = nn.Parameter(torch.zeros(4 * channels))
        self.l = nn.Parameter(torch.zeros(4 * channels))
        self.base_size = base_size

    def forward(self, x):
        rows = []
        for i, row in enumerate(x.chunk(2, 2)):
            quadrants = []
            for j, quadrant in enumerate(row.chunk(2, 3)):
                gain_low, gain_high = (g[2 * i + j :: 4, None, None] for g in (self.l, self.h))
                low = low_frequencies(quadrant, self.base_size)
                quadrants.append(gain_high * (quadrant - low) + gain_low * low)
            rows.append(torch.cat(quadrants, 3))
        return torch.cat(rows, 2)


class ResBlock(nn.Module):
    def __init__(self, channels, base_size, filtered):
        super().__init__()
        half = channels // 2
        self.conv1 = BasicConv(channels, channels, 3)
        self.conv2 = BasicConv(channels, channels, 3, gelu=False)
        self.dyna = DynamicFilter(half, 3, base_size) if filtered else nn.Identity()
        self.dyna_2 = DynamicFilter(half, 5, base_size) if filtered else nn.Identity()
        self.localap = PatchAp(half, base_size)
        self.global_ap = Gap(half, base_size)

    def forward(self, x):
        first, second = self.conv1(x).chunk(2, 1)
        first, second = self.global_ap(self.dyna(first)), self.localap(self.dyna_2(second))
        return x + self.conv2(torch.cat([first, second], 1))


class Level(nn.Module):
    def __init__(self, channels, num_res, base_size):
        super().__init__()
        self.layers = nn.Sequential(
            *(ResBlock(channels, base_size, i == num_res - 1) for i in range(num_res))
        )

    def forward(self, x):
        return self.layers(x)


class Shallow(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.main = nn.Sequential(
            BasicConv(3, channels // 4, 3),
            BasicConv(channels // 4, channels // 2, 1),
            BasicConv(channels // 2, channels // 2, 3),
            BasicConv(channels // 2, channels, 1, gelu=False),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x):
        return self.main(x)


class Merge(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.merge = BasicConv(2 * channels, channels, 3, gelu=False)

    def forward(self, x, y):
        return self.merge(torch.cat([x, y], 1))


class SFNet(nn.Module):
    """The published network by default; (B, 3, H, W) to pictures at full, half, quarter size."""

    def __init__(self, base_size=None, num_res=16, base_channel=32):
        super().__init__()
        c = base_channel

        def levels(*scales):
            return nn.ModuleList(Level(c * scale, num_res, base_size) for scale in scales)

        self.Encoder, self.Decoder = levels(1, 2, 4), levels(4, 2, 1)
        self.feat_extract = nn.ModuleList(
            [
                BasicConv(3, c, 3),
                BasicConv(c, 2 * c, 3, stride=2),
                BasicConv(2 * c, 4 * c, 3, stride=2),
                BasicConv(4 * c, 2 * c, 4, transpose=True),
                BasicConv(2 * c, c, 4, transpose=True),
                BasicConv(c, 3, 3, gelu=False),
            ]
        )
        self.Convs = nn.ModuleList([BasicConv(4 * c, 2 * c, 1), BasicConv(2 * c, c, 1)])
        self.ConvsOut = nn.ModuleList(
            [BasicConv(4 * c, 3, 3, gelu=False), BasicConv(2 * c, 3, 3, gelu=False)]
        )
        self.FAM1, self.SCM1 = Merge(4 * c), Shallow(4 * c)
        self.FAM2, self.SCM2 = Merge(2 * c), Shallow(2 * c)

    def forward(self, x):
        half = F.interpolate(x, scale_factor=0.5)
        quarter = F.interpolate(half, scale_factor=0.5)
        level1 = self.Encoder[0](self.feat_extract[0](x))
        z = self.FAM2(self.feat_extract[1](level1), self.SCM2(half))
        level2 = self.Encoder[1](z)
        z = self.FAM1(self.feat_extract[2](level2), self.SCM1(quarter))
        z = self.Decoder[0](self.Encoder[2](z))
        coarse = quarter + self.ConvsOut[0](z)
        z = self.Decoder[1](self.Convs[0](torch.cat([self.feat_extract[3](z), level2], 1)))
        middle = half + self.ConvsOut[1](z)
        z = self.Decoder[2](self.Convs[1](torch.cat([self.feat_extract[4](z), level1], 1)))
        return x + self.feat_extract[5](z), middle, coarse
