"""What the controller reads beyond its watches: log tails (progress, causes), events, Kueue's queue. Few calls only."""

from __future__ import annotations

import logging
from dataclasses import replace

from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.observe import GANGS, ObservedAttempt, RunProblem, entry_name
from diht_k8s.controller.pending_causes import WarningEvents
from diht_k8s.controller.reconcile_state import ReconcileState
from diht_k8s.controller.status_builder import LoggedProgress, failed_attempt, newly_failed
from diht_k8s.controller.status_text import TAIL_LINES, one_line, tail
from diht_k8s.controller.timing import LIVING
from diht_k8s.kube.client import Cluster, ClusterError
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.run_status import RunStatus, StageRecord

logger = logging.getLogger(__name__)
PROGRESS_LINES = 5
"""The newest progress line is among the last few lines, or the next read finds it."""


class PodLogs:
    """Logs of pods. A log that cannot be read counts as empty and stops nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def read(
        self,
        known: CachedRun,
        before: RunStatus,
        after: RunStatus,
        observed: list[ObservedAttempt],
        cache: ReconcileState,
        now: float,
        interval_s: float,
    ) -> RunStatus:
        """Read the logs that matter now: progress at intervals, the end of a pod that failed, a cached stage."""
        running = next((each for each in reversed(observed) if each.attempt.state is AttemptState.RUNNING), None)
        if running is not None and not now - interval_s < cache.read_at <= now:
            cache.read_at = now
            cache.logged = self.progress(known, running, now) or cache.logged
        stages = list(after.stages)
        for index, stage in enumerate(stages):
            if newly_failed(before, stage):
                cache.tails = self.tails(known, observed)
                failed = failed_attempt(observed, stage) if stage.stage in GANGS else None
                cache.logged = (self.last_progress(known, failed, now) if failed else None) or cache.logged
            old = before.of(stage.stage, stage.step).state
            if stage.state is StageState.COMPLETE and old is not StageState.COMPLETE:
                lines = self.last_lines(known, observed, stage)
                if (progress := progress_in(lines, stage.stage)) is not None:
                    cache.logged = LoggedProgress(entry_name(stage.stage, stage.step), stage.attempt, progress, now)
                if cached_in(lines, stage.stage):
                    stages[index] = replace(stage, state=StageState.CACHED)
        return replace(after, stages=tuple(stages))

    def progress(self, known: CachedRun, observed: ObservedAttempt, now: float) -> LoggedProgress | None:
        """The newest progress line: of rank 0 in a gang, of any worker that has one elsewhere."""
        return self._newest(known, observed, _speakers(observed), PROGRESS_LINES, now)

    def last_progress(self, known: CachedRun, observed: ObservedAttempt, now: float) -> LoggedProgress | None:
        """The last progress line of rank 0 of a gang that has ended, with the checkpoint of its end."""
        return self._newest(known, observed, [pod for pod in observed.pods if pod.index == 0], TAIL_LINES, now)

    def tails(self, known: CachedRun, observed: list[ObservedAttempt]) -> dict[str, list[str]]:
        """The ends of the logs of pods that failed first, by pod."""
        pods = [
            each.failed_pod
            for each in observed
            if each.attempt.state is AttemptState.FAILED and each.failed_pod is not None and each.failed_pod.ended
        ]
        return {pod.name: tail(self._lines(known, pod, TAIL_LINES)) for pod in pods[-1:]}

    def last_lines(self, known: CachedRun, observed: list[ObservedAttempt], stage: StageRecord) -> str:
        """The end of the log of a stage's first pod."""
        entry = entry_name(stage.stage, stage.step)
        own = [each for each in observed if each.entry == entry and each.attempt.number == stage.attempt]
        pods = [pod for each in own for pod in each.pods if pod.phase == "Succeeded"]
        return self._lines(known, pods[0], PROGRESS_LINES) if pods else ""

    def _newest(
        self, known: CachedRun, observed: ObservedAttempt, pods: list[PodSummary], lines: int, now: float
    ) -> LoggedProgress | None:
        for pod in pods:
            progress = progress_in(self._lines(known, pod, lines), observed.attempt.stage)
            if progress is not None:
                return LoggedProgress(observed.entry, observed.attempt.number, progress, now)
        return None

    def _lines(self, known: CachedRun, pod: PodSummary, lines: int) -> str:
        try:
            return self._cluster.log_tail(known.namespace, pod.name, lines)
        except ClusterError as error:
            logger.debug("no log of pod %s/%s: %s", known.namespace, pod.name, error)
            return ""


def _speakers(observed: ObservedAttempt) -> list[PodSummary]:
    running = [pod for pod in observed.pods if pod.started_at is not None and not pod.ended]
    return [pod for pod in running if pod.index == 0][:1] if observed.attempt.stage in GANGS else running[:2]


def progress_in(lines: str, stage: Stage) -> Progress | None:
    """The newest progress line of a stage among lines of a log."""
    found = (parse_progress(line) for line in reversed(lines.split("\n")))
    return next((progress for progress in found if progress is not None and progress.stage is stage), None)


def cached_in(lines: str, stage: Stage) -> bool:
    """Whether a program reported that its output was cached."""
    return any(line.startswith(f"{stage}: cached (") for line in lines.split("\n"))


def why_waiting(
    cluster: Cluster, warning_events: WarningEvents, known: CachedRun, observed: ObservedAttempt
) -> RunProblem | None:
    """Why pods do not exist or do not start, in the words of events or of the queue."""
    try:
        if observed.job is not None and observed.job.suspended:
            return _queued(cluster, known, observed)
        return warning_events.problem_of(known.namespace, observed.ask_events)
    except ClusterError as error:
        logger.debug("cannot ask why %s waits: %s", observed.entry, error)
        return None


def _queued(cluster: Cluster, known: CachedRun, observed: ObservedAttempt) -> RunProblem | None:
    assert observed.job is not None
    workload = cluster.workload_of(known.namespace, observed.job.uid)
    conditions = ((workload or {}).get("status") or {}).get("conditions") or ()
    message = next((each.get("message", "") for each in conditions if each.get("type") == "QuotaReserved"), "")
    if not message:
        return None
    return RunProblem(Reason.QUEUED, one_line(f"waits in the queue {observed.job.queue}: {message}"))


def explained(
    cluster: Cluster,
    warning_events: WarningEvents,
    known: CachedRun,
    observed: list[ObservedAttempt],
    cache: ReconcileState,
    now: float,
    ask_again_s: float,
) -> list[ObservedAttempt]:
    """The attempts with why pods wait, where only events or the queue tell."""
    living = next((each for each in reversed(observed) if each.attempt.state in LIVING), None)
    if living is None:
        return observed
    subject = living.ask_events or (living.job.uid if living.job is not None and living.job.suspended else "")
    if not subject:
        return observed
    if subject != cache.asked:
        cache.asked, cache.asks = subject, 0
    if not cache.asks or not cache.asked_at <= now < cache.asked_at + ask_again_s:
        cache.asks, cache.asked_at = cache.asks + 1, now
        cache.answer = why_waiting(cluster, warning_events, known, living)
    if cache.answer is None:
        return observed
    return [replace(each, problem=cache.answer) if each is living else each for each in observed]
