"""DINOv2 under the names of Facebook's own checkpoints (`dinov2_vitb14_pretrain.pth`)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tdr_jax.convert import lazy

SIGN = r"^blocks\.\d+\.ls1\.gamma$"
# (theirs, those of transformers: one, or one for each part of the first axis).
ROWS = (
    (r"cls_token", ("embeddings.cls_token",)),
    (r"mask_token", ("embeddings.mask_token",)),
    (r"pos_embed", ("embeddings.position_embeddings",)),
    (r"patch_embed\.proj\.(\w+)", (r"embeddings.patch_embeddings.projection.\1",)),
    (r"blocks\.(\d+)\.(norm[12]\.\w+|mlp\.fc[12]\.\w+)", (r"encoder.layer.\1.\2",)),
    (
        r"blocks\.(\d+)\.attn\.qkv\.(\w+)",
        tuple(rf"encoder.layer.\1.attention.{x}_proj.\2" for x in "qkv"),
    ),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", (r"encoder.layer.\1.attention.o_proj.\2",)),
    (r"blocks\.(\d+)\.ls([12])\.gamma", (r"encoder.layer.\1.layer_scale\2.lambda1",)),
    (
        r"blocks\.(\d+)\.mlp\.w12\.(\w+)",
        (r"encoder.layer.\1.mlp.gate_proj.\2", r"encoder.layer.\1.mlp.up_proj.\2"),
    ),
    (r"blocks\.(\d+)\.mlp\.w3\.(\w+)", (r"encoder.layer.\1.mlp.down_proj.\2",)),
    (r"norm\.(\w+)", (r"layernorm.\1",)),
)


def of_transformers(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives the tensors of Facebook's file the names that transformers has; nothing is read.

    Args:
        tensors: names to whatever has a shape and becomes an array.

    Returns:
        the same under other names, joined ones in their parts; as it is where it is none of
        Facebook's.
    """
    if not any(re.search(SIGN, name) for name in tensors):
        return tensors
    found = {}
    for name, tensor in tensors.items():
        names = next(
            (
                [re.sub(pattern, new, name) for new in news]
                for pattern, news in ROWS
                if re.fullmatch(pattern, name)
            ),
            [name],
        )
        if len(names) == 1:
            found[names[0]] = tensor
        else:
            found |= {new: lazy.section(tensor, i, len(names)) for i, new in enumerate(names)}
    return found


def fields(shapes) -> dict:
    """The fields of the config that names and shapes tell.

    Args:
        shapes: a `recognise.Shapes`.
    """
    width, patch = shapes("cls_token", 2), shapes("patch_embed.proj.weight", 2)
    swiglu = "blocks.0.mlp.w3.weight" in shapes
    side = int(np.sqrt(shapes("pos_embed", 1) - 1))
    return dict(
        hidden_size=width,
        num_hidden_layers=shapes.count("blocks"),
        num_attention_heads=max(1, width // 64),  # as in all of them
        mlp_ratio=4 if swiglu else shapes("blocks.0.mlp.fc1.weight", 0) / width,
        image_size=patch * side,
        patch_size=patch,
        use_swiglu_ffn=swiglu,
        use_mask_token="mask_token" in shapes,
        interpolate_offset=0.1,  # of the code that goes with these names
    )
