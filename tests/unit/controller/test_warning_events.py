"""Warning events are listed per namespace; the more a list costs, the longer it is used."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.controller.pending_causes import COST_FACTOR, LEAST_AGE_S, WarningEvents, event_problem
from diht_k8s.kube.errors import ClusterError
from tests.unit.controller.documents import NOW, at
from tests.unit.controller.fake import FakeCluster


def warning(uid: str, message: str, seconds: float = 0.0, reason: str = "FailedMount") -> dict[str, Any]:
    when = at(NOW + seconds)
    return {"involvedObject": {"uid": uid}, "reason": reason, "message": message, "lastTimestamp": when, "metadata": {}}


class Slow(FakeCluster):
    """Takes `cost` seconds for a list, and lets another thread ask meanwhile."""

    cost = 0.0
    now = 0.0
    meanwhile: Any = None

    def warnings(self, namespace: str) -> list[dict[str, Any]]:
        found = super().warnings(namespace)
        if self.meanwhile is not None:
            self.meanwhile()
        self.now += self.cost
        return found


def test_one_list_gives_the_newest_problem_of_each_object() -> None:
    cluster = FakeCluster(
        warning_events=[
            warning("a", "new", 9),
            warning("a", "old", 1),
            warning("b", "b's"),
            warning("c", "no problem", reason="BackOff"),
        ]
    )
    warning_events = WarningEvents(cluster, clock=lambda: 0.0)  # type: ignore[arg-type]
    said = {uid: warning_events.problem_of("n", uid) for uid in "abcd"}
    assert {uid: problem.message for uid, problem in said.items() if problem} == {"a": "new", "b": "b's"}
    assert cluster.asked == ["n"]


@pytest.mark.parametrize(
    "refusal",
    ["exceeded quota: q, requested: pods=1", 'violates PodSecurity "restricted:latest": host', "maximum cpu is 1"],
)
def test_refused_pod_is_told_without_the_random_end_of_its_name_which_differs_in_each_try(refusal: str) -> None:
    tries = [
        event_problem("FailedCreate", f'Error creating: pods "r-filter-1-0-{end}" is forbidden: {refusal}')
        for end in ("x7k2p", "bbbbb")
    ]
    assert tries[0] == tries[1]
    assert tries[0] is not None
    assert tries[0].message.startswith(f'Error creating: pods "r-filter-1-0" is forbidden: {refusal}')


@pytest.mark.parametrize(("cost", "good_for"), [(0.01, LEAST_AGE_S), (3.0, 3.0 * COST_FACTOR)], ids=["cheap", "dear"])
def test_list_that_costs_more_is_used_for_longer(cost: float, good_for: float) -> None:
    cluster = Slow()
    cluster.cost = cost
    warning_events = WarningEvents(cluster, clock=lambda: cluster.now)  # type: ignore[arg-type]
    warning_events.problem_of("n", "a")
    for later, asked in ((good_for - 0.01, 1), (0.02, 2)):
        cluster.now += later
        warning_events.problem_of("n", "a")
        assert len(cluster.asked) == asked
    warning_events.problem_of("other", "a")
    assert cluster.asked == ["n", "n", "other"]


def test_one_thread_lists_at_a_time() -> None:
    cluster = Slow(warning_events=[warning("a", "late")])
    warning_events = WarningEvents(cluster, clock=lambda: cluster.now)  # type: ignore[arg-type]
    cluster.meanwhile = lambda: warning_events.problem_of("n", "a")
    problem = warning_events.problem_of("n", "a")
    assert problem is not None
    assert cluster.asked == ["n"]


def test_failed_list_is_raised_and_tried_again_later() -> None:
    class Silent(FakeCluster):
        def warnings(self, namespace: str) -> list[dict[str, Any]]:
            super().warnings(namespace)
            raise ClusterError(0, "Unreachable", "away")

    cluster, now = Silent(), [0.0]
    warning_events = WarningEvents(cluster, clock=lambda: now[0])  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        warning_events.problem_of("n", "a")
    assert warning_events.problem_of("n", "a") is None
    now[0] += LEAST_AGE_S
    with pytest.raises(ClusterError):
        warning_events.problem_of("n", "a")
