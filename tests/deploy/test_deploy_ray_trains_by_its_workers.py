"""Ray's workers train one network, and what stops them is told for what it is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from ray.train.v2.api.exceptions import WorkerGroupError

from configs import backbone
from tdr_jax import objectives
from tdr_jax.errors import InputError
from tests.support.programs import SMALL_RUN
from tests.support.small import records
from tests.support.stops import stopping

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "ray" / "train.py"
PHOTOS = ROOT / "examples" / "photos" / "train"
MAKE = objectives.make


@pytest.fixture(scope="module")
def script():
    """The file as a module; its flags, some named like those of train.py, go when it goes."""
    before = {name: flags.FLAGS[name] for name in flags.FLAGS}
    for name in before.keys() & {"config", "workdir"}:
        delattr(flags.FLAGS, name)
    spec = importlib.util.spec_from_file_location("deploy_ray_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = set(flags.FLAGS) - before.keys() | {"config", "workdir"}
    yield module
    for name in own:
        delattr(flags.FLAGS, name)
    for name in before.keys() & {"config", "workdir"}:
        flags.FLAGS[name] = before[name]


@pytest.fixture
def reports(monkeypatch):
    """What the worker reports; there is no Ray around it."""
    told = []
    monkeypatch.setattr("ray.train.report", told.append)
    return told


def config():
    fields = backbone.get_config(f"name=nafnet,task=denoise,size=small,data={PHOTOS}")
    blocks = {"enc_blk_nums": (1,), "middle_blk_num": 1, "dec_blk_nums": (1,)}
    fields.network.overrides.update({"width": 2, **blocks})
    fields.data.stages = ((2, 16, 2),)
    fields.log_every = 1
    return fields


def asked_to_stop(*arguments):
    """A run's parts, whose first batch comes with SIGTERM."""
    objective = MAKE(*arguments)
    objective.batches = stopping(objective.batches, 0, "signal")
    return objective


def test_a_worker_that_is_asked_to_stop_has_failed_and_then_goes_on_to_the_end(
    script, reports, tmp_path, monkeypatch
):
    settings = {"config": config(), "workdir": str(tmp_path)}
    weights = tmp_path / "weights.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(objectives, "make", asked_to_stop)
        with pytest.raises(script.Stopped, match="step 1 of 2 is saved"):
            script.work(settings)
    assert reports == [] and not weights.exists()

    script.work(settings)
    assert reports == [{"step": 2}]
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert weights.exists()

    script.work(settings)  # nothing is left to do
    assert reports == [{"step": 2}] * 2
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "failure, status",
    [
        (InputError("no pictures; give a folder"), 2),
        (FloatingPointError("the loss of step 5 is nan"), 1),
    ],
)
def test_a_failure_is_one_line_and_a_status(script, monkeypatch, capsys, failure, status):
    class Trainer:
        def fit(self):
            raise WorkerGroupError("many lines", {0: failure, 1: failure})

    monkeypatch.setattr(script, "make_trainer", Trainer)
    with pytest.raises(SystemExit) as end:
        script.main(["train.py"])
    assert end.value.code == status
    assert capsys.readouterr().err == f"train.py: error: {failure}\n"


@pytest.mark.parametrize(
    "platform, resources",
    [("cuda", {"GPU": 8}), ("tpu", {"TPU": 4}), ("cpu", {"CPU": 1})],
)
def test_a_worker_asks_for_a_whole_host(script, platform, resources):
    was_parsed = flags.FLAGS.is_parsed()
    flags.FLAGS.mark_as_parsed()
    given = {"workers": 4, "gpus": 8, "topology": "4x4", "accelerator": "TPU-V6E"}
    with flagsaver.flagsaver(platform=platform, workdir="gs://runs/base", **given):
        trainer = script.make_trainer()
    if not was_parsed:
        flags.FLAGS.unparse_flags()
    assert trainer.scaling_config.num_workers == 4
    asked = trainer.scaling_config._resources_per_worker_not_none
    assert {name: asked[name] for name in resources} == resources
    assert trainer.run_config.worker_runtime_env == {"env_vars": {"JAX_PLATFORMS": platform}}
    joined_as = (trainer.backend_config.use_gpu, trainer.backend_config.use_tpu)
    assert joined_as == (platform != "tpu", platform == "tpu")


def test_nothing_heavy_is_imported_before_the_work_begins():
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "jax", "tdr_jax"} & set(ended.stdout.split())


@pytest.mark.full
def test_two_workers_train_one_network(tmp_path):
    variables = {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TDR_CACHE": str(tmp_path / "cache"),
    }
    run = tmp_path / "run"
    arguments = [argument.replace("examples/photos", str(PHOTOS.parent)) for argument in SMALL_RUN]
    arguments += ["--platform=cpu", "--workers=2", "--restarts=0", f"--workdir={run}"]
    environment = {**os.environ, **variables}
    environment.pop("RAY_ADDRESS", None)  # a cluster of its own
    command = [sys.executable, SCRIPT, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "2 cpu devices" in told
    assert told.count("the weights are in") == 1
    assert [record["step"] for record in records(run)] == [1, 2]
    assert [path.name for path in run.rglob("*.safetensors")] == ["weights.safetensors"]
