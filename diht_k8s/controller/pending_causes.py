"""Causes of pods that stay pending, where only Warning events or Kueue's queue tell.

An API server reads all events of a namespace for each list of events, whatever the selector. With a thousand runs that
wait, a list for each would keep it from everything else. So one list serves all runs of a namespace, and the more it
cost, the longer the next one waits.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from diht_k8s.api.pod_security import REFUSED_ADVICE
from diht_k8s.api.reasons import Reason
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.observe import LIVING, ObservedAttempt, RunProblem
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError

logger = logging.getLogger(__name__)
LEAST_AGE_S: Final = 2.0
"""A list is used for at least this time."""
COST_FACTOR: Final = 20.0
"""And for this multiple of the time that it took: at most a twentieth of the time goes into lists."""
ASKING_S: Final = 60.0
"""While one thread lists, the others use the last list for this time."""
FIRST_READ_AGAIN_S: Final = 2.0
"""The first wait before events and queues are read again."""
MISSING_READ_AGAIN_S: Final = 2.5
"""The longest wait while pods do not exist and nobody has said why: with the age of a list of events less than 5 s."""
_RANDOM_END: Final = re.compile(r'(pods "[^"]+)-[bcdfghjklmnpqrstvwxz2456789]{5}"')
"""Of the name of a pod that was refused: it differs in each try, and no such pod exists."""


@dataclass
class _Answer:
    good_until: float = float("-inf")
    problems: dict[str, RunProblem] = field(default_factory=dict)


class WarningEvents:
    """The newest problem of each object, by its uid."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one; `clock` gives seconds, monotonic."""
        self._cluster, self._clock = cluster, clock
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}

    def problem_of(self, namespace: str, uid: str) -> RunProblem | None:
        """What is wrong with an object; None if nothing is known.

        Raises:
            ClusterError: the API server does not answer.
        """
        with self._lock:
            answer, now = self._answers.setdefault(namespace, _Answer()), self._clock()
            old = now >= answer.good_until
            if old:
                answer.good_until = now + ASKING_S
        if old:
            self._list(namespace, answer)
        return answer.problems.get(uid)

    def _list(self, namespace: str, answer: _Answer) -> None:
        began = self._clock()
        found: dict[str, tuple[str, RunProblem]] = {}
        try:
            for event in self._cluster.warnings(namespace):
                uid = event["involvedObject"].get("uid", "")
                at = event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
                problem = event_problem(event.get("reason", ""), event.get("message", ""))
                if problem is not None and (uid not in found or found[uid][0] <= at):
                    found[uid] = (at, problem)
            answer.problems = {uid: problem for uid, (_, problem) in found.items()}
        finally:
            now = self._clock()
            answer.good_until = now + max(LEAST_AGE_S, COST_FACTOR * (now - began))


def event_problem(reason: str, message: str) -> RunProblem | None:
    """What an event of a Job or pod means for a run; None if it means nothing."""
    message = _RANDOM_END.sub(r'\1"', message)
    text = one_line(message)
    if "exceeded quota" in message:
        return RunProblem(Reason.QUOTA_EXCEEDED, text)
    if "violates PodSecurity" in message:
        return RunProblem(Reason.POD_REFUSED, f"{one_line(message, 800)}: {REFUSED_ADVICE}")
    if "denied the request" in message:
        return RunProblem(Reason.POD_REFUSED, text)
    if reason in ("FailedMount", "FailedAttachVolume"):
        return RunProblem(Reason.REFERENCE_MISSING, text)
    if reason == "FailedCreate":
        kind = Reason.REFERENCE_MISSING if "not found" in message else Reason.POD_REFUSED
        return RunProblem(kind, text)
    return None


@dataclass
class PendingCause:
    """What was read about why pods of a run are pending."""

    subject: str = ""
    """UID of the object whose events, or whose queue, may tell."""
    reads: int = 0
    """how often they were read."""
    read_at: float = 0.0
    problem: RunProblem | None = None
    """what they told."""

    def read_again_s(self, observed: Iterable[ObservedAttempt], interval_s: float) -> float:
        """Seconds after which the answer is old: short at first, then as between two reads of a log."""
        wait_s = min(interval_s, FIRST_READ_AGAIN_S * 2.0 ** max(0, min(self.reads, 8) - 1))
        unexplained = self.problem is None and any(each.misses_pods for each in observed)
        return min(wait_s, MISSING_READ_AGAIN_S) if unexplained else wait_s


def with_pending_cause(
    cluster: Cluster,
    warning_events: WarningEvents,
    cached: CachedRun,
    observed: list[ObservedAttempt],
    pending: PendingCause,
    now: float,
    interval_s: float,
) -> list[ObservedAttempt]:
    """The attempts, the living one with the cause of its pending pods; what was read is kept in `pending` for a
    while.
    """
    living = next((each for each in reversed(observed) if each.attempt.state in LIVING), None)
    if living is None:
        return observed
    subject = living.event_subject or (living.job.uid if living.job is not None and living.job.suspended else "")
    if not subject:
        return observed
    read_again_s = pending.read_again_s(observed, interval_s)
    if subject != pending.subject:
        pending.subject, pending.reads = subject, 0
    if not pending.reads or not pending.read_at <= now < pending.read_at + read_again_s:
        pending.reads, pending.read_at = pending.reads + 1, now
        pending.problem = _pending_cause(cluster, warning_events, cached, living)
    if pending.problem is None:
        return observed
    return [replace(each, problem=pending.problem) if each is living else each for each in observed]


def _pending_cause(
    cluster: Cluster, warning_events: WarningEvents, cached: CachedRun, observed: ObservedAttempt
) -> RunProblem | None:
    """The cause of pods that do not exist or do not start, in the words of events or of the queue."""
    try:
        if observed.job is not None and observed.job.suspended:
            return _queue_cause(cluster, cached, observed)
        return warning_events.problem_of(cached.namespace, observed.event_subject)
    except ClusterError as error:
        logger.debug("cannot ask why %s waits: %s", observed.entry, error)
        return None


def _queue_cause(cluster: Cluster, cached: CachedRun, observed: ObservedAttempt) -> RunProblem | None:
    assert observed.job is not None
    workload = cluster.workload_of(cached.namespace, observed.job.uid)
    conditions = ((workload or {}).get("status") or {}).get("conditions") or ()
    message = next((each.get("message", "") for each in conditions if each.get("type") == "QuotaReserved"), "")
    if not message:
        return None
    return RunProblem(Reason.QUEUED, one_line(f"waits in the queue {observed.job.queue}: {message}"))
