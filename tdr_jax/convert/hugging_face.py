"""Folders of transformers and diffusers: read into our networks, and written for those libraries.

A folder holds `config.json` and `.safetensors` files, one or several with an index. A pipeline is a
folder of such folders with a `model_index.json`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tdr_jax import disk, models
from tdr_jax.convert import exchange, io, lazy, tables
from tdr_jax.errors import InputError

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
OURS = (
    "dtype",
    "remat",
    "scan_unroll",
    "with_projection",
    "interpolate_offset",
)  # how to compute: not in their configs
SHARD_BYTES = 5_000_000_000


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one of our networks appears in their folders.

    Attributes:
        name: of the network without a size, as in `models.build`.
        says: what `config.json` calls it: `_class_name` in diffusers, `model_type` in transformers.
        stem: of its weight files.
        defaults: fields that a config may leave out, where their defaults are not ours.
        fixed: fields with the only values that are computed here.
        part: where it lies in a model of both towers; the prefix of names that may be left out.
        projection: its tensor that some files have and others do not.
        renamed: pieces of names in files, and what they are called here.
    """

    name: str
    says: str
    stem: str
    defaults: dict = dataclasses.field(default_factory=dict)
    fixed: dict = dataclasses.field(default_factory=dict)
    part: str = ""
    projection: str = ""
    renamed: tuple[tuple[str, str], ...] = ()


KINDS = {
    "UNet": Kind(
        "unet",
        "UNet2DConditionModel",
        "diffusion_pytorch_model",
        defaults=dict(cross_attention_dim=1280),
        fixed=dict(
            act_fn="silu",
            addition_embed_type=None,
            attention_type="default",
            center_input_sample=False,
            class_embed_type=None,
            class_embeddings_concat=False,
            conv_in_kernel=3,
            conv_out_kernel=3,
            cross_attention_norm=None,
            downsample_padding=1,
            dual_cross_attention=False,
            encoder_hid_dim=None,
            encoder_hid_dim_type=None,
            mid_block_scale_factor=1,
            mid_block_type="UNetMidBlock2DCrossAttn",
            num_attention_heads=None,
            num_class_embeds=None,
            only_cross_attention=False,
            resnet_out_scale_factor=1.0,
            resnet_skip_time_act=False,
            resnet_time_scale_shift="default",
            reverse_transformer_layers_per_block=None,
            time_cond_proj_dim=None,
            time_embedding_act_fn=None,
            time_embedding_dim=None,
            time_embedding_type="positional",
            timestep_post_act=None,
        ),
    ),
    "AutoencoderKL": Kind(
        "vae",
        "AutoencoderKL",
        "diffusion_pytorch_model",
        defaults=dict(block_out_channels=(64,), layers_per_block=1, sample_size=32),
        fixed=dict(act_fn="silu", latents_mean=None, latents_std=None, shift_factor=None),
        # Attention as diffusers called it until 2023.
        renamed=(
            (".query.", ".to_q."),
            (".key.", ".to_k."),
            (".value.", ".to_v."),
            (".proj_attn.", ".to_out.0."),
        ),
    ),
    "ClipText": Kind(
        "clip-text",
        "clip_text_model",
        "model",
        part="text_model",
        projection="text_projection.weight",
    ),
    "ClipVision": Kind(
        "clip-vision",
        "clip_vision_model",
        "model",
        fixed=dict(num_channels=3),
        part="vision_model",
        projection="visual_projection.weight",
    ),
    "Dinov2": Kind(
        "dinov2",
        "dinov2",
        "model",
        defaults=dict(image_size=224),
        fixed=dict(num_channels=3),
        # transformers 5 renames on the way in and out; files have kept the older names.
        renamed=(
            (".attention.attention.query.", ".attention.q_proj."),
            (".attention.attention.key.", ".attention.k_proj."),
            (".attention.attention.value.", ".attention.v_proj."),
            (".attention.output.dense.", ".attention.o_proj."),
            (".mlp.weights_out.", ".mlp.down_proj."),
        ),
    ),
}
# One tensor of a file, two of ours: the halves of its first axis.
HALVES = (".mlp.weights_in.", (".mlp.gate_proj.", ".mlp.up_proj."))
TOWERS = ("vision_model", "text_model")
# What a model of both towers holds beside the tower that is read.
NOT_OF_A_TOWER = re.compile(r"logit_scale|(text|visual)_projection\.weight")


def is_folder(path: Path) -> bool:
    """Whether a folder has weights of transformers or diffusers, not ours."""
    if not path.is_dir():
        return False
    config = path / io.CONFIG_NAME
    if not config.exists():  # a model.safetensors alone may be ours, which says itself what it is
        return any(path.glob(f"{STEMS[0]}*"))
    content = disk.read_json(config)
    return "_class_name" in content or "model_type" in content


def read(folder: Path, part: str | None = None) -> tuple[models.Network, Mapping]:
    """Opens the network of a folder.

    Args:
        folder: of `save_pretrained` of transformers or diffusers, or of `write`.
        part: of a CLIP model with both towers: "vision_model" (default) or "text_model".

    Returns:
        The network, and its tensors by the names of `exchange.torch_names`, most of them still on
        disk.

    Raises:
        InputError: a file is missing or damaged, holds another dtype, or is of a network that is
            not known here.
    """
    config = disk.read_json(folder / io.CONFIG_NAME)
    kind, fields = _recognise(folder / io.CONFIG_NAME, config, part)
    tensors = rename(kind, _read(folder))
    if kind.projection:
        fields["with_projection"] = kind.projection in tensors
    try:
        return models.build_from(kind.name, fields), tensors
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _recognise(path: Path, config: dict, part: str | None) -> tuple[Kind, dict]:
    """Which network a config describes, and the fields of ours."""
    said = config.get("_class_name") or config.get("model_type")
    if said == "clip":
        part = part or TOWERS[0]
        if part not in TOWERS:
            raise InputError(f"{path}: CLIP has no part {part!r}; it has {' and '.join(TOWERS)}")
        tower = "text" if part == "text_model" else "vision"
        shared = {"projection_dim": config.get("projection_dim", 512)}  # whatever a tower says
        config = config.get(f"{tower}_config", {}) | shared
        said = f"clip_{tower}_model"
    kinds = {kind.says: (ours, kind) for ours, kind in KINDS.items()}
    if said not in kinds:
        raise InputError(
            f"{path} describes {said}, which is not known here; these are: clip, {', '.join(kinds)}"
        )
    ours, kind = kinds[said]
    for field, value in kind.fixed.items():
        if config.get(field, value) != value:
            raise InputError(
                f"{path} has {field}={config[field]!r}; only {value!r} is computed here"
            )
    known = {f.name: f.default for f in dataclasses.fields(models.config_class(kind.name))}
    fields = {
        name: config[name] if config.get(name) is not None else kind.defaults.get(name, default)
        for name, default in known.items()
        if name not in OURS and (name in config or name in kind.defaults)
    }
    for name in ("sample_size", "transformer_layers_per_block", "cross_attention_dim"):
        value = fields.get(name)
        if isinstance(value, list) and len(set(value)) == 1:  # the same for each level
            fields[name] = value[0]
    return kind, fields


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, the best first: whole precision, halves, PyTorch's own."""
    found = []
    for stem in STEMS:
        plain = [folder / f"{stem}{end}" for end in (".safetensors", ".safetensors.index.json")]
        found += [path for path in plain if path.exists()]
        for pattern in (f"{stem}.*.safetensors", f"{stem}.safetensors.index.*.json"):
            found += sorted(folder.glob(pattern))
    return found or [path for stem in STEMS for path in folder.glob(f"{stem}.bin")]


def _read(folder: Path) -> Mapping:
    """All tensors of a folder by name, most of them still on disk."""
    found = _weight_files(folder)
    if not found:
        raise InputError(
            f"{folder} has no weights: put {STEMS[0]}.safetensors (diffusers) or "
            f"{STEMS[1]}.safetensors (transformers) beside its config.json"
        )
    if found[0].suffix == ".bin":
        return io.read(found[0]).tensors
    if found[0].suffix == ".json":
        index = disk.read_json(found[0]).get("weight_map")
        if not isinstance(index, dict):
            raise InputError(f"{found[0]} has no weight_map; copy it again")
        shards = [folder / Path(name).name for name in sorted(set(index.values()))]
        if missing := [path.name for path in shards if not path.exists()]:
            raise InputError(f"{folder} lacks {', '.join(missing)}, which {found[0].name} names")
    else:
        shards, index = found[:1], {}
    tensors = {}
    for path in shards:
        tensors |= lazy.open_safetensors(path)
    if absent := sorted(index.keys() - tensors.keys()):
        raise InputError(f"{found[0]} names {absent[0]}, which is in none of its files")
    return tensors


def rename(kind: Kind, tensors: Mapping) -> dict:
    """Gives a file's tensors the names of the module; what is of the other tower goes."""
    own = f"{kind.part}."
    renamed = {}
    for name, tensor in tensors.items():
        if kind.part:
            if name.startswith(tuple(f"{part}." for part in TOWERS if part != kind.part)):
                continue
            if NOT_OF_A_TOWER.fullmatch(name) and name != kind.projection:
                continue
            name = name.removeprefix(own)
        for theirs, ours in kind.renamed:
            name = name.replace(theirs, ours)
        if kind.name == "dinov2" and HALVES[0] in name:
            for which, ours in enumerate(HALVES[1]):
                renamed[name.replace(HALVES[0], ours)] = lazy.section(tensor, which, 2)
        else:
            renamed[name] = tensor
    return renamed


def write(
    folder: Path, network: models.Network, params: models.Params, dtype: str = "float32"
) -> Path:
    """Writes a folder that transformers or diffusers loads; files appear when they are complete.

    Args:
        folder: made if missing.
        network: a tower, UNet or autoencoder.
        params: its flat parameters.
        dtype: of the file: "float32", "float16" or "bfloat16".

    Returns:
        The weight file written, or the index of several.

    Raises:
        InputError: it cannot be written.
    """
    kind = KINDS[network.kind]
    if dtype not in lazy.DTYPES.values():
        raise InputError(f"dtype {dtype!r}: files hold {', '.join(lazy.DTYPES.values())}")
    names = _file_names(kind, network)
    size = np.dtype(jnp.dtype(dtype)).itemsize
    shards: list[dict[str, list]] = [{}]
    filled = 0
    for name, entries in names.items():
        shapes = [np.shape(params[e.ours])[0 if e.index is None else 1 :] for e in entries]
        count = size * sum(int(np.prod(shape)) for shape in shapes)
        if filled and filled + count > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = entries
        filled += count
    total = len(shards)
    paths = [
        folder / (f"{kind.stem}-{i + 1:05d}-of-{total:05d}" if total > 1 else kind.stem)
        for i in range(total)
    ]
    paths = [path.with_name(f"{path.name}.safetensors") for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        tensors = {name: _joined(entries, params) for name, entries in shard.items()}
        io.write_safetensors(path, tensors, {"format": "pt"}, dtype=dtype)
    weights = paths[0]
    if total > 1:
        weights = folder / f"{kind.stem}.safetensors.index.json"
        where = {
            name: path.name for path, shard in zip(paths, shards, strict=True) for name in shard
        }
        disk.write_json(weights, {"metadata": {}, "weight_map": where})
    disk.write_json(folder / io.CONFIG_NAME, _config(kind, network))
    return weights


def _file_names(kind: Kind, network: models.Network) -> dict[str, list[tables.Entry]]:
    """The tensors of the file, each with the parameters it is joined from."""
    names: dict[str, list[tables.Entry]] = {}
    for entry in exchange.entries(network):
        name = entry.theirs
        if kind.name == "dinov2":
            for theirs, ours in kind.renamed:
                name = name.replace(ours, theirs)
            for half in HALVES[1]:
                name = name.replace(half, HALVES[0])
        if kind.part and name != kind.projection:
            name = f"{kind.part}.{name}"
        names.setdefault(name, []).append(entry)
    return names


def _joined(entries: list[tables.Entry], params: models.Params) -> np.ndarray:
    parts = []
    for entry in entries:
        array = params[entry.ours]
        array = np.asarray(array if entry.index is None else array[entry.index], np.float32)
        parts.append(entry.layout.to_torch(array))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _config(kind: Kind, network: models.Network) -> dict:
    config = dataclasses.asdict(network.config)
    shared = {key: value for key, value in config.items() if key not in OURS} | kind.fixed
    if kind.stem != "model":
        if network.kind == "AutoencoderKL":
            levels = len(config["block_out_channels"])
            shared["down_block_types"] = ["DownEncoderBlock2D"] * levels
            shared["up_block_types"] = ["UpDecoderBlock2D"] * levels
        return shared | {"_class_name": kind.says, "_diffusers_version": "0.40.0"}
    architectures = {"ClipText": "CLIPTextModel", "ClipVision": "CLIPVisionModel"}
    name = architectures.get(network.kind, "Dinov2Model")
    name += "WithProjection" if config.get("with_projection") else ""
    return shared | {"architectures": [name], "model_type": kind.says}
