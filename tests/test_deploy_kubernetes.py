"""The Kubernetes files: valid in strict mode, without privileges, and open only where it is meant."""

import copy
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from test_deploy import DEPLOY, below, command_line, manifests, run, secrets  # noqa: F401

VERSION = "1.34"
SERVE_CODE = DEPLOY.parent / "platform" / "clipmill" / "serve"

# What KubeRay 1.6 takes, of what is used here; pods are checked by Kubernetes' own schema.
ANYTHING: dict[str, Any] = {"type": "object"}
START = {"type": "object", "additionalProperties": {"type": "string"}}


def exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object", "additionalProperties": False,
        "properties": {**required, **optional}, "required": list(required),
    }  # fmt: skip


NUMBER = {"type": "integer", "minimum": 0}
HEAD = exactly({"rayStartParams": START, "template": ANYTHING}, serviceType={"enum": ["ClusterIP"]})
WORKERS = exactly(
    {"groupName": {"type": "string"}, "rayStartParams": START, "template": ANYTHING}
    | dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), NUMBER)
)
AUTH = exactly({"mode": {"const": "token"}, "secretName": {"type": "string"}})
CLUSTER = exactly(
    {
        "rayVersion": {"const": version("ray")}, "authOptions": AUTH, "headGroupSpec": HEAD,
        "workerGroupSpecs": {"type": "array", "items": WORKERS, "minItems": 1},
    }
)  # fmt: skip
JOB = exactly(
    {
        "entrypoint": {"type": "string"}, "rayClusterSpec": CLUSTER,
        "submissionMode": {"const": "K8sJobMode"}, "submitterPodTemplate": ANYTHING,
    },
    shutdownAfterJobFinishes={"type": "boolean"}, ttlSecondsAfterFinished=NUMBER,
    backoffLimit=NUMBER, submitterConfig=exactly({"backoffLimit": NUMBER}),
)  # fmt: skip
OBJECT = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"type": "string"}, "metadata": ANYTHING}
OF_RAY = {
    "RayCluster": exactly(OBJECT | {"spec": CLUSTER}),
    "RayJob": exactly(OBJECT | {"spec": JOB}),
}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """All pod templates, each with the name of its owner."""
    for document in manifests():
        for name in ("template", "submitterPodTemplate"):
            for template in below(document, name):
                yield f"{document['kind']} {document['metadata'].get('name')}", template


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata'].get('name', 'new')}"


@pytest.mark.parametrize("document", manifests(), ids=named)
def test_an_object_is_valid(document: dict[str, Any]) -> None:
    if document["kind"] in OF_RAY:
        jsonschema.validate(document, OF_RAY[document["kind"]])
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)
    if document["kind"] != "Namespace":
        assert document["metadata"]["namespace"] == "clipmill"


@pytest.mark.parametrize("change", ["rayStartParam", "authOption"])
def test_the_schema_of_ray_refuses_what_it_does_not_know(change: str) -> None:
    (kept,) = [each for each in manifests() if each["kind"] == "RayCluster"]
    cluster = copy.deepcopy(kept)
    cluster["spec"][change] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, OF_RAY["RayCluster"])


def test_pods_are_valid_and_without_privileges() -> None:
    assert len(list(pods())) == 8
    for owner, template in pods():
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
        kubernetes_validate.validate(whole | {"template": template}, VERSION, strict=True)
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, owner
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        assert spec["securityContext"]["runAsUser"] > 0, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), owner
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, owner
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), owner
        assert {each["name"] for each in container["volumeMounts"]} <= (
            {each["name"] for each in spec.get("volumes", ())} | {"postgres"}
        ), owner


def test_what_answers_has_probes() -> None:
    for document in manifests():
        if document["kind"] in ("Deployment", "StatefulSet"):
            (container,) = document["spec"]["template"]["spec"]["containers"]
            assert {"readinessProbe", "livenessProbe"} <= container.keys()
            assert document["kind"] == "StatefulSet" or "startupProbe" in container


def test_probes_ask_for_paths_that_the_server_has() -> None:
    served = "".join(path.read_text() for path in SERVE_CODE.glob("*.py"))
    (serve,) = [each for each in manifests() if named(each) == "Deployment-serve"]
    asked = {probe["path"] for probe in below(serve, "httpGet")}
    assert asked == {"/healthz", "/readyz"} and all(f'"{path}"' in served for path in asked)


def test_ray_takes_what_its_nodes_start_with() -> None:
    options = {flag for each in command_line("ray").commands["start"].params for flag in each.opts}
    for document in manifests():
        for given in below(document, "rayStartParams"):
            assert {f"--{name}" for name in given} <= options


def test_every_secret_is_made_by_the_commands_of_the_page(
    secrets: Path,  # noqa: F811
) -> None:
    page = (DEPLOY / "README.md").read_text()
    made = {
        "clipmill-tokens": {path.name for path in secrets.iterdir()},
        "ray-token": {"auth_token"},
    }
    assert "secret generic clipmill-tokens --from-file=deploy/secrets\n" in page
    assert "secret generic ray-token --from-file=auth_token=deploy/secrets/ray_token\n" in page
    references = [ref for document in manifests() for ref in below(document, "secretKeyRef")]
    assert references and all(ref["key"] in made[ref["name"]] for ref in references)
    of_ray = {name for document in manifests() for name in below(document, "secretName")}
    assert of_ray == {"ray-token"}
    assert not [document for document in manifests() if document["kind"] == "Secret"]


# --- who reaches whom

NAMES = "app.kubernetes.io/name"
RAY = {"ray.io/is-ray-node": "yes"}
MLFLOW, POSTGRES, SERVE, SUBMITTER = (
    {NAMES: n} for n in ("mlflow", "postgres", "serve", "submitter")
)
OPERATOR = {"kubernetes.io/metadata.name": "kuberay-operator"}
INGRESS = {"kubernetes.io/metadata.name": "ingress"}
OTHERS = {"kubernetes.io/metadata.name": "default"}
REACHES = [
    (RAY, RAY, 6379, True), (SUBMITTER, RAY, 8265, True), (OPERATOR, RAY, 8265, True),
    (RAY, MLFLOW, 5000, True), (SERVE, MLFLOW, 5000, True), (MLFLOW, POSTGRES, 5432, True),
    (INGRESS, SERVE, 8000, True),
    (SUBMITTER, RAY, 6379, False), (OPERATOR, RAY, 6379, False), (OTHERS, RAY, 8265, False),
    (INGRESS, RAY, 8265, False), (SERVE, RAY, 8265, False), (RAY, POSTGRES, 5432, False),
    (SERVE, POSTGRES, 5432, False), (OTHERS, SERVE, 8000, False), (INGRESS, MLFLOW, 5000, False),
    (RAY, SERVE, 8000, False), (SUBMITTER, MLFLOW, 5000, False), (POSTGRES, MLFLOW, 5000, False),
]  # fmt: skip


def matches(peer: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a rule's peer is the pods, or the other namespace, of these labels."""
    kind = "namespaceSelector" if "kubernetes.io/metadata.name" in labels else "podSelector"
    return set(peer) == {kind} and peer[kind]["matchLabels"].items() <= labels.items()


def allowed(pod: dict[str, str], other: dict[str, str], port: int, way: str) -> bool:
    """Whether the policies of a pod let it hear (Ingress) or call (Egress) another."""
    if "kubernetes.io/metadata.name" in pod:  # of another namespace: not ours to say
        return True
    found = False
    for policy in (each["spec"] for each in manifests() if each["kind"] == "NetworkPolicy"):
        selected = policy["podSelector"].get("matchLabels", {}).items() <= pod.items()
        if not selected or way not in policy["policyTypes"]:
            continue
        found = True
        for rule in policy.get(way.lower(), ()):
            peers = rule["from" if way == "Ingress" else "to"]
            ports = [each["port"] for each in rule.get("ports", [{"port": port}])]
            if port in ports and any(matches(peer, other) for peer in peers):
                return True
    return not found


@pytest.mark.parametrize(("caller", "heard", "port", "wanted"), REACHES)
def test_who_reaches_whom(
    caller: dict[str, str], heard: dict[str, str], port: int, wanted: bool
) -> None:
    gone, come = allowed(caller, heard, port, "Egress"), allowed(heard, caller, port, "Ingress")
    assert (gone and come) is wanted


def test_policies_name_pods_and_ports_that_there_are() -> None:
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pods()]
    for document in manifests():
        if document["kind"] in ("NetworkPolicy", "Service", "PodDisruptionBudget"):
            spec = document["spec"]
            chosen = spec.get("podSelector") or spec.get("selector") or {}
            wanted = chosen.get("matchLabels", chosen) if isinstance(chosen, dict) else {}
            wanted = {k: v for k, v in wanted.items() if k not in RAY}
            assert any(wanted.items() <= each.items() for each in labels), named(document)
    ports = {port["containerPort"] for document in manifests() for each in below(document, "ports")
             for port in each if "containerPort" in port}  # fmt: skip
    assert {8265, 5000, 5432, 8000} <= ports


def test_the_secret_of_kuberay_is_made_by_kubectl(
    secrets: Path,  # noqa: F811
) -> None:
    import shutil

    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on this machine")
    asked = re.findall(r"create (secret generic .*)", (DEPLOY / "README.md").read_text())
    assert len(asked) == 2
    for line in asked:
        words = line.replace("deploy/secrets", str(secrets)).split()
        told = run("kubectl", "create", *words, "--dry-run=client", "--output=name")
        assert told.strip() == f"secret/{words[2]}"
