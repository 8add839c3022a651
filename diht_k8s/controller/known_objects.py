"""What the operator knows of a run's Jobs and pods beyond what its caches hold now. It may be lost at any time.

Nodes, API server and operator have clocks of their own. A wait that begins at a node's time and ends at ours is wrong
by their difference: with our clock six minutes ahead every pod that starts would be lost. So a wait begins when we
first observe a state, by our clock. A new operator begins it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary

_Facts = dict[tuple[str, float], float]
"""Name of a state and its time by whoever wrote it -> its time by our clock."""


@dataclass(frozen=True)
class _TimedPod:
    original: PodSummary
    timed: PodSummary
    facts: _Facts
    timed_at: float


class FirstSeen:
    """When the states of one run's Jobs and pods were first observed."""

    def __init__(self) -> None:
        self._jobs: dict[str, float] = {}
        self._pods: dict[str, _TimedPod] = {}

    def jobs(self, jobs: Iterable[JobSummary], now: float) -> list[JobSummary]:
        """Jobs with `seen_at` by our clock; `now` is seconds since the epoch by the same."""
        found = [replace(job, seen_at=min(self._jobs.get(job.uid, now), now)) for job in jobs]
        self._jobs = {job.uid: job.seen_at for job in found}
        return found

    def pods(self, pods: Iterable[PodSummary], now: float) -> list[PodSummary]:
        """Pods with every time that a wait begins at by our clock; `finished_at` stays, since it orders pods."""
        old, self._pods = self._pods, {}
        for pod in pods:
            seen = old.get(pod.uid)
            if seen is None or seen.original is not pod or now < seen.timed_at:
                seen = _timed(pod, seen.facts if seen is not None else {}, now)
            self._pods[pod.uid] = seen
        return [each.timed for each in self._pods.values()]


def _timed(pod: PodSummary, old: _Facts, now: float) -> _TimedPod:
    facts: _Facts = {}

    def first(state: str, at: float | None) -> float | None:
        if at is None:
            return None
        facts[state, at] = min(old.get((state, at), now), now)  # ours may be set back, too
        return facts[state, at]

    deleted_at = first("deleted", pod.deleted_at)
    timed = replace(
        pod,
        seen_at=first("seen", 0.0),
        started_at=first("started", pod.started_at),
        not_ready_since=first("not ready", pod.not_ready_since),
        end_seen_at=first("ended", pod.finished_at),
        deleted_at=None if deleted_at is None else deleted_at + pod.grace_s,
    )
    return _TimedPod(pod, timed, facts, now)


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
