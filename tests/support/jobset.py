"""What a JobSet may hold: its own fields here, the jobs in it by Kubernetes' published schema."""

import re

import jsonschema
import kubernetes_validate

KUBERNETES = "1.34"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXTS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
NUMBER = {"type": "integer", "minimum": 0}
ACTIONS = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob")


def _closed(required=(), **properties) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


RULE = _closed(
    ("name", "action"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ACTIONS},
    onJobFailureReasons=TEXTS,
    onJobFailureMessagePatterns=TEXTS,
    targetReplicatedJobs=TEXTS,
)
# The fields of jobset.x-k8s.io/v1alpha2 (version 0.10) that a training run may need.
JOBSET = _closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_closed(
        ("name",),
        name=NAME,
        namespace=NAME,
        labels={"type": "object", "additionalProperties": {"type": "string"}},
        annotations={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    spec=_closed(
        ("replicatedJobs",),
        network=_closed(
            enableDNSHostnames={"type": "boolean"},
            publishNotReadyAddresses={"type": "boolean"},
            subdomain=NAME,
        ),
        failurePolicy=_closed(
            maxRestarts=NUMBER,
            restartStrategy={"enum": ("Recreate", "BlockingRecreate", "InPlaceRestart")},
            rules=_list(RULE),
        ),
        ttlSecondsAfterFinished=NUMBER,
        replicatedJobs=_list(
            _closed(
                ("name", "template"),
                name=NAME,
                replicas=NUMBER,
                template=_closed(("spec",), metadata={"type": "object"}, spec={"type": "object"}),
            )
        ),
    ),
)


def check(jobset: dict) -> None:
    """Refuses unknown fields, wrong types and missing fields, down to the containers.

    Args:
        jobset: a manifest.

    Raises:
        jsonschema.ValidationError: names the field.
    """
    jsonschema.Draft202012Validator(JOBSET).validate(jobset)
    for job in jobset["spec"]["replicatedJobs"]:
        manifest = {"apiVersion": "batch/v1", "kind": "Job", "spec": job["template"]["spec"]}
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def action_on(jobset: dict, status: int) -> str:
    """What happens to all processes when the first of them ends with `status`, not 0.

    The rules of a pod failure policy and those of a JobSet's failure policy: the first that fits
    is taken; without one a JobSet begins again, up to `maxRestarts` times.

    Args:
        jobset: a manifest whose jobs end with their first failed pod (`backoffLimit: 0`).
        status: of the container of a pod.

    Returns:
        the action of the JobSet.
    """
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        codes = rule["onExitCodes"]
        assert codes["operator"] == "In" and codes["containerName"] == container["name"]
        if status in codes["values"]:
            reason = "PodFailurePolicy"
            message = (  # as Kubernetes writes it since 1.26
                f"Container {container['name']} for pod default/a-0-0-x7k2p failed with exit code "
                f"{status} matching {rule['action']} rule at index {index}"
            )
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule["onJobFailureMessagePatterns"]
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return rule["action"]
    return "RestartJobSet"
