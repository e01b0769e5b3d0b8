"""`Generator` and `tdr generate` against diffusers' StableDiffusionPipeline."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from safetensors.torch import save_file

import tdr_jax
from tdr_jax import cli
from tdr_jax.errors import InputError
from tests.support import pipelines
from tests.support.programs import on_devices

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["the cat", "a dog in the fog"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {v: (folder / str(v), pipelines.pipeline(folder / str(v), v)) for v in (1, 2)}


@pytest.fixture(scope="module")
def generator(made):
    return tdr_jax.Generator.from_pretrained(made[1][0])


WAYS = [(1, "ddim"), (2, "dpm++")]
MORE = [pytest.param(*way, marks=pytest.mark.full) for way in ((1, "dpm++"), (2, "ddim"))]


@pytest.mark.parametrize("version,sampler", [*WAYS, *MORE])
def test_pictures_equal_those_of_diffusers_from_the_same_noise(made, version, sampler):
    folder, whole = made[version]
    generator = tdr_jax.Generator.from_pretrained(folder)
    noise = generator.noise(5, range(2), (16, 24))
    ours = generator(
        PROMPTS, negative="bad", steps=8, scale=5, sampler=sampler, size=(16, 24), noise=noise
    )
    if sampler == "dpm++":
        whole.scheduler = DPMSolverMultistepScheduler.from_pretrained(folder, subfolder="scheduler")
    theirs = whole(
        PROMPTS,
        negative_prompt=["bad"] * 2,
        num_inference_steps=8,
        guidance_scale=5,
        latents=torch.tensor(np.asarray(noise)).permute(0, 3, 1, 2),
        height=16,
        width=24,
        output_type="np",
    ).images
    assert ours.shape == (2, 16, 24, 3) and ours.dtype == np.float32
    assert ours.std() > 0.05
    assert np.abs(ours - theirs).max() < 1e-3


DRAW = dict(steps=3, size=(16, 24))  # one program for all tests, of each batch


def test_a_picture_hangs_on_its_prompt_seed_and_index_alone(generator):
    both = generator(PROMPTS, seed=2, **DRAW)
    second = generator(PROMPTS[1], seed=2, first=1, **DRAW)
    assert np.abs(both[1] - second[0]).max() < 1e-5
    assert (generator(PROMPTS, seed=2, **DRAW) == both).all()
    assert np.abs(generator(PROMPTS, seed=3, **DRAW) - both).max() > 0.01
    assert np.abs(generator(PROMPTS[0], seed=2, **DRAW)[0] - second[0]).max() > 0.01


SPREAD = """
import sys
import jax, numpy as np, tdr_jax
assert jax.device_count() == 4
generator = tdr_jax.Generator.from_pretrained(sys.argv[1])
draw = dict(steps=3, size=(16, 24), seed=2)
np.save(sys.argv[2], generator(["the cat", "a dog in the fog"], **draw))
"""


def test_a_batch_spread_over_devices_is_the_same(made, generator, tmp_path):
    command = [sys.executable, "-c", SPREAD, made[1][0], tmp_path / "spread.npy"]
    subprocess.run(list(map(str, command)), env=on_devices(4), check=True, cwd=ROOT)
    spread = np.load(tmp_path / "spread.npy")
    alone = generator(PROMPTS, seed=2, **DRAW)
    assert spread.shape == alone.shape
    assert np.abs(spread - alone).max() < 1e-4


def test_bfloat16_draws_nearly_the_same(made, generator):
    half = tdr_jax.Generator.from_pretrained(made[1][0], dtype="bfloat16")
    assert {str(value.dtype) for value in half.params["unet"].values()} == {"bfloat16"}
    assert np.abs(half(PROMPTS, **DRAW) - generator(PROMPTS, **DRAW)).mean() < 0.03


def test_impossible_requests_get_one_line(generator):
    for options, said in (
        (dict(size=(15, 16)), "15x16"),
        (dict(sampler="euler"), "euler"),
        (dict(steps=0), "steps"),
        (dict(steps=5000), "steps"),
    ):
        with pytest.raises(InputError, match=said):
            generator("the cat", **dict(dict(size=(16, 16), steps=2), **options))


def test_the_command_writes_pictures(made, tmp_path, capsys):
    model = ["generate", "--model", str(made[1][0]), "--prompt", "the cat", "--steps", "3"]
    model += ["--size", "16x24"]
    assert cli.main([*model, "-o", str(tmp_path / "cat.png")]) == 0
    with Image.open(tmp_path / "cat.png") as picture:
        assert picture.size == (24, 16)
        pixels = np.asarray(picture)
    many = [*model, "--count", "3", "--batch", "2"]
    assert cli.main([*many, "-o", str(tmp_path / "cats")]) == 0
    names = sorted(path.name for path in (tmp_path / "cats").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    first = np.asarray(Image.open(tmp_path / "cats" / "0000.png"))
    assert np.abs(first.astype(int) - pixels).max() <= 1
    assert "0002.png" in capsys.readouterr().out


def test_a_single_file_draws_the_same_with_a_tokenizer_beside_it(made, tmp_path):
    folder, whole = made[1]
    file = tmp_path / "single.safetensors"
    save_file(pipelines.original(whole, 1), file)
    single = tdr_jax.Generator.from_pretrained(file, tokenizer=folder / "tokenizer")
    folder = tdr_jax.Generator.from_pretrained(folder)
    assert np.abs(single(PROMPTS, **DRAW) - folder(PROMPTS, **DRAW)).max() < 1e-5
    with pytest.raises(InputError, match="tokenizer"):
        tdr_jax.Generator.from_pretrained(file)


@pytest.mark.parametrize(
    "change,said",
    [
        (["--size", "big"], "--size big"),
        (["--size", "17x16"], "17x16"),
        (["--count", "0"], "--count 0"),
        (["-o", "cat.xyz"], "cat.xyz"),
        (["--model", "no/where/at-all"], "no/where/at-all"),
        (["--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_give_one_line_and_status_2(
    made, change, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    model = ["generate", "--model", str(made[1][0]), "--prompt", "the cat", "-o", "cat.png"]
    assert cli.main([*model, *change]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.splitlines()[-1].startswith("tdr: error: ")
    assert not list(tmp_path.iterdir())


def test_one_network_of_a_pipeline_cannot_draw(made, capsys):
    unet = str(made[1][0] / "unet")
    assert cli.main(["generate", "--model", unet, "--prompt", "a", "-o", "a.png"]) == 2
    assert "model_index.json" in capsys.readouterr().err


def test_a_pipeline_cannot_restore(made, tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    folder = str(made[1][0])
    arguments = ["restore", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert cli.main([*arguments, "--model", folder]) == 2
    assert "restores pictures" in capsys.readouterr().err
