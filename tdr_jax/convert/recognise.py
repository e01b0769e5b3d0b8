"""Which network a PyTorch state dict is of, and its hyper-parameters, read off names and shapes."""

import dataclasses
import math
import re
from collections.abc import Callable

from tdr_jax import models
from tdr_jax.convert import dinov2_names, exchange, io, tables
from tdr_jax.errors import InputError

# Keys that TDR's mapper copied from a UNet; their names are all that is left of its modules'.
CROSS_ATTENTION = re.compile(
    r"(mid_block|(?:down|up)_blocks_\d+)_attentions_(\d+)_transformer_blocks_(\d+)_attn2_to_k\.weight"
)


class Shapes:
    """The shapes of a state dict, by name.

    Args:
        tensors: names to anything with a shape.
        name: of the network that they are taken for.

    Raises:
        InputError: by the methods, when the tensor that would tell is not there or misshapen.
    """

    def __init__(self, tensors: dict, name: str):
        self._shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        self.name = name

    def without(self, prefix: str) -> "Shapes":
        """Those whose names begin otherwise."""
        rest = Shapes({}, self.name)
        kept = ((key, shape) for key, shape in self._shapes.items() if not key.startswith(prefix))
        rest._shapes = dict(kept)
        return rest

    def signature(self) -> "Signature | None":
        """The first of SIGNATURES that the names bear."""
        return next(
            (s for s in SIGNATURES if any(re.search(s.pattern, k) for k in self._shapes)), None
        )

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def __call__(self, key: str, axis: int) -> int:
        """The size of one axis of one tensor."""
        if key not in self._shapes:
            raise InputError(f"the tensors look like {self.name}'s, but {key} is missing")
        shape = self._shapes[key]
        if axis >= len(shape):
            raise InputError(f"the tensors look like {self.name}'s, but {key} is {shape}")
        return shape[axis]

    def count(self, stage: str) -> int:
        """One more than the largest index that stands behind `stage.`; 0 if there is none."""
        tails = (key[len(stage) + 1 :] for key in self._shapes if key.startswith(stage + "."))
        indices = (tail.partition(".")[0] for tail in tails)
        return max((int(index) + 1 for index in indices if index.isdecimal()), default=0)

    def numbered(self, stem: str) -> int:
        """One more than the largest number that stands right behind `stem`; 0 if there is none."""
        numbers = (re.match(rf"{re.escape(stem)}(\d+)\.", key) for key in self._shapes)
        return max((int(number[1]) + 1 for number in numbers if number), default=0)

    def cross_attention(self) -> tuple[tuple[str, int], ...]:
        """UNet paths, whose dots the names have lost, and widths of keys to the context, sorted."""
        found = []
        for key, shape in self._shapes.items():
            if match := CROSS_ATTENTION.fullmatch(key):
                block, attention, layer = match.groups()
                place = f"{block.replace('blocks_', 'blocks.')}.attentions.{attention}"
                path = f"{place}.transformer_blocks.{layer}.attn2"
                found.append((path, shape[0] if shape else 0))
        return tuple(sorted(found))

    def pairs(self, ending: str) -> set[tuple[int, int]]:
        """The first two axes of every tensor whose name ends so.

        Args:
            ending: of the name, ".weight" for one.

        Returns:
            Sizes (first, second), each once; tensors of fewer axes are left out.
        """
        return {
            shape[:2]
            for key, shape in self._shapes.items()
            if key.endswith(ending) and len(shape) >= 2
        }


def _expansion(sizes: set[tuple[int, int]]) -> float:
    """The shortest decimal f with int(width f) = hidden for all (width, hidden); 2.66 if it fits.

    Raises:
        InputError: there is none.
    """

    def fits(factor: float) -> bool:
        return all(int(width * factor) == hidden for width, hidden in sizes)

    if fits(2.66):
        return 2.66
    least = max((hidden / width for width, hidden in sizes if width), default=0)
    for digits in range(7):
        candidate = math.ceil(least * 10**digits) / 10**digits
        for factor in (candidate, round(candidate + 10**-digits, digits)):  # int() may round down
            if fits(factor):
                return factor
    raise InputError(
        f"no ffn_expansion_factor gives the widths of the feed-forward halves {sorted(sizes)}"
    )


def _transformer(shapes: Shapes) -> dict:
    """What Restormer and its descendants have in common."""
    stages = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    return dict(
        inp_channels=shapes("patch_embed.proj.weight", 1),
        out_channels=shapes("output.weight", 0),
        dim=shapes("patch_embed.proj.weight", 0),
        num_blocks=tuple(shapes.count(stage) for stage in stages),
        heads=tuple(shapes(f"{stage}.0.attn.temperature", 0) for stage in stages),
        bias="encoder_level1.0.attn.qkv.bias" in shapes,
    )


def _norm(shapes: Shapes) -> str:
    return "WithBias" if "encoder_level1.0.norm1.body.bias" in shapes else "BiasFree"


def _restormer(shapes: Shapes) -> dict:
    return dict(
        **_transformer(shapes),
        num_refinement_blocks=shapes.count("refinement"),
        ffn_expansion_factor=_expansion(shapes.pairs(".ffn.project_out.weight")),
        LayerNorm_type=_norm(shapes),
        dual_pixel_task="skip_conv.weight" in shapes,
    )


def _promptir(shapes: Shapes) -> dict:
    params = [f"prompt{level}.prompt_param" for level in (1, 2, 3)]
    fields = _restormer(shapes)
    del fields["dual_pixel_task"]
    return fields | dict(
        prompt_len=shapes(params[0], 1),
        prompt_dim=tuple(shapes(param, 2) for param in params),
        prompt_size=tuple(shapes(param, 3) for param in params),
    )


def _textpromptir(shapes: Shapes) -> dict:
    fields = _transformer(shapes)
    # Three colours unshuffled by s are 3 s^2 channels; any other number is taken as it is.
    shuffle = math.isqrt(fields["inp_channels"] // 3)
    if shuffle and 3 * shuffle**2 == fields["inp_channels"] == fields["out_channels"]:
        fields |= dict(inp_channels=3, out_channels=3, input_shuffle=shuffle)
    return fields | dict(
        num_refinement_blocks=shapes.count("refinement"),
        ffn_expansion_factor=_expansion(shapes.pairs(".ffn.project_out.weight")),
        text_dim=shapes("linear1.weight", 1),
        text_hidden=(shapes("linear1.weight", 0), shapes("linear2.weight", 0)),
    )


def _drsformer(shapes: Shapes) -> dict:
    sizes = shapes.pairs(".ffn.project_out.weight")
    return dict(
        **_transformer(shapes),
        ffn_expansion_factor=_expansion({(width, double // 2) for width, double in sizes}),
        LayerNorm_type=_norm(shapes),
        mefc="encoder_level0.layers.0.ca_fc.0.weight" in shapes,
    )


def _nafnet(shapes: Shapes) -> dict:
    levels = range(shapes.count("downs"))
    return dict(
        img_channel=shapes("intro.weight", 1),
        width=shapes("intro.weight", 0),
        middle_blk_num=shapes.count("middle_blks"),
        enc_blk_nums=tuple(shapes.count(f"encoders.{level}") for level in levels),
        dec_blk_nums=tuple(shapes.count(f"decoders.{level}") for level in levels),
    )


def _sfnet(shapes: Shapes) -> dict:
    return dict(
        num_res=shapes.count("Encoder.0.layers"),
        base_channel=shapes("feat_extract.0.main.0.weight", 0),
    )


def _words(shapes: Shapes) -> dict:
    """What the two mappers have in common: one perceptron a word."""
    return dict(
        num_words=shapes.numbered("mapping_"),
        input_dim=shapes("mapping_0.0.weight", 1),
        hidden_dim=shapes("mapping_0.0.weight", 0),
        attention="attention.to_q.weight" in shapes,
    )


def _image_to_text(shapes: Shapes) -> dict:
    return dict(
        **_words(shapes),
        output_dim=shapes("mapping_0.9.weight", 0),
        cross_attention=shapes.cross_attention(),
    )


def _textual_restoration(shapes: Shapes) -> dict:
    embedding = "task_embedding.weight"
    return dict(**_words(shapes), tasks=shapes(embedding, 0) if embedding in shapes else 0)


def _guided(shapes: Shapes) -> dict:
    base = shapes.without("masa_")
    signature = base.signature()
    if signature is None or models.build(signature.name).kind not in tables.GUIDED:
        found = "no backbone known here" if signature is None else signature.name
        raise InputError(f"the tensors are a guided network's, but around {found}")
    places = [f"masa_blk_enc_level{level}" for level in (1, 2, 3, 4)]
    if signature.name == "nafnet":
        places = [f"masa_blk_enc.{level}" for level in range(base.count("downs"))]
        places.append("masa_blk_middle.0")
    fields = signature.fields(base)
    default = models.build(signature.name).config
    return {key: value for key, value in fields.items() if getattr(default, key) != value} | dict(
        backbone=signature.name,
        nf=shapes("masa_enc.conv_L1.weight", 0),
        encoder_channels=shapes("masa_enc.conv_L1.weight", 1),
        n_blks=tuple(shapes.count(f"masa_enc.blk_L{n}") for n, _ in enumerate(places, 1)),
        reffusion_n_blocks=tuple(map(shapes.count, places)),
        padding="zeros",  # nothing in a file of TDR's tells, but its code pads so
    )


@dataclasses.dataclass(frozen=True)
class Signature:
    """How to tell a network: a pattern of names that none below it has, and how to read it."""

    name: str
    pattern: str
    fields: Callable[[Shapes], dict]


# In this order: a guided network holds one of the others, the next three have blocks under
# Restormer's names, the last three are mappers and a tower.
SIGNATURES = (
    Signature("guided", r"^masa_(enc|blk)", _guided),
    Signature("textpromptir", r"\.fusion\.conv\.weight$", _textpromptir),
    Signature("promptir", r"^(prompt|noise_level|reduce_noise_level)\d\.", _promptir),
    Signature("drsformer", r"\.attn\.attn[1-4]$", _drsformer),
    Signature("restormer", r"\.attn\.qkv_dwconv\.weight$", _restormer),
    Signature("nafnet", r"^(intro\.weight|middle_blks\.\d+\.conv1\.weight)$", _nafnet),
    Signature("sfnet", r"^(feat_extract|ConvsOut|SCM\d)\.", _sfnet),
    Signature("image-to-text", r"^mapping_patch_\d+\.|_attn2_to_[kv]\.weight$", _image_to_text),
    Signature("textual-restoration", r"^mapping_\d+\.", _textual_restoration),
    Signature("dinov2", dinov2_names.SIGN, dinov2_names.fields),
)


def recognise(state_dict: dict, name: str | None = None) -> tuple[str, dict]:
    """Tells which network the tensors are of, and with which hyper-parameters.

    Args:
        state_dict: PyTorch names to tensors or arrays.
        name: of the network they must be of; by default any that can be exchanged with PyTorch.

    Returns:
        The network's name, and the fields of its config that differ from what `models.build` gives
        by that name. What shapes do not tell (dtype, the windows of test-time means) is left alone.

    Raises:
        InputError: the tensors are of no known network, of another than `name`, or a tensor that
            would tell is missing.
    """
    shapes = Shapes(state_dict, "")
    signature = shapes.signature()
    wanted = None if name is None else _build(name)
    if signature is None:
        raise InputError(_nearest(state_dict, wanted))
    if wanted is not None and models.build(signature.name).kind != wanted.kind:
        raise InputError(
            f"the tensors are {signature.name}'s, not {name}'s: leave the network's name out"
        )
    network = wanted or models.build(signature.name)
    default = network.config
    shapes.name = signature.name
    fields = signature.fields(shapes)
    if signature.name == "guided":  # whose defaults hang on the backbone
        return network.name, fields
    return network.name, {k: v for k, v in fields.items() if getattr(default, k) != v}


def network_of(
    checkpoint: io.Checkpoint, name: str | None = None, overrides: dict | None = None
) -> models.Network:
    """Tells by its tensors which network a file holds that does not say it.

    Args:
        checkpoint: of `io.read`.
        name: of the network it must be; by default what is recognised.
        overrides: fields of the config, over what the shapes tell.

    Raises:
        InputError: the tensors are of no known network or of another one.
    """
    if checkpoint.ours:
        raise InputError("it names no network: give the folder with its config.json")
    try:
        name, fields = recognise(checkpoint.tensors, name)
    except InputError as error:
        silent = "it names no network, and " if checkpoint.path.suffix == io.SUFFIX else ""
        raise InputError(f"{silent}{error}") from error
    return models.build_from(name, fields | (overrides or {}))


def _build(name: str) -> models.Network:
    try:
        return models.build(name)
    except ValueError as error:
        raise InputError(error) from error


def _nearest(state_dict: dict, wanted: models.Network | None) -> str:
    """Names the network that shares most names with the tensors, and what of it they lack."""
    networks = [wanted] if wanted else [models.build(signature.name) for signature in SIGNATURES]
    keys, best, lacking = set(state_dict), None, []
    for network in networks:
        theirs = exchange.torch_names(network)
        shared = len(keys & set(theirs)) / max(1, len(keys | set(theirs)))
        if best is None or shared > best[0]:
            best = shared, network.name
            lacking = [name for name in theirs if name not in keys]
    shared, nearest = best
    example = ", ".join(sorted(map(str, keys))[:3]) or "none"
    line = f"the tensors ({len(keys)}: {example}, ...) are of no network known here"
    if wanted:
        line = f"the tensors ({len(keys)}: {example}, ...) are not {nearest}'s"
    elif not shared:
        known = ", ".join(signature.name for signature in SIGNATURES)
        return (
            f"{line}; these are: {known}; towers and diffusion networks come as folders with "
            "config.json"
        )
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    which = "" if wanted else f"; the nearest is {nearest}"
    return f"{line}{which}, of which they lack {', '.join(lacking[:3])}{more}"
