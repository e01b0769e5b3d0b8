"""`tdr convert` recognises what it is given, says what it wrote, and spares what was there."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tdr_jax
from tdr_jax import cli, convert, models, weights
from tdr_jax.convert import io
from tests.support import checkpoints

KEY = "restormer, grey without bias in its norms"
NAME, OVERRIDES = checkpoints.SMALL[KEY]


@pytest.fixture(scope="module")
def small():
    network, params = checkpoints.build(KEY)
    return network, params, convert.to_torch(NAME, params, **OVERRIDES)


@pytest.fixture
def published(small, tmp_path):
    """A checkpoint as BasicSR writes it."""
    path = tmp_path / "restormer.pth"
    torch.save({"params": small[2]}, path)
    return path


def run(capsys, *words):
    """Exit status and the lines of both streams."""
    status = cli.main(["convert", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def refused(capsys, *words):
    """The one line of a refusal, which must also leave the exit status 2."""
    status, out, err = run(capsys, *words)
    assert status == 2 and len(err) == 1 and err[0].startswith("tdr: error: "), (out, err)
    return err[0]


def test_no_flags_are_needed_and_two_lines_say_what_happened(small, published, tmp_path, capsys):
    network, params, _ = small
    status, lines, _ = run(capsys, published, "-o", tmp_path / "out")
    assert status == 0 and len(lines) == 2
    assert "PyTorch, params" in lines[0] and ": restormer inp_channels=1" in lines[0]
    for told in ("dim=8", "num_blocks=1,2,1,1", "heads=1,1,2,2", "bias=True"):
        assert told in lines[0]
    assert "LayerNorm_type=BiasFree" in lines[0] and "ffn_expansion_factor" not in lines[0]
    count = sum(value.size for value in params.values())
    assert f"{count:,} parameters" in lines[0]
    assert lines[1].startswith(f"wrote {tmp_path}/out/model.safetensors (tdr")
    loaded, values = tdr_jax.load(tmp_path / "out")
    assert loaded.config == network.config
    assert all(np.array_equal(values[name], params[name]) for name in params)


@pytest.mark.parametrize(
    "file, options, layout",
    [
        ("net.pth", (), "basicsr"),
        ("net.pt", (), "basicsr"),
        ("net.ckpt", (), "lightning"),
        ("net.pkl", (), "sfnet"),
        ("net.bin", ("--to", "torch"), "torch"),
    ],
)
def test_the_suffix_chooses_the_container_and_every_bit_arrives(
    file, options, layout, small, published, tmp_path, capsys
):
    assert run(capsys, published, "-o", tmp_path / "ours")[0] == 0
    status, lines, _ = run(capsys, tmp_path / "ours", "-o", tmp_path / file, *options)
    assert status == 0 and f"({layout}, {len(small[2])} tensors, float32" in lines[1]
    content = torch.load(tmp_path / file, weights_only=True)
    key, prefix = io.LAYOUTS[layout]
    state = content if key is None else content[key]
    assert state.keys() == {prefix + name for name in small[2]}
    assert all(torch.equal(state[prefix + name], small[2][name]) for name in small[2])


def test_safetensors_have_pytorch_names_and_say_which_network(small, published, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    assert run(capsys, published, "-o", path)[0] == 0
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["network"] == "restormer"
        assert set(file.keys()) == small[2].keys()
        assert all(torch.equal(file.get_tensor(name), small[2][name]) for name in file.keys())
    status, lines, _ = run(capsys, path, "-o", tmp_path / "ours.safetensors", "--to", "tdr")
    assert status == 0 and "PyTorch's names" in lines[0]
    values = tdr_jax.load(tmp_path / "ours.safetensors")[1]
    assert all(np.array_equal(values[name], small[1][name]) for name in values)


def test_what_a_folder_was_told_travels_along(small, tmp_path, capsys):
    weights.save(tmp_path / "mine", *small[:2], metadata={"licence": "CC0"})
    run(capsys, tmp_path / "mine", "-o", tmp_path / "net.safetensors")
    run(capsys, tmp_path / "net.safetensors", "-o", tmp_path / "again")
    assert io.read(tmp_path / "again").metadata["licence"] == "CC0"


def test_half_size_files_load_as_float32(published, tmp_path, capsys):
    for dtype in ("float16", "bfloat16"):
        assert run(capsys, published, "-o", tmp_path / dtype, "--dtype", dtype)[0] == 0
        network, values = tdr_jax.load(tmp_path / dtype)
        assert {str(value.dtype) for value in values.values()} == {"float32"}
        size = (tmp_path / dtype / "model.safetensors").stat().st_size
        assert size < 0.6 * published.stat().st_size
    assert network.config.dtype == "float32"  # the file's dtype is not that of the computation


def test_dead_tensors_are_named_on_the_way_in_and_filled_on_the_way_out(tmp_path, capsys):
    name, overrides = checkpoints.SMALL["sfnet"]
    params = checkpoints.build("sfnet")[1]
    state = convert.to_torch(name, params, fill_dead=True, **overrides)
    torch.save({"model": state}, tmp_path / "net.pkl")
    status, lines, _ = run(capsys, tmp_path / "net.pkl", "-o", tmp_path / "out")
    assert status == 0 and "24 dead tensors ignored" in lines[0]
    for file in ("filled.pkl", "filled.safetensors"):
        assert run(capsys, tmp_path / "out", "-o", tmp_path / file, "--fill-dead")[0] == 0
        tensors = io.read(tmp_path / file).tensors
        assert tensors.keys() == state.keys()
        assert all(np.array_equal(tensors[key], state[key]) for key in state)
    content = torch.load(tmp_path / "filled.pkl", weights_only=True)["model"]
    assert all(content[key].dtype == state[key].dtype for key in state)
    message = refused(capsys, tmp_path / "out", "-o", tmp_path / "again", "--fill-dead")
    assert "--fill-dead is for PyTorch's containers" in message


def test_what_shapes_do_not_tell_can_be_set(tmp_path, capsys):
    name, overrides = checkpoints.SMALL["nafnet"]
    state = convert.to_torch(name, checkpoints.build("nafnet")[1], **overrides)
    torch.save({"params": state}, tmp_path / "net.pth")
    words = (tmp_path / "net.pth", "-o", tmp_path / "out", "--network", "nafnet")
    status, lines, _ = run(capsys, *words, "--set", "train_size=1,3,64,64")
    assert status == 0 and "train_size=1,3,64,64" in lines[0]
    assert tdr_jax.load(tmp_path / "out")[0].config.train_size == (1, 3, 64, 64)
    assert "KEY=VALUE" in refused(capsys, *words, "--set", "train_size")
    assert "no field depth" in refused(capsys, *words, "--set", "depth=3")
    assert "138 misshapen in all" in refused(capsys, *words, "--set", "width=8")


def test_shipped_weights_convert_by_name(tmp_path, capsys):
    status, lines, _ = run(capsys, "textpromptir-compact", "-o", tmp_path / "net.pth")
    assert status == 0 and "textpromptir-compact trained_for=noise,rain,haze " in lines[0]
    # What it was trained for is in no shape; the line above says what has to be set again.
    told = lines[0].partition(";")[0].split()[5:]
    assert len(told) == 3 and all("=" in setting for setting in told)
    words = [word for setting in told for word in ("--set", setting)]
    assert run(capsys, tmp_path / "net.pth", "-o", tmp_path / "back", *words)[0] == 0
    network, values = tdr_jax.load(tmp_path / "back")
    shipped, params = tdr_jax.load("textpromptir-compact")
    assert network.config == shipped.config
    assert all(np.array_equal(values[name], params[name]) for name in params)


FAULTS = {
    "renamed": lambda s: {k.replace("output.", "outptu."): v for k, v in s.items()},
    "truncated": lambda s: {k: v for k, v in s.items() if k != "latent.0.norm2.body.weight"},
    "extra": lambda s: s | {"head.weight": torch.zeros(3)},
    "misshapen": lambda s: s | {"reduce_chan_level3.weight": torch.zeros(5, 5, 1, 1)},
}
SAID = {
    "renamed": "output.weight is missing",
    "truncated": "missing latent.0.norm2.body.weight",
    "extra": "unexpected head.weight",
    "misshapen": "reduce_chan_level3.weight is (5, 5, 1, 1), not (32, 64, 1, 1)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_keys_are_named_with_their_file_and_nothing_is_written(
    fault, small, tmp_path, capsys
):
    path = tmp_path / "net.pth"
    torch.save({"params": FAULTS[fault](small[2])}, path)
    message = refused(capsys, path, "-o", tmp_path / "out")
    assert SAID[fault] in message and str(path) in message
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]


def test_inputs_that_are_no_checkpoint_are_refused(published, tmp_path, capsys):
    missing, empty, cut = (tmp_path / f"{word}.pth" for word in ("missing", "empty", "cut"))
    empty.touch()
    cut.write_bytes(published.read_bytes()[:3000])
    out = tmp_path / "out"
    assert "no weights at" in refused(capsys, missing, "-o", out)
    assert "empty.pth is empty" in refused(capsys, empty, "-o", out)
    assert "cut.pth is damaged" in refused(capsys, cut, "-o", out)
    assert not out.exists()


def test_a_checkpoint_of_another_network_is_refused_by_name(published, small, tmp_path, capsys):
    words = ("-o", tmp_path / "out", "--network")
    message = refused(capsys, published, *words, "nafnet")
    assert "the tensors are restormer's, not nafnet's" in message
    weights.save(tmp_path / "mine", *small[:2])
    assert "holds restormer, not promptir" in refused(capsys, tmp_path / "mine", *words, "promptir")
    assert "no network 'restorer'" in refused(capsys, published, *words, "restorer")


def test_networks_without_a_table_cannot_leave(tmp_path, capsys):
    network = models.build("degradation-estimator", widths=(8,))
    weights.save(tmp_path / "mine", network, network.init(0))
    message = refused(capsys, tmp_path / "mine", "-o", tmp_path / "net.pth")
    assert "degradation-estimator cannot be exchanged with PyTorch" in message


def test_outputs_that_cannot_be_written_are_refused(published, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "net.pth"):
        assert "taken" in refused(capsys, published, "-o", place)
    assert (tmp_path / "taken").read_text() == "mine"
    assert "--to torch writes a file" in refused(capsys, published, "-o", tmp_path, "--to", "torch")
    assert "names no container" in refused(capsys, published, "-o", tmp_path / "net.onnx")
    assert "writes a folder or" in refused(
        capsys, published, "-o", tmp_path / "net.pth", "--to", "tdr"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["restormer.pth", "taken"]


def test_an_input_is_never_overwritten_and_an_older_output_is(small, published, tmp_path, capsys):
    before = published.read_bytes()
    assert "never overwritten" in refused(capsys, published, "-o", published)
    (tmp_path / "link.pth").symlink_to(published)
    assert "never overwritten" in refused(capsys, published, "-o", tmp_path / "link.pth")
    weights.save(tmp_path / "mine", *small[:2])
    file = tmp_path / "mine" / "model.safetensors"
    for source in (tmp_path / "mine", file):
        assert "never overwritten" in refused(capsys, source, "-o", tmp_path / "mine")
    assert published.read_bytes() == before
    old = tmp_path / "old.pth"
    old.write_text("older")
    assert run(capsys, published, "-o", old)[0] == 0
    assert torch.load(old, weights_only=True)["params"].keys() == small[2].keys()
