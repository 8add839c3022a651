"""Elastic gangs that a test starts, with nodes for all of their pods or for some."""

from __future__ import annotations

from typing import Any

from tests.unit.controller.documents import NO_NODE, NOW, at
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, make, settle

NODES = 4


def elastic(*, pods: dict[str, Any] | None = None, policy: dict[str, Any] | None = None, **train: Any) -> FakeCluster:
    """A run of a training alone, with a node for each of its pods as it wishes for them."""
    cluster = make(filter=None, label=None, evaluate=None, failurePolicy=policy or {})
    shape = {"numNodes": NODES, "minNodes": 2, "distillation": {"mode": "Disabled"}, **train}
    cluster.runs["r"]["spec"]["train"] |= {key: value for key, value in shape.items() if value is not None}
    cluster.runs["r"]["spec"]["pods"] |= pods or {}
    return cluster


def start(cluster: FakeCluster, name: str, *, without: int, since: float) -> None:
    """The pods of a Job run, all but the last ones, which find no node."""
    cluster.run_pods(name)
    size = cluster.jobs[name]["spec"]["parallelism"]
    for index in range(size):
        found = cluster.pods[f"{name}-{index}"]
        found["spec"]["nodeName"] = f"node-{index}"
        found["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": at(since)}}
        if index >= size - without:
            found["spec"]["nodeName"] = ""
            found["status"] = {"phase": "Pending", "conditions": NO_NODE, "containerStatuses": []}


def told(cluster: FakeCluster) -> list[str]:
    return [f"{each['reason']}: {each['message']}" for each in cluster.recorded]


def shrunk(cluster: FakeCluster | None = None) -> tuple[FakeCluster, Process, Clock]:
    """A gang of four of which one lost its node, and no other has room."""
    cluster, clock = cluster or elastic(policy={"maxInfrastructureRestarts": 1}), Clock()
    process = Process(cluster, clock)
    settle(process)
    start(cluster, "r-train-1", without=0, since=NOW)
    settle(process)
    lost = cluster.pods["r-train-1-3"]
    lost["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "lastTransitionTime": at(NOW)},
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"},
    ]
    settle(process)
    start(cluster, "r-train-2", without=1, since=clock.now)
    settle(process)
    return cluster, process, clock


def without_room(cluster: FakeCluster, name: str) -> None:
    """The pods of a Job are there, and no node takes any."""
    start(cluster, name, without=cluster.jobs[name]["spec"]["parallelism"], since=NOW)


def grouped() -> tuple[FakeCluster, Process, Clock]:
    """A gang in a PodGroup, of which no pod has a node: three nodes have room."""
    cluster, clock = elastic(), Clock()
    cluster.pod_groups = True
    process = Process(cluster, clock)
    settle(process)
    without_room(cluster, "r-train-1")
    settle(process)
    return cluster, process, clock


def min_count(cluster: FakeCluster, name: str) -> int:
    return cluster.others["PodGroup"][name]["spec"]["schedulingPolicy"]["gang"]["minCount"]
