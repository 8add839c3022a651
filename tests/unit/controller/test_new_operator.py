"""An operator that starts beside runs which an earlier one has followed: it reads their logs one after another."""

from __future__ import annotations

import copy

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, settle, status, training

ENDED = {
    "conditions": [
        {"type": "Complete", "status": "True", "reason": "Complete", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
    "observedGeneration": 1,
}


def followed() -> tuple[FakeCluster, Clock, list[str]]:
    """A training whose progress an operator has just read, and the pods whose log is read from now on."""
    cluster, process, clock = training()
    line = Progress(stage=Stage.TRAIN, step="epoch 1", done=1, total=2).line()
    cluster.logs = {name: line for name in cluster.pods}
    clock.now += 20
    settle(process)
    assert status(cluster).progress is not None
    asked: list[str] = []
    cluster.log_tail = lambda namespace, pod, lines: asked.append(pod) or line  # type: ignore[func-returns-value,method-assign]
    return cluster, clock, asked


def beside(cluster: FakeCluster, count: int, status: object) -> None:
    """Add runs with this status."""
    for number in range(count):
        run = copy.deepcopy(cluster.runs["r"])
        cluster.add_run({**run, "metadata": {"name": f"o-{number}"}, "status": status}, uid=f"uid-{number}")


@pytest.mark.parametrize(
    ("others", "interval_s"),
    [("ended", 10.0), ("running", 20.05)],
    ids=["finished runs do not count", "active ones do"],
)
def test_logs_are_read_over_one_interval_of_the_runs_that_run(others: str, interval_s: float) -> None:
    cluster, clock, asked = followed()
    beside(cluster, 400, ENDED if others == "ended" else cluster.runs["r"]["status"])
    new = Process(cluster, clock)
    new.reconciler._jitter = lambda: 0.9
    new.reconcile()
    assert asked == []
    clock.now += 0.1 * interval_s - 0.5
    new.reconcile()
    assert asked == []
    clock.now += 1
    new.reconcile()
    assert asked == ["r-train-1-0"]


@pytest.mark.parametrize("ready", ["True", "False"])
def test_log_of_a_pod_on_a_silent_node_is_not_asked_for(ready: str) -> None:
    cluster, clock, asked = followed()
    cluster.pods["r-train-1-0"]["status"]["conditions"] = [
        {"type": "Ready", "status": ready, "lastTransitionTime": timestamp(clock.now)}
    ]
    new = Process(cluster, clock)
    new.reconciler._jitter = lambda: 1.0
    new.reconcile()
    assert asked == (["r-train-1-0"] if ready == "True" else [])
