"""Attempts as observed of Jobs and pods that a test writes."""

from __future__ import annotations

from typing import Any

from diht_k8s.controller.observe import ObservedAttempt, observe_attempts
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from tests.unit.controller.documents import NOW


def observe(
    jobs: list[dict[str, Any]], pods: list[dict[str, Any]], *, now: float = NOW, **more: Any
) -> list[ObservedAttempt]:
    job_summaries = [summary for document in jobs if isinstance(summary := job_summary(document), JobSummary)]
    pod_summaries = [summary for document in pods if isinstance(summary := pod_summary(document), PodSummary)]
    return observe_attempts(job_summaries, pod_summaries, now, newest=more.pop("newest", {}), **more)
