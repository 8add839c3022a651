"""Metrics of runs: restarts by budget, ends by reason and resizings, each counted once; nodes of elastic trainings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import AttemptStatus, Condition, StageState, StageStatus, Status
from diht_k8s.controller import metrics
from diht_k8s.controller.run_metrics import BUDGETS, ENDS, BlockedRuns, ElasticGangs, count_changes
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


def training_on(nodes: int | None, wished: int | None) -> Status:
    filtered = StageStatus(name="filter", stage=Stage.FILTER, state=StageState.COMPLETE)
    trains = StageStatus(
        name="train", stage=Stage.TRAIN, state=StageState.RUNNING, attempt=3, nodes=nodes, wished_nodes=wished
    )
    return Status(stages=[filtered, trains])


def test_nodes_of_elastic_trainings_are_those_of_all_runs_that_are_under_way() -> None:
    gangs = ElasticGangs()

    def shown() -> tuple[float, float]:
        return metrics.ELASTIC_NODES._value.get(), metrics.WISHED_NODES._value.get()

    gangs.record(("n", "a"), training_on(3, 4))
    gangs.record(("n", "b"), training_on(64, 64))
    gangs.record(("n", "rigid"), training_on(None, None))
    gangs.record(("n", "a"), training_on(3, 4))
    assert shown() == (67, 68)
    gangs.record(("n", "a"), training_on(2, 4))
    assert shown() == (66, 68)
    gangs.record(("n", "b"), training_on(None, None))
    assert shown() == (2, 4)
    gangs.forget(("n", "a"))
    assert shown() == (0, 0)


@pytest.mark.parametrize(
    ("before", "after", "resizings"),
    [
        ("NodeLost", "NodeLost Resized", 1),
        ("NodeLost Resized", "NodeLost Resized", 0),
        ("Resized Resized", "Resized Resized Error", 0),
        ("Resized", "Resized QuotaChanged", 1),
    ],
    ids=["one gives way", "which is told once", "another end", "for quota"],
)
def test_resizing_is_counted_once(before: str, after: str, resizings: int) -> None:
    def ended(reasons: str) -> Status:
        return Status(
            attempts=[AttemptStatus(stage="train", number=at, reason=each) for at, each in enumerate(reasons.split())],
            restarts=len(reasons.split()),
        )

    counted = metrics.RESIZINGS._value.get()
    count_changes(ended(before), ended(after))
    assert metrics.RESIZINGS._value.get() - counted == resizings


@pytest.mark.parametrize(
    ("before", "after", "resizings"),
    [(None, 1, 1), (1, 1, 0), (1, 2, 1), (1, None, 0)],
    ids=["first", "told once", "again", "new attempt"],
)
def test_resizing_in_place_is_counted_once(before: int | None, after: int | None, resizings: int) -> None:
    def training(minute: int | None) -> Status:
        at = None if minute is None else f"2026-11-30T08:0{minute}:00Z"
        stage = StageStatus(name="train", stage=Stage.TRAIN, state=StageState.RUNNING, resized_time=at)
        return Status(stages=[stage], restarts=after or 9)

    counted = metrics.RESIZINGS._value.get()
    count_changes(training(before), training(after))
    assert metrics.RESIZINGS._value.get() - counted == resizings


KEY = ("n", "r")


def status(kind: ConditionType, reason: Reason, value: Literal["True", "False"] = "True") -> Status:
    found = Condition(type=kind, status=value, reason=reason, message="", last_transition_time="2026-01-01T00:00:00Z")
    return Status(conditions=[found])


def blocked(reason: Reason) -> float:
    return metrics.BLOCKED.labels(reason.value)._value.get()


@pytest.fixture
def blocked_runs() -> Iterator[BlockedRuns]:
    found = BlockedRuns()
    yield found
    found.forget(KEY)


def test_run_is_counted_by_the_reason_for_which_it_cannot_go_on(blocked_runs: BlockedRuns) -> None:
    unscheduled = status(ConditionType.PROGRESSING, Reason.UNSCHEDULABLE, "False")
    blocked_runs.record(KEY, unscheduled)
    blocked_runs.record(KEY, unscheduled)
    assert blocked(Reason.UNSCHEDULABLE) == 1
    blocked_runs.record(KEY, status(ConditionType.ACCEPTED, Reason.NAME_CONFLICT, "False"))
    assert (blocked(Reason.UNSCHEDULABLE), blocked(Reason.NAME_CONFLICT)) == (0, 1)
    blocked_runs.record(KEY, status(ConditionType.PROGRESSING, Reason.RUNNING))
    assert blocked(Reason.NAME_CONFLICT) == 0


def test_run_that_is_gone_is_not_counted(blocked_runs: BlockedRuns) -> None:
    blocked_runs.record(KEY, status(ConditionType.PROGRESSING, Reason.IMAGE_PULL_FAILED, "False"))
    blocked_runs.forget(KEY)
    assert blocked(Reason.IMAGE_PULL_FAILED) == 0
