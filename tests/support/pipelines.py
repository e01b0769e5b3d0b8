"""Small diffusion pipelines with random weights, made by diffusers and transformers themselves."""

import json
import re

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support.parity import shaken

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,  # of 64 channels at most, which the original code takes for granted
    projection_dim=16,
)
UNET = dict(
    sample_size=8,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=32,
)
VAE = dict(
    block_out_channels=(32, 64),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    sample_size=64,
)
VERSIONS = {
    1: (dict(attention_head_dim=8), "quick_gelu", "epsilon"),
    2: (dict(attention_head_dim=(1, 1), use_linear_projection=True), "gelu", "v_prediction"),
}


def tokenizer(folder) -> CLIPTokenizer:
    """A CLIP tokenizer that knows single letters, and "the" and "a" as words."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "th", "the</w>"]
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def pipeline(folder, version: int = 1, seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline of Stable Diffusion 1's or 2's kind, saved to `folder`."""
    heads, activation, prediction = VERSIONS[version]
    torch.manual_seed(seed)
    words = tokenizer(folder / "made")
    count = len(words)
    text = CLIPTextConfig(
        vocab_size=count,
        hidden_act=activation,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        **TEXT,
    )
    whole = StableDiffusionPipeline(
        vae=shaken(AutoencoderKL(**VAE), 0.02),
        text_encoder=shaken(CLIPTextModel(text)),
        tokenizer=words,
        unet=shaken(UNet2DConditionModel(**UNET, **heads), 0.02),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.set_progress_bar_config(disable=True)
    whole.save_pretrained(folder)
    return whole


def original(whole: StableDiffusionPipeline, version: int) -> dict[str, torch.Tensor]:
    """The pipeline's tensors under the names of the original code, in one dict.

    The text tower of version 2 gets one more layer, which nothing reads.
    """
    state = {f"model.diffusion_model.{_unet_name(k)}": t for k, t in _tensors(whole.unet)}
    levels = len(VAE["block_out_channels"])
    for name, tensor in _tensors(whole.vae):
        name = _vae_name(name, levels)
        wide = ".attn_1." in name and name.endswith("weight") and ".norm." not in name
        state[f"first_stage_model.{name}"] = tensor[:, :, None, None] if wide else tensor
    text = dict(_tensors(whole.text_encoder))
    if version == 1:
        prefix = "cond_stage_model.transformer.text_model."
        state |= {prefix + name: tensor for name, tensor in text.items()}
        state[prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    else:
        state |= {f"cond_stage_model.model.{k}": t for k, t in _open_clip(text).items()}
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _tensors(module):
    return [(name, tensor.detach().clone()) for name, tensor in module.state_dict().items()]


def _unet_name(name: str) -> str:
    """Counts blocks through all levels, as the original does: one block a level here."""
    depth, levels = UNET["layers_per_block"], len(UNET["block_out_channels"])
    if match := re.match(r"down_blocks\.(\d)\.(resnets|attentions|downsamplers)\.(\d)\.", name):
        level, kind, j = int(match[1]), match[2], int(match[3])
        index = 1 + level * (depth + 1) + (depth if kind == "downsamplers" else j)
        inner = {"resnets": "0.", "attentions": "1.", "downsamplers": "0.op."}[kind]
        rest = name[match.end() :].removeprefix("conv." if kind == "downsamplers" else "")
        name = f"input_blocks.{index}.{inner}{rest}"
    elif match := re.match(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.", name):
        level, kind, j = int(match[1]), match[2], int(match[3])
        index = level * (depth + 1) + (depth if kind == "upsamplers" else j)
        crossed = UNET["up_block_types"][level].startswith("Cross")
        inner = {"resnets": 0, "attentions": 1, "upsamplers": 1 + crossed}[kind]
        assert level < levels
        name = f"output_blocks.{index}.{inner}.{name[match.end() :]}"
    for ours, theirs in (
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("conv_shortcut.", "skip_connection."),
        ("time_emb_proj.", "emb_layers.1."),
    ):
        name = name.replace(ours, theirs)
    if "transformer_blocks" not in name:  # whose norms keep their names
        for ours, theirs in (
            (".norm1.", ".in_layers.0."),
            (".conv1.", ".in_layers.2."),
            (".norm2.", ".out_layers.0."),
            (".conv2.", ".out_layers.3."),
        ):
            name = name.replace(ours, theirs)
    return name


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    up = r"up_blocks\.(\d)\.(resnets|upsamplers\.0)\."
    joints = {"resnets": "block", "upsamplers.0": "upsample"}
    name = re.sub(up, lambda m: f"up.{levels - 1 - int(m[1])}.{joints[m[2]]}.", name)
    for ours, theirs in (
        ("mid_block.resnets.0.", "mid.block_1."),
        ("mid_block.resnets.1.", "mid.block_2."),
        ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
        ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_shortcut.", "nin_shortcut."),
        ("conv_norm_out.", "norm_out."),
    ):
        name = name.replace(ours, theirs)
    return name


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": torch.zeros(32, 16),
        "logit_scale": torch.zeros(()),
    }
    depth = TEXT["num_hidden_layers"]
    for i in range(depth + 1):
        ours, theirs = f"encoder.layers.{min(i, depth - 1)}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [text[f"{ours}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            state[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            for a, b in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                state[f"{theirs}{b}.{kind}"] = text[f"{ours}{a}.{kind}"].clone()
    return state
