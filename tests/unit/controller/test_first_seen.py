"""Waits begin when the operator observes a state: clocks of nodes and of the API server may differ from its own."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.controller.known_objects import FirstSeen
from diht_k8s.controller.observe import GONE_AFTER_S, LOST_AFTER_S, SETTLE_S
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from tests.unit.controller.documents import NO_NODE, NOW, failed_pod, pod
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, settle, status, training


def read(document: dict[str, Any]) -> PodSummary:
    found = pod_summary(document)
    assert isinstance(found, PodSummary)
    return found


def starting(cluster: FakeCluster, index: int = 1) -> None:
    """A pod whose node says that it is not ready yet, since NOW."""
    cluster.pods[f"r-train-1-{index}"]["status"]["conditions"] = pod(0, ready=False, ready_since=NOW)["status"][
        "conditions"
    ]


@pytest.mark.parametrize("ahead_s", [360.0, 86_400.0, -86_400.0])
def test_clock_that_differs_from_the_clusters_loses_no_pod(ahead_s: float) -> None:
    cluster, _, _ = training()
    clock = Clock()
    clock.now += ahead_s
    process = Process(cluster, clock)
    starting(cluster)
    for passed, lost in ((0.0, False), (LOST_AFTER_S - 1, False), (2.0, True)):
        clock.now += passed
        process.reconcile()
        assert (status(cluster).attempts[0].reason == "NodeLost") is lost


def test_first_failure_waits_for_its_peers_by_our_clock() -> None:
    cluster, _, _ = training()
    clock = Clock()
    clock.now += 86_400
    process = Process(cluster, clock)
    failed = failed_pod(1, 75, finished=NOW)
    cluster.pods["r-train-1-1"]["status"] = failed["status"]
    cluster.jobs["r-train-1"]["status"] = {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "x"}]}
    process.reconcile()
    assert status(cluster).attempts[0].completion_time is None
    clock.now += SETTLE_S
    process.reconcile()
    assert status(cluster).attempts[0].exit_code == 75


def test_pod_that_should_be_gone_is_lost_a_while_after_its_grace_by_our_clock() -> None:
    times, document = FirstSeen(), pod(1, deleted=NOW - 3600)
    document["metadata"]["deletionGracePeriodSeconds"] = 60
    [first] = times.pods([read(document)], NOW)
    [later] = times.pods([read(document)], NOW + GONE_AFTER_S)
    assert (first.deleted_at, later.deleted_at) == (NOW + 60, NOW + 60)


def test_state_that_begins_again_is_timed_again_and_what_is_gone_is_dropped() -> None:
    times = FirstSeen()
    for now, since, expected in ((0.0, 50.0, 0.0), (5.0, 50.0, 0.0), (9.0, 60.0, 9.0), (4.0, 60.0, 4.0)):
        [found] = times.pods([read(pod(0, ready=False, ready_since=since))], now)
        assert found.not_ready_since == expected, now
    times.pods([], 20.0)
    assert times._pods == {}


def test_clock_that_is_set_back_begins_a_wait_again() -> None:
    times, unchanged = FirstSeen(), read(pod(0, ready=False))
    for now in (100.0, 40.0):
        [found] = times.pods([unchanged], now)
        assert found.not_ready_since == now


def test_gang_of_which_a_part_runs_is_withdrawn_after_its_time_by_our_clock() -> None:
    cluster, _, _ = training()
    waiting = pod(1, phase="Pending", conditions=NO_NODE, node="")
    cluster.pods["r-train-1-1"]["status"] = waiting["status"]
    clock = Clock()
    clock.now += 86_400
    process = Process(cluster, clock)
    settle(process)
    assert "r-train-1" in cluster.jobs
    assert status(cluster).attempts[0].completion_time is None
