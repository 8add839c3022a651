"""What the controller asks for beyond its watches: log tails (progress, causes), events, Kueue's queue. Never more than a few calls."""

from __future__ import annotations

import logging

from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.controller.observe import GANGS, Problem, Seen, entry_name
from diht_k8s.controller.runs import KnownRun
from diht_k8s.controller.status import Reading
from diht_k8s.controller.text import TAIL_LINES, one_line, tail
from diht_k8s.controller.warning_events import Complaints
from diht_k8s.kube.client import Cluster, ClusterError
from diht_k8s.kube.summaries import PodView
from diht_k8s.pipeline.states import AttemptState, StageStatus

logger = logging.getLogger(__name__)
PROGRESS_LINES = 5
"""The newest progress is among the last few lines, or it waits for the next time."""


class Logs:
    """Logs of pods; one that cannot be read says nothing, and is no reason to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def progress(self, known: KnownRun, seen: Seen, now: float) -> Reading | None:
        """The newest progress line: of rank 0 in a gang, of any worker that speaks elsewhere."""
        return self._newest(known, seen, _speakers(seen), PROGRESS_LINES, now)

    def last_progress(self, known: KnownRun, seen: Seen, now: float) -> Reading | None:
        """The last progress line of rank 0 of a gang that has ended, with the checkpoint of its end."""
        return self._newest(known, seen, [pod for pod in seen.pods if pod.index == 0], TAIL_LINES, now)

    def tails(self, known: KnownRun, seen: list[Seen]) -> dict[str, list[str]]:
        """The ends of the logs of pods that failed first, by pod."""
        pods = [
            each.failed_pod
            for each in seen
            if each.attempt.state is AttemptState.FAILED and each.failed_pod is not None and each.failed_pod.ended
        ]
        return {pod.name: tail(self._lines(known, pod, TAIL_LINES)) for pod in pods[-1:]}

    def last_lines(self, known: KnownRun, seen: list[Seen], stage: StageStatus) -> str:
        """The end of the log of a stage's first pod."""
        entry = entry_name(stage.stage, stage.step)
        own = [each for each in seen if each.entry == entry and each.attempt.number == stage.attempt]
        pods = [pod for each in own for pod in each.pods if pod.phase == "Succeeded"]
        return self._lines(known, pods[0], PROGRESS_LINES) if pods else ""

    def _newest(self, known: KnownRun, seen: Seen, pods: list[PodView], lines: int, now: float) -> Reading | None:
        for pod in pods:
            progress = progress_in(self._lines(known, pod, lines), seen.attempt.stage)
            if progress is not None:
                return Reading(seen.entry, seen.attempt.number, progress, now)
        return None

    def _lines(self, known: KnownRun, pod: PodView, lines: int) -> str:
        try:
            return self._cluster.log_tail(known.namespace, pod.name, lines)
        except ClusterError as error:
            logger.debug("no log of pod %s/%s: %s", known.namespace, pod.name, error)
            return ""


def _speakers(seen: Seen) -> list[PodView]:
    running = [pod for pod in seen.pods if pod.started_at is not None and not pod.ended]
    return [pod for pod in running if pod.index == 0][:1] if seen.attempt.stage in GANGS else running[:2]


def progress_in(lines: str, stage: Stage) -> Progress | None:
    """The newest progress line of a stage among lines of a log."""
    found = (parse_progress(line) for line in reversed(lines.split("\n")))
    return next((progress for progress in found if progress is not None and progress.stage is stage), None)


def cached_in(lines: str, stage: Stage) -> bool:
    """Whether a program said that there was nothing to do."""
    return any(line.startswith(f"{stage}: cached (") for line in lines.split("\n"))


def why_waiting(cluster: Cluster, complaints: Complaints, known: KnownRun, seen: Seen) -> Problem | None:
    """Why pods are not there or do not start, in the words of events or of the queue."""
    try:
        if seen.job is not None and seen.job.suspended:
            return _queued(cluster, known, seen)
        return complaints.about(known.namespace, seen.ask_events)
    except ClusterError as error:
        logger.debug("cannot ask why %s waits: %s", seen.entry, error)
        return None


def _queued(cluster: Cluster, known: KnownRun, seen: Seen) -> Problem | None:
    assert seen.job is not None
    workload = cluster.workload_of(known.namespace, seen.job.uid)
    conditions = ((workload or {}).get("status") or {}).get("conditions") or ()
    message = next((each.get("message", "") for each in conditions if each.get("type") == "QuotaReserved"), "")
    if not message:
        return None
    return Problem(Reason.QUEUED, one_line(f"waits in the queue {seen.job.queue}: {message}"))
