"""What the cluster can be given beside Kubernetes: images from Containerfiles, helm, fake GPU nodes with quotas and
gang admission.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.cluster.tools import CLUSTER, PROJECT, manifest, script, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

CONTAINERFILE = """
ARG BASE
FROM ${BASE}
RUN echo built > /greeting
USER 10001:10001
ENTRYPOINT ["cat", "/greeting"]
"""


def test_containerfile_when_built_runs_in_a_pod_on_each_node(own, kubectl, namespace, tmp_path):
    if not own:
        pytest.skip("KUBECONFIG is another cluster's: images cannot be loaded into its nodes from here")
    (tmp_path / "Containerfile").write_text(CONTAINERFILE)
    script("build", "local/greeting:1", str(tmp_path))
    for node in ("node-0", "node-1"):
        kubectl.apply(json.dumps(restricted_pod(node)), "--namespace", namespace)
    for node in ("node-0", "node-1"):
        wait_until(
            lambda node=node: (
                kubectl("get", "pod", node, "-n", namespace, "-o", "jsonpath={.status.phase}") == "Succeeded"
            ),
            node,
        )
        assert kubectl("logs", node, "--namespace", namespace) == "built\n"


def restricted_pod(node: str) -> dict[str, Any]:
    """A pod of the built image on the node, named after it."""
    container = {
        "name": "main",
        "image": "local/greeting:1",
        "imagePullPolicy": "Never",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node}, "spec": spec}


def test_helm_when_no_version_is_given_renders_the_chart_for_the_kubernetes_of_the_cluster():
    script("extra", "helm")
    done = subprocess.run(
        [CLUSTER / "bin/helm", "template", "x", PROJECT / "helm/diht-operator"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout


def test_gangs_when_the_quota_is_for_one_run_one_after_the_other(kueue, kubectl, namespace):
    kubectl.apply(manifest("queue.yaml", namespace=namespace))
    for name in ("first", "second"):
        kubectl.apply(json.dumps(gang(name)), "--namespace", namespace)
    for name in ("first", "second"):
        wait_until(
            lambda name=name: kubectl.json("get", "job", name, "-n", namespace)["status"].get("succeeded") == 2, name
        )

    def times():
        workloads = kubectl.json("get", "workloads", "--namespace", namespace)["items"]
        found = [condition_times(workload) for workload in workloads]
        return found if all("Finished" in conditions for conditions in found) else None

    ends = wait_until(times, "both workloads have finished")
    earlier, later = sorted(ends, key=lambda conditions: conditions["Finished"])
    assert later["Admitted"] >= earlier["Finished"]


def gang(name: str) -> dict[str, Any]:
    """An Indexed Job of 2 pods x 3 GPUs in the queue of the namespace."""
    container = {
        "name": "main",
        "image": "none",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 3}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "suspend": True, "template": {"spec": pod}}
    labels = {"kueue.x-k8s.io/queue-name": "gpus"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels}, "spec": spec}


def condition_times(workload: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["lastTransitionTime"] for condition in workload["status"]["conditions"]}
