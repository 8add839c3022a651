"""When a run is looked at again, and what of its status can wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diht_k8s.api.status import Status
from diht_k8s.controller.observe import GONE_AFTER_S, LOST_AFTER_S, ObservedAttempt
from diht_k8s.pipeline.attempts import AttemptState


def progress_interval(active: int) -> float:
    """Seconds between two reads of a run's log: with many active runs each is read less often."""
    return max(10.0, 0.05 * active)


def can_wait(written: Mapping[str, Any], new: Status, document: Mapping[str, Any]) -> bool:
    """Whether only pod counts and times changed, and pods are still missing: pods start one by one."""
    if new.pods is None or new.pods.ready == new.pods.desired:
        return False
    return _without_counts(written) == _without_counts(document)


def _without_counts(document: Mapping[str, Any]) -> dict[str, Any]:
    stages = [{**stage, "goodput": None} for stage in document.get("stages", ())]
    return {**document, "pods": None, "goodput": None, "stages": stages}


LIVING: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def due_times(observed: ObservedAttempt) -> list[float]:
    """Times at which an attempt may change without an event."""
    if observed.job is None and not observed.pods:
        return []
    due = [observed.settles_at] if observed.settles_at is not None else []
    if observed.job is not None and observed.attempt.state is AttemptState.PENDING:
        due.append(observed.job.seen_at + 6.0)
    for pod in observed.pods:
        if pod.ended or pod.name in observed.lost:
            continue
        if pod.deleted_at is not None:
            due.append(pod.deleted_at + GONE_AFTER_S)
        if pod.started_at is not None and pod.not_ready_since is not None:
            due.append(pod.not_ready_since + LOST_AFTER_S)
    return due
