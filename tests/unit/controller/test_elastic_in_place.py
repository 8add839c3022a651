"""Elastic gangs at the operator that resize in their living pods: the Job, the decision, lost pods, and what is told of
it.
"""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.gangs import DECISION_ANNOTATION
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import StageState
from diht_k8s.cli.status_sentences import details, sentence
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.object_fields import RESIZES_ANNOTATION
from diht_k8s.pipeline.plan import Start
from tests.unit.controller.documents import NOW, at, ended, failed_pod, job, pod
from tests.unit.controller.elastic_in_place import LOST, NODES, decided, elastic, lose, replace, trains
from tests.unit.controller.fake import FakeCluster
from tests.unit.controller.observed import observe
from tests.unit.controller.stories import reason, settle, status


def told(cluster: FakeCluster, reason: str) -> list[str]:
    return [each["message"] for each in cluster.recorded if each["reason"] == reason]


def objects(cluster: FakeCluster, nodes: int | None = None) -> dict[str, Any]:
    run = DihtRun.model_validate({**cluster.runs["r"], "metadata": {"name": "r"}})
    start = Start(Stage.TRAIN, 2, "r-train-2", nodes=nodes)
    return build_objects(cached_run(cluster.runs["r"]), run, start, token="t")[-1]


AWAY = NOW - 20
ENDS = {
    "all run": ([pod(0), pod(1), pod(2)], {0, 1, 2}, {0, 1, 2}, NOW - 99),
    "one waits for a node": ([pod(0), pod(1), pod(2, phase="Pending", node="", created=AWAY)], {0, 1}, {0, 1}, AWAY),
    "the image of one is pulled": ([pod(0), pod(1), pod(2, phase="Pending")], {0, 1, 2}, {0, 1}, NOW - 99),
    "a node does not answer": ([pod(0), pod(1), pod(2, ready=False, ready_since=AWAY)], {0, 1}, {0, 1}, AWAY),
    "one was evicted": ([pod(0), pod(1), failed_pod(2, 143, finished=AWAY)], {0, 1}, {0, 1}, AWAY),
    "one is not there yet": ([pod(0), pod(1)], {0, 1}, {0, 1}, NOW - 50),
    "one has ended well": ([pod(0), pod(1), pod(2, phase="Succeeded")], {0, 1, 2}, {0, 1}, NOW - 99),
    "the first does not answer": ([pod(0, ready=False, ready_since=AWAY), pod(1), pod(2)], {1, 2}, {1, 2}, AWAY),
    "the first has no node": ([pod(0, phase="Pending", node=""), pod(1), pod(2)], None, None, None),
}


@pytest.mark.parametrize(("pods", "placed", "running", "changed"), ENDS.values(), ids=ENDS)
def test_pods_of_a_gang_that_resizes_are_known_by_index_and_since_when_they_are_as_they_are(
    pods: list[dict[str, Any]], placed: set[int] | None, running: set[int] | None, changed: float | None
) -> None:
    made = job(size=3, created=NOW - 50)
    made["metadata"]["annotations"] = {RESIZES_ANNOTATION: "true"}
    (found,) = observe([made], pods)
    gang = found.attempt.living_gang
    assert (gang and gang.placed, gang and gang.running, gang and gang.changed_at) == (placed, running, changed)
    assert observe([job(size=3)], pods)[0].attempt.living_gang is None


@pytest.mark.parametrize(
    ("cluster", "nodes", "action"),
    [
        (elastic(), None, "Ignore"),
        (elastic(), 3, "FailJob"),
        (elastic(minNodes=None), None, "FailJob"),
        (elastic({"restart": "Recreate"}), None, "FailJob"),
    ],
    ids=["in place", "of fewer from the beginning", "rigid", "by new attempts"],
)
def test_job_outlives_disruptions_where_its_gang_can_resize(
    cluster: FakeCluster, nodes: int | None, action: str
) -> None:
    spec = objects(cluster, nodes)["spec"]
    exits, disruptions, *others = spec["podFailurePolicy"]["rules"]
    assert (exits["action"], disruptions["action"]) == ("FailJob", action)
    any_code = {"containerName": "train", "operator": "NotIn", "values": [0]}
    assert others == ([{"action": "FailJob", "onExitCodes": any_code}] if action == "Ignore" else [])
    assert spec["backoffLimit"] == (100 if action == "Ignore" else 0), "a pod that its node rejects is replaced"
    template = spec["template"]["spec"]
    (container,) = template["containers"]
    files = [item["downwardAPI"]["items"] for item in template["volumes"] if "downwardAPI" in item]
    field = {"fieldPath": f"metadata.annotations['{DECISION_ANNOTATION}']"}
    assert files == ([[{"path": "gang", "fieldRef": field}]] if action == "Ignore" else [])
    named = {each["name"]: each.get("value") for each in container["env"]}
    assert named.get("DIHT_GANG_FILE") == ("/etc/diht/gang" if action == "Ignore" else None)


def test_gang_that_loses_a_node_goes_on_with_the_others_and_takes_it_in_again() -> None:
    cluster, process, clock = trains()
    lose(cluster, 2)
    settle(process)
    lost = cluster.pods["r-train-1-2"]["status"]
    soon = (
        f"goes on with 3 of 4 nodes at {at(NOW + 60)} unless more have room: waits for 1 of its 4 pods, whose "
        f"nodes are lost"
    )
    assert soon in sentence("r", status(cluster))
    assert (lost["phase"], lost["reason"], lost["conditions"][1]["reason"]) == (
        "Failed",
        "NodeLost",
        "DeletionByTaintManager",
    )
    replace(cluster, 2)
    settle(process)
    clock.now += 59
    settle(process)
    assert (decided(cluster), reason(cluster)) == (None, "Unschedulable")
    clock.now += 1
    settle(process)
    assert decided(cluster) == [2]
    (stage,) = status(cluster).stages
    assert (stage.nodes, stage.wished_nodes, stage.attempt, stage.restarts) == (3, 4, 1, 0)
    assert "attempt 1 runs on 3 of 4 nodes; 0/2 nodes are available" in sentence("r", status(cluster))
    others = "the others are lost or find no room; it takes them in as they come"
    assert f"train: on 3 of 4 nodes since {at(clock.now)}: {others}" in details(status(cluster))
    replace(cluster, 2, node="node-9", since=clock.now)
    clock.now += 599
    settle(process)
    assert decided(cluster) == [2]
    clock.now += 1
    settle(process)
    assert decided(cluster) == []
    (stage,) = status(cluster).stages
    assert (stage.state, stage.nodes, stage.attempt, stage.restarts) == (StageState.RUNNING, 4, 1, 0)
    assert told(cluster, "Resized") == [
        "train: attempt 1 lost nodes, and no others have room: it goes on with 3 of 4",
        "train: attempt 1 takes in nodes again: it goes on with 4 of 4",
    ]
    assert (list(cluster.jobs), len(status(cluster).attempts)) == (["r-train-1"], 1)


def test_lost_pod_that_nothing_evicts_is_deleted_too() -> None:
    cluster, process, clock = trains()
    cluster.pods["r-train-1-2"]["status"]["conditions"] = LOST[:1]
    settle(process)
    assert "patch Pod r-train-1-2" not in cluster.writes
    clock.now += 300
    settle(process)
    assert ("patch Pod r-train-1-2" in cluster.writes, "r-train-1-2" in cluster.pods) == (True, False)


def test_gang_of_which_a_pod_is_drained_waits_for_its_replacement_and_then_goes_on_without() -> None:
    cluster, process, clock = trains()
    drained = cluster.pods["r-train-1-3"]
    drained["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "c", "state": ended(143, finished=NOW)}]}
    drained["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    ]
    settle(process)
    del cluster.pods["r-train-1-3"]  # the Job controller has counted it, and makes the next one after a while
    clock.now += 50
    settle(process)
    assert decided(cluster) is None
    replace(cluster, 3, node="node-7", since=clock.now)
    clock.now += 600
    settle(process)
    assert (decided(cluster), reason(cluster)) == (None, "Running")
    assert list(cluster.jobs) == ["r-train-1"]


def test_gang_whose_first_node_is_lost_is_created_again() -> None:
    cluster, process, clock = trains(elastic({"maxInfrastructureRestarts": 1}))
    lose(cluster, 0)
    settle(process)
    clock.now += 400
    settle(process)
    (stage,) = status(cluster).stages
    assert (list(cluster.jobs), stage.attempt, stage.restarts) == (["r-train-2"], 2, 1)
    assert "patch Pod r-train-1-0" not in cluster.writes


def test_smaller_gang_whose_first_node_does_not_answer_for_a_while_goes_on() -> None:
    cluster, process, clock = trains()
    replace(cluster, 2)
    settle(process)
    clock.now += 60
    settle(process)
    clock.now += 5000
    first = cluster.pods["r-train-1-0"]
    first["status"]["conditions"] = [{**LOST[0], "lastTransitionTime": at(clock.now)}]
    settle(process)
    clock.now += 100
    settle(process)
    first["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": at(clock.now)}]
    settle(process)
    (stage,) = status(cluster).stages
    assert (list(cluster.jobs), stage.state, stage.nodes, stage.restarts) == (["r-train-1"], StageState.RUNNING, 3, 0)
    assert decided(cluster) == [2]


def test_gang_of_fewer_than_allowed_is_withdrawn_and_created_again() -> None:
    cluster, process, clock = trains(elastic({"maxInfrastructureRestarts": 1, "schedulingTimeoutSeconds": 100}))
    for index in (1, 2, 3):
        replace(cluster, index)
    settle(process)
    clock.now += 99
    settle(process)
    assert (list(cluster.jobs), decided(cluster)) == (["r-train-1"], None)
    clock.now += 1
    process.reconcile()
    (stage,) = status(cluster).stages
    assert (stage.state, stage.restarts, stage.cause and stage.cause.reason) == (
        StageState.RESTARTING,
        1,
        "SchedulingTimeout",
    )


def test_smaller_gang_whose_program_fails_is_created_again_on_all_nodes() -> None:
    cluster, process, clock = trains(elastic({"maxRestarts": 1}))
    replace(cluster, 2)
    settle(process)
    clock.now += 60
    settle(process)
    assert decided(cluster) == [2]
    cluster.end("r-train-1", 1)
    settle(process)
    clock.now += 400
    settle(process)
    assert cluster.jobs["r-train-2"]["spec"]["parallelism"] == NODES
    (stage,) = status(cluster).stages
    assert (stage.nodes, stage.wished_nodes, stage.resized_time) == (4, 4, None)


@pytest.mark.parametrize(("failed", "reason"), [(3, "RestartsExhausted"), (0, "InfrastructureRestartsExhausted")])
def test_disruption_that_a_gang_has_outlived_excuses_no_later_failure(failed: int, reason: str) -> None:
    cluster, process, clock = trains()
    lose(cluster, 2)
    settle(process)
    pods = cluster.pods
    if failed == 0:
        pods["r-train-1-0"]["status"]["conditions"] = [dict(LOST[1])]
    code = 143 if failed == 0 else 1
    state = {"name": "c", "state": ended(code, finished=NOW)}
    pods[f"r-train-1-{failed}"]["status"] |= {"phase": "Failed", "containerStatuses": [state]}
    failure = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}
    cluster.jobs["r-train-1"]["status"] = {"conditions": [failure]}
    cluster.jobs["r-train-1"]["metadata"]["resourceVersion"] = "9999"
    settle(process)
    clock.now += 5
    settle(process)
    assert next(each.reason for each in status(cluster).conditions if each.type == "Failed") == reason


def test_operator_that_may_not_tell_a_gang_says_so_and_tries_again() -> None:
    cluster, process, clock = trains()
    replace(cluster, 2)
    settle(process)
    cluster.refuse["patch pod"] = ClusterError(403, "Forbidden", "pods/status")
    clock.now += 60
    with pytest.raises(ClusterError, match="pods/status"):
        settle(process)
    cluster.refuse.clear()
    settle(process)
    assert decided(cluster) == [2]
