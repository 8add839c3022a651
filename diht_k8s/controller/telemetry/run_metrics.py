"""Restarts, time and ends of runs as metrics, from what a write changes in their status."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import fields
from typing import Final

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.status import Goodput, StageStatus, Status
from diht_k8s.controller.saved_status import condition, is_true
from diht_k8s.controller.telemetry import metrics
from diht_k8s.pipeline.states import Parts

BUDGETS: Final = ("program", "infrastructure")
"""`failurePolicy.maxRestarts` and `maxInfrastructureRestarts`."""
PARTS: Final = tuple(each.name for each in fields(Parts))
ENDS: Final = (
    Reason.COMPLETE, Reason.USER_ERROR, Reason.BAD_DATA, Reason.OUT_OF_MEMORY, Reason.RESTARTS_EXHAUSTED,
    Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED, Reason.DEADLINE_EXCEEDED, Reason.STOPPED,
)  # fmt: skip
for _budget in BUDGETS:  # from zero on, or an alert on their increase would miss the first one
    metrics.RESTARTS.labels(_budget)
for _reason in ENDS:
    metrics.ENDED.labels(_reason.value)


for _part in PARTS:
    metrics.STAGE_SECONDS.labels(_part)
_lock, _owed = threading.Lock(), Counter[str]()
"""Productive seconds that turned out to be lost were counted before: they are made up for by later ones."""


def count_changes(before: Status, after: Status) -> None:
    """Count the restarts, the time and the end that lie between two statuses of a run."""
    if before == after:  # most reconciliations change nothing
        return
    _count_time(before, after)
    old = {stage.name: stage for stage in before.stages}
    attempts = {(attempt.stage, attempt.number): attempt.counted for attempt in after.attempts}
    for stage in after.stages:
        new = stage.restarts - (old[stage.name].restarts if stage.name in old else 0)
        if new > 0:
            counted = attempts.get((stage.name, _failed_attempt(stage)), False)
            metrics.RESTARTS.labels(BUDGETS[not counted]).inc(new)
    for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
        found = condition(after, kind)
        if found is not None and found.status == "True" and not is_true(before, kind):
            metrics.ENDED.labels(Reason.COMPLETE.value if kind is ConditionType.COMPLETE else found.reason.value).inc()


def _count_time(before: Status, after: Status) -> None:
    old, new = before.goodput or Goodput(), after.goodput or Goodput()
    with _lock:
        for part in PARTS:
            seconds = getattr(new, f"{part}_seconds") - getattr(old, f"{part}_seconds") - _owed[part]
            _owed[part] = max(0, -seconds)
            metrics.STAGE_SECONDS.labels(part).inc(max(0, seconds))


def _failed_attempt(stage: StageStatus) -> int:
    """The attempt after which the stage restarts: the same plan may have started the next one."""
    return stage.attempt - (stage.state == "Running")
