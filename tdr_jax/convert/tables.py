"""Names: one table a model, from which both directions of the exchange with PyTorch follow.

A row pairs a pattern of our dotted names with the PyTorch name it stands for. `{i}` in the PyTorch
name is the block index that our stages stack away. Dead tensors, which a reference checkpoint holds
but its forward pass never touches, are named by patterns too.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor changes its axes on the way in and on the way out."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda t: t, lambda t: t)
LINEAR = Layout(lambda t: t.T, lambda t: t.T)
CONV1X1 = Layout(lambda t: t[:, :, 0, 0].T, lambda t: t.T[:, :, None, None])
CONV = Layout(lambda t: t.transpose(2, 3, 1, 0), lambda t: t.transpose(3, 2, 0, 1))
DEPTHWISE = Layout(lambda t: t[:, 0].transpose(1, 2, 0), lambda t: t.transpose(2, 0, 1)[:, None])
CONV1D_ONE_CHANNEL = Layout(lambda t: t[0, 0], lambda t: t[None, None])


@dataclasses.dataclass(frozen=True)
class Row:
    """`ours` is a pattern for a whole dotted name, `theirs` the PyTorch name in its groups."""

    ours: str
    theirs: str
    layout: Layout = SAME


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of one model, and patterns for the dead tensors of its reference checkpoints."""

    rows: tuple[Row, ...]
    dead: tuple[str, ...] = ()


def _restormer_rows() -> tuple[Row, ...]:
    """Blocks and joints that Restormer and its descendants name alike."""
    block = r"(\w+)\.blocks\."
    return (
        Row(block + r"(norm[12])\.(weight|bias)", r"\1.{i}.\2.body.\3"),
        Row(block + r"attn\.temperature", r"\1.{i}.attn.temperature"),
        Row(
            block + r"(attn\.qkv|attn\.project_out|ffn\.project_in|ffn\.project_out)\.kernel",
            r"\1.{i}.\2.weight",
            CONV1X1,
        ),
        Row(block + r"(attn\.qkv_dwconv|ffn\.dwconv)\.kernel", r"\1.{i}.\2.weight", DEPTHWISE),
        Row(block + r"((?:attn|ffn)\.\w+)\.bias", r"\1.{i}.\2.bias"),
        Row(r"patch_embed\.kernel", "patch_embed.proj.weight", CONV),
        Row(r"patch_embed\.bias", "patch_embed.proj.bias"),
        Row(r"((?:down|up)\d_\d\.body\.0)\.kernel", r"\1.weight", CONV),
        Row(r"(reduce_chan_level\d)\.kernel", r"\1.weight", CONV1X1),
        Row(r"output\.kernel", "output.weight", CONV),
        Row(r"(reduce_chan_level\d|output)\.bias", r"\1.bias"),
    )


# Each block of the reference carries four text heads and uses the one that fits its width.
_TEXT_HEADS = {
    "1": "encoder_level1",
    "2": "encoder_level2|decoder_level2|decoder_level1|refinement",
    "3": "encoder_level3|decoder_level3",
    "7": "latent",
}


def _text_rows() -> tuple[Row, ...]:
    rows = [
        Row(r"(linear[12])\.kernel", r"\1.weight", LINEAR),
        Row(r"(linear[12])\.bias", r"\1.bias"),
    ]
    for half, module in (("text1", "attn"), ("text2", "ffn")):
        rows.append(
            Row(
                rf"(\w+)\.blocks\.{half}\.fusion",
                rf"\1.{{i}}.{module}.fusion.conv.weight",
                CONV1D_ONE_CHANNEL,
            )
        )
        for head, stages in _TEXT_HEADS.items():
            ours = rf"({stages})\.blocks\.{half}\.linear(_[12])?"
            theirs = rf"\1.{{i}}.{module}.linear{head}\2"
            rows.append(Row(ours + r"\.kernel", theirs + ".weight", LINEAR))
            rows.append(Row(ours + r"\.bias", theirs + ".bias"))
    return tuple(rows)


TEXTPROMPTIR = Table(
    rows=_restormer_rows() + _text_rows(),
    dead=(
        # The three text heads of every live block that are built for other widths.
        *(
            rf"({stages})\.\d+\.(attn|ffn)\.linear(?!{head})[1237](_[12])?\.(weight|bias)"
            for head, stages in _TEXT_HEADS.items()
        ),
        # What is left of PromptIR's visual prompts.
        r"prompt[123]_[12]\.(prompt_param|linear_layer\.(weight|bias)|conv3x3\.weight)",
        r"noise_level[123](_[12])?\..+",
        r"reduce_noise_(level[123](_[12])?|channel_[123])\.weight",
        r"chnl_reduce[123]\.weight",
    ),
)

# By the class of the network, whatever name and size it was built under.
TABLES = {"TextPromptIR": TEXTPROMPTIR}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One PyTorch tensor: its name, our name, its place on the layer axis (or None), its layout."""

    theirs: str
    ours: str
    index: int | None
    layout: Layout


def entries(table: Table, shapes: dict[str, tuple[int, ...]]) -> list[Entry]:
    """Pairs every parameter with its PyTorch tensors.

    Args:
      table: of the model.
      shapes: our dotted names with their shapes.

    Raises:
      KeyError: names that match no row or several, all in one message. A fault of the table.
    """
    found, faults = [], []
    for name, shape in shapes.items():
        matches = [(row, m) for row in table.rows if (m := re.fullmatch(row.ours, name))]
        if len(matches) != 1:
            faults.append(f"{name} matches {len(matches)} rows")
            continue
        row, match = matches[0]
        theirs = match.expand(row.theirs)
        indices = range(shape[0]) if "{i}" in theirs else (None,)
        found += [Entry(theirs.replace("{i}", str(i)), name, i, row.layout) for i in indices]
    if faults:
        raise KeyError("; ".join(faults))
    return found
