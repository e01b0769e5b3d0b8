"""What training will need of TPUs is told by a machine that has none."""

import math
import re

import jax
import pytest

from tdr_jax import cli
from tdr_jax.analysis import aot, hardware, hlo, plan
from tdr_jax.errors import InputError
from tests.support.small import small_config, small_network  # noqa: F401

SLICE = "v5e:2x2"
BASE = "configs/textpromptir.py:device=tpu"


def planned(config, **options):
    hardware.prepare()
    chip, devices = hardware.slice_of(SLICE)
    return plan.make(config, devices, rounded=True, **options), chip


def config_of(batch=8, crop=64):
    config = small_config(4)
    config.data.stages = ((4, crop, batch),)
    return config


def test_it_tells_bytes_arithmetic_and_time():
    found, chip = planned(config_of())
    report = aot.compiled(found, chip)
    numbers = found.objective.network.abstract_params().values()
    size = 4 * sum(math.prod(value.shape) for value in numbers)
    assert report.held["parameters"] == report.held["average"] == size
    assert 2 * size <= report.held["moments"] <= 2 * size + 64  # and counters
    pictures = 2 * 2 * 64 * 64 * 3 * 4  # of each chip: two examples, degraded and clean
    assert report.held["batch"] == pytest.approx(pictures, abs=100)
    # Every chip sums its gradients with the others', in tiles.
    assert report.cost.collectives["all-reduce"] >= size
    # Three products a convolution: its own, and two for the gradients; but none for the pictures.
    pixels, width = 2 * 64 * 64, 8
    assert report.useful == pytest.approx(pixels * 2 * 9 * 3 * width * 5, rel=1e-3)
    assert report.useful <= report.cost.flops <= 1.2 * report.useful  # it spreads out some zeros
    assert report.cost.traffic >= pictures / 2
    text = str(report)
    assert f"MFU {report.useful / chip.arithmetic / max(report.times.values()):.1%} at most" in text
    assert hlo.Program(report.text).cost == report.cost


def test_what_does_not_fit_is_refused_with_a_remedy():
    found, chip = planned(config_of(crop=1024), per_device=2048)
    with pytest.raises(InputError) as refusal:
        aot.compiled(found, chip)
    assert re.search(r"needs [\d.]+GB of 15.75GB on each TPU v5 lite", str(refusal.value))
    assert "try config.network.overrides.dtype=bfloat16" in str(refusal.value)
    assert "fewer examples a chip" in str(refusal.value)


def test_what_devices_share_counts_once():
    config = config_of()
    config.mesh.min_size = 1
    whole, _ = planned(config)
    config.mesh.fsdp = 0
    cut, _ = planned(config)
    assert cut.held["parameters"] < whole.held["parameters"] / 2
    assert "(None, 'fsdp')" in str(cut) and "'fsdp'" not in str(whole)


def test_a_batch_that_chips_cannot_share_is_rounded_up_and_said():
    config = config_of(batch=6)
    config.accumulate = 3
    found, _ = planned(config)
    assert found.examples == 12
    assert found.notes == (
        "a batch of 6, as in config.data.stages, is not for 4 devices in 3 parts; this is of 12",
    )
    assert planned(config, per_device=6)[0].examples == 24
    with pytest.raises(InputError, match="multiple of config.accumulate=3"):
        planned(config, per_device=4)


def test_the_published_network_is_laid_out_over_a_pod(capsys):
    words = ["compile", "--config", BASE, "--topology", "v5e:16x16", "--dry_run"]
    assert cli.main([*words, "--per_chip", "32", "--config.mesh.fsdp=16"]) == 0
    text = capsys.readouterr().out
    assert "textpromptir on 256 tpu devices, the state sharded over 16: data 16, fsdp 16" in text
    assert re.search(r"39,849,408 parameters, 3,\d{3},\d{3} on each device", text)
    assert re.search(r"degraded +float32 +8192x128x128x3 +32x128x128x3", text)
    row = (
        r"latent\.blocks\.ffn\.project_in\.kernel +\| \(8, 384, 2042\) +\| float32 \| 6,273,024 +\|"
    )
    assert re.search(row + r" \(.*'fsdp'.*\)", text)


def test_a_run_is_laid_out_before_it_starts(capsys, tmp_path):
    words = ["train", "--config", "configs/quickstart.py", "--workdir", tmp_path / "run"]
    assert cli.main([*map(str, words), "--dry_run"]) == 0
    text = capsys.readouterr().out
    count = jax.device_count()
    assert re.search(rf"degraded +float32 +4x64x64x3 +{4 // count}x64x64x3", text)
    assert "5,500,685 parameters" in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--topology", "v5e:16"], "--topology=v5e:16: "),
        (["--topology", SLICE, "--per_chip", "-1"], "-1 examples a device; give"),
        (["--topology", SLICE, "--config.mesh.fsdp=3"], "config.mesh.fsdp is 3"),
        (["--topology", SLICE, "--hlo", "nowhere/x.txt"], "there is no such folder"),
        (["--topology", SLICE, "--config.nothing=1"], "is no field"),
    ],
)
def test_what_cannot_be_compiled_for_is_one_line(words, said, capfd):
    assert cli.main(["compile", "--config", BASE, *words]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tdr-jax\[tpu\]'"):
        hardware.slice_of(SLICE)
