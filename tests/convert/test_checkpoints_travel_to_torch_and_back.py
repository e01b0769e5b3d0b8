"""PyTorch state dicts come in and go out without losing a bit, and say all that is wrong."""

import numpy as np
import pytest
import torch

import tdr_jax
from tdr_jax import convert, models
from tdr_jax.convert import torch_modules
from tdr_jax.errors import InputError

# Names that the reference's checkpoint holds and its forward pass never touches.
DEAD = (
    "encoder_level1.0.attn.linear2.weight",
    "latent.7.ffn.linear3_1.bias",
    "refinement.3.attn.linear1_2.weight",
    "prompt1_1.prompt_param",
    "prompt3_2.conv3x3.weight",
    "noise_level1.attn.qkv.weight",
    "noise_level2_2.ffn.fusion.conv.weight",
    "reduce_noise_level3_1.weight",
    "reduce_noise_channel_2.weight",
    "chnl_reduce3.weight",
)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torch_modules.TextPromptIR().state_dict()


def test_round_trip_is_bit_identical(state):
    assert len(state) == 1114
    params = convert.from_torch("textpromptir", state)
    back = convert.to_torch("textpromptir", params)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    torch_modules.TextPromptIR().load_state_dict(back, strict=True)


def test_dead_tensors_of_the_reference_are_ignored(state):
    extended = state | {name: torch.zeros(1) for name in DEAD}
    params = convert.from_torch("textpromptir", extended)
    assert params.keys() == models.build("textpromptir").abstract_params().keys()


def test_every_fault_is_reported_at_once_with_the_nearest_name(state):
    broken = dict(state)
    broken["output.weigth"] = broken.pop("output.weight")
    broken["linear1.bias"] = torch.zeros(3)
    broken["latent.0.attn.linear8.weight"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        convert.from_torch("textpromptir", broken)
    message = str(error.value)
    assert "missing output.weight (there is output.weigth)" in message
    assert "linear1.bias is (3,), not (576,)" in message
    assert "unexpected latent.0.attn.linear8.weight" in message


def test_half_precision_checkpoints_come_in_as_float32(state):
    params = convert.from_torch("textpromptir", {k: v.bfloat16() for k, v in state.items()})
    assert {str(value.dtype) for value in params.values()} == {"float32"}


def test_saved_weights_load_by_folder_file_and_in_half_size(tmp_path):
    network = models.build("textpromptir-tiny", num_refinement_blocks=2)
    params = network.init(1)
    path = tdr_jax.save(tmp_path / "mine", network, params, metadata={"licence": "CC0"})
    for place in (path, tmp_path / "mine"):
        loaded, values = tdr_jax.load(place)
        assert loaded.config == network.config
        assert all(np.array_equal(values[name], params[name]) for name in params)
    half = tdr_jax.save(tmp_path / "half.safetensors", network, params, dtype="float16")
    assert half.stat().st_size < 0.6 * path.stat().st_size
    values = tdr_jax.load(half)[1]
    assert values["output.kernel"].dtype == np.float32
    np.testing.assert_allclose(values["output.kernel"], params["output.kernel"], atol=1e-3)


def test_files_that_are_no_weights_get_one_clear_line(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(InputError, match="no weights at nowhere"):
        tdr_jax.load("nowhere")
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    with pytest.raises(InputError, match="not a readable .safetensors"):
        tdr_jax.load(text)
    save_file({"a": np.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="names no network"):
        tdr_jax.load(tmp_path / "foreign.safetensors")
    metadata = {"network": "textpromptir-tiny", "config": "{}"}
    save_file({"output.kernel": np.zeros(1)}, tmp_path / "part.safetensors", metadata)
    with pytest.raises(InputError, match="missing linear1.kernel"):
        tdr_jax.load(tmp_path / "part.safetensors")
