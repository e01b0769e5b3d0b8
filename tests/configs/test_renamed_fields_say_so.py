"""A field by a name of before is refused with the one it has now, wherever it is given."""

import subprocess
import sys

import pytest

import tdr_jax
from tdr_jax import cli, models
from tdr_jax.errors import InputError
from tdr_jax.train import config as configs
from tests.support import sweep_files

QUICKSTART = str(sweep_files.ROOT / "configs" / "quickstart.py")


@pytest.mark.parametrize("old", configs.RENAMED)
def test_on_the_command_line(old):
    said = f"config.{old} is config.{configs.RENAMED[old]} now"
    with pytest.raises(InputError, match=said):
        configs.read(QUICKSTART, [f"--config.{old}=1"])
    field = configs.read(QUICKSTART, [])
    for part in configs.RENAMED[old].split("."):
        field = field[part]  # the new one is there


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_by_the_scripts(script, tmp_path):
    words = [f"--config={QUICKSTART}", f"--workdir={tmp_path}", "--config.data.turns=(0,)"]
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, cwd=sweep_files.ROOT
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"{script}: error: config.data.turns is config.data.dihedral now; use the new name\n"
    )


def test_in_a_config_file(tmp_path, capsys):
    file = tmp_path / "configs" / "mine.py"
    file.parent.mkdir()
    file.write_text(
        "from configs import quickstart\n\n\ndef get_config(argument=''):\n"
        "    config = quickstart.get_config()\n    config.data.mixed = 0.1\n    return config\n"
    )
    assert cli.main(["train", "--config", str(file), "--workdir", str(tmp_path / "run")]) == 2
    assert "config.data.mixed is config.data.p_keep_one now" in capsys.readouterr().err


def test_weights_saved_before_still_load(tmp_path):
    from safetensors.numpy import load_file, save_file

    network = models.build("nafnet", width=8, enc_blk_nums=(1,), dec_blk_nums=(1,), microbatches=2)
    path = tmp_path / "weights.safetensors"
    tdr_jax.save(path, network, network.init(0))
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert '"microbatches": 2' in metadata["config"]
    metadata["config"] = metadata["config"].replace("microbatches", "parts")
    save_file(tensors, path, metadata)
    loaded, _ = tdr_jax.load(path)
    assert loaded.config == network.config
