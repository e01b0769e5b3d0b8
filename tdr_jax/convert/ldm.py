"""Single-file checkpoints of Stable Diffusion in the layout of the original code.

One file holds UNet, autoencoder and text tower under `model.diffusion_model.`, `first_stage_model.`
and `cond_stage_model.`; sizes are read off the shapes.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tdr_jax import models
from tdr_jax.convert import exchange, io, lazy
from tdr_jax.errors import InputError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."

_RESIDUAL = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
_UNET_ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
_VAE_NAMES = (
    (r"(encoder)\.down\.(\d+)\.block\.", r"\1.down_blocks.\2.resnets."),
    (r"(encoder)\.down\.(\d+)\.downsample\.", r"\1.down_blocks.\2.downsamplers.0."),
    (r"(decoder)\.up\.(\d+)\.block\.", r"\1.up_blocks.\2.resnets."),
    (r"(decoder)\.up\.(\d+)\.upsample\.", r"\1.up_blocks.\2.upsamplers.0."),
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"nin_shortcut\.", "conv_shortcut."),
    (r"norm_out\.", "conv_norm_out."),
)
_OPEN_CLIP_NAMES = (
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def is_file(path: Path) -> bool:
    """Whether a file is a whole checkpoint in the original layout."""
    if path.suffix != io.SUFFIX or not path.is_file():
        return False
    try:
        return any(name.startswith(UNET) for name in lazy.open_safetensors(path))
    except InputError:  # which its reader says
        return False


def read(tensors: Mapping, name: str) -> tuple[models.Network, Mapping]:
    """Opens one part of a checkpoint.

    Args:
        tensors: all of the file's, by name, on disk or in memory.
        name: of the part: "unet", "vae" or "text_encoder".

    Returns:
        The network, and its tensors by the names of `exchange.torch_names`.

    Raises:
        InputError: the part is not there, or it is of another architecture.
    """
    prefixes = {"unet": (UNET,), "vae": (VAE,), "text_encoder": (CLIP, OPEN_CLIP)}[name]
    for prefix in prefixes:
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if own:
            break
    else:
        raise InputError(f"the checkpoint has no {name}: no name starts with {prefixes[0]}")
    layout = {UNET: _unet, VAE: _vae, CLIP: _clip, OPEN_CLIP: _open_clip}[prefix]
    try:
        kind, fields, renamed = layout(own)
    except (KeyError, IndexError) as error:
        raise InputError(f"its {name} has no {error}: it is of another architecture") from error
    return models.build_from(kind, fields), renamed


def _unet(own: Mapping) -> tuple[str, dict, dict]:
    width = own["input_blocks.0.0.weight"].shape[0]
    places = dict(_UNET_ENDS)
    channels, crossed, depths, index = [width], [False], [0], 1
    while f"input_blocks.{index}.0.op.weight" in own or (
        f"input_blocks.{index}.0.in_layers.2.weight" in own
    ):
        level, block = len(depths) - 1, f"input_blocks.{index}."
        if f"{block}0.op.weight" in own:
            places[f"{block}0.op."] = f"down_blocks.{level}.downsamplers.0.conv."
            channels.append(0)
            crossed.append(False)
            depths.append(0)
        else:
            places[f"{block}0."] = f"down_blocks.{level}.resnets.{depths[-1]}."
            channels[-1] = own[f"{block}0.in_layers.2.weight"].shape[0]
            if f"{block}1.norm.weight" in own:
                places[f"{block}1."] = f"down_blocks.{level}.attentions.{depths[-1]}."
                crossed[-1] = True
            depths[-1] += 1
        index += 1
    index = 0
    for up, has_attention in enumerate(crossed[::-1]):
        for j in range(depths[0] + 1):
            block = f"output_blocks.{index}."
            places[f"{block}0."] = f"up_blocks.{up}.resnets.{j}."
            if has_attention:
                places[f"{block}1."] = f"up_blocks.{up}.attentions.{j}."
            index += 1
        upsampler = f"{block}{1 + has_attention}.conv."
        places[upsampler] = f"up_blocks.{up}.upsamplers.0.conv."
    renamed = {}
    for name, tensor in own.items():
        place = max((p for p in places if name.startswith(p)), key=len, default="")
        rest = name.removeprefix(place)
        for theirs, ours in _RESIDUAL.items():
            rest = rest.replace(theirs, ours)
        renamed[places.get(place, "") + rest] = tensor
    mid = own["middle_block.1.proj_in.weight"]
    linear = len(mid.shape) == 2
    fields = dict(
        in_channels=own["input_blocks.0.0.weight"].shape[1],
        out_channels=own["out.2.weight"].shape[0],
        block_out_channels=tuple(channels),
        layers_per_block=depths[0],
        down_block_types=_types(crossed, "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=_types(crossed[::-1], "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=own["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        use_linear_projection=linear,
        # The original configs: eight heads in version 1, heads of 64 channels in version 2.
        attention_head_dim=tuple(max(1, c // 64) for c in channels) if linear else 8,
    )
    return "unet", fields, renamed


def _types(crossed, cross: str, plain: str) -> tuple[str, ...]:
    return tuple(cross if yes else plain for yes in crossed)


def _vae(own: Mapping) -> tuple[str, dict, dict]:
    own = {n: t for n, t in own.items() if n.startswith(("encoder", "decoder", "quant", "post_q"))}
    levels = [n for n in own if re.fullmatch(r"encoder\.down\.\d+\.block\.0\.conv1\.weight", n)]
    last = len(levels) - 1
    widths = tuple(own[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(last + 1))
    renamed = {}
    for name, tensor in own.items():
        # The decoder's levels are counted from the picture there, from the latents here.
        up = r"(decoder\.up\.)(\d+)(\.)"
        name = re.sub(up, lambda m: f"{m[1]}{last - int(m[2])}{m[3]}", name)
        for theirs, ours in _VAE_NAMES:
            name = re.sub(theirs, ours, name)
        if ".attentions.0.to_" in name and len(tensor.shape) == 4:
            tensor = _reshaped(tensor, tuple(tensor.shape[:2]))  # a 1x1 convolution there
        renamed[name] = tensor
    fields = dict(
        in_channels=own["encoder.conv_in.weight"].shape[1],
        latent_channels=own["decoder.conv_in.weight"].shape[1],
        block_out_channels=widths,
        layers_per_block=len(
            [n for n in own if re.match(r"encoder\.down\.0\.block\.\d+\.conv1\.w", n)]
        ),
    )
    return "vae", fields, renamed


def _clip(own: Mapping) -> tuple[str, dict, dict]:
    return "clip-text", _text_fields(own, "quick_gelu"), dict(own)


def _open_clip(own: Mapping) -> tuple[str, dict, dict]:
    renamed = {}
    layers = 1 + max(int(m[1]) for n in own if (m := re.match(r"transformer\.resblocks\.(\d+)", n)))
    for name, tensor in own.items():
        if name in ("text_projection", "logit_scale", "attn_mask"):
            continue
        if name.startswith(f"transformer.resblocks.{layers - 1}."):
            continue  # version 2 reads the states before the last layer
        for theirs, ours in _OPEN_CLIP_NAMES:
            name = re.sub(theirs, ours, name)
        if ".attn.in_proj_" in name:
            for which, letter in enumerate("qkv"):
                ours = name.replace(".attn.in_proj_", f".self_attn.{letter}_proj.")
                renamed[ours] = lazy.section(tensor, which, 3)
        else:
            renamed[name] = tensor
    return "clip-text", _text_fields(renamed, "gelu"), renamed


def _text_fields(own: Mapping, activation: str) -> dict:
    vocabulary, width = own["embeddings.token_embedding.weight"].shape
    depth = len([n for n in own if n.endswith(".mlp.fc1.weight")])
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=own["embeddings.position_embedding.weight"].shape[0],
        hidden_act=activation,
        eos_token_id=vocabulary - 1,
    )


def _reshaped(tensor, shape: tuple[int, ...]) -> lazy.Tensor:
    return lazy.Tensor(shape, lambda: exchange.to_numpy(tensor).reshape(shape))
