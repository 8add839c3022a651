"""Kubernetes Events of a run, from the changes of its status that a person wants to know of. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.base import timestamp
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import API_VERSION
from diht_k8s.api.schema.crd import KIND
from diht_k8s.api.status import Condition, StageState, StageStatus, Status
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.saved_status import condition, is_true
from diht_k8s.controller.status_builder import RESIZED, gave_way_to_quota
from diht_k8s.controller.status_text import one_line

COMPONENT: Final = "diht-operator"
WARNING_REASONS: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.BACKEND_MISSING,
        Reason.UNSCHEDULABLE,
        Reason.IMAGE_PULL_FAILED,
        Reason.REFERENCE_MISSING,
        Reason.QUOTA_EXCEEDED,
        Reason.POD_REFUSED,
        Reason.PERMISSION_DENIED,
        Reason.INTERNAL_ERROR,
    }
)
NORMAL_REASONS: Final = frozenset(
    {
        Reason.QUEUED,
        Reason.SUSPENDED,
        Reason.CHECKPOINTING,
        Reason.COMPUTED_ELSEWHERE,
    }
)


@dataclass(frozen=True)
class RunEvent:
    """One event, before it becomes a Kubernetes Event."""

    reason: str
    message: str
    warning: bool = False


def events_between(before: Status, after: Status) -> list[RunEvent]:
    """The events between two statuses."""
    old = {stage.name: stage for stage in before.stages}
    found = [
        item
        for stage in after.stages
        for item in _of_stage(
            old.get(stage.name), stage, by_quota=gave_way_to_quota(after.attempts, stage.name, stage.attempt)
        )
    ]
    found += _of_run(before, after)
    return found


def _of_stage(old: StageStatus | None, stage: StageStatus, *, by_quota: bool) -> list[RunEvent]:
    found: list[RunEvent] = []
    if stage.restarts > (old.restarts if old is not None else 0) and stage.cause is not None:
        found.append(RunEvent("Restarting", f"{stage.name}: {stage.cause.reason}: {stage.cause.message}", warning=True))
    if _gives_way(old, stage):
        grows = old is not None and old.nodes is not None and stage.nodes is not None and old.nodes < stage.nodes
        found.append(RunEvent(RESIZED, f"{stage.name}: {_resizing(stage, grows=grows, by_quota=by_quota)}"))
    if stage.min_count is not None and (old is None or old.min_count is None):
        why = f"not all {stage.nodes} nodes have room, and {stage.min_count} are enough from now on"
        found.append(RunEvent(RESIZED, f"{stage.name}: {why}"))
    if old is not None and _is_resized_in_place(old, stage):
        how = "takes in nodes again" if (old.nodes or 0) < (stage.nodes or 0) else "lost nodes, and no others have room"
        text = f"{stage.name}: attempt {stage.attempt} {how}: it goes on with {stage.nodes} of {stage.wished_nodes}"
        found.append(RunEvent(RESIZED, text))
    before, now = (old.restarts_in_place if old is not None else None), stage.restarts_in_place
    if now is not None and now.total > (0 if before is None else before.total):
        text = f"{stage.name}: round {now.restarts + 1} of attempt {now.attempt} began: {now.message}"
        found.append(RunEvent("RestartingInPlace", text, warning=True))
    ended = stage.state in (StageState.COMPLETE, StageState.CACHED)
    if ended and (old is None or old.state is not stage.state):
        found.append(RunEvent("StageComplete", f"{stage.name}: {stage.state.value.lower()}"))
    return found


def _resizing(stage: StageStatus, *, grows: bool, by_quota: bool) -> str:
    """Why an attempt gives way, for a person."""
    if by_quota:
        how = (
            "its queue has quota for more, and it grows to"
            if grows
            else "its queue takes quota back, and it goes on with"
        )
        return f"{how} {stage.nodes} of {stage.wished_nodes} nodes"
    if grows:
        return "no node has room, and it asks for all again"
    return f"{stage.nodes} of {stage.wished_nodes} nodes have room, and it goes on with them"


def _gives_way(old: StageStatus | None, stage: StageStatus) -> bool:
    """Whether an attempt has just given way to one on another number of nodes."""
    gives_way = stage.nodes is not None and stage.state is StageState.RESTARTING
    return gives_way and (old is None or (old.nodes, old.state) != (stage.nodes, stage.state))


def _is_resized_in_place(old: StageStatus, stage: StageStatus) -> bool:
    """Whether an attempt goes on with another number of nodes in its living pods."""
    same = (
        old.state is stage.state is StageState.RUNNING and old.attempt == stage.attempt and stage.workload is not None
    )
    return same and old.workload is not None and None not in (old.nodes, stage.nodes) and old.nodes != stage.nodes


def _of_run(before: Status, after: Status) -> list[RunEvent]:
    was, now = condition(before, ConditionType.PROGRESSING), condition(after, ConditionType.PROGRESSING)
    if is_true(after, ConditionType.COMPLETE) and not is_true(before, ConditionType.COMPLETE):
        return [RunEvent("Complete", "every stage's output is committed")]
    failed = condition(after, ConditionType.FAILED)
    if failed is not None and failed.status == "True" and not is_true(before, ConditionType.FAILED):
        return [RunEvent(failed.reason.value, failed.message, warning=True)]
    if now is None or (was is not None and was.reason is now.reason and not _is_another_refusal(was, now)):
        return []
    if now.reason in WARNING_REASONS:
        return [RunEvent(now.reason.value, now.message, warning=True)]
    return [RunEvent(now.reason.value, now.message)] if now.reason in NORMAL_REASONS else []


def _is_another_refusal(was: Condition, now: Condition) -> bool:
    """Whether another document has met another refusal."""
    return was.observed_generation != now.observed_generation and was.message != now.message


def started_event(entry: str, attempt: int) -> RunEvent:
    """The event of an attempt whose Job exists."""
    return RunEvent("Started", f"{entry}: attempt {attempt} started")


def event_document(run: CachedRun, item: RunEvent, now: float) -> dict[str, Any]:
    """The Kubernetes Event that records it."""
    key = f"{run.uid}/{run.version}/{item.reason}/{item.message}"
    time = timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{run.name}.{hashlib.sha256(key.encode()).hexdigest()[:16]}",
            "namespace": run.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": run.name,
            "namespace": run.namespace,
            "uid": run.uid,
            "resourceVersion": run.version,
        },
        "type": "Warning" if item.warning else "Normal",
        "reason": item.reason,
        "message": one_line(item.message),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
