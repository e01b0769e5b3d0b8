"""A torch twin of MASA's search and transfer, written from the formulas with unfold and fold."""

import torch
import torch.nn.functional as F


def bounds(centres, diameter, size):
    """Lowest index of each window of `diameter + 2` around the centres, moved into the map."""
    return (centres - diameter // 2 - 1).clamp(0, size - diameter - 2)


def windows(features, rows, columns, height, width, scale):
    """Cuts (B, C, s Hr, s Wr) at (B, N) corners; returns (B N, C, s height, s width)."""
    cut = []
    for picture, tops, lefts in zip(features, rows, columns, strict=True):
        for top, left in zip((tops * scale).tolist(), (lefts * scale).tolist(), strict=True):
            cut.append(picture[:, top : top + scale * height, left : left + scale * width])
    return torch.stack(cut)


def coarse(blocks, reference, dilations):
    """Where each block's middle is found best.

    Args:
        blocks: (B, N, C, 10, 10).
        reference: (B, C, Hr, Wr).
        dilations: of the 3x3 samples that are compared.

    Returns:
        rows and columns on the reference, (B, N).
    """
    middle, scores = blocks.shape[-1] // 2, 0
    for d in dilations:
        taps = slice(middle - d, middle + d + 1, d)
        ours = F.normalize(blocks[..., taps, taps].flatten(2), dim=2)
        theirs = F.normalize(F.unfold(reference, 3, padding=d, dilation=d), dim=1)
        scores = scores + ours @ theirs
    best = scores.argmax(2)
    return best // reference.shape[3], best % reference.shape[3]


def fine(blocks, candidates):
    """The 3x3 patches of windows most alike to those of blocks.

    Args:
        blocks: (B N, C, 10, 10).
        candidates: (B N, C, height, width).

    Returns:
        indices among the window's patches and cosines, (B N, 64).
    """
    ours = F.normalize(F.unfold(blocks, 3), dim=1)
    theirs = F.normalize(F.unfold(candidates, 3), dim=1)
    cosines, best = torch.topk(ours.transpose(1, 2) @ theirs, 1, dim=2)
    return best[..., 0], cosines[..., 0]


def warp(candidates, best, cosines, block, scale):
    """Overlap-averaged patches of windows, times the cosines: (B N, C, 8 s, 8 s)."""
    patches = F.unfold(candidates, 3 * scale, stride=scale)
    chosen = patches.gather(2, best[:, None].expand(-1, patches.shape[1], -1))
    shape = dict(
        output_size=(block * scale, block * scale),
        kernel_size=3 * scale,
        padding=scale,
        stride=scale,
    )
    average = F.fold(chosen, **shape) / F.fold(torch.ones_like(chosen), **shape)
    cosines = cosines.view(-1, 1, block, block)
    return average * F.interpolate(cosines, scale_factor=scale, mode="bilinear")


def assemble(blocks, rows, columns):
    """(B rows columns, C, h, w) -> (B, C, rows h, columns w)."""
    _, c, h, w = blocks.shape
    blocks = blocks.view(-1, rows, columns, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(-1, c, rows * h, columns * w)


def search_and_transfer(query, reference, features, *, block=8, ratio=1.5, dilations=(1, 2, 3)):
    """Matches a picture with a reference and brings the reference's features over.

    Args:
        query: (B, C, H, W), whole blocks.
        reference: (B, C, Hr, Wr).
        features: list of (B, D, s Hr, s Wr).
        block: side of the query's blocks.
        ratio: of the searched window to the block's share of the reference.
        dilations: of the coarse search.

    Returns:
        rows and columns of the matches' centres and their cosines, (B, H, W) each, and the list of
        (B, D, s H, s W).
    """
    b, c, height, width = query.shape
    down, across = height // block, width // block
    padded = F.pad(query, (1, 1, 1, 1), mode="replicate")
    blocks = F.unfold(padded, block + 2, stride=block)
    blocks = blocks.view(b, c, block + 2, block + 2, -1).permute(0, 4, 1, 2, 3)

    sides = reference.shape[2:]
    diameters = [
        2 * int(side // (2 * count) * ratio) + 1
        for side, count in zip(sides, (down, across), strict=True)
    ]
    centres = coarse(blocks, reference, dilations)
    corners = list(map(bounds, centres, diameters, sides))
    window = [diameter + 2 for diameter in diameters]

    candidates = windows(reference, *corners, *window, 1)
    best, cosines = fine(blocks.reshape(-1, c, block + 2, block + 2), candidates)
    warped = []
    for level in features:
        scale = level.shape[2] // sides[0]
        parts = warp(windows(level, *corners, *window, scale), best, cosines, block, scale)
        warped.append(assemble(parts, down, across))

    def whole(values):
        return assemble(values.view(-1, 1, block, block), down, across)[:, 0]

    rows = corners[0].view(-1, 1) + best // diameters[1] + 1
    columns = corners[1].view(-1, 1) + best % diameters[1] + 1
    return whole(rows), whole(columns), whole(cosines), warped
