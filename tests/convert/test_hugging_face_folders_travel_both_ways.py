"""Folders of transformers and diffusers load here, ours load there, and faults get one line."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

import tdr_jax
from tdr_jax import models
from tdr_jax.convert import hugging_face
from tdr_jax.errors import InputError
from tests.support import pipelines
from tests.support.parity import nhwc, relative, shaken

TEXT = dict(pipelines.TEXT, vocab_size=60, bos_token_id=1, eos_token_id=59)
VISION = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=28,
    patch_size=14,
    projection_dim=16,
)
DINO = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14
)


def text_tower(projection=False):
    kind = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**TEXT, hidden_act="gelu"))


def vision_tower(projection=False):
    kind = "CLIPVisionModelWithProjection" if projection else "CLIPVisionModel"
    return getattr(transformers, kind)(transformers.CLIPVisionConfig(**VISION))


def dino(**fields):
    return transformers.Dinov2Model(transformers.Dinov2Config(**DINO, **fields))


MAKE = {
    "text": text_tower,
    "text, projected": lambda: text_tower(True),
    "vision": vision_tower,
    "vision, projected": lambda: vision_tower(True),
    "dinov2": dino,
    "dinov2, gated": lambda: dino(use_swiglu_ffn=True),
    "unet 1": lambda: UNet2DConditionModel(**pipelines.UNET, attention_head_dim=2),
    "unet 2": lambda: UNet2DConditionModel(
        **pipelines.UNET, attention_head_dim=(2, 4), use_linear_projection=True
    ),
    "vae": lambda: AutoencoderKL(**pipelines.VAE),
}


def outputs(module, network, params):
    """What both sides make of the same input."""
    torch.manual_seed(1)
    module = module.eval()
    with torch.no_grad():
        if network.kind == "ClipText":
            ids = torch.randint(0, 59, (2, 9))
            return network.apply(params, ids.numpy()), module(ids).last_hidden_state
        pictures = torch.randn(2, 3, 28, 28)
        if network.kind == "UNet":
            x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
            ours = network.apply(params, nhwc(x), 7, context.numpy())
            return ours, module(x, 7, context).sample.permute(0, 2, 3, 1)
        if network.kind == "AutoencoderKL":
            return network.apply(params, nhwc(pictures)), module(pictures).sample.permute(
                0, 2, 3, 1
            )
        return network.apply(params, nhwc(pictures))[0], module(pictures).last_hidden_state


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each kind, as its own library saves it, with its module."""
    root = tmp_path_factory.mktemp("theirs")
    made = {}
    for number, (name, make) in enumerate(MAKE.items()):
        torch.manual_seed(0)
        module = shaken(make())
        module.save_pretrained(root / str(number))
        made[name] = root / str(number), module
    return made


@pytest.mark.parametrize("name", MAKE)
def test_a_folder_loads_and_the_one_we_save_loads_there_with_every_key(folders, name, tmp_path):
    folder, module = folders[name]
    network, params = tdr_jax.load(folder)
    ours, theirs = outputs(module, network, params)
    assert relative(ours, theirs) < 1e-4

    tdr_jax.save(tmp_path / "ours", network, params)
    back, info = type(module).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    saved, loaded = module.state_dict(), back.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)
    again, same = tdr_jax.load(tmp_path / "ours")
    assert again.config == network.config
    assert all((np.asarray(same[key]) == np.asarray(params[key])).all() for key in params)


@pytest.mark.parametrize("part", ["vision_model", "text_model", None])
def test_a_model_of_both_towers_gives_the_one_that_is_asked_for(part, tmp_path):
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    whole = shaken(transformers.CLIPModel(config))
    whole.save_pretrained(tmp_path)
    network, params = tdr_jax.load(tmp_path, part)
    assert network.kind == ("ClipText" if part == "text_model" else "ClipVision")
    with torch.no_grad():
        if part == "text_model":
            ids = torch.tensor([[1, 5, 6, 59]])
            theirs = whole.get_text_features(input_ids=ids).pooler_output
            ours = network.apply(params, ids.numpy(), method="project")
        else:
            pictures = torch.randn(1, 3, 28, 28)
            theirs = whole.get_image_features(pixel_values=pictures).pooler_output
            ours = network.apply(params, nhwc(pictures), method="project")
    assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_are_read_and_written(folders, dtype, tmp_path):
    folder, module = folders["unet 2"]
    half = tmp_path / "half"
    UNet2DConditionModel.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).save_pretrained(
        half, variant="fp16"
    )
    network, params = tdr_jax.load(half)
    whole = tdr_jax.load(folder)[1]
    exact = getattr(jnp, dtype)
    for key, value in params.items():
        assert value.dtype == jnp.float32
        assert (value == whole[key].astype(exact).astype(jnp.float32)).all()
    kept = tdr_jax.load(half, dtype=dtype)[1]
    assert {value.dtype for value in kept.values()} == {jnp.dtype(dtype)}
    file = tdr_jax.save(tmp_path / "ours", network, kept, dtype=dtype)
    theirs = load_torch(half / "diffusion_pytorch_model.fp16.safetensors")
    ours = load_torch(file)
    assert ours.keys() == theirs.keys()
    assert all(ours[key].dtype == getattr(torch, dtype) for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_sharded_files_are_read_and_written(folders, tmp_path, monkeypatch):
    folder, module = folders["unet 1"]
    module.save_pretrained(tmp_path / "theirs", max_shard_size="200KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    network, params = tdr_jax.load(tmp_path / "theirs")
    monkeypatch.setattr(hugging_face, "SHARD_BYTES", 200_000)
    index = tdr_jax.save(tmp_path / "ours", network, params)
    assert index.name == "diffusion_pytorch_model.safetensors.index.json"
    back = UNet2DConditionModel.from_pretrained(tmp_path / "ours")
    state = back.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_parameters_go_where_the_shardings_say(folders):
    folder, _ = folders["unet 1"]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    asked = []

    def place(name, shape):
        asked.append(name)
        axes = ("data",) if len(shape) > 1 else ()
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    network, params = tdr_jax.load(folder, shardings=place, dtype="bfloat16")
    assert sorted(asked) == sorted(network.abstract_params())
    for name, value in params.items():
        assert value.sharding == place(name, value.shape)
        assert value.dtype == jnp.bfloat16


MEASURE = """
import resource, sys
import jax, tdr_jax
jax.devices()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network, params = tdr_jax.load(sys.argv[1], dtype=sys.argv[2])
jax.block_until_ready(params)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_loading_never_holds_the_model_twice(tmp_path):
    levels = dict(block_out_channels=(256, 512, 512), attention_head_dim=8)
    levels["down_block_types"] = ("CrossAttnDownBlock2D",) * 3
    levels["up_block_types"] = ("CrossAttnUpBlock2D",) * 3
    network = models.build("unet", **levels)
    params = {k: np.ones(s.shape, np.float32) for k, s in network.abstract_params().items()}
    tdr_jax.save(tmp_path, network, params, dtype="bfloat16")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), "float32"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # The parameters, the file's own pages, and what importing takes; a second copy would not fit.
    assert network.size > 80e6
    assert int(done.stdout) < 4 * network.size + 2 * network.size + 150e6


def test_old_names_of_the_autoencoders_attention_are_read(folders, tmp_path):
    folder, _ = folders["vae"]
    shutil.copytree(folder, tmp_path / "old")
    file = tmp_path / "old" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for ours, theirs in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            name = name.replace(ours, theirs)
        old[name] = torch.tensor(tensor)
    save_file(old, file)
    params, expected = tdr_jax.load(tmp_path / "old")[1], tdr_jax.load(folder)[1]
    assert all((params[key] == expected[key]).all() for key in expected)


@pytest.mark.parametrize("version", [1, 2])
def test_a_pipeline_and_its_single_file_give_the_same_parameters(version, tmp_path):
    whole = pipelines.pipeline(tmp_path / "folder", version)
    save_file(pipelines.original(whole, version), tmp_path / "single.safetensors")
    folder, expected = tdr_jax.load(tmp_path / "folder")
    single, params = tdr_jax.load(tmp_path / "single.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(single, part), getattr(folder, part)
        assert params[part].keys() == expected[part].keys()
        for key, value in params[part].items():
            assert (value == expected[part][key]).all(), key
        sizes = {"sample_size": 8, "projection_dim": 16}  # which no tensor tells
        sizes = {k: v for k, v in sizes.items() if hasattr(ours.config, k)}
        assert ours.replace(**sizes).config == theirs.replace(**sizes).config
    network, unet = tdr_jax.load(tmp_path / "single.safetensors", "unet")
    assert network.config == single.unet.config
    assert unet.keys() == params["unet"].keys()


def test_the_single_file_of_the_tests_has_the_names_that_diffusers_expects(tmp_path):
    from diffusers.loaders import single_file_utils as theirs

    for version in (1, 2):
        whole = pipelines.pipeline(tmp_path / str(version), version)
        state = pipelines.original(whole, version)
        unet = theirs.convert_ldm_unet_checkpoint(dict(state), dict(whole.unet.config))
        vae = theirs.convert_ldm_vae_checkpoint(dict(state), dict(whole.vae.config))
        for module, found in ((whole.unet, unet), (whole.vae, vae)):
            module.load_state_dict(found, strict=True)


def test_a_pipeline_that_we_save_draws_the_same_in_diffusers(tmp_path):
    from diffusers import StableDiffusionPipeline

    whole = pipelines.pipeline(tmp_path / "theirs", 2)
    loaded, params = tdr_jax.load(tmp_path / "theirs")
    tdr_jax.save(tmp_path / "ours", loaded, params)
    back = StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    pictures = []
    for pipeline in (whole, back):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        pictures.append(
            pipeline("the cat", num_inference_steps=2, generator=generator, output_type="np").images
        )
    assert (pictures[0] == pictures[1]).all()


def broken(folders, name, tmp_path):
    shutil.copytree(folders[name][0], tmp_path / "broken")
    return tmp_path / "broken"


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        tdr_jax.load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_files_are_named(folders, tmp_path):
    folder = broken(folders, "unet 1", tmp_path)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    folder = shutil.copytree(folders["unet 1"][0], tmp_path / "second")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert "diffusion_pytorch_model.safetensors" in refusal(folder)
    folder = shutil.copytree(folders["text"][0], tmp_path / "third")
    (folder / "config.json").unlink()
    assert "config.json" in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in refusal(tmp_path / "empty")
    folders["unet 1"][1].save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    shard = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refusal(tmp_path / "shards")


def test_a_shard_that_is_cut_short_or_scrambled_is_named(folders, tmp_path):
    folders["unet 1"][1].save_pretrained(tmp_path, max_shard_size="200KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 64, whole[8:]):
        shard.write_bytes(content)
        line = refusal(tmp_path)
        assert shard.name in line and "again" in line


def test_other_dtypes_than_floats_are_refused(folders, tmp_path):
    folder = broken(folders, "vae", tmp_path)
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: torch.tensor(value) for name, value in load_file(file).items()}
    for dtype, said in ((torch.int8, "I8"), (torch.float64, "F64")):
        save_file(tensors | {"quant_conv.bias": tensors["quant_conv.bias"].to(dtype)}, file)
        line = refusal(folder)
        assert "quant_conv.bias" in line and said in line
    assert "dtype" in refusal(folders["vae"][0], dtype="int8")


def test_other_architectures_are_refused(folders, tmp_path):
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    ).save_pretrained(tmp_path / "bert")
    assert "bert" in refusal(tmp_path / "bert")
    folder = broken(folders, "unet 1", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for field, value in (("addition_embed_type", "text_time"), ("class_embed_type", "timestep")):
        (folder / "config.json").write_text(json.dumps(config | {field: value}))
        assert field in refusal(folder)
    (folder / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    assert "attn2.to_k.weight" in refusal(folder)
    (folder / "config.json").write_text(json.dumps(config | {"down_block_types": ["A", "B"]}))
    assert "down_block_types" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "JSON" in refusal(folder)


def test_a_hub_id_without_a_network_says_what_to_put_where(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal("somebody/some-model")
    assert "somebody/some-model" in line and "config.json" in line and "folder" in line


def test_towers_are_also_kept_under_our_own_names_in_one_file(folders, tmp_path):
    network, params = tdr_jax.load(folders["dinov2"][0])
    tdr_jax.save(tmp_path / "dino.safetensors", network, params)
    again, same = tdr_jax.load(tmp_path / "dino.safetensors")
    assert again.config == network.config
    assert all((same[key] == params[key]).all() for key in params)


def test_parameters_that_do_not_fit_are_not_saved(folders, tmp_path):
    network, params = tdr_jax.load(folders["vae"][0])
    params.pop("quant_conv.bias")
    with pytest.raises(ValueError, match="quant_conv.bias"):
        tdr_jax.save(tmp_path / "vae", network, params)
    assert not (tmp_path / "vae").exists()
    assert models.build("vae").kind == network.kind
