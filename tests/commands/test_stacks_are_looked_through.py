"""`tdr stack check` passes a sound stack and tells every fault of another in a line."""

import json
import os
import shutil

import pytest

from tdr_jax import cli, models, weights


@pytest.fixture
def stack(tmp_path):
    """A copy of the shipped one, whose files are changed by writing new ones."""
    folder = tmp_path / "stack"
    shutil.copytree(weights.ASSETS / "tdr-tiny", folder, copy_function=os.link)
    return folder


def rewrite(path, **fields):
    """Changes fields of a JSON file, not those of the one that it was copied from."""
    content = json.loads(path.read_text()) | fields
    path.unlink()
    path.write_text(json.dumps(content))


def faults(capsys, *words):
    """The faults that are told, after a look at the exit status."""
    status = cli.main(["stack", "check", *map(str, words)])
    lines = capsys.readouterr().out.splitlines()
    found = [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]
    assert status == bool(found)
    return found


def test_the_shipped_stack_is_ready_for_everything(capsys):
    assert cli.main(["stack", "check", "tdr-tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "complete, and all parts fit: ready for guide"
    assert "unet: unet, 3,984,068 parameters" in lines
    assert "scheduler: v_prediction, 1000 steps" in lines and "tokenizer: 998 tokens" in lines


def test_what_a_stage_does_not_need_may_be_missing(stack, capsys):
    shutil.rmtree(stack / "image_to_text")
    shutil.rmtree(stack / "textual_restoration")
    assert not faults(capsys, stack, "--for", "i2t")
    (missing,) = faults(capsys, stack, "--for", "tr")
    assert missing == f"image_to_text: {stack / 'image_to_text'} is missing"
    elsewhere = weights.ASSETS / "tdr-tiny" / "image_to_text"
    assert not faults(capsys, stack, "--for", "tr", "--image-to-text", elsewhere)


def test_all_faults_are_told_at_once(stack, capsys):
    shutil.rmtree(stack / "vae")
    rewrite(stack / "scheduler" / "scheduler_config.json", prediction_type="sample")
    rewrite(stack / "tokenizer" / "tokenizer_config.json", model_max_length=64)
    file = stack / "unet" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-8])
    unet, vae, schedule, tokenizer = faults(capsys, stack)
    assert "is not a readable .safetensors file" in unet
    assert vae == f"vae: {stack / 'vae'} is missing"
    assert "prediction_type='sample' is not supported" in schedule
    assert tokenizer.startswith("tokenizer cuts sentences to 64 tokens, but the text_encoder reads")


def test_parts_of_different_stacks_are_refused(stack, capsys):
    shutil.rmtree(stack / "image_to_text")
    other = models.build("image-to-text-tiny")
    weights.save(stack / "image_to_text", other, other.init(0))
    (wrong,) = faults(capsys, stack, "--for", "tr")
    assert "image_to_text's input_dim is 32, but vision width is 128" in wrong
    (wrong,) = faults(capsys, stack, "--for", "i2t", "--image-encoder", stack / "text_encoder")
    assert "holds a ClipText, expected a ClipVision" in wrong


def test_a_place_without_a_stack_is_refused(tmp_path, capsys):
    assert cli.main(["stack", "check", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
