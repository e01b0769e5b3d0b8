"""SkyPilot's task holds known fields, and each of its nodes joins the run under its own number."""

import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.support.programs import RECORD, Programs, lint

ROOT = Path(__file__).resolve().parents[2]
TASK = ROOT / "deploy" / "skypilot" / "train.yaml"
TEXT = {"type": "string"}
CODE = {"type": "integer", "minimum": 0, "maximum": 255}


def closed(**properties):
    return {"type": "object", "properties": properties, "additionalProperties": False}


# The fields of a task that a training run may need.
SCHEMA = closed(
    name=TEXT,
    num_nodes={"type": "integer", "minimum": 1},
    workdir=TEXT,
    resources=closed(
        accelerators={"type": "string", "pattern": r"^[\w-]+(:\d+)?$"},
        use_spot={"type": "boolean"},
        job_recovery=closed(
            max_restarts_on_errors={"type": "integer", "minimum": 0},
            recover_on_exit_codes={"type": "array", "items": CODE, "uniqueItems": True},
        ),
    ),
    envs={
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"type": ["string", "null"]},
    },
    file_mounts={
        "type": "object",
        "additionalProperties": closed(
            source=TEXT, mode={"enum": ["COPY", "MOUNT", "MOUNT_CACHED"]}
        ),
    },
    setup=TEXT,
    run=TEXT,
) | {"required": ["resources", "run"]}
GIVEN = {"CONFIG": "configs/a.py:data=my photos", "WORKDIR": "gs://runs/1", "PHOTOS": "gs://p"}


def check(task):
    jsonschema.Draft202012Validator(SCHEMA).validate(task)


@pytest.fixture
def task():
    return yaml.safe_load(TASK.read_text())


def run(script, **variables):
    environment = {**os.environ, **GIVEN, **variables}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)


def test_its_fields_are_known(task):
    check(task)
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}


@pytest.mark.parametrize(
    "path, value",
    [
        (("num_node",), 2),
        (("num_nodes",), "two"),
        (("resources", "accelerator"), "H100:8"),
        (("resources", "accelerators"), 8),
        (("resources", "job_recovery"), {"recover_on_exit_code": [75]}),
        (("resources", "job_recovery"), {"recover_on_exit_codes": [750]}),
        (("file_mounts", "/data", "mode"), "MOUNTED"),
        (("envs", "STEPS"), 3),
        (("run",), ["python", "train.py"]),
    ],
)
def test_a_mistake_is_found(task, path, value):
    *parents, name = path
    place = task
    for parent in parents:
        place = place[parent]
    place[name] = value
    with pytest.raises(jsonschema.ValidationError):
        check(task)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_shellcheck_finds_nothing(task, part):
    assert lint("shellcheck", "--shell=bash", "-", text=task[part]) == ""


def test_every_node_joins_under_its_own_number(task, tmp_path, monkeypatch):
    programs = Programs(tmp_path, monkeypatch)
    programs.put("python", RECORD)
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6"}
    for rank in range(2):
        assert run(task["run"], **nodes, SKYPILOT_NODE_RANK=str(rank)).returncode == 0
    for rank, call in enumerate(programs.told()):
        script, *arguments = call["arguments"]
        assert script == "train.py"
        assert dict(zip(arguments[::2], arguments[1::2], strict=True)) == {
            "--coordinator": "10.0.0.5:8476",
            "--num_processes": "2",
            "--process_id": str(rank),
            "--config": GIVEN["CONFIG"],
            "--workdir": GIVEN["WORKDIR"],
        }
    assert len(programs.told()) == 2


def test_the_status_of_the_training_is_the_status_of_the_node(task, tmp_path, monkeypatch):
    programs = Programs(tmp_path, monkeypatch)
    programs.put("python", "raise SystemExit(75)")
    nodes = {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_IPS": "10.0.0.5", "SKYPILOT_NODE_RANK": "0"}
    assert run(task["run"], **nodes).returncode == 75


def test_it_is_python_that_hears_signals(task, tmp_path, monkeypatch):
    programs = Programs(tmp_path, monkeypatch)
    programs.put("python", "import os\nprint(os.getpid())")
    nodes = {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_IPS": "10.0.0.5", "SKYPILOT_NODE_RANK": "0"}
    environment = {**os.environ, **GIVEN, **nodes}
    node = subprocess.Popen(["bash", "-c", task["run"]], env=environment, stdout=subprocess.PIPE)
    assert int(node.communicate()[0]) == node.pid


def test_every_variable_is_used(task):
    text = task["run"] + str(task["file_mounts"])
    assert [name for name in task["envs"] if not re.search(rf"\$\{{?{name}\b", text)] == []
    assert set(task["envs"]) == set(GIVEN)
