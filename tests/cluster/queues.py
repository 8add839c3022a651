"""A queue of Kueue with room for one run, and Workloads that push others out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.cluster.operators import Runs
from tests.cluster.tools import Kubectl, KubectlError, manifest, wait_until

TRAIN: dict[str, Any] = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}}
WORKLOADS = "workloads.kueue.x-k8s.io"
"""Kubernetes has Workloads of its own since 1.36."""
STAGES: dict[str, Any] = {"filter": None, "label": None, "evaluate": None, "train": TRAIN}


@dataclass(frozen=True)
class OneAtATime:
    """A queue whose quota is one CPU, which each run asks for whole, unless a test says otherwise."""

    kubectl: Kubectl
    runs: Runs
    preemption: str = "LowerPriority"
    """of admitted Workloads, as the ClusterQueue has it."""
    cpu: str = "1"
    """quota."""

    def __post_init__(self) -> None:
        queue = manifest("run-queue.yaml", namespace=self.runs.namespace, preemption=self.preemption, cpu=self.cpu)
        self.kubectl.apply(queue, "--server-side", "--force-conflicts")  # tests side by side may make it at once

    def start(self, name: str, *ends: Any, pods: dict[str, Any] | None = None, **spec: Any) -> str:
        """A training of one pod in the queue, unless `spec` and `pods` say otherwise; its programs end in turn as the
        stub says.
        """
        document = self.runs.document(name, {"train": list(ends)}, **{**STAGES, **spec})
        queued = {"queueName": "one", "queueing": "PerRun", "resources": {"cpu": "1"}}
        document["spec"]["pods"] |= {**queued, **(pods or {})}
        self.kubectl.create(document, self.runs.namespace)
        return name

    def workload(self, name: str) -> dict[str, Any]:
        try:
            kueue = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{self.runs.namespace}"
            return self.kubectl.read(f"{kueue}/workloads/{name}")
        except KubectlError:
            return {}

    def conditions(self, name: str, what: str = "status") -> dict[str, str]:
        """By type: the status of each, or its `lastTransitionTime`."""
        found = self.workload(name).get("status", {}).get("conditions", [])
        return {each["type"]: each[what] for each in found}

    def admitted(self, name: str) -> bool:
        return self.conditions(name).get("Admitted") == "True"

    def preempt(self, name: str) -> None:
        """Push the run out of its quota, hold the quota until its pods are gone, and let go."""
        urgent = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "Workload",
            "metadata": {"name": "urgent", "namespace": self.runs.namespace},
            "spec": {
                "queueName": "one",
                "priority": 100,
                "priorityClassRef": {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": "urgent"},
                "podSets": [
                    {
                        "name": "main",
                        "count": 1,
                        "template": {
                            "spec": {
                                "restartPolicy": "Never",
                                "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}],
                            }
                        },
                    }
                ],
            },
        }
        self.kubectl.create(urgent, self.runs.namespace)
        wait_until(lambda: self.admitted("urgent"), "the urgent Workload has the quota", 60)
        living = [pod for pod in self.runs.pods(name) if pod["status"]["phase"] in ("Pending", "Running")]
        assert not living, "pods without quota"
        assert self.runs.condition(name, "Progressing")["reason"] == "Queued"
        self.kubectl("delete", WORKLOADS, "urgent", "--namespace", self.runs.namespace)

    def reserved(self) -> dict[str, Any]:
        """What the queue holds: reserved and admitted Workloads, quota in use."""
        found = self.kubectl.read(f"/apis/kueue.x-k8s.io/v1beta2/clusterqueues/{self.runs.namespace}")["status"]
        usage = found["flavorsReservation"][0]["resources"][0]["total"]
        return {
            "reserving": found.get("reservingWorkloads", 0),
            "admitted": found.get("admittedWorkloads", 0),
            "cpu": usage,
        }
