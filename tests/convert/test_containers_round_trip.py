"""Every container gives back the bits that went in, and says what it cannot read."""

import argparse
import json
import os
import pickle
import stat

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tdr_jax import convert, models, weights
from tdr_jax.convert import dead, io, recognise, tables
from tdr_jax.errors import InputError
from tests.support import checkpoints

# How trainers pack a state dict: name of the file, what stands around it, prefix of the names.
FOUND = {
    "BasicSR": ("net.pth", lambda s: {"params": s}, ""),
    "BasicSR, moving average": (
        "net.pth",
        lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
        "module.",
    ),
    "Lightning": (
        "net.ckpt",
        lambda s: {
            "epoch": 3,
            "state_dict": s,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
            "hyper_parameters": argparse.Namespace(lr=2e-4),
        },
        "net.",
    ),
    "SFNet": ("net.pkl", lambda s: {"model": s, "epoch": 3}, ""),
    "a training checkpoint": (
        "net.pt",
        lambda s: {"model_state_dict": s, "optimizer": {}, "best": np.float64(31.5)},
        "module.",
    ),
    "a bare state dict": ("net.bin", lambda s: s, ""),
    "torch.compile": ("net.pth", lambda s: {"netG": s}, "_orig_mod."),
}


@pytest.fixture(scope="module")
def small():
    network, params = checkpoints.build("restormer, two views")
    state = convert.to_torch("restormer", params, **checkpoints.SMALL["restormer, two views"][1])
    return network, params, state


def same(loaded, network, params):
    """The same network, and parameters equal bit for bit."""
    found, values = loaded
    assert (found.name, found.config) == (network.name, network.config)
    assert values.keys() == params.keys()
    assert all(value.dtype == jnp.float32 for value in values.values())
    assert all(np.array_equal(values[name], params[name]) for name in params)
    return True


@pytest.mark.parametrize("key", checkpoints.SMALL)
def test_every_network_comes_back_from_every_container_as_it_was(key, tmp_path):
    network, params = checkpoints.build(key)
    name, overrides = checkpoints.SMALL[key]
    state = convert.to_torch(name, params, **overrides)
    assert recognise.recognise(state) == (name, overrides)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    said = weights.describe(network) | {"names": "pytorch", "format": "pt"}
    files = [io.write_torch(tmp_path / f"{way}.pth", state, way) for way in io.LAYOUTS]
    files.append(io.write_safetensors(tmp_path / "bare.safetensors", arrays, {}))
    files.append(io.write_safetensors(tmp_path / "described.safetensors", arrays, said))
    for path in files:
        tensors = io.read(path).tensors
        assert tensors.keys() == arrays.keys()
        assert all(tensors[k].dtype == arrays[k].dtype for k in arrays)
        assert all(np.array_equal(tensors[k], arrays[k]) for k in arrays)
    weights.save(tmp_path / "folder", network, params)
    for path in (files[0], files[-1], tmp_path / "folder"):
        assert same(weights.load(path), network, params)


@pytest.mark.parametrize("how", FOUND)
def test_weights_are_found_in_what_trainers_write(how, small, tmp_path):
    network, params, state = small
    file, pack, prefix = FOUND[how]
    torch.save(pack({prefix + name: tensor for name, tensor in state.items()}), tmp_path / file)
    assert same(weights.load(tmp_path / file), network, params)


def test_old_torch_files_and_foreign_safetensors_are_read(small, tmp_path):
    network, params, state = small
    old = tmp_path / "old.pth"
    torch.save({"params": state}, old, _use_new_zipfile_serialization=False)
    assert same(weights.load(old), network, params)
    foreign = {f"module.{name}": tensor.numpy() for name, tensor in state.items()}
    save_file(foreign, tmp_path / "foreign.safetensors", {"format": "pt"})
    assert same(weights.load(tmp_path / "foreign.safetensors"), network, params)


def test_half_precision_comes_back_as_the_nearest_float32(small, tmp_path):
    network, params, state = small
    for dtype in ("float16", "bfloat16"):
        rounded = {
            k: np.asarray(v).astype(jnp.dtype(dtype)).astype(np.float32) for k, v in params.items()
        }
        for path in (
            weights.save(tmp_path / dtype, network, params, dtype=dtype).parent,
            io.write_torch(tmp_path / f"{dtype}.pth", state, dtype=dtype),
        ):
            assert same(weights.load(path), network, rounded)
    assert weights.load(tmp_path / "float16.pth")[1]["output.kernel"].dtype == jnp.float32


def test_half_precision_never_spoils_what_it_cannot_hold(tmp_path):
    network, params = checkpoints.build("sfnet")
    counts = [name for name in params if name.endswith("num_batches_tracked")]
    large = next(name for name in params if name.endswith("running_var"))
    params[large] = np.full_like(params[large], 1e6)
    file = weights.save(tmp_path / "half.safetensors", network, params, dtype="float16")
    state = convert.to_torch("sfnet", params, **checkpoints.SMALL["sfnet"][1])
    pickled = io.write_torch(tmp_path / "half.pkl", state, "sfnet", "float16")
    for path in (file, pickled):
        values = weights.load(path)[1]
        assert counts and all(np.array_equal(values[name], params[name]) for name in counts)
        assert np.array_equal(values[large], params[large])


def test_a_folder_says_what_it_is_and_keeps_what_it_was_told(small, tmp_path):
    network, params, _ = small
    file = weights.save(tmp_path / "mine", network, params, metadata={"licence": "CC0"})
    content = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert content["network"] == "restormer" and content["metadata"] == {"licence": "CC0"}
    assert content["config"]["num_blocks"] == [1, 2, 1, 1]
    assert io.read(tmp_path / "mine").metadata["licence"] == "CC0"
    # The config is enough: the tensors may come from a tool that drops metadata.
    save_file({name: np.asarray(value) for name, value in params.items()}, file)
    assert same(weights.load(tmp_path / "mine"), network, params)
    assert io.read(tmp_path / "mine").metadata == {"licence": "CC0"}


def test_files_have_the_permissions_of_any_file(small, tmp_path):
    network, params, state = small
    (tmp_path / "plain").touch()
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    weights.save(tmp_path / "folder", network, params)
    io.write_torch(tmp_path / "net.pth", state)
    for path in ("folder/model.safetensors", "folder/config.json", "net.pth"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode, path


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(small, tmp_path, monkeypatch):
    network, params, state = small
    path = io.write_torch(tmp_path / "net.pth", state)
    before = path.read_bytes()

    def full_disk(tensors, target):
        target.write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(InputError, match="net.pth: cannot be written .No space left"):
        io.write_torch(path, state)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]


class RunsCode:
    """Pickles to a call of os.system that leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("how", ["zip", "old", "plain pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(how, small, tmp_path):
    mark, path = tmp_path / "it ran", tmp_path / "net.pth"
    content = {"params": small[2], "more": RunsCode(str(mark).replace(" ", "\\ "))}
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content["more"], 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(InputError, match=r"net\.pth .*would run posix\.system .*was not"):
        weights.load(path)
    assert not mark.exists()
    content["more"].__reduce__()[0](*content["more"].__reduce__()[1])
    assert mark.exists()  # so the file was a real danger


def test_a_whole_pickled_module_is_refused_with_the_remedy(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        weights.load(tmp_path / "module.pth")


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGED = {
    "empty.pth": lambda content: b"",
    "empty.safetensors": lambda content: b"",
    "cut.pth": _cut,
    "text.pth": lambda content: b"this is no checkpoint",
    "picture.pth": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_get_one_line_that_names_them(name, small, tmp_path):
    whole = io.write_torch(tmp_path / "whole.pth", small[2])
    path = tmp_path / name
    path.write_bytes(DAMAGED[name](whole.read_bytes()))
    with pytest.raises(InputError, match=name) as error:
        weights.load(path)
    assert "empty" in str(error.value) or "damaged" in str(error.value)
    assert len(str(error.value)) < 400


def test_cut_safetensors_and_configs_get_one_line(small, tmp_path):
    network, params, _ = small
    file = weights.save(tmp_path / "mine", network, params)
    config = tmp_path / "mine" / "config.json"
    for path in (file, config):
        whole = path.read_bytes()
        path.write_bytes(_cut(whole))
        with pytest.raises(InputError, match=f"{path.name} is not .*readable"):
            weights.load(tmp_path / "mine")
        path.write_bytes(whole)
    save_file({name: np.asarray(value) for name, value in params.items()}, file)
    config.write_text(json.dumps({"network": "restormer", "config": {"dim": "wide"}}))
    with pytest.raises(InputError, match="no restormer can be built with dim=wide"):
        weights.load(tmp_path / "mine")


def test_a_folder_or_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no weights at .*nowhere.pth.*textpromptir-compact"):
        weights.load(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="has no model.safetensors"):
        weights.load(tmp_path)


def test_checkpoints_without_a_state_dict_say_what_they_hold(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="no state dict, only epoch, optimizer"):
        weights.load(tmp_path / "net.pth")


def test_tensors_of_no_known_network_get_the_nearest_and_what_is_missing():
    other = {"conv.weight": torch.zeros(3), "conv.bias": torch.zeros(3)}
    with pytest.raises(InputError, match="no network known here; these are: guided, textpromptir"):
        recognise.recognise(other)
    other["patch_embed.proj.weight"] = torch.zeros(8, 3, 3, 3)
    other["down1_2.body.0.weight"] = torch.zeros(4, 8, 3, 3)
    with pytest.raises(InputError, match="the nearest is .*lack .* more"):
        recognise.recognise(other)


@pytest.mark.parametrize("key", checkpoints.SMALL)
def test_a_missing_tensor_that_would_tell_sizes_is_named(key):
    name, overrides = checkpoints.SMALL[key]
    state = convert.to_torch(name, checkpoints.build(key)[1], **overrides)
    first = {"nafnet": "intro.weight", "sfnet": "feat_extract.0.main.0.weight"}
    first |= dict.fromkeys(("image-to-text", "textual-restoration"), "mapping_0.0.weight")
    gone = first.get(overrides.get("backbone", name), "patch_embed.proj.weight")
    del state[gone]
    with pytest.raises(InputError, match=f"look like {name}'s, but {gone} is missing"):
        recognise.recognise(state)


def test_a_checkpoint_of_another_network_is_told_by_name(small):
    with pytest.raises(InputError, match="the tensors are restormer's, not nafnet's"):
        recognise.recognise(small[2], "nafnet")


def test_many_faults_are_counted_and_the_first_are_shown(small):
    network, _, state = small
    kept = {name: t for name, t in state.items() if not name.startswith("latent.0.")}
    kept["latent.0.atn.qkv.weight"] = state["latent.0.attn.qkv.weight"]
    kept["output.weight"] = torch.zeros(3, 3)
    with pytest.raises(InputError) as error:
        convert.from_torch("restormer", kept, **checkpoints.SMALL["restormer, two views"][1])
    message = str(error.value)
    assert "missing latent.0.attn.qkv.weight (there is latent.0.atn.qkv.weight)" in message
    assert "and 5 more (11 missing, 1 unexpected, 1 misshapen in all)" in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    "name, overrides, tensors",
    [
        ("promptir", dict(num_blocks=(1, 1, 1, 1)), 6),
        ("promptir", dict(num_blocks=(1, 1, 1, 1), bias=True), 12),
        ("sfnet", dict(num_res=2, base_channel=16), 24),
        ("restormer", dict(dim=8, num_blocks=(1, 1, 1, 1)), 0),
        ("textpromptir", {}, 2022),
    ],
)
def test_dead_tensors_fill_exports_and_are_ignored_by_imports(name, overrides, tensors):
    network = models.build(name, **overrides)
    shapes = dead.shapes(network)
    assert len(shapes) == tensors
    table = tables.TABLES[network.kind]
    assert all(table.is_dead(key) for key in shapes)
    assert not shapes.keys() & set(convert.torch_names(network))


def test_filled_exports_hold_zeros_beside_the_same_live_tensors():
    name, overrides = checkpoints.SMALL["sfnet"]
    params = checkpoints.build("sfnet")[1]
    live = convert.to_torch(name, params, **overrides)
    filled = convert.to_torch(name, params, fill_dead=True, **overrides)
    assert all(torch.equal(filled[key], live[key]) for key in live)
    added = filled.keys() - live.keys()
    assert added and not any(filled[key].any() for key in added)
    back = convert.from_torch(name, filled, **overrides)
    assert all(np.array_equal(back[key], params[key]) for key in params)


def test_the_published_textpromptir_has_the_published_number_of_tensors():
    network = models.build("textpromptir")
    shapes = dead.shapes(network)
    assert len(shapes) + len(convert.torch_names(network)) == 3136
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert count + 39_849_408 == 123_642_572
    with pytest.raises(InputError, match="dim is 8.*exists with dim 48"):
        dead.shapes(models.build("textpromptir-tiny"))


def test_shipped_weights_are_named_without_the_sentence_encoder():
    assert "textpromptir-compact" in weights.shipped()
    assert "minilm" not in weights.shipped()
