"""Names: one table a model, from which both directions of the exchange with PyTorch follow.

A row pairs a pattern of our dotted names with the PyTorch name it stands for. `{i}` in the PyTorch
name is the block index that our stages stack away, `{last}` the index after those. Dead tensors,
which a reference checkpoint holds but its forward pass never touches, are named by patterns too.
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
# Dense kernels and convolutions by their rank: what Hugging Face's modules hold.
KERNEL = Layout(
    lambda t: t.transpose(2, 3, 1, 0) if t.ndim == 4 else t.T,
    lambda t: t.transpose(3, 2, 0, 1) if t.ndim == 4 else t.T,
)
CONV_TRANSPOSE = Layout(lambda t: t.transpose(2, 3, 0, 1), lambda t: t.transpose(2, 3, 0, 1))
DEPTHWISE = Layout(lambda t: t[:, 0].transpose(1, 2, 0), lambda t: t.transpose(2, 0, 1)[:, None])
CONV1D_ONE_CHANNEL = Layout(lambda t: t[0, 0], lambda t: t[None, None])
PICTURES = Layout(lambda t: t[0].transpose(0, 2, 3, 1), lambda t: t.transpose(0, 3, 1, 2)[None])
CHANNELS = Layout(lambda t: t[0, :, 0, 0], lambda t: t[None, :, None, None])
# An integer there, a float32 parameter like any other here: exact up to 2^24 batches.
COUNT = Layout(lambda t: t.astype(np.float32), lambda t: t.astype(np.int64))


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

    def is_dead(self, theirs: str) -> bool:
        """Whether a PyTorch name is of a tensor that the reference never uses."""
        return any(re.fullmatch(pattern, theirs) for pattern in self.dead)


def _block_rows(ours: str, theirs: str) -> tuple[Row, ...]:
    """Restormer's block at our place `ours`, a pattern with one group, and their place `theirs`."""
    return (
        Row(ours + r"(norm[12])\.(weight|bias)", theirs + r"\2.body.\3"),
        Row(ours + r"attn\.temperature", theirs + "attn.temperature"),
        Row(
            ours + r"(attn\.qkv|attn\.project_out|ffn\.project_in|ffn\.project_out)\.kernel",
            theirs + r"\2.weight",
            CONV1X1,
        ),
        Row(ours + r"(attn\.qkv_dwconv|ffn\.dwconv)\.kernel", theirs + r"\2.weight", DEPTHWISE),
        Row(ours + r"((?:attn|ffn)\.\w+)\.bias", theirs + r"\2.bias"),
    )


def _restormer_rows() -> tuple[Row, ...]:
    """Blocks and joints that Restormer and its descendants name alike."""
    return (
        *_block_rows(r"(\w+)\.blocks\.", r"\1.{i}."),
        Row(r"patch_embed\.kernel", "patch_embed.proj.weight", CONV),
        Row(r"((?:down|up)\d_\d\.body\.0)\.kernel", r"\1.weight", CONV),
        Row(r"(reduce_chan_level\d)\.kernel", r"\1.weight", CONV1X1),
        Row(r"output\.kernel", "output.weight", CONV),
        Row(r"(reduce_chan_level\d|output)\.bias", r"\1.bias"),
    )


RESTORMER = Table(
    rows=(
        *_restormer_rows(),
        Row(r"skip_conv\.kernel", "skip_conv.weight", CONV1X1),
        Row(r"skip_conv\.bias", "skip_conv.bias"),
    )
)

PROMPTIR = Table(
    rows=(
        *_restormer_rows(),
        *_block_rows(r"(noise_level\d)\.", r"\1."),
        Row(r"(prompt\d\.prompt_param)", r"\1", PICTURES),
        Row(r"(prompt\d\.linear_layer)\.kernel", r"\1.weight", LINEAR),
        Row(r"(prompt\d\.linear_layer\.bias)", r"\1"),
        Row(r"(prompt\d\.conv3x3)\.kernel", r"\1.weight", CONV),
        Row(r"(reduce_noise_level\d)\.kernel", r"\1.weight", CONV1X1),
        Row(r"(reduce_noise_level\d\.bias)", r"\1"),
    ),
    # 1x1 convolutions that the reference builds and never calls.
    dead=(r"(chnl_reduce|reduce_noise_channel_)[123]\.(weight|bias)",),
)


# Each block of the reference carries four text heads and uses the one that fits its width.
TEXT_HEADS = {
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
        for head, stages in TEXT_HEADS.items():
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
            for head, stages in TEXT_HEADS.items()
        ),
        # What is left of PromptIR's visual prompts.
        r"prompt[123]_[12]\.(prompt_param|linear_layer\.(weight|bias)|conv3x3\.weight)",
        r"noise_level[123](_[12])?\..+",
        r"reduce_noise_(level[123](_[12])?|channel_[123])\.(weight|bias)",
        r"chnl_reduce[123]\.(weight|bias)",
    ),
)


def _sfnet_rows() -> tuple[Row, ...]:
    rows = []
    for place, index in ((r"layers\.blocks", "{i}"), ("last", "{last}")):
        block, theirs = rf"((?:En|De)coder\.\d)\.{place}\.", rf"\1.layers.{index}.\2"
        vectors = r"(conv[12]\.main\.0\.bias|localap\.[hl]|global_ap\.fscale_[dh])"
        rows += [
            Row(block + r"(conv[12]\.main\.0)\.kernel", theirs + ".weight", CONV),
            Row(block + vectors, theirs),
        ]
    filters, theirs = r"((?:En|De)coder\.\d)\.last\.(dyna(?:_2)?\.", r"\1.layers.{last}.\2"
    rows += [
        Row(
            filters + r"(?:conv|modulate\.(?:fc|fcs\.[01]|out)))\.kernel",
            theirs + ".weight",
            CONV1X1,
        ),
        Row(filters + r"modulate\.(?:fc|fcs\.[01]|out)\.bias)", theirs),
        Row(filters + r"bn\.(?:weight|bias|running_mean|running_var))", theirs),
        Row(filters + r"bn\.num_batches_tracked)", theirs, COUNT),
    ]
    large = r"feat_extract\.[0125]|ConvsOut\.\d|FAM\d\.merge|SCM\d\.main\.[02]"
    small = r"Convs\.\d|SCM\d\.main\.[13]"
    doubling = r"feat_extract\.[34]"
    return (
        *rows,
        Row(rf"((?:{large})\.main\.0)\.kernel", r"\1.weight", CONV),
        Row(rf"((?:{small})\.main\.0)\.kernel", r"\1.weight", CONV1X1),
        Row(rf"((?:{doubling})\.main\.0)\.kernel", r"\1.weight", CONV_TRANSPOSE),
        Row(rf"((?:{large}|{small}|{doubling})\.main\.0\.bias)", r"\1"),
        Row(r"(SCM\d\.main\.4\.(?:weight|bias))", r"\1"),
    )


SFNET = Table(
    rows=_sfnet_rows(),
    # Gains of a filter's two parts, which its modulator replaced.
    dead=(r"(En|De)coder\.\d\.layers\.\d+\.dyna(_2)?\.lamb_[lh]",),
)

_NAF_BLOCK = r"((?:encoders|decoders)\.\d+|middle_blks)\.blocks\."
NAFNET = Table(
    rows=(
        Row(_NAF_BLOCK + r"(norm[12]\.(?:weight|bias))", r"\1.{i}.\2"),
        Row(_NAF_BLOCK + r"(beta|gamma)", r"\1.{i}.\2", CHANNELS),
        Row(_NAF_BLOCK + r"(conv[1345])\.kernel", r"\1.{i}.\2.weight", CONV1X1),
        Row(_NAF_BLOCK + r"conv2\.kernel", r"\1.{i}.conv2.weight", DEPTHWISE),
        Row(_NAF_BLOCK + r"(conv\d\.bias)", r"\1.{i}.\2"),
        Row(_NAF_BLOCK + r"sca\.kernel", r"\1.{i}.sca.1.weight", CONV1X1),
        Row(_NAF_BLOCK + r"sca\.bias", r"\1.{i}.sca.1.bias"),
        Row(r"(ups\.\d+)\.kernel", r"\1.0.weight", CONV1X1),
        Row(r"(intro|ending|downs\.\d+)\.kernel", r"\1.weight", CONV),
        Row(r"((?:intro|ending|downs\.\d+)\.bias)", r"\1"),
    ),
)

# The rows of the experts' weights, eight a step, lie in the steps.
_EIGHTS = Layout(lambda t: t.reshape(-1, 8), lambda t: t.reshape(-1))
_EIGHTS_OF_ROWS = Layout(
    lambda t: t.reshape(-1, 8, t.shape[1]).swapaxes(1, 2),
    lambda t: t.swapaxes(1, 2).reshape(-1, t.shape[1]),
)


def _expert_rows() -> tuple[Row, ...]:
    step, theirs = r"(encoder_level0|refinement)\.steps\.blocks\.", r"\1.layers.1._ops.{i}."
    rows = [
        Row(step + r"ca_fc\.kernel", r"\1.layers.0.ca_fc.2.weight", _EIGHTS_OF_ROWS),
        Row(step + r"ca_fc\.bias", r"\1.layers.0.ca_fc.2.bias", _EIGHTS),
        Row(step + r"out\.kernel", theirs + "_out.0.weight", CONV1X1),
    ]
    # The first four experts have two filters and products around a ReLU, the others one of each.
    for experts, places in ("[0-3]", {"1": (0, 1), "2": (3, 4)}), ("[4-6]", {"2": (0, 1)}):
        for number, (filters, mix) in places.items():
            op = step + rf"ops\.({experts})\."
            place = theirs + r"_ops.\2.op."
            rows.append(Row(op + rf"filter{number}\.kernel", f"{place}{filters}.weight", DEPTHWISE))
            rows.append(Row(op + rf"mix{number}\.kernel", f"{place}{mix}.weight", CONV1X1))
    return tuple(rows)


DRSFORMER = Table(
    rows=(
        *_restormer_rows(),
        Row(r"(\w+)\.blocks\.(attn\.attn[1-4])", r"\1.{i}.\2"),
        Row(r"(\w+)\.blocks\.(ffn\.dwconv[35]x[35])\.kernel", r"\1.{i}.\2.weight", DEPTHWISE),
        Row(r"(\w+)\.blocks\.(ffn\.dwconv[35]x[35]_1)\.kernel", r"\1.{i}.\2.weight", CONV),
        Row(r"(\w+)\.ca_fc\.kernel", r"\1.layers.0.ca_fc.0.weight", LINEAR),
        Row(r"(\w+)\.ca_fc\.bias", r"\1.layers.0.ca_fc.0.bias"),
        Row(r"(\w+)\.preprocess\.kernel", r"\1.layers.1.preprocess.op.0.weight", CONV1X1),
        *_expert_rows(),
    )
)

# Towers and diffusion networks carry the names of transformers and diffusers unchanged.
HUGGING_FACE = Table(
    rows=(
        Row(r"(.+)\.blocks\.(.+)\.kernel", r"\1.{i}.\2.weight", KERNEL),
        Row(r"(.+)\.blocks\.(.+)(?<!\.kernel)", r"\1.{i}.\2"),
        Row(r"(?!.+\.blocks\.)(.+)\.kernel", r"\1.weight", KERNEL),
        Row(r"(?!.+\.blocks\.)(.+)(?<!\.kernel)", r"\1"),
    ),
    dead=(r"(.+\.)?position_ids",),  # counted from 0; older versions saved them
)

# One perceptron a word; attention to the context named as TDR does, dots of the path turned to "_".
_WORDS = (
    Row(r"(mapping(?:_patch)?)\.(\d)\.kernel", r"\1_{i}.\2.weight", LINEAR),
    Row(r"(mapping(?:_patch)?)\.(\d)\.(weight|bias)", r"\1_{i}.\2.\3"),
    Row(r"(attention\.\w+)\.kernel", r"\1.weight", LINEAR),
    Row(r"(attention\.\w+\.(?:weight|bias)|task_embedding\.weight)", r"\1"),
)
_PLACE = r"attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2\.(to_[kv])\.kernel"
IMAGE_TO_TEXT = Table(
    rows=(
        *_WORDS,
        Row(
            rf"kv\.(down|up)_blocks\.(\d+)\.{_PLACE}",
            r"\1_blocks_\2_attentions_\3_transformer_blocks_\4_attn2_\5.weight",
            LINEAR,
        ),
        Row(
            rf"kv\.mid_block\.{_PLACE}",
            r"mid_block_attentions_\1_transformer_blocks_\2_attn2_\3.weight",
            LINEAR,
        ),
    )
)
TEXTUAL_RESTORATION = Table(rows=_WORDS)

# What guides the others, of any of these backbones: the encoder that both pictures go through.
_REFERENCE_ENCODER = (
    Row(r"(masa_enc\.conv_L\d)\.kernel", r"\1.weight", CONV),
    Row(r"(masa_enc\.conv_L\d\.bias)", r"\1"),
    Row(r"(masa_enc\.blk_L\d)\.blocks\.(conv[12])\.kernel", r"\1.{i}.\2.weight", CONV),
    Row(r"(masa_enc\.blk_L\d)\.blocks\.(conv[12]\.bias)", r"\1.{i}.\2"),
)


def _guided(base: Table, block: str, places: dict[str, str], *alpha: Row) -> Table:
    """The backbone's rows, and those of its blocks again for the blocks that join the features.

    Args:
        base: the backbone's, whose names come behind `base.` here and bare in the reference.
        block: how the patterns of its blocks begin; their one group is `\\1` there.
        places: the same for the blocks that join features.
        *alpha: what these blocks have besides.
    """
    fusion = (
        Row(row.ours.replace(block, ours), row.theirs.replace(r"\1.", theirs), row.layout)
        for ours, theirs in places.items()
        for row in base.rows
        if row.ours.startswith(block)
    )
    wrapped = (Row(rf"base\.(?:{row.ours})", row.theirs, row.layout) for row in base.rows)
    return Table((*wrapped, *_REFERENCE_ENCODER, *fusion, *alpha), base.dead)


def _guided_transformer(base: Table) -> Table:
    ours, theirs = r"masa_blk\.(enc_level\d)\.blocks\.", r"masa_blk_\1."
    alpha = Row(ours + "alpha", theirs + "{i}.alpha")
    return _guided(base, r"(\w+)\.blocks\.", {ours + r"body\.": theirs}, alpha)


# By the class of the backbone. The reference's guided SFNet cannot run, so it has no checkpoints.
GUIDED = {
    "Restormer": _guided_transformer(RESTORMER),
    "PromptIR": _guided_transformer(PROMPTIR),
    "DRSformer": _guided_transformer(DRSFORMER),
    "NAFNet": _guided(
        NAFNET,
        _NAF_BLOCK,
        {
            r"masa_blk\.enc_(\d)\.blocks\.": r"masa_blk_enc.\1.",
            r"masa_blk\.(middle)\.blocks\.": r"masa_blk_\1.0.",
        },
    ),
}

# By the class of the network, whatever name and size it was built under.
TABLES = {
    "Restormer": RESTORMER,
    "PromptIR": PROMPTIR,
    "TextPromptIR": TEXTPROMPTIR,
    "NAFNet": NAFNET,
    "SFNet": SFNET,
    "DRSformer": DRSFORMER,
    "ImageToText": IMAGE_TO_TEXT,
    "TextualRestoration": TEXTUAL_RESTORATION,
    "Bert": HUGGING_FACE,
    "ClipText": HUGGING_FACE,
    "ClipVision": HUGGING_FACE,
    "Dinov2": HUGGING_FACE,
    "UNet": HUGGING_FACE,
    "AutoencoderKL": HUGGING_FACE,
}


def of(network) -> Table | None:
    """Returns the network's table, or None where PyTorch has no such network."""
    if network.kind == "Guided":
        return GUIDED.get(network.config.base.kind)
    return TABLES.get(network.kind)


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
    found, faults, depths = [], [], {}
    for name, shape in shapes.items():
        matches = [(row, m) for row in table.rows if (m := re.fullmatch(row.ours, name))]
        if len(matches) != 1:
            faults.append(f"{name} matches {len(matches)} rows")
            continue
        row, match = matches[0]
        theirs = match.expand(row.theirs)
        indices = range(shape[0]) if "{i}" in theirs else (None,)
        if "{i}" in theirs:
            depths[theirs.partition("{i}")[0]] = shape[0]
        found += [Entry(theirs.replace("{i}", str(i)), name, i, row.layout) for i in indices]
    if faults:
        raise KeyError("; ".join(faults))
    for k, entry in enumerate(found):
        stage, last, rest = entry.theirs.partition("{last}")
        if last:
            found[k] = dataclasses.replace(entry, theirs=f"{stage}{depths.get(stage, 0)}{rest}")
    return found
