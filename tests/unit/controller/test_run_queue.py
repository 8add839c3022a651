"""`pods.queueing: PerRun`: one Workload for all attempts at a stage, Jobs only while it is admitted, nothing left
behind.
"""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reports import Cause
from diht_k8s.kube.errors import ClusterError
from tests.unit.controller.documents import at
from tests.unit.controller.fake import FakeCluster
from tests.unit.controller.kueue import PODS, admitted, world
from tests.unit.controller.stories import reason, settle, status


def queue(cluster: FakeCluster) -> tuple[str, str]:
    found = status(cluster).queue
    return (found.name, found.reason) if found is not None else ("", "")


def test_job_is_made_once_its_workload_is_admitted_and_goes_where_the_quota_is() -> None:
    cluster, kueue, process, _ = world(quota=0)
    settle(process)
    kueue.admit()
    settle(process)
    assert cluster.jobs == {}
    assert (reason(cluster), queue(cluster)) == ("Queued", ("gpus", "waits in the queue gpus: no quota"))
    (workload,) = kueue.workloads.values()
    assert workload["metadata"]["ownerReferences"][0]["kind"] == "DihtRun"
    assert (workload["spec"]["queueName"], workload["spec"]["podSets"][0]["count"]) == ("gpus", 2)
    kueue.quota = 1
    kueue.admit()
    settle(process)
    job = cluster.jobs["r-train-1"]
    assert not [label for label in job["metadata"]["labels"] if "kueue" in label]
    pods = job["spec"]["template"]["spec"]
    assert pods["nodeSelector"] == {"pool": "a100"}
    assert {"key": "gpu", "operator": "Exists"} in pods["tolerations"]
    cluster.run_pods("r-train-1")
    settle(process)
    assert (reason(cluster), queue(cluster)) == ("Running", ("gpus", ""))


def test_gang_that_kubernetes_itself_schedules_gets_its_place_in_the_queue_too() -> None:
    cluster, kueue, process, _ = world(pods={**PODS, "gang": "PodGroup"})
    cluster.pod_groups = True
    settle(process)
    kueue.admit()
    settle(process)
    assert (list(cluster.jobs), list(cluster.others["PodGroup"])) == (["r-train-1"], ["r-train-1"])


def test_restarts_keep_place_and_quota() -> None:
    cluster, kueue, process, clock = admitted()
    uid = kueue.workloads["r-train"]["metadata"]["uid"]
    for number in (1, 2, 3):
        cluster.end(f"r-train-{number}", 75, message=Cause(exit_code=75, reason="R", message="m").encoded())
        for _ in range(3):
            clock.now += 10
            settle(process)
        cluster.run_pods(f"r-train-{number + 1}")
    assert kueue.workloads["r-train"]["metadata"]["uid"] == uid
    assert kueue.conditions("r-train")["Admitted"] == "True"
    assert status(cluster).restarts == 3


@pytest.mark.parametrize(("why", "requeued"), [("Preempted", "True"), ("ClusterQueueStopped", "False")])
def test_eviction_stops_the_job_awaits_its_pods_and_gives_the_quota_back(why: str, requeued: str) -> None:
    cluster, kueue, process, _ = admitted()
    job, pods = cluster.jobs["r-train-1"], dict(cluster.pods)
    kueue.evict("r-train", why)
    process.reconcile()
    assert "delete Job r-train-1" in cluster.writes
    cluster.jobs["r-train-1"] = {**job, "metadata": {**job["metadata"], "deletionTimestamp": at(1_800_000_000)}}
    cluster.pods = pods  # their programs save what they can
    settle(process)
    assert kueue.conditions("r-train")["QuotaReserved"] == "True", "the pods still use it"
    cluster.jobs, cluster.pods = {}, {}
    settle(process)
    found = kueue.conditions("r-train")
    assert (found["QuotaReserved"], found["Admitted"], found["Requeued"]) == ("False", "False", requeued)
    assert "admission" not in kueue.workloads["r-train"]["status"]
    assert (cluster.jobs, reason(cluster)) == ({}, "Queued")
    kueue.admit()
    settle(process)
    assert list(cluster.jobs) == ["r-train-1"], "an eviction is no failure: the same attempt comes back"
    assert status(cluster).restarts == 0


def test_quota_is_not_held_for_an_ended_pod_of_a_job_that_cannot_be_removed() -> None:
    """Its node is away, so nobody removes the pod that the Job waits for."""
    cluster, kueue, process, clock = admitted()
    cluster.end("r-train-1", 75)
    for _ in range(3):
        clock.now += 10
        settle(process)
    for left in (cluster.jobs["r-train-1"], *cluster.pods.values()):
        left["metadata"]["deletionTimestamp"] = at(clock.now)
    cluster.end("r-train-2", 0)
    settle(process)
    assert (reason(cluster), kueue.conditions("r-train")["Finished"]) == ("Complete", "True")


def test_failed_run_leaves_its_place_and_a_retry_takes_a_new_one() -> None:
    cluster, kueue, process, _ = admitted(failurePolicy={"maxRestarts": 0})
    cluster.end("r-train-1", 75, message="")
    settle(process)
    assert kueue.conditions("r-train")["Finished"] == "True"
    old = kueue.workloads["r-train"]["metadata"]["uid"]
    ended = status(cluster).completion_time
    cluster.runs["r"]["metadata"]["annotations"] = {"diht.dev/retry": ended}
    cluster.edit("r")
    settle(process, 6)
    assert kueue.workloads["r-train"]["metadata"]["uid"] != old
    kueue.admit()
    settle(process)
    assert "r-train-2" in cluster.jobs


@pytest.mark.parametrize(
    ("edit", "left"),
    [
        ({"suspend": True}, []),
        ({"pods": {**PODS, "queueing": "PerAttempt"}}, []),
        ({"pods": {**PODS, "resources": {"cpu": "2"}}}, ["r-train"]),
    ],
    ids=["suspended", "queued by attempts", "other pods"],
)
def test_place_that_the_run_no_longer_needs_is_left(edit: dict[str, Any], left: list[str]) -> None:
    cluster, kueue, process, clock = admitted()
    old = kueue.workloads["r-train"]["metadata"]["uid"]
    cluster.edit("r", **edit)
    settle(process)
    if "suspend" not in edit:
        assert list(kueue.workloads) == ["r-train"], "the attempt still runs on it"
        cluster.end("r-train-1", 75, message="")
    for _ in range(4):
        clock.now += 10
        settle(process)
    assert sorted(kueue.workloads) == left
    assert all(each["metadata"]["uid"] != old for each in kueue.workloads.values())


def test_attempt_that_has_lost_its_workload_stops_and_queues_again() -> None:
    cluster, kueue, process, _ = admitted()
    del kueue.workloads["r-train"]
    settle(process)
    assert (cluster.jobs, list(kueue.workloads), reason(cluster)) == ({}, ["r-train"], "Queued")


def test_cluster_without_kueue_is_named_and_nothing_that_runs_is_stopped() -> None:
    cluster, kueue, process, _ = admitted()
    process.workloads.absent = "the server could not find the requested resource"
    kueue.workloads.clear()
    settle(process)
    assert list(cluster.jobs) == ["r-train-1"]
    cluster.jobs, cluster.pods = {}, {}
    settle(process)
    assert (reason(cluster, "Accepted"), cluster.jobs) == ("BackendMissing", {})


@pytest.mark.parametrize(
    ("pods", "objects", "found"),
    [
        ({}, {}, (0, None)),
        (
            {"queuePriorityClass": "high"},
            {"WorkloadPriorityClass": {"high": {"value": 7}}},
            (7, "WorkloadPriorityClass"),
        ),
        ({"priorityClassName": "p"}, {"PriorityClass": {"p": {"value": 9}}}, (9, "PriorityClass")),
    ],
    ids=["none", "of the queue", "of the pods"],
)
def test_workload_has_the_priority_that_kueue_would_give_its_job(
    pods: dict[str, str], objects: dict[str, Any], found: tuple[int, str | None]
) -> None:
    cluster, kueue, process, _ = world(pods={**PODS, **pods})
    cluster.others |= objects
    settle(process)
    spec = kueue.workloads["r-train"]["spec"]
    assert (spec["priority"], spec.get("priorityClassRef", {}).get("kind")) == found


def test_missing_priority_class_is_named() -> None:
    cluster, _, process, _ = world(pods={**PODS, "queuePriorityClass": "none"})
    settle(process)
    assert reason(cluster) == "ReferenceMissing"


def test_workers_start_with_as_many_pods_as_were_admitted() -> None:
    spec = {"filter": {"workers": 4}, "train": None, "pods": {**PODS, "minWorkers": 2}}
    cluster, kueue, process, _ = world(**spec)
    kueue.count = 3
    settle(process)
    assert kueue.workloads["r-filter"]["spec"]["podSets"][0]["minCount"] == 2
    kueue.admit()
    settle(process)
    job = cluster.jobs["r-filter-1"]
    assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (3, 3)
    env = {each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["DIHT_WORKERS"] == "3"


def test_time_in_the_queue_counts_as_queued_and_towards_no_deadline() -> None:
    cluster, kueue, process, clock = world(quota=0, activeDeadlineSeconds=60)
    settle(process)
    clock.now += 10_000
    settle(process)
    assert reason(cluster) == "Queued"
    kueue.quota = 1
    kueue.admit()
    settle(process)
    assert cluster.jobs["r-train-1"]["metadata"]["annotations"]["diht.dev/queued-since"]
    assert reason(cluster) != "DeadlineExceeded"


def test_workload_of_somebody_else_is_left_alone() -> None:
    cluster, kueue, process, _ = world()
    foreign = {"metadata": {"name": "r-train", "namespace": "n", "uid": "x", "resourceVersion": "1"}, "spec": {}}
    kueue.workloads["r-train"] = foreign
    settle(process)
    assert (reason(cluster, "Accepted"), cluster.jobs) == ("NameConflict", {})
    assert kueue.workloads == {"r-train": foreign}


def test_ready_pods_are_reported_once() -> None:
    cluster, kueue, process, _ = admitted()
    assert kueue.conditions("r-train")["PodsReady"] == "True"
    cluster.writes.clear()
    settle(process)
    assert cluster.writes == []


def test_refused_workload_names_the_right_that_is_missing() -> None:
    cluster, _, process, _ = world()
    cluster.refuse["create Workload"] = ClusterError(403, "Forbidden", "diht-operator cannot create resource workloads")
    settle(process)
    assert (reason(cluster), cluster.jobs) == ("PermissionDenied", {})


def test_run_that_cannot_be_rendered_says_so_and_takes_no_place() -> None:
    cluster, kueue, process, _ = world(pods={**PODS, "image": None})
    settle(process)
    assert (reason(cluster, "Accepted"), kueue.workloads, cluster.jobs) == ("InvalidSpec", {}, {})
