"""What the operator knows of a run's Jobs and pods beyond what its caches hold now. It may be lost at any time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.controller.first_seen import FirstSeen
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary

MAX_KNOWN: Final = 16
"""Former Jobs and disrupted pods of a run that are known, at most."""


@dataclass
class KnownObjects:
    """Jobs and pods of a run that are gone or may be, and since when those that exist are as they are."""

    run_uid: str
    first_seen: FirstSeen = field(default_factory=FirstSeen)
    has_unrecorded_job: bool = False
    """whether an earlier operator may have created a Job and ended before it wrote the UID."""
    former_jobs: list[str] = field(default_factory=list)
    """UIDs of its Jobs, newest last, which pods may still name when they are deleted."""
    disrupted: dict[str, PodSummary] = field(default_factory=dict)
    """pods that were drained, evicted or preempted, as last observed, by name: they are deleted soon after."""
    read_jobs: set[str] = field(default_factory=set)
    """UIDs of the Jobs whose pods were read from the API server because the cause of their end was not to be seen."""

    def saw(self, jobs: Iterable[JobSummary], pods: Sequence[PodSummary]) -> None:
        """The run has these Jobs and pods."""
        for job in jobs:
            self.has_job(job.uid)
        self.disrupted |= {pod.name: pod for pod in pods if pod.disruption}
        while len(self.disrupted) > MAX_KNOWN:
            del self.disrupted[next(iter(self.disrupted))]

    def has_job(self, uid: str) -> None:
        """The run has this Job, which may be gone before anybody looks again."""
        if uid not in self.former_jobs:
            self.former_jobs.append(uid)
            del self.former_jobs[:-MAX_KNOWN]
