"""Runs that cannot go on, as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.status import Condition, Status
from diht_k8s.controller import metrics
from diht_k8s.controller.run_metrics import BlockedRuns

KEY = ("n", "r")


def status(kind: ConditionType, reason: Reason, value: Literal["True", "False"] = "True") -> Status:
    found = Condition(type=kind, status=value, reason=reason, message="", last_transition_time="2026-01-01T00:00:00Z")
    return Status(conditions=[found])


def blocked(reason: Reason) -> float:
    return metrics.BLOCKED.labels(reason.value)._value.get()


@pytest.fixture
def counts() -> Iterator[BlockedRuns]:
    found = BlockedRuns()
    yield found
    found.forget(KEY)


def test_run_is_counted_by_the_reason_for_which_it_cannot_go_on(counts: BlockedRuns) -> None:
    unscheduled = status(ConditionType.PROGRESSING, Reason.UNSCHEDULABLE, "False")
    counts.record(KEY, unscheduled)
    counts.record(KEY, unscheduled)
    assert blocked(Reason.UNSCHEDULABLE) == 1
    counts.record(KEY, status(ConditionType.ACCEPTED, Reason.NAME_CONFLICT, "False"))
    assert (blocked(Reason.UNSCHEDULABLE), blocked(Reason.NAME_CONFLICT)) == (0, 1)
    counts.record(KEY, status(ConditionType.PROGRESSING, Reason.RUNNING))
    assert blocked(Reason.NAME_CONFLICT) == 0


def test_run_that_is_gone_is_not_counted(counts: BlockedRuns) -> None:
    counts.record(KEY, status(ConditionType.PROGRESSING, Reason.IMAGE_PULL_FAILED, "False"))
    counts.forget(KEY)
    assert blocked(Reason.IMAGE_PULL_FAILED) == 0
