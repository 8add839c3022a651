"""The chart as helm renders it, and the base manifests as kustomize does. `python -m tests.contract.charts` rewrites
the golden files.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/diht-operator"
BASE = ROOT / "manifests/base"
GOLDEN = Path(__file__).with_name("golden_helm")
CLUSTER = Path(os.environ.get("TEST_CLUSTER_DIR") or Path.home() / ".cache/test-cluster")
MINORS = [f"1.{minor}" for minor in range(31, 38)]
"""Those of Kubernetes from the oldest supported to the newest of which there are schemas."""
OLDEST, NEWEST = f"{MINORS[0]}.0", f"{MINORS[-1]}.0"
MONITORING = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
CLUSTER_KINDS = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}

NAMESPACED: dict[str, Any] = {
    "rbac": {"scope": "namespaced", "kueue": False, "podGroups": False, "podStatus": False},
    "crds": {"install": False},
}
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "vision"},
    "image": {
        "repository": "registry.example.org/diht-operator",
        "digest": f"sha256:{'ab' * 32}",
        "pullPolicy": "Always",
    },
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccount": {"name": "operator", "annotations": {"note": "ours"}},
    "operator": {
        "workers": 16,
        "watchTimeoutSeconds": 30,
        "logLevel": "debug",
        "logFormat": "text",
        "jobTTLSeconds": 3600,
        "runTTLSeconds": 2592000,
        "historyLimit": 500,
    },
    "nodeHealth": {"faults": [{"condition": "KernelDeadlock"}, {"taint": "bad", "move": "AtOnce"}]},
    "lease": {"name": "diht"},
    "replicas": 2,
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.org:3128"}],
    "podLabels": {"sidecar.istio.io/inject": "false"},
    "podAnnotations": {"note": "ours"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "tests": {
        "image": {"repository": "registry.example.org/recipe", "tag": "2"},
        "pods": {"nodeSelector": {"pool": "cpu"}},
    },
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServerTo": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
    },
}
CASES: dict[str, dict[str, Any]] = {"default": {}, "namespaced": NAMESPACED, "everything": EVERYTHING}


def helm_program() -> str | None:
    """Helm: what DIHT_TEST_HELM names, on the PATH, or built."""
    return os.environ.get("DIHT_TEST_HELM") or tool("helm")


def tool(name: str) -> str | None:
    """A program: on the PATH, or built by `tests/cluster/extra NAME`, which takes Go and a minute, once."""
    if program := shutil.which(name):
        return program
    built = CLUSTER / "bin" / name
    if shutil.which("go"):  # also if it is there: it may be of other sources
        subprocess.run([ROOT / "tests/cluster/extra", name], check=True)
    return str(built) if built.exists() else None


def template(
    program: str,
    values: dict[str, Any],
    *,
    chart: Path = CHART,
    kubernetes: str = NEWEST,
    apis: tuple[str, ...] = (),
    release: str = "diht-operator",
) -> subprocess.CompletedProcess[str]:
    """`helm template` into the namespace diht-system."""
    command = [program, "template", release, str(chart), "--namespace", "diht-system", "--kube-version", kubernetes]
    for api in apis:
        command += ["--api-versions", api]
    return _templated(yaml.safe_dump(values), *command)


@functools.cache
def _templated(values: str, *command: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(values)
        file.flush()
        return subprocess.run([*command, "--values", file.name], capture_output=True, text=True)


def rendered(program: str, values: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The objects."""
    done = template(program, values, **options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def golden(program: str, case: str) -> str:
    """What is kept of a case: all objects, but of the CRD only its metadata (the rest is compared with
    manifests/crd).
    """
    objects = rendered(program, CASES[case], apis=MONITORING)
    for document in objects:
        if document["kind"] == "CustomResourceDefinition":
            document["spec"] = "as in manifests/crd"
    return yaml.safe_dump_all(objects, sort_keys=False, width=140)


def kustomized(folder: Path, namespace: str, image: str) -> list[dict[str, Any]]:
    """What an overlay of the folder with this namespace and image gives: resources, their common labels, namespace,
    image.
    """
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    labels = {name: value for pair in settings.get("labels", []) for name, value in pair["pairs"].items()}
    found = []
    for document in _resources(folder, settings["resources"], namespace, image):
        metadata = document["metadata"]
        metadata["labels"] = {**metadata.get("labels", {}), **labels}
        if document["kind"] not in CLUSTER_KINDS:
            metadata["namespace"] = namespace
        for subject in document.get("subjects", []):
            subject["namespace"] = namespace
        if document["kind"] == "Deployment":
            document["spec"]["template"]["spec"]["containers"][0]["image"] = image
        found.append(document)
    return found


def _resources(folder: Path, names: list[str], namespace: str, image: str) -> Iterator[dict[str, Any]]:
    for name in names:
        if (folder / name).is_dir():
            yield from kustomized(folder / name, namespace, image)
        else:
            yield from yaml.safe_load_all((folder / name).read_text())


def main() -> None:
    program = helm_program()
    assert program, "no helm: put it on the PATH, or install Go"
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        (GOLDEN / f"{case}.yaml").write_text(golden(program, case))
        sys.stdout.write(f"{case}\n")


if __name__ == "__main__":
    main()
