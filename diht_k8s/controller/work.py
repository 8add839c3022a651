"""Committed work of an attempt: from the termination messages of its pods, and from the log that was read last. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diht_k8s.api.reports import Cause, Progress, SavedCheckpoint
from diht_k8s.kube.summaries import PodSummary
from diht_k8s.pipeline.states import Attempt
from diht_k8s.pipeline.work import bounded_step, furthest, in_place_of, logged_work, most_restarts, work_of


def with_reports(attempt: Attempt, pods: Iterable[PodSummary]) -> Attempt:
    """The attempt with what its pods left as they ended: the work that is committed, and the step that failed."""
    causes = _causes(pods)
    steps = [bounded_step(cause.step) for cause in causes if cause.step is not None]
    work = furthest(work_of(cause.checkpoint) for cause in causes)
    in_place = in_place_of(attempt.number, (cause.rounds for cause in causes))
    return replace(attempt, work=work, failed_at=max(steps, default=None), in_place=in_place)


def newest_checkpoint(pods: Iterable[PodSummary]) -> SavedCheckpoint | None:
    """The newest checkpoint that pods named as they ended."""
    saved = [cause.checkpoint for cause in _causes(pods) if cause.checkpoint is not None]
    return max(saved, key=lambda checkpoint: checkpoint.step, default=None)


def with_logged(attempt: Attempt, progress: Progress | None) -> Attempt:
    """The attempt with the work and the restarts that its newest line of progress names, if these are more."""
    said = in_place_of(attempt.number, () if progress is None else (progress.rounds,))
    in_place = most_restarts((attempt.in_place, said))
    return replace(attempt, work=furthest((attempt.work, logged_work(progress))), in_place=in_place)


def _causes(pods: Iterable[PodSummary]) -> list[Cause]:
    found: list[Cause] = []
    for pod in pods:
        if pod.message.startswith("{"):
            try:
                found.append(Cause.model_validate_json(pod.message))
            except ValueError:
                continue
    return found
