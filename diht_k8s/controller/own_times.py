"""Times of Jobs and pods on the operator's own clock: when it first observed a state. Pure.

Nodes, API server and operator have clocks of their own. A wait that begins at a node's time and ends at ours is wrong by
their difference: with our clock six minutes ahead every pod that starts would be lost. So a wait begins when we first
observe a state. A new operator begins it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diht_k8s.kube.summaries import JobSummary, PodSummary

_Fact = tuple[str, str, float]
"""UID, name of the state, its time by whoever wrote it."""


class OwnTimes:
    """When the states of one run's Jobs and pods were first observed."""

    def __init__(self) -> None:
        self._jobs: dict[_Fact, float] = {}
        self._pods: dict[_Fact, float] = {}

    def jobs(self, jobs: Iterable[JobSummary], now: float) -> list[JobSummary]:
        """Jobs with `seen_at` by our clock; `now` is seconds since the epoch by the same."""
        old, self._jobs = self._jobs, {}
        return [replace(job, seen_at=_first((job.uid, "seen", 0.0), old, self._jobs, now)) for job in jobs]

    def pods(self, pods: Iterable[PodSummary], now: float) -> list[PodSummary]:
        """Pods with every time that a wait begins at by our clock; `finished_at` stays, since it orders pods."""
        old, self._pods = self._pods, {}

        def first(pod: PodSummary, state: str, at: float | None) -> float | None:
            return None if at is None else _first((pod.uid, state, at), old, self._pods, now)

        found: list[PodSummary] = []
        for pod in pods:
            deleted_at = first(pod, "deleted", pod.deleted_at)
            found.append(
                replace(
                    pod,
                    seen_at=first(pod, "seen", 0.0),
                    started_at=first(pod, "started", pod.started_at),
                    not_ready_since=first(pod, "not ready", pod.not_ready_since),
                    end_seen_at=first(pod, "ended", pod.finished_at),
                    deleted_at=None if deleted_at is None else deleted_at + pod.grace_s,
                )
            )
        return found


def _first(fact: _Fact, old: dict[_Fact, float], new: dict[_Fact, float], now: float) -> float:
    new[fact] = min(old.get(fact, now), now)  # ours may be set back, too
    return new[fact]
