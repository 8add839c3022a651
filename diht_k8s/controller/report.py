"""Report: the status of a run, before its actions and after them, with its events and metrics.

The status is written before the actions are executed: it holds the decision, and if a crash comes between, the next
reconciliation executes it. In the opposite order a restart could go uncounted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from diht_k8s.api.redaction import literals
from diht_k8s.api.status import Status, wire
from diht_k8s.controller.cache.runs import CachedRun, Key, RunStore, cached_run
from diht_k8s.controller.conditions import conditions
from diht_k8s.controller.decision import Decision
from diht_k8s.controller.events import RunEvent, event_document, events_between
from diht_k8s.controller.execution import Executed
from diht_k8s.controller.observation import Observation
from diht_k8s.controller.observe import RunProblem, with_logged_progress
from diht_k8s.controller.pod_logs import PodLogs, ReadLogs
from diht_k8s.controller.run_metrics import BlockedRuns, ElasticGangs, count_changes
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.controller.status_builder import build_status, can_defer, redacted_status
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.pipeline.goodput import with_goodput
from diht_k8s.pipeline.run_status import RunStatus

logger = logging.getLogger(__name__)


@dataclass
class WrittenStatus:
    """When the status of a run was written."""

    at: float = 0.0
    """seconds since the epoch."""
    defers_pod_counts: bool = False
    """the written pod counts are older than ours: they are written with the next change, or after a while."""


@dataclass(frozen=True)
class Report:
    """What a run's status says now."""

    cached: CachedRun
    """the run with it, as the API server has it."""
    said: Status
    """what it said when the run was observed."""
    status: Status
    decided: RunStatus
    """the plan's status, with what logs told of the attempts that have ended."""
    problem: RunProblem | None
    """what it names as blocking the run."""


class StatusReporter:
    """Writes statuses and events."""

    def __init__(self, cluster: Cluster, runs: RunStore) -> None:
        """Make one; the runs that it writes go into the cache `runs`."""
        self._cluster, self._runs = cluster, runs
        self._logs, self._blocked, self._elastic = PodLogs(cluster), BlockedRuns(), ElasticGangs()

    def record(
        self,
        seen: Observation,
        decision: Decision,
        problem: RunProblem | None,
        logs: ReadLogs,
        written: WrittenStatus,
        interval_s: float,
    ) -> Report:
        """Write down what was decided, if that changes the status.

        Args:
            seen: what was observed.
            decision: what was decided.
            problem: what blocked the last actions: it stays until these actions have been tried.
            logs: what the run's logs have told.
            written: when its status was written.
            interval_s: seconds for which pod counts alone wait.

        Raises:
            ClusterError: the API server does not answer, or has a newer version of the run.
        """
        decided = self._logs.read_ends(seen.cached, seen.before, decision.status, decision.attempts, logs, seen.now)
        decided = with_goodput(decided, [with_logged_progress(each, logs.logged) for each in decision.attempts])
        before = Report(seen.cached, seen.cached.status, seen.cached.status, decided, decision.problem or problem)
        return self._write(seen, decision, before, logs, written, interval_s)

    def conclude(
        self,
        seen: Observation,
        decision: Decision,
        report: Report,
        executed: Executed,
        logs: ReadLogs,
        written: WrittenStatus,
        interval_s: float,
    ) -> Report:
        """Say what came of the actions: whoever looks now learns at once why the run does not go on, or that it does.

        Raises:
            ClusterError: as for `record`.
        """
        try:
            if executed.error is None and executed.problem != report.problem:
                named = replace(report, problem=executed.problem)
                report = self._write(seen, decision, named, logs, written, interval_s)
        finally:  # the next reconciliation starts from the status that is written: it could not tell how it came about
            self._tell(report.cached, report.said, report.status, seen.now)
            self.tell_events(report.cached, executed.events, seen.now)
        return report

    def refuse(self, cached: CachedRun, problem: RunProblem, written: WrittenStatus, now: float) -> None:
        """Say that a run is not accepted; its children, if any, are left alone."""
        said, generation = cached.status, cached.generation
        found = conditions(said, saved_run_status(said), None, problem, pausing=False, generation=generation, now=now)
        status = said.model_copy(update={"conditions": found, "observed_generation": generation})
        if (document := wire(status)) != cached.document["status"]:
            cached = self._put(cached, document, written, now)
        self._tell(cached, said, status, now)

    def tell_events(self, cached: CachedRun, events: Iterable[RunEvent], now: float) -> None:
        """Write Events and log them; an Event that cannot be written stops nothing."""
        for item in events:
            extra = {"run": cached.name, "namespace": cached.namespace, "reason": item.reason}
            logger.info("%s", item.message, extra=extra)
            try:
                self._cluster.write_event(cached.namespace, event_document(cached, item, now))
            except ClusterError as error:
                logger.warning("cannot write an Event for %s/%s: %s", cached.namespace, cached.name, error)

    def forget(self, key: Key) -> None:
        """A run is gone, or has ended."""
        self._blocked.forget(key)
        self._elastic.forget(key)

    def _tell(self, cached: CachedRun, before: Status, after: Status, now: float) -> None:
        """Events and metrics of a changed status."""
        self._blocked.record(cached.key, after)
        self._elastic.record(cached.key, after)
        count_changes(before, after)
        self.tell_events(cached, events_between(before, after), now)

    def _write(
        self,
        seen: Observation,
        decision: Decision,
        report: Report,
        logs: ReadLogs,
        written: WrittenStatus,
        interval_s: float,
    ) -> Report:
        """The report with its status rebuilt, and written if that differs from what the API server has."""
        built = build_status(
            report.said,
            seen.run,
            seen.before,
            report.decided,
            [*decision.attempts, *decision.waiting],
            problem=report.problem,
            logged=logs.logged,
            tails=logs.tails,
            generation=report.cached.generation,
            now=seen.now,
        )
        status = redacted_status(built, literals(report.cached.document))
        document, there = wire(status), report.cached.document["status"]
        if document == there:
            written.defers_pod_counts = False
            return replace(report, status=status)
        if can_defer(there, status, document) and written.at <= seen.now < written.at + interval_s:
            written.defers_pod_counts = True
            return replace(report, status=report.said)
        return replace(report, cached=self._put(report.cached, document, written, seen.now), status=status)

    def _put(self, cached: CachedRun, document: dict[str, Any], written: WrittenStatus, now: float) -> CachedRun:
        changed = cached_run(self._cluster.write_status(cached.namespace, cached.name, cached.version, document))
        written.at, written.defers_pod_counts = now, False
        self._runs.put(changed, only_existing=True)
        return changed
