"""The newest line of progress that the log of an attempt named. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from diht_k8s.api.reports import Progress
from diht_k8s.controller.observe import ObservedAttempt
from diht_k8s.controller.pod_reports import with_progress
from diht_k8s.pipeline.attempts import Attempt


@dataclass(frozen=True)
class LoggedProgress:
    """The newest progress line of an attempt."""

    entry: str
    attempt: int
    progress: Progress
    read_at: float
    """seconds since the epoch."""


def with_logged_progress(observed: ObservedAttempt, logged: LoggedProgress | None) -> Attempt:
    """The attempt with the work that its log names."""
    if logged is None or (logged.entry, logged.attempt) != (observed.entry, observed.attempt.number):
        return observed.attempt
    began = max((pod.started_at for pod in observed.pods if pod.started_at is not None), default=logged.read_at)
    return with_progress(observed.attempt, logged.progress, tells_time=logged.read_at >= began)
