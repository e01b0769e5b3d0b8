"""The manifests for Kubernetes hold what Kubernetes understands, and restart what is to restart."""

import copy
import re
import string
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support import jobset

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
COMMON = {
    "NAME": "compact",
    "IMAGE": "registry.example.com/tdr:1",
    "CONFIG": "configs/textpromptir.py:size=compact,data=/data/photos",
    "WORKDIR": "gs://bucket/runs/compact",
    "CLAIM": "photographs",
    "SERVICE_ACCOUNT": "default",
}
VARIABLES = {
    "gpu.yaml": COMMON | {"NODES": "4", "GPUS": "8"},
    "tpu.yaml": COMMON
    | {
        "ACCELERATOR": "tpu-v6e-slice",
        "TOPOLOGY": "4x4",
        "SLICES": "2",
        "HOSTS": "4",
        "CHIPS": "4",
    },
}
both = pytest.mark.parametrize("name", VARIABLES)


def render(name):
    """The manifest with its variables filled in, all of them and no other."""
    return yaml.safe_load(string.Template((FOLDER / name).read_text()).substitute(VARIABLES[name]))


def job_of(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job, job["template"]["spec"]


def container_of(manifest):
    (container,) = job_of(manifest)[1]["template"]["spec"]["containers"]
    return container


@both
def test_kubernetes_understands_every_field(name):
    jobset.check(render(name))


@both
def test_every_variable_is_used_and_explained(name):
    used = set(re.findall(r"\$\{(\w+)\}", (FOLDER / name).read_text()))
    assert used == set(VARIABLES[name])
    section = (ROOT / "deploy" / "README.md").read_text()
    assert [variable for variable in sorted(used) if f"{variable}=" not in section] == []


def misspelt_policy(manifest):
    manifest["spec"]["failurePolicies"] = manifest["spec"].pop("failurePolicy")


def misspelt_action(manifest):
    manifest["spec"]["failurePolicy"]["rules"][0]["action"] = "RestartJobset"


def policy_beside_the_job(manifest):
    template = manifest["spec"]["replicatedJobs"][0]["template"]
    template["podFailurePolicy"] = template["spec"].pop("podFailurePolicy")


def grace_of_the_job(manifest):
    job = job_of(manifest)[1]
    job["terminationGracePeriodSeconds"] = 1


def misspelt_limit(manifest):
    container_of(manifest)["resource"] = container_of(manifest).pop("resources")


def nodes_as_text(manifest):
    job_of(manifest)[1]["parallelism"] = "four"


def number_as_argument(manifest):
    container_of(manifest)["args"].append(4)


def number_in_the_environment(manifest):
    container_of(manifest)["env"] = [{"name": "NODES", "value": 4}]


def statuses_as_text(manifest):
    job_of(manifest)[1]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] = ["75"]


@both
@pytest.mark.parametrize(
    "mistake",
    [
        misspelt_policy,
        misspelt_action,
        policy_beside_the_job,
        grace_of_the_job,
        misspelt_limit,
        nodes_as_text,
        number_as_argument,
        number_in_the_environment,
        statuses_as_text,
    ],
)
def test_a_mistake_is_found(name, mistake):
    manifest = render(name)
    mistake(manifest)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        jobset.check(manifest)


@both
@pytest.mark.parametrize(
    "status, action",
    [
        (75, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, "FailJobSet"),
        (1, "RestartJobSet"),  # also what a process says that lost another one
        (137, "RestartJobSet"),  # killed: no memory left, or no time
        (175, "RestartJobSet"),
    ],
)
def test_a_status_leads_to_what_the_table_says(name, status, action):
    manifest = render(name)
    assert jobset.action_on(manifest, status) == action
    _, job = job_of(manifest)
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"


@both
def test_a_process_for_every_host(name):
    replicated, job = job_of(render(name))
    hosts = 4
    assert job["parallelism"] == job["completions"] == hosts
    assert job["completionMode"] == "Indexed"
    assert replicated["replicas"] == (2 if name == "tpu.yaml" else 1)


def test_gpu_processes_meet_at_pod_0():
    manifest = render("gpu.yaml")
    environment = {entry["name"]: entry for entry in container_of(manifest)["env"]}
    # A pod is called JOBSET-REPLICATEDJOB-JOB-POD.SUBDOMAIN, the subdomain like the set.
    assert manifest["spec"]["network"] == {"enableDNSHostnames": True}
    pod = f"{manifest['metadata']['name']}-{job_of(manifest)[0]['name']}-0-0"
    host, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert host == f"{pod}.{manifest['metadata']['name']}"
    assert 1024 < int(port) < 65536
    assert environment["JAX_NUM_PROCESSES"]["value"] == "4"
    path = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert container_of(manifest)["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_tpu_slices_are_whole_and_found_by_jax():
    manifest = render("tpu.yaml")
    pod = job_of(manifest)[1]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    chips = container_of(manifest)["resources"]["limits"]["google.com/tpu"]
    assert chips * job_of(manifest)[1]["parallelism"] == 4 * 4
    # JAX_... would come before what GKE says.
    assert "env" not in container_of(manifest)


@both
def test_the_training_command_gets_its_arguments(name):
    container = container_of(render(name))
    assert "command" not in container  # the image's entry point is train.py
    assert container["args"] == [
        f"--config={COMMON['CONFIG']}",
        f"--workdir={COMMON['WORKDIR']}",
    ]


def test_both_manifests_have_one_failure_policy():
    gpu, tpu = (copy.deepcopy(render(name)["spec"]["failurePolicy"]) for name in VARIABLES)
    assert tpu.pop("restartStrategy") == "BlockingRecreate"
    assert gpu == tpu
