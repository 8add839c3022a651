"""Committed work of an attempt: from the termination messages of its pods, and from the log that was read last. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diht_k8s.api.reports import Cause, Progress, SavedCheckpoint
from diht_k8s.kube.summaries import PodSummary
from diht_k8s.pipeline.states import Attempt
from diht_k8s.pipeline.work import bounded_step, furthest, logged_work, work_of


def with_reports(attempt: Attempt, pods: Iterable[PodSummary]) -> Attempt:
    """The attempt with what its pods left as they ended: the work that is committed, and the step that failed."""
    causes = _causes(pods)
    steps = [bounded_step(cause.step) for cause in causes if cause.step is not None]
    work = furthest(work_of(cause.checkpoint) for cause in causes)
    return replace(attempt, work=work, failed_at=max(steps, default=None))


def newest_checkpoint(pods: Iterable[PodSummary]) -> SavedCheckpoint | None:
    """The newest checkpoint that pods named as they ended."""
    saved = [cause.checkpoint for cause in _causes(pods) if cause.checkpoint is not None]
    return max(saved, key=lambda checkpoint: checkpoint.step, default=None)


def with_logged(attempt: Attempt, progress: Progress | None) -> Attempt:
    """The attempt with the work that its newest line of progress names, if that is further."""
    return replace(attempt, work=furthest((attempt.work, logged_work(progress))))


def _causes(pods: Iterable[PodSummary]) -> list[Cause]:
    found: list[Cause] = []
    for pod in pods:
        if pod.message.startswith("{"):
            try:
                found.append(Cause.model_validate_json(pod.message))
            except ValueError:
                continue
    return found
