"""Torch twins of guided networks: what is joined is hung before the stages of the plain twins."""

import torch
import torch.nn.functional as F
from torch import nn

from tdr_jax.convert import torch_modules
from tests.support import parity, torch_drsformer, torch_masa, torch_nafnet


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class Encoder(nn.Module):
    """(B, 3, H, W) to features at each level, `depths` residual blocks each."""

    def __init__(self, width, depths):
        super().__init__()
        before, self.levels = 3, range(1, len(depths) + 1)
        for level, depth in zip(self.levels, depths, strict=True):
            conv = nn.Conv2d(before, width, 3, stride=1 if level == 1 else 2, padding=1)
            blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            self.add_module(f"conv_L{level}", conv)
            self.add_module(f"blk_L{level}", blocks)
            before, width = width, 2 * width

    def forward(self, x):
        features = []
        for level in self.levels:
            x = getattr(self, f"blk_L{level}")(F.relu(getattr(self, f"conv_L{level}")(x)))
            features.append(x)
        return features


class Weighed:
    """Mixed into a block: beside a shortcut, weighed by alpha."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.alpha * super().forward(x)


class Fused(Weighed, torch_modules.TransformerBlock):
    """Restormer's and PromptIR's."""


class SparselyFused(Weighed, torch_drsformer.TransformerBlock):
    """DRSformer's."""


class Guided:
    """Mixed into a twin: `hang` names the stages, a call gives them the guidance's features."""

    def hang(self, stages, fusions):
        for level, (stage, fusion) in enumerate(zip(stages, fusions, strict=True)):

            def joined(_, inputs, level=level, fusion=fusion):
                (x,) = inputs
                warped = self.warped[level][..., : x.shape[2], : x.shape[3]]
                return (fusion(torch.cat([x, warped], 1))[:, : x.shape[1]],)

            stage.register_forward_pre_hook(joined)

    def guided_by(self, images, guidance):
        """Searches, with both pictures filled up with zeros, and keeps what was brought over."""
        multiple = 8 * 2 ** (len(self.masa_enc.levels) - 1)
        query, features = (
            self.masa_enc(F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple)))
            for x in (images, guidance)
        )
        found = torch_masa.search_and_transfer(query[-1], features[-1], features)
        self.confidence, self.warped = found[2:]
        return self


class GuidedTransformer(Guided):
    """Restormer's kind; `zeros` pads the picture as TDR does, before anything else."""

    block, zeros = Fused, False

    def __init__(self, n_blks, reffusion_n_blocks, dim, heads, **sizes):
        super().__init__(dim=dim, heads=heads, **sizes)
        self.masa_enc = Encoder(dim, n_blks)
        fusions = [
            nn.Sequential(*(self.block(2 * dim * 2**level, head) for _ in range(depth)))
            for level, (head, depth) in enumerate(zip(heads, reffusion_n_blocks, strict=True))
        ]
        for level, fusion in enumerate(fusions, 1):
            self.add_module(f"masa_blk_enc_level{level}", fusion)
        stages = self.encoder_level1, self.encoder_level2, self.encoder_level3, self.latent
        self.hang(stages, fusions)

    def forward(self, images):
        how = dict(multiple=64, mode="constant") if self.zeros else {}
        return parity.padded(super().forward, images, **how)


class GuidedRestormer(GuidedTransformer, torch_modules.Restormer):
    pass


class GuidedPromptIR(GuidedTransformer, torch_modules.PromptIR):
    pass


class GuidedDRSformer(GuidedTransformer, torch_drsformer.DRSformer):
    block = SparselyFused


class GuidedNAFNet(Guided, torch_nafnet.NAFNet):
    def __init__(self, n_blks, reffusion_n_blocks, width, **sizes):
        super().__init__(width=width, **sizes)
        self.masa_enc = Encoder(width, n_blks)
        fusions = [
            nn.Sequential(
                *(torch_nafnet.NAFBlock(2 * width * 2**level, None) for _ in range(depth))
            )
            for level, depth in enumerate(reffusion_n_blocks)
        ]
        self.masa_blk_enc = nn.ModuleList(fusions[:-1])
        self.masa_blk_middle = nn.ModuleList(fusions[-1:])
        self.hang([*self.encoders, self.middle_blks], fusions)
