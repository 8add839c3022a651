"""Faults of nodes: what monitors report, and gangs that save and move, at once or after their next checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from diht_k8s.api.reports import Progress, SavedCheckpoint
from diht_k8s.api.run import Stage
from diht_k8s.controller.cache.informer import PodGroups
from diht_k8s.controller.node_health.faults import NodeFault, NodeWatch, faults_of, parse_watched_faults
from diht_k8s.kube.errors import ClusterError
from tests.unit.controller.fake import FakeCluster, Nodes, Process
from tests.unit.controller.script import Script, page, watch
from tests.unit.controller.stories import Clock, reason, settle, status, training

LISTED = '[{"condition": "KernelDeadlock"}, {"condition": "GpuXid", "move": "AtOnce"}, {"taint": "bad"}]'
DEADLOCK = NodeFault("node-0", "KernelDeadlock", "condition KernelDeadlock (stuck)")
XID = NodeFault("node-0", "GpuXid", "condition GpuXid (Xid 79)", at_once=True)


def node(name: str = "node-0", *, taints: Any = (), version: int = 5, **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": value, "message": "stuck"} for kind, value in conditions.items()]
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"taints": list(taints)}, "status": {"conditions": found}}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (node(), []),
        (node(KernelDeadlock="False", Ready="True"), []),
        (node(KernelDeadlock="True"), ["condition KernelDeadlock (stuck)"]),
        (node(KernelDeadlock="True", GpuXid="True"), ["condition GpuXid (stuck)", "condition KernelDeadlock (stuck)"]),
        (node(taints=[{"key": "bad", "value": "False", "effect": "NoSchedule"}]), ["taint bad=False:NoSchedule"]),
        ({"metadata": {"name": "n"}}, []),
    ],
    ids=["healthy", "monitored and healthy", "condition", "the urgent one first", "taint", "bare"],
)
def test_faults_are_listed_conditions_that_are_true_and_listed_taints(
    document: dict[str, Any], found: list[str]
) -> None:
    assert [fault.description for fault in faults_of(document, parse_watched_faults(LISTED))] == found


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "x",
        "[1]",
        '[{"condition": 1}]',
        '[{"taint": "a", "condition": "b"}]',
        '[{"taint": "a", "move": "x"}]',
        '[{"taint": "a", "b": 1}]',
    ],
)
def test_list_of_faults_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_watched_faults(text)


def test_watch_keeps_nodes_with_faults_only_and_tells_changes_once() -> None:
    told: list[str] = []
    script = Script(
        page(node("a"), node("b", KernelDeadlock="True")),
        watch(
            ("MODIFIED", node("b", KernelDeadlock="True", version=6)),
            ("MODIFIED", node("b", KernelDeadlock="False", version=7)),
            ("MODIFIED", node("a", GpuXid="True", version=8)),
            ("DELETED", node("a", version=9)),
        ),
    )
    nodes = NodeWatch(script, parse_watched_faults(LISTED), told.append)
    nodes._list()
    assert (nodes.unhealthy(), told) == (["b"], ["b"])
    nodes._watch("10")
    assert (nodes.unhealthy(), told) == ([], ["b", "b", "a", "a"])


def test_watch_without_rights_counts_as_synced_and_knows_no_fault() -> None:
    nodes = NodeWatch(Script(ClusterError(403, "Forbidden", "no")), parse_watched_faults(LISTED), lambda name: None)
    nodes._stop.set()
    assert nodes._list() is None
    assert (nodes.synced.is_set(), nodes.unhealthy(), nodes.absent) == (True, [], "no")


def gang() -> tuple[FakeCluster, Process, Clock, Nodes]:
    cluster, _, clock = training()
    nodes = Nodes()
    process = Process(cluster, clock, nodes)
    settle(process)
    return cluster, process, clock, nodes


def checkpoint(cluster: FakeCluster, step: int) -> None:
    saved = SavedCheckpoint(step=step, uri=f"s3://o/{step}", time=1)
    line = Progress(stage=Stage.TRAIN, step="epoch 1", done=step, total=100, checkpoint=saved).line()
    cluster.logs["r-train-1-0"] = line


def message(cluster: FakeCluster) -> str:
    return next(each.message for each in status(cluster).conditions if each.type == "Progressing")


def test_urgent_fault_moves_the_gang_at_once_and_names_node_and_condition() -> None:
    cluster, process, clock, nodes = gang()
    nodes.found = {"node-0": (XID,)}
    settle(process)
    assert "r-train-1" not in cluster.jobs
    clock.now += 10
    settle(process)
    job = cluster.jobs["r-train-2"]
    assert job["metadata"]["annotations"]["diht.dev/unhealthy-nodes"] == "node-0"
    terms = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert terms[0]["preference"]["matchFields"][0]["values"] == ["node-0"]
    (stage,) = status(cluster).stages
    assert stage.cause is not None
    assert (stage.cause.node, stage.cause.reason) == ("node-0", "NodeUnhealthy")
    assert "condition GpuXid (Xid 79)" in stage.cause.message
    assert (stage.restarts, stage.restarts_count_towards_max) == (1, 0)


def test_other_fault_moves_the_gang_after_its_next_checkpoint() -> None:
    cluster, process, clock, nodes = gang()
    checkpoint(cluster, 10)
    clock.now += 20
    settle(process)
    nodes.found = {"node-0": (DEADLOCK,)}
    for _ in range(3):
        clock.now += 20
        settle(process)
    assert "r-train-1" in cluster.jobs
    assert (reason(cluster), "moves at its next checkpoint" in message(cluster)) == ("Running", True)
    checkpoint(cluster, 20)
    clock.now += 20
    settle(process)
    assert "r-train-1" not in cluster.jobs
    clock.now += 20
    settle(process)
    assert "r-train-2" in cluster.jobs


def test_gang_that_no_other_node_takes_is_not_moved_again_for_the_same_fault() -> None:
    cluster, process, clock, nodes = gang()
    nodes.found = {"node-0": (XID,)}
    for _ in range(2):
        clock.now += 10
        settle(process)
    cluster.run_pods("r-train-2")
    for _ in range(3):
        clock.now += 10
        settle(process)
    assert (list(cluster.jobs), status(cluster).restarts) == (["r-train-2"], 1)


def test_fault_that_goes_before_the_next_checkpoint_moves_nothing() -> None:
    cluster, process, clock, nodes = gang()
    nodes.found = {"node-0": (DEADLOCK,)}
    settle(process)
    nodes.found = {}
    checkpoint(cluster, 10)
    clock.now += 20
    settle(process)
    assert (list(cluster.jobs), message(cluster)) == (["r-train-1"], "train: attempt 1 runs")


def test_metric_names_the_node_until_its_fault_is_gone() -> None:
    _, process, _, nodes = gang()
    labels = {"node": "node-0", "fault": "GpuXid"}
    nodes.found = {"node-0": (XID,)}
    settle(process)
    assert REGISTRY.get_sample_value("diht_operator_unhealthy_nodes", labels) == 1
    process.reconciler.node_changed("node-0")
    assert REGISTRY.get_sample_value("diht_operator_unhealthy_nodes", labels) == 1
    nodes.found = {}
    process.reconciler.node_changed("node-0")
    assert REGISTRY.get_sample_value("diht_operator_unhealthy_nodes", labels) is None


@pytest.mark.parametrize(
    ("served", "gang", "group"),
    [(True, "Auto", True), (False, "Auto", False), (True, "None", False), (True, "PodGroup", True)],
)
def test_gang_gets_a_pod_group_where_the_cluster_serves_it(served: bool, gang: str, group: bool) -> None:
    cluster, _, clock = training()
    cluster.jobs, cluster.pods, cluster.pod_groups = {}, {}, served
    cluster.edit("r", pods={"image": "recipe:1", "gang": gang, "priorityClassName": "high"})
    settle(Process(cluster, clock))
    pod = cluster.jobs["r-train-1"]["spec"]["template"]["spec"]
    assert pod.get("schedulingGroup") == ({"podGroupName": "r-train-1"} if group else None)
    found = cluster.others.get("PodGroup", {})
    assert list(found) == (["r-train-1"] if group else [])
    for each in found.values():
        assert each["spec"] == {"schedulingPolicy": {"gang": {"minCount": 2}}, "priorityClassName": "high"}


def test_pod_group_that_the_cluster_does_not_serve_is_named() -> None:
    cluster, _, clock = training()
    cluster.jobs, cluster.pods = {}, {}
    cluster.edit("r", pods={"image": "recipe:1", "gang": "PodGroup"})
    settle(Process(cluster, clock))
    assert (reason(cluster, "Accepted"), cluster.jobs) == ("InvalidSpec", {})


def test_what_the_cluster_serves_is_asked_again_after_a_while() -> None:
    class Cluster:
        asked = 0

        def serves_kind(self, kind: str) -> bool:
            self.asked += 1
            return self.asked > 1

    clock, cluster = Clock(), Cluster()
    groups = PodGroups(cluster, clock=clock)  # type: ignore[arg-type]
    assert (groups(), groups(), cluster.asked) == (False, False, 1)
    clock.now += 601
    assert (groups(), cluster.asked) == (True, 2)
    assert not PodGroups(cluster, allowed=False)()  # type: ignore[arg-type]
