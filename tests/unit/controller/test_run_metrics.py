"""Metrics of runs: restarts by budget and ends by reason, each counted once."""

from __future__ import annotations

import pytest

from diht_k8s.controller import metrics
from diht_k8s.controller.run_metrics import BUDGETS, ENDS
from tests.unit.controller.documents import DISRUPTED, failed_pod
from tests.unit.controller.stories import ONE, make, play, settle, training


def counts() -> dict[str, float]:
    return {
        **{name: metrics.RESTARTS.labels(name)._value.get() for name in BUDGETS},
        **{reason.value: metrics.ENDED.labels(reason.value)._value.get() for reason in ENDS},
    }


def changes(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counts().items() if value != before[name]}


@pytest.mark.parametrize(
    ("ends", "policy", "expected"),
    [
        ({}, {}, {"Complete": 1}),
        ({"r-filter-1": 75, "r-filter-2": 1}, {}, {"program": 2, "Complete": 1}),
        ({"r-filter-1": 64}, {}, {"UserError": 1}),
        ({"r-filter-1": 75, "r-filter-2": 75}, {"maxRestarts": 1}, {"program": 1, "RestartsExhausted": 1}),
    ],
    ids=["well", "restarts", "user error", "budget"],
)
def test_restarts_and_ends_are_counted_once(
    ends: dict[str, int], policy: dict[str, int], expected: dict[str, float]
) -> None:
    before = counts()
    play(make(**ONE, failurePolicy=policy), ends)
    assert changes(before) == expected


def test_drained_node_takes_from_the_budget_of_the_infrastructure() -> None:
    before = counts()
    cluster, process, _ = training()
    cluster.end("r-train-1", 143)
    cluster.pods["r-train-1-1"] = failed_pod(
        1, 143, conditions=DISRUPTED, job_uid=cluster.jobs["r-train-1"]["metadata"]["uid"]
    )
    settle(process)
    assert changes(before) == {"infrastructure": 1}
