"""Metrics of runs: restarts, time and ends; runs that are blocked, elastic ones; the faulty nodes from which gangs
move.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Final

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.status import Goodput, StageStatus, Status
from diht_k8s.controller import metrics
from diht_k8s.controller.cache.runs import Key
from diht_k8s.controller.events import WARNING_REASONS
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.saved_status import condition, has_ended, is_true
from diht_k8s.controller.status_builder import GAVE_WAY
from diht_k8s.pipeline.run_status import TimeParts

BUDGETS: Final = ("program", "infrastructure")
"""`failurePolicy.maxRestarts` and `maxInfrastructureRestarts`."""
PARTS: Final = tuple(each.name for each in fields(TimeParts))
ENDS: Final = (
    Reason.COMPLETE,
    Reason.USER_ERROR,
    Reason.BAD_DATA,
    Reason.OUT_OF_MEMORY,
    Reason.RESTARTS_EXHAUSTED,
    Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED,
    Reason.DEADLINE_EXCEEDED,
    Reason.STOPPED,
)
for _budget in BUDGETS:  # from zero on, or an alert on their increase would miss the first one
    metrics.RESTARTS.labels(_budget)
for _reason in ENDS:
    metrics.ENDED.labels(_reason.value)
for _reason in WARNING_REASONS:
    metrics.BLOCKED.labels(_reason.value)
for _part in PARTS:
    metrics.STAGE_SECONDS.labels(_part)
_lock, _overcounted = threading.Lock(), Counter[str]()
"""Productive seconds that turned out to be lost were counted before: they are made up for by later ones."""


def count_changes(before: Status, after: Status) -> None:
    """Count the restarts, resizings, the time and the end that lie between two statuses of a run."""
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
    metrics.RESIZINGS.inc(len(_resized(after) - _resized(before)))
    for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
        found = condition(after, kind)
        if found is not None and found.status == "True" and not is_true(before, kind):
            metrics.ENDED.labels(Reason.COMPLETE.value if kind is ConditionType.COMPLETE else found.reason.value).inc()


def _count_time(before: Status, after: Status) -> None:
    old, new = before.goodput or Goodput(), after.goodput or Goodput()
    with _lock:
        for part in PARTS:
            seconds = getattr(new, f"{part}_seconds") - getattr(old, f"{part}_seconds") - _overcounted[part]
            _overcounted[part] = max(0, -seconds)
            metrics.STAGE_SECONDS.labels(part).inc(max(0, seconds))


def _resized(status: Status) -> set[tuple[str, int | str]]:
    """The attempts that gave way to one of another number of nodes, and the time at which a gang was resized in
    place.
    """
    gave_way: set[tuple[str, int | str]] = {
        (attempt.stage, attempt.number) for attempt in status.attempts if attempt.reason in GAVE_WAY
    }
    return gave_way | {(stage.name, stage.resized_time) for stage in status.stages if stage.resized_time is not None}


def _failed_attempt(stage: StageStatus) -> int:
    """The attempt after which the stage restarts: the same plan may have started the next one."""
    return stage.attempt - (stage.state == "Running")


class BlockedRuns:
    """Counts the runs that cannot go on, by reason. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[Key, Reason] = {}

    def record(self, key: Key, status: Status) -> None:
        """A run's status is, or stays, this."""
        self._set(key, _blocked_by(status))

    def forget(self, key: Key) -> None:
        """A run is gone or needs nothing more."""
        self._set(key, None)

    def _set(self, key: Key, reason: Reason | None) -> None:
        with self._lock:
            if self._reasons.get(key) is reason:
                return
            if reason is None:
                del self._reasons[key]
            else:
                self._reasons[key] = reason
            counts = Counter(self._reasons.values())
            for each in WARNING_REASONS:
                metrics.BLOCKED.labels(each.value).set(counts[each])


def _blocked_by(status: Status) -> Reason | None:
    if has_ended(status):
        return None
    accepted, progressing = condition(status, ConditionType.ACCEPTED), condition(status, ConditionType.PROGRESSING)
    found = accepted if accepted is not None and accepted.status == "False" else progressing
    return found.reason if found is not None and found.reason in WARNING_REASONS else None


class ElasticGangs:
    """Adds up the nodes that elastic trainings have, and those that they wish for. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[Key, tuple[int, int]] = {}

    def record(self, key: Key, status: Status) -> None:
        """A run's status is, or stays, this."""
        found = [(each.nodes, each.wished_nodes) for each in status.stages if each.nodes is not None]
        self._set(key, (sum(nodes or 0 for nodes, _ in found), sum(wished or 0 for _, wished in found)))

    def forget(self, key: Key) -> None:
        """A run is gone or needs nothing more."""
        self._set(key, (0, 0))

    def _set(self, key: Key, nodes: tuple[int, int]) -> None:
        with self._lock:
            if self._nodes.get(key, (0, 0)) == nodes:
                return
            self._nodes[key] = nodes
            if nodes == (0, 0):
                del self._nodes[key]
            metrics.ELASTIC_NODES.set(sum(have for have, _ in self._nodes.values()))
            metrics.WISHED_NODES.set(sum(wished for _, wished in self._nodes.values()))


class UnhealthyNodes:
    """Remembers the faults because of which gangs moved, as long as the nodes have them. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: dict[str, set[str]] = {}

    def record(self, faults: Iterable[NodeFault]) -> None:
        """Gangs move because of these."""
        with self._lock:
            for fault in faults:
                self._recorded.setdefault(fault.node, set()).add(fault.name)
                metrics.UNHEALTHY.labels(fault.node, fault.name).set(1)

    def keep(self, node: str, faults: Iterable[NodeFault]) -> None:
        """The node has these faults now and no others."""
        names = {fault.name for fault in faults}
        with self._lock:
            for gone in self._recorded.get(node, set()) - names:
                metrics.UNHEALTHY.remove(node, gone)
            self._recorded[node] = self._recorded.get(node, set()) & names
            if not self._recorded[node]:
                del self._recorded[node]
