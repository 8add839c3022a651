"""Logs of pods, of which a few last lines are read: progress, the end of a pod that failed, a cached stage."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.observe import LoggedProgress, ObservedAttempt, entry_name
from diht_k8s.controller.status_builder import failed_attempt, newly_failed
from diht_k8s.controller.status_text import TAIL_LINES, tail
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.run_status import RunStatus, StageRecord

logger = logging.getLogger(__name__)
PROGRESS_LINES = 5
"""The newest progress line is among the last few lines, or the next read finds it."""


def progress_interval(active: int) -> float:
    """Seconds between two reads of a run's log: with many active runs each is read less often."""
    return max(10.0, 0.05 * active)


@dataclass
class ReadLogs:
    """What the logs of a run have told."""

    logged: LoggedProgress | None = None
    """the newest progress that a log named."""
    read_at: float = 0.0
    """when progress was last asked for, seconds since the epoch."""
    tails: dict[str, list[str]] = field(default_factory=dict)
    """last lines of the logs of pods that failed, by name."""


class PodLogs:
    """Reads logs. A log that cannot be read counts as empty and stops nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def read_progress(
        self, cached: CachedRun, observed: list[ObservedAttempt], logs: ReadLogs, now: float, interval_s: float
    ) -> None:
        """Read the progress of the attempt that runs, at intervals."""
        running = next((each for each in reversed(observed) if each.attempt.state is AttemptState.RUNNING), None)
        if running is None:
            return
        if not logs.read_at:  # it has hardly begun
            logs.read_at = now
        if not now - interval_s < logs.read_at <= now:
            logs.read_at = now
            logs.logged = self.progress(cached, running, now) or logs.logged

    def read_ends(
        self,
        cached: CachedRun,
        before: RunStatus,
        after: RunStatus,
        observed: list[ObservedAttempt],
        logs: ReadLogs,
        now: float,
    ) -> RunStatus:
        """Read how the attempts ended whose end a plan has just noted; returns its status, which tells a cached stage
        from another.
        """
        stages = list(after.stages)
        for index, stage in enumerate(stages):
            if newly_failed(before, stage):
                logs.tails = self.tails(cached, observed)
                failed = failed_attempt(observed, stage)
                if failed is not None and failed.attempt.is_gang:
                    logs.logged = self.last_progress(cached, failed, now) or logs.logged
            old = before.of(stage.stage, stage.step).state
            if stage.state is StageState.COMPLETE and old is not StageState.COMPLETE:
                lines = self.last_lines(cached, observed, stage)
                if (progress := progress_in(lines, stage.stage)) is not None:
                    logs.logged = LoggedProgress(entry_name(stage.stage, stage.step), stage.attempt, progress, now)
                if cached_in(lines, stage.stage):
                    stages[index] = replace(stage, state=StageState.CACHED)
        return replace(after, stages=tuple(stages))

    def progress(self, cached: CachedRun, observed: ObservedAttempt, now: float) -> LoggedProgress | None:
        """The newest progress line: of rank 0 in a gang, of any worker that has one elsewhere."""
        return self._newest(cached, observed, _logging_pods(observed), PROGRESS_LINES, now)

    def last_progress(self, cached: CachedRun, observed: ObservedAttempt, now: float) -> LoggedProgress | None:
        """The last progress line of rank 0 of a gang that has ended, with the checkpoint of its end."""
        return self._newest(cached, observed, [pod for pod in observed.pods if pod.index == 0], TAIL_LINES, now)

    def tails(self, cached: CachedRun, observed: list[ObservedAttempt]) -> dict[str, list[str]]:
        """The ends of the logs of pods that failed first, by pod."""
        pods = [
            each.failed_pod
            for each in observed
            if each.attempt.state is AttemptState.FAILED and each.failed_pod is not None and each.failed_pod.ended
        ]
        return {pod.name: tail(self._lines(cached, pod, TAIL_LINES)) for pod in pods[-1:]}

    def last_lines(self, cached: CachedRun, observed: list[ObservedAttempt], stage: StageRecord) -> str:
        """The end of the log of a stage's first pod."""
        entry = entry_name(stage.stage, stage.step)
        own = [each for each in observed if each.entry == entry and each.attempt.number == stage.attempt]
        pods = [pod for each in own for pod in each.pods if pod.phase == "Succeeded"]
        return self._lines(cached, pods[0], PROGRESS_LINES) if pods else ""

    def _newest(
        self, cached: CachedRun, observed: ObservedAttempt, pods: list[PodSummary], lines: int, now: float
    ) -> LoggedProgress | None:
        for pod in pods:
            progress = progress_in(self._lines(cached, pod, lines), observed.attempt.stage)
            if progress is not None:
                return LoggedProgress(observed.entry, observed.attempt.number, progress, now)
        return None

    def _lines(self, cached: CachedRun, pod: PodSummary, lines: int) -> str:
        try:
            return self._cluster.log_tail(cached.namespace, pod.name, pod.container, lines)
        except ClusterError as error:
            logger.debug("no log of pod %s/%s: %s", cached.namespace, pod.name, error)
            return ""


def _logging_pods(observed: ObservedAttempt) -> list[PodSummary]:
    """Those of a node that does not answer are left out: each would hold a worker for seconds."""
    running = [
        pod for pod in observed.pods if pod.started_at is not None and not pod.ended and pod.not_ready_since is None
    ]
    return [pod for pod in running if pod.index == 0][:1] if observed.attempt.is_gang else running[:2]


def progress_in(lines: str, stage: Stage) -> Progress | None:
    """The newest progress line of a stage among lines of a log."""
    found = (parse_progress(line) for line in reversed(lines.split("\n")))
    return next((progress for progress in found if progress is not None and progress.stage is stage), None)


def cached_in(lines: str, stage: Stage) -> bool:
    """Whether a program reported that its output was cached."""
    return any(line.startswith(f"{stage}: cached (") for line in lines.split("\n"))
