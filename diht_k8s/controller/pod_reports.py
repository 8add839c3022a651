"""Reports of an attempt's pods, in termination messages and in the log: committed work, times, checkpoint, preflight.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from diht_k8s.api.reports import COMMITTED, Cause, NodeResult, Progress, SavedCheckpoint
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import (
    Attempt,
    AttemptTimes,
    checkpoint_work,
    furthest,
    in_place_of,
    most_restarts,
    most_spent,
    progress_work,
)

_DIGEST: Final = re.compile(r"[0-9a-f]{16}")


def with_reports(attempt: Attempt, job: JobSummary | None, pods: Sequence[PodSummary]) -> Attempt:
    """The attempt with its times, and what its pods left as they ended: committed work, the step that failed."""
    causes = _causes(pods)
    steps = [cause.step for cause in causes if cause.step is not None]
    work = furthest(checkpoint_work(cause.checkpoint) for cause in causes)
    in_place = in_place_of(attempt.number, (cause.rounds for cause in causes))
    spent = most_spent(cause.time_spent for cause in causes)
    reported = {"work": work, "failed_at": max(steps, default=None), "in_place": in_place, "spent": spent}
    return replace(attempt, times=attempt_times(job, pods), **reported)


def attempt_times(job: JobSummary | None, pods: Sequence[PodSummary]) -> AttemptTimes | None:
    """The timestamps of an attempt by the clocks of API server and nodes; None without its Job.

    The first pod counts, in which a gang's rank 0 runs: what it waits for the others is its start.
    """
    if job is None:
        return None
    first = min(pods, key=lambda pod: (pod.index, pod.created_at), default=None)
    placed = first.scheduled_at or first.running_at if first is not None else None
    running = first.running_at if first is not None else None
    created = job.created_at if job.queued_at is None else min(job.queued_at, job.created_at)
    return AttemptTimes(created, job.started_at, placed, running, job.ended_at)


def newest_checkpoint(pods: Iterable[PodSummary]) -> SavedCheckpoint | None:
    """The newest checkpoint that pods named as they ended."""
    saved = [cause.checkpoint for cause in _causes(pods) if cause.checkpoint is not None]
    return max(saved, key=lambda checkpoint: checkpoint.step, default=None)


def preflight_results(pods: Iterable[PodSummary]) -> list[NodeResult]:
    """Results of the preflight that pods left as they ended: of the worst nodes, or of their own where the ranks had
    not met.
    """
    return list({result.pod: result for cause in _causes(pods) for result in cause.preflight}.values())


def stage_folder(pods: Iterable[PodSummary], below: str) -> str | None:
    """The folder of the stage that pods named as they ended well; None where none has, or it is no digest below
    `below`.
    """
    named = (cause.output for cause in _causes(pods) if cause.output is not None)
    return next((uri for uri in named if uri.startswith(below) and _DIGEST.fullmatch(uri, len(below))), None)


def says_committed(pods: Iterable[PodSummary]) -> bool:
    """Whether a pod said as it ended that its stage is committed."""
    return any(cause.reason == COMMITTED for cause in _causes(pods))


def with_progress(attempt: Attempt, progress: Progress | None, *, tells_time: bool = True) -> Attempt:
    """The attempt with the work and the restarts that its newest line of progress names, if these are more.

    `tells_time`: whether its account of its time is of the pods that run now.
    """
    said = in_place_of(attempt.number, () if progress is None else (progress.rounds,))
    in_place = most_restarts((attempt.in_place, said))
    spent = most_spent((attempt.spent, progress.time_spent if progress is not None and tells_time else None))
    work = furthest((attempt.work, progress_work(progress)))
    remaining_s = progress.eta_seconds if progress is not None and tells_time else None
    return replace(attempt, work=work, in_place=in_place, spent=spent, remaining_s=remaining_s)


def _causes(pods: Iterable[PodSummary]) -> list[Cause]:
    found: list[Cause] = []
    for pod in pods:
        if pod.message.startswith("{"):
            try:
                found.append(Cause.model_validate_json(pod.message))
            except ValueError:
                continue
    return found
