"""`Guide` and `tdr guide` against diffusers, transformers and TDR's mappers in PyTorch."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPVisionModel

import tdr_jax
from tdr_jax import cli, convert, models, weights
from tdr_jax.errors import InputError
from tdr_jax.infer.guide import Guide, central_square
from tdr_jax.models import clip_vision, mapper
from tests.support import stacks, torch_mapper
from tests.support.programs import on_devices

ROOT = Path(__file__).resolve().parents[2]
FAST = dict(steps=8)  # one program for most tests


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacks") / "stack"
    parts, whole = stacks.make(folder)
    return folder, parts, whole


@pytest.fixture(scope="module")
def guide(made):
    return Guide(made[1])


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (40 + i, 63 - 9 * i, 3), dtype=np.uint8) for i in range(count)]


def theirs(folder, parts, whole, noise, steps: int):
    """Words, restored words and pictures of `pictures(len(noise))` as PyTorch makes them."""
    shown = []
    for picture in pictures(len(noise)):
        image = Image.fromarray(picture)
        side = min(image.size)
        left, top = (int(round((length - side) / 2.0)) for length in image.size)
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((56, 56), Image.Resampling.BICUBIC)
        shown.append((np.asarray(image) / 255 - clip_vision.MEAN) / clip_vision.STD)
    shown = torch.tensor(np.stack(shown), dtype=torch.float32).permute(0, 3, 1, 2)
    tower = CLIPVisionModel.from_pretrained(folder / "image_encoder")
    config = parts.networks["image_to_text"].config
    reader = torch_mapper.Mapper(4, 32, 48, 32, config.cross_attention)
    cleaner = torch_mapper.CleanMapper(4, 32, 48)
    for module, name in ((reader, "image_to_text"), (cleaner, "textual_restoration")):
        arrays = convert.to_arrays(parts.networks[name], parts.params[name])
        module.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()})
    unet = whole.unet
    with torch.no_grad():
        for path, _ in config.cross_attention:
            for end in ("to_k", "to_v"):
                copied = reader.get_submodule(f"{path.replace('.', '_')}_{end}").weight
                unet.get_submodule(f"{path}.{end}").weight.copy_(copied)
        words = reader(tower(shown).last_hidden_state)
        restored = cleaner(words)
        ids = whole.tokenizer(["a photo of a s", ""], padding="max_length", return_tensors="pt")
        prompt, empty = ids.input_ids
        position = whole.tokenizer("a photo of a")["input_ids"].index(prompt[-1].item())
        count = len(noise)
        context = torch_mapper.text_states(
            whole.text_encoder, prompt.expand(count, -1), restored, [position] * count
        )
        uncond = whole.text_encoder(empty[None]).last_hidden_state.expand(count, -1, -1)
    drawn = whole(
        prompt_embeds=context,
        negative_prompt_embeds=uncond,
        num_inference_steps=steps,
        guidance_scale=5,
        latents=torch.tensor(np.asarray(noise)).permute(0, 3, 1, 2),
        height=16,
        width=16,
        output_type="np",
    ).images
    return words.numpy(), restored.numpy(), drawn


def test_picture_to_guidance_equals_pytorch(tmp_path):
    parts, whole = stacks.make(tmp_path / "stack")
    guide = Guide(parts)
    noise = guide.noise(7, ["a", "b"])
    words, restored, drawn = theirs(tmp_path / "stack", parts, whole, noise, **FAST)
    ours = guide.words(pictures(2))
    assert np.abs(ours[0] - words).max() < 1e-5
    assert np.abs(ours[1] - restored).max() < 1e-5
    out = guide(pictures(2), noise=noise, **FAST)
    assert out.shape == (2, 16, 16, 3) and out.dtype == np.float32 and out.std() > 0.05
    assert np.abs(out - drawn).max() < 1e-3


def test_a_picture_hangs_neither_on_its_neighbours_nor_on_its_place(guide):
    first, second, third = pictures(3)
    both = guide([first, second], **FAST)
    assert (guide([third, second], **FAST)[1] == both[1]).all()
    assert (guide([second, first], **FAST) == both[::-1]).all()
    alone = guide([second], **FAST)[0]
    assert np.abs(alone - both[1]).max() < 1e-4  # a batch of one is multiplied in another order


def test_start_noise_is_everyones_or_that_of_a_name(guide):
    same = guide.noise(42, [None, None])
    assert (same[0] == same[1]).all() and same.shape == (2, 8, 8, 4)
    named = guide.noise(42, ["a", "b"])
    assert np.abs(named[0] - named[1]).max() > 0.1 and np.abs(named[0] - same[0]).max() > 0.1
    assert (guide.noise(42, ["b"])[0] == named[1]).all()
    assert np.abs(guide.noise(43, ["b"])[0] - named[1]).max() > 0.1
    twice = pictures(1) * 2
    out = guide(twice, **FAST)
    assert (out[0] == out[1]).all()
    out = guide(twice, names=["a", "b"], **FAST)
    assert np.abs(out[0] - out[1]).max() > 0.01


def test_without_restoration_words_are_drawn_as_they_are(made, guide):
    before, after = guide.words(pictures(2))
    assert np.abs(before - after).max() > 0.01
    plain = guide.words(pictures(2), restore=False)
    assert (plain[0] == plain[1]).all() and (plain[0] == before).all()
    without = {
        field: {k: v for k, v in getattr(made[1], field).items() if k != "textual_restoration"}
        for field in ("networks", "params")
    }
    bare = Guide(dataclasses.replace(made[1], **without))
    assert not bare.restores and (bare.words(pictures(2))[1] == before).all()
    drawn = guide(pictures(1), **FAST)
    assert np.abs(guide(pictures(1), restore=False, **FAST) - drawn).max() > 0.01


def test_a_restoration_of_several_tasks_is_told_which(made):
    network = models.build("textual-restoration-tiny", tasks=2)
    params = network.init(2)
    name = "task_embedding.weight"
    params[name] = params[name].at[1].add(1.0)
    networks = made[1].networks | {"textual_restoration": network}
    told = made[1].params | {"textual_restoration": params}
    guide = Guide(dataclasses.replace(made[1], networks=networks, params=told))
    first, second = (guide.words(pictures(1), task=task)[1] for task in (0, 1))
    assert np.abs(first - second).max() > 0.01
    for task in (None, 2):
        with pytest.raises(InputError, match="0 to 1"):
            guide.words(pictures(1), task=task)


def test_nearest_words_are_readable(made, guide):
    table = np.asarray(made[1].params["text_encoder"]["embeddings.token_embedding.weight"])
    vocabulary = made[1].tokenizer.get_vocab()
    rows = [vocabulary["the</w>"], vocabulary["q"]]
    found = guide.nearest(3 * table[rows], 4)
    assert [len(tokens) for tokens in found] == [4, 4]
    assert [tokens[0][0] for tokens in found] == ["the", "q"]
    cosines = np.array([[cosine for _, cosine in tokens] for tokens in found])
    assert np.abs(cosines[:, 0] - 1).max() < 1e-5 and (np.diff(cosines) <= 0).all()
    unit = table / np.linalg.norm(table, axis=-1, keepdims=True)
    expected = np.sort(unit[rows] @ unit.T, axis=-1)[:, ::-1][:, :4]
    assert np.abs(cosines - expected).max() < 1e-5


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (57, 80), (56, 56), (300, 64), (81, 56)])
def test_the_central_square_is_that_of_torchvision(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (int(round((length - side) / 2.0)) for length in (height, width))
    crop = Image.fromarray(picture[top : top + side, left : left + side])
    expected = np.asarray(crop.resize((56, 56), Image.Resampling.BICUBIC))
    square = central_square(picture, 56)
    assert (square == expected).all()
    assert (central_square(picture.astype(np.float32) / 255, 56) == expected).all()
    assert (central_square(square, 56) == square).all()


SPREAD = """
import sys
import jax, numpy as np
from tdr_jax.infer.guide import Guide
assert jax.device_count() == 4
random = np.random.default_rng(0)
pictures = [random.integers(0, 256, (40 + i, 63 - 9 * i, 3), dtype=np.uint8) for i in range(2)]
guide = Guide.from_pretrained(sys.argv[1])
np.save(sys.argv[2], guide(pictures, steps=8))
"""


def test_a_batch_spread_over_devices_is_the_same(made, guide, tmp_path):
    command = [sys.executable, "-c", SPREAD, made[0], tmp_path / "spread.npy"]
    subprocess.run(list(map(str, command)), env=on_devices(4), check=True, cwd=ROOT)
    spread = np.load(tmp_path / "spread.npy")
    assert spread.shape == (2, 16, 16, 3)
    assert np.abs(spread - guide(pictures(2), **FAST)).max() < 1e-4


def test_a_stack_is_one_folder_that_diffusers_reads_too(made, tmp_path):
    again = weights.load_tdr_pipeline(weights.save_tdr_pipeline(tmp_path / "again", made[1]))
    assert again.digest() == made[1].digest()
    assert again.networks.keys() == made[1].networks.keys()
    StableDiffusionPipeline.from_pretrained(tmp_path / "again")
    other = made[1].params["vae"] | {}
    name = next(iter(other))
    other[name] = other[name] + 1
    changed = dataclasses.replace(made[1], params=made[1].params | {"vae": other})
    assert changed.digest() != made[1].digest()
    half = weights.load_tdr_pipeline(tmp_path / "again", dtype="bfloat16")
    assert {str(v.dtype) for part in half.params.values() for v in part.values()} == {"bfloat16"}


def test_parts_come_from_elsewhere(made, tmp_path):
    folder, parts, _ = made
    name = "image_to_text"
    state = convert.to_arrays(parts.networks[name], parts.params[name])
    torch.save({k: torch.tensor(v) for k, v in state.items()}, tmp_path / "mapper_018000.pt")
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("image_*", "textual*"))
    with pytest.raises(InputError, match="has no image_encoder/"):
        weights.load_tdr_pipeline(tmp_path / "bare")
    given = dict(
        image_encoder=folder / "image_encoder",
        image_to_text=tmp_path / "mapper_018000.pt",
        textual_restoration=folder / "textual_restoration",
    )
    assert weights.load_tdr_pipeline(tmp_path / "bare", **given).digest() == parts.digest()
    bare = weights.load_tdr_pipeline(tmp_path / "bare", image_encoder=given["image_encoder"])
    with pytest.raises(InputError, match="no image_to_text/"):
        Guide(bare)


def test_parts_that_do_not_fit_together_are_refused(made, tmp_path):
    odd = {
        "words": ("textual_restoration", "textual-restoration-tiny", dict(num_words=3)),
        "restored width": ("textual_restoration", "textual-restoration-tiny", dict(input_dim=8)),
        "vision width": ("image_to_text", "image-to-text-tiny", dict(input_dim=8)),
        "UNet": ("image_to_text", "image-to-text-tiny", dict(cross_attention=())),
        "kind": ("image_to_text", "textual-restoration-tiny", {}),
    }
    for place, (part, name, fields) in odd.items():
        network = models.build(name, **fields)
        path = weights.save(tmp_path / f"{place}.safetensors", network, network.init(0))
        with pytest.raises(InputError, match="trained together|of this UNet|give another") as said:
            weights.load_tdr_pipeline(made[0], **{part: path})
        assert "\n" not in str(said.value)


def test_a_shipped_stack_is_found_by_its_name(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], tmp_path / "assets" / "small-stack")
    monkeypatch.setattr(weights, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    assert weights.shipped_pipelines() == ["small-stack"]
    assert weights.load_tdr_pipeline("small-stack").digest() == made[1].digest()
    with pytest.raises(InputError, match="small-stack"):
        weights.load_tdr_pipeline("other-stack")


def test_copies_of_the_unet_start_as_what_the_unet_does(made, guide):
    parts = made[1]
    own = mapper.with_kv(parts.params["image_to_text"], parts.params["unet"])
    plain = dataclasses.replace(parts, params=parts.params | {"image_to_text": own})
    assert np.abs(Guide(plain)(pictures(1), **FAST) - guide(pictures(1), **FAST)).max() > 0.01


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pictures(3)):
        Image.fromarray(picture).save(tmp_path / "in" / f"p{i}.png")
    return tmp_path


def run(made, folder, *more):
    command = ["guide", str(folder / "in"), "-o", str(folder / "out"), "--model", str(made[0])]
    return cli.main([*command, "--steps", "8", "--batch", "2", *map(str, more)])


def test_the_command_goes_on_and_redraws_what_changed(made, folder, capsys):
    assert run(made, folder) == 0
    manifest = (folder / "out" / "manifest.json").read_bytes()
    files = {path.name: path.read_bytes() for path in (folder / "out").glob("*.png")}
    assert sorted(files) == ["p0.png", "p1.png", "p2.png"]
    assert run(made, folder) == 0
    assert "drew 0 of 3; 3 were there already" in capsys.readouterr().err
    assert (folder / "out" / "manifest.json").read_bytes() == manifest
    Image.fromarray(pictures(1, seed=9)[0]).save(folder / "in" / "p0.png")
    (folder / "out" / "p1.png").write_bytes(b"damaged")
    assert run(made, folder) == 0
    assert "drew 2 of 3; 1 were there already" in capsys.readouterr().err
    again = {path.name: path.read_bytes() for path in (folder / "out").glob("*.png")}
    assert [name for name in files if again[name] != files[name]] == ["p0.png"]
    assert run(made, folder, "--seed", "1") == 2
    assert "seed 42, now it is 1" in capsys.readouterr().err
    assert run(made, folder, "--seed", "1", "--overwrite") == 0
    assert json.loads((folder / "out" / "manifest.json").read_text())["settings"]["seed"] == 1


def test_pictures_that_no_manifest_vouches_for_are_left_alone(made, folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / "p1.png").write_bytes(b"mine")
    assert run(made, folder) == 2
    assert "p1.png is there already" in capsys.readouterr().err
    assert [path.name for path in (folder / "out").iterdir()] == ["p1.png"]


def test_scenes_share_one_picture(made, folder, capsys):
    for i in range(3):
        (folder / "in" / f"p{i}.png").rename(folder / "in" / f"{i // 2:04d}_{i}_0.8.png")
    assert run(made, folder, "--shared", "scene") == 0
    said = json.loads((folder / "out" / "manifest.json").read_text())["files"]
    sources = {name: entry["source"] for name, entry in said.items()}
    assert sources == {"0000.png": "0000_0_0.8.png", "0001.png": "0001_2_0.8.png"}


def test_words_are_shown_before_and_after(made, folder, capsys):
    command = ["guide", str(folder / "in" / "p0.png"), "--model", str(made[0]), "--words-only"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("p0.png")
    assert all(line.count(" -> ") == 1 and line.count(",") == 4 for line in lines[1:])
    assert cli.main([*command, "--no-restore"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and not any("->" in line for line in lines)
    assert sorted(path.name for path in folder.iterdir()) == ["in"]


def test_odd_pictures_are_drawn_and_damaged_ones_said(made, folder, capsys):
    Image.new("L", (1, 1), 9).save(folder / "in" / "tiny.png")
    Image.new("RGB", (6000, 2)).save(folder / "in" / "wide.jpg")
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert run(made, folder, "--fast", "--own-noise", "--dtype", "bfloat16") == 1
    error = capsys.readouterr().err
    assert error.count("tdr: error: ") == 1 and "broken.png" in error
    assert "drew 5 of 6; 1 failed" in error
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == ["manifest.json", "p0.png", "p1.png", "p2.png", "tiny.png", "wide.png"]
    assert run(made, folder, "--fast", "--own-noise", "--dtype", "bfloat16") == 1
    assert "drew 0 of 6; 5 were there already; 1 failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change,said",
    [
        (["--steps", "0"], "--steps 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--scale", "nan"], "--scale nan"),
        (["--template", "a photo"], "a photo"),
        (["--model", "no/where/at-all"], "no/where/at-all"),
        (["--image-to-text", "nowhere.pt"], "nowhere.pt"),
        (["-o", "out.png"], "out.png"),
        (["-o", "in"], "is the input"),
        (["--task", "1"], "task 1"),
        (["missing.png"], "missing.png"),
    ],
)
def test_wrong_arguments_give_one_line_and_status_2(
    made, folder, change, said, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    command = ["guide", "in", "-o", "out", "--model", str(made[0]), "--steps", "8"]
    assert cli.main([*command, *change]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.splitlines()[-1].startswith("tdr: error: ")
    assert not list(Path("in").glob("**/manifest.json")) and not list(Path("out").glob("*.png"))


def test_bfloat16_finds_nearly_the_same_words(made, guide):
    half = tdr_jax.Guide.from_pretrained(made[0], dtype="bfloat16")
    found, words = half.words(pictures(2))[1], guide.words(pictures(2))[1]
    assert found.dtype == np.float32
    assert np.abs(found - words).mean() < 0.05 * np.abs(words).mean()


def test_one_word_can_be_drawn_alone(made, monkeypatch):
    drawn = []

    def inject(embeddings, words, position):
        drawn.append(words)
        return embeddings

    monkeypatch.setattr(mapper, "inject", inject)
    guide = Guide(made[1], word=2)
    program = guide._compile_draw(1, 1.0, "ddim", (False, None))
    side = guide.side
    shown = np.zeros((1, side, side, 3), np.uint8)
    program.eval_shape(guide._sampler.params, shown, guide.noise(0, [None]))
    assert drawn[0].shape[1] == 1
    with pytest.raises(InputError, match="there are 4 words; number 5 is none of them"):
        Guide(made[1], word=4)
    assert Guide(made[1])._drawn == slice(4) and guide._drawn == slice(2, 3)
