"""Elastic gangs that resize in their living pods, as a test plays them."""

from __future__ import annotations

import json
from typing import Any

from diht_k8s.api.gangs import DECISION_ANNOTATION
from tests.unit.controller.documents import NO_NODE, NOW, at
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, make, settle

NODES = 4


LOST = [
    {"type": "Ready", "status": "False", "lastTransitionTime": at(NOW)},
    {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"},
]


def elastic(policy: dict[str, Any] | None = None, **train: Any) -> FakeCluster:
    rules = {"restart": "InPlace", "maxRestarts": 0, "maxInfrastructureRestarts": 0, **(policy or {})}
    cluster = make(filter=None, label=None, evaluate=None, failurePolicy=rules)
    shape = {"numNodes": NODES, "minNodes": 2, "distillation": {"mode": "Disabled"}, **train}
    cluster.runs["r"]["spec"]["train"] |= {key: value for key, value in shape.items() if value is not None}
    return cluster


def trains(cluster: FakeCluster | None = None) -> tuple[FakeCluster, Process, Clock]:
    """A gang of four that runs, each pod on a node of its own."""
    cluster, clock = cluster or elastic(), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-train-1")
    for index in range(NODES):
        cluster.pods[f"r-train-1-{index}"]["spec"]["nodeName"] = f"node-{index}"
    settle(process)
    return cluster, process, clock


def lose(cluster: FakeCluster, index: int) -> None:
    """The node of a pod does not answer, and its pod is evicted."""
    metadata = cluster.pods[f"r-train-1-{index}"]["metadata"]
    cluster.pods[f"r-train-1-{index}"]["status"]["conditions"] = [dict(each) for each in LOST]
    metadata["deletionTimestamp"] = at(NOW + 300)


def replace(cluster: FakeCluster, index: int, *, node: str = "", since: float = NOW) -> None:
    """The Job controller's new pod, which finds no node if none is given."""
    cluster._pod("r-train-1", index, {"running": {"startedAt": at(since)}}, "Running")
    found = cluster.pods[f"r-train-1-{index}"]
    found["metadata"]["uid"] += "-again"
    found["spec"]["nodeName"] = node
    if not node:
        found["status"] = {"phase": "Pending", "conditions": NO_NODE, "containerStatuses": []}


def decided(cluster: FakeCluster) -> list[int] | None:
    text = cluster.pods["r-train-1-0"]["metadata"].get("annotations", {}).get(DECISION_ANNOTATION)
    return None if text is None else json.loads(text)["without"]
