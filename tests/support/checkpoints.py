"""Small networks of every kind that can be exchanged with PyTorch, with random parameters."""

import numpy as np

from tdr_jax import models
from tdr_jax.convert import tables

_TRANSFORMER = dict(dim=8, num_blocks=(1, 2, 1, 1), heads=(1, 1, 2, 2))
_REFINED = dict(**_TRANSFORMER, num_refinement_blocks=1)
_PROMPTS = dict(prompt_dim=(4, 6, 8), prompt_len=3, prompt_size=(4, 3, 2))
_ONE = (1, 1, 1, 1)
# No shape tells how TDR's code continues sides; it pads with zeros.
_GUIDED = dict(reffusion_n_blocks=(2, 1, 1, 1), encoder_channels=3, padding="zeros")

# name, overrides: together they change every hyper-parameter that shapes tell.
SMALL = {
    "textpromptir": ("textpromptir", dict(**_REFINED, text_dim=6, text_hidden=(5, 4))),
    "textpromptir, shuffled": (
        "textpromptir",
        dict(_REFINED, text_dim=6, text_hidden=(5, 4), input_shuffle=2, ffn_expansion_factor=2.5),
    ),
    "restormer": ("restormer", _REFINED),
    "restormer, grey without bias in its norms": (
        "restormer",
        dict(**_REFINED, inp_channels=1, out_channels=1, LayerNorm_type="BiasFree", bias=True),
    ),
    "restormer, two views": (
        "restormer",
        dict(**_REFINED, inp_channels=6, dual_pixel_task=True, ffn_expansion_factor=1.75),
    ),
    "promptir": ("promptir", dict(**_REFINED, **_PROMPTS)),
    "nafnet": (
        "nafnet",
        dict(width=4, enc_blk_nums=(1, 0, 2), middle_blk_num=2, dec_blk_nums=(1, 1, 0)),
    ),
    "sfnet": ("sfnet", dict(num_res=3, base_channel=16)),
    "drsformer": ("drsformer", _TRANSFORMER),
    "drsformer, without experts": ("drsformer", dict(**_TRANSFORMER, mefc=False)),
    "guided restormer": (
        "guided",
        dict(**_REFINED, **_GUIDED, backbone="restormer", nf=8, n_blks=(1, 1, 2, 1)),
    ),
    "guided promptir": (
        "guided",
        dict(**_REFINED, **_PROMPTS, **_GUIDED, backbone="promptir", nf=8, n_blks=_ONE),
    ),
    "guided drsformer": (
        "guided",
        dict(**_TRANSFORMER, **_GUIDED, backbone="drsformer", nf=8, n_blks=_ONE),
    ),
    "guided nafnet": (
        "guided",
        dict(
            backbone="nafnet",
            width=4,
            enc_blk_nums=(1, 0, 2),
            middle_blk_num=2,
            dec_blk_nums=(1, 1, 0),
            nf=4,
            n_blks=(2, 1, 1, 1),
            **_GUIDED,
        ),
    ),
    "image-to-text": (
        "image-to-text",
        dict(
            num_words=2,
            input_dim=6,
            hidden_dim=5,
            output_dim=4,
            cross_attention=(("mid_block.attentions.0.transformer_blocks.0.attn2", 3),),
        ),
    ),
    "textual-restoration": (
        "textual-restoration",
        dict(num_words=3, input_dim=6, hidden_dim=5, attention=True, tasks=2),
    ),
}


def build(key: str, seed: int = 0) -> tuple[models.Network, models.Params]:
    """Builds one of SMALL; counts are larger than half precision can hold."""
    name, overrides = SMALL[key]
    network = models.build(name, **overrides)
    generator = np.random.default_rng(seed)
    params = {
        name: generator.standard_normal(spec.shape).astype(np.float32)
        for name, spec in network.abstract_params().items()
    }
    for name in params:
        if name.endswith("num_batches_tracked"):
            params[name] = np.full_like(params[name], 70001)
    return network, params


def tensor_shapes(network):
    """Names and shapes of the tensors that transformers would be given; nothing is computed."""
    shapes = {key: spec.shape for key, spec in network.abstract_params().items()}
    found = {}
    for entry in tables.entries(tables.TABLES[network.kind], shapes):
        array = np.broadcast_to(np.float32(0), shapes[entry.ours])
        array = array if entry.index is None else array[entry.index]
        found[entry.theirs] = entry.layout.to_torch(array).shape
    return found
