"""Warning events are asked for a namespace at a time, the more rarely the more an answer costs."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.controller.warning_events import COST_FACTOR, LEAST_AGE_S, Complaints
from diht_k8s.kube.client import ClusterError
from tests.unit.controller.documents import NOW, at
from tests.unit.controller.fake import FakeCluster


def warning(uid: str, message: str, seconds: float = 0.0, reason: str = "FailedMount") -> dict[str, Any]:
    when = at(NOW + seconds)
    return {"involvedObject": {"uid": uid}, "reason": reason, "message": message, "lastTimestamp": when, "metadata": {}}


class Slow(FakeCluster):
    """Takes `cost` seconds for an answer, and lets somebody else ask meanwhile."""

    cost = 0.0
    now = 0.0
    meanwhile: Any = None

    def warnings(self, namespace: str) -> list[dict[str, Any]]:
        found = super().warnings(namespace)
        if self.meanwhile is not None:
            self.meanwhile()
        self.now += self.cost
        return found


def test_newest_problem_of_each_object_is_told_by_one_answer() -> None:
    cluster = FakeCluster(complaints=[
        warning("a", "new", 9), warning("a", "old", 1), warning("b", "b's"), warning("c", "no problem", reason="BackOff")
    ])  # fmt: skip
    complaints = Complaints(cluster, clock=lambda: 0.0)  # type: ignore[arg-type]
    said = {uid: complaints.about("n", uid) for uid in "abcd"}
    assert {uid: problem.message for uid, problem in said.items() if problem} == {"a": "new", "b": "b's"}
    assert cluster.asked == ["n"]


@pytest.mark.parametrize(("cost", "good_for"), [(0.01, LEAST_AGE_S), (3.0, 3.0 * COST_FACTOR)], ids=["cheap", "dear"])
def test_answer_is_good_for_the_longer_the_more_it_cost(cost: float, good_for: float) -> None:
    cluster = Slow()
    cluster.cost = cost
    complaints = Complaints(cluster, clock=lambda: cluster.now)  # type: ignore[arg-type]
    complaints.about("n", "a")
    for later, asked in ((good_for - 0.01, 1), (0.02, 2)):
        cluster.now += later
        complaints.about("n", "a")
        assert len(cluster.asked) == asked
    complaints.about("other", "a")
    assert cluster.asked == ["n", "n", "other"]


def test_nobody_asks_while_another_does() -> None:
    cluster = Slow(complaints=[warning("a", "late")])
    complaints = Complaints(cluster, clock=lambda: cluster.now)  # type: ignore[arg-type]
    cluster.meanwhile = lambda: complaints.about("n", "a")
    problem = complaints.about("n", "a")
    assert problem is not None
    assert cluster.asked == ["n"]


def test_question_without_an_answer_is_said_and_asked_again_later() -> None:
    class Silent(FakeCluster):
        def warnings(self, namespace: str) -> list[dict[str, Any]]:
            super().warnings(namespace)
            raise ClusterError(0, "Unreachable", "away")

    cluster, now = Silent(), [0.0]
    complaints = Complaints(cluster, clock=lambda: now[0])  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        complaints.about("n", "a")
    assert complaints.about("n", "a") is None
    now[0] += LEAST_AGE_S
    with pytest.raises(ClusterError):
        complaints.about("n", "a")
