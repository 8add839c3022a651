"""One reconciliation of one run: observe, plan, write the status if it changed, execute the actions, record events.

The status is written before the actions are executed: it holds the decision, and if a crash comes between, the next
reconciliation executes it, since names are deterministic. In the opposite order a restart could go uncounted.

Unexpected exceptions in a reconciliation: a log line with the traceback, without literal values of the run.
"""

from __future__ import annotations

import functools
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.reasons import Reason
from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.api.run import DihtRun
from diht_k8s.api.status import Status, wire
from diht_k8s.controller.actions import delete_old_jobs, delete_orphans, delete_run, execute, orphans
from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.runs import CachedRun, FinishedRun, Key, RunStore, cached_run
from diht_k8s.controller.conditions import conditions
from diht_k8s.controller.events import RunEvent, event_document, events_between
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.controller.kueue.run_queue import NO_WORKLOADS, RunQueue, Workloads
from diht_k8s.controller.live_reads import LiveReads
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.node_health.gang_moves import decide_moves
from diht_k8s.controller.node_health.node_watch import NodeWatch
from diht_k8s.controller.observe import (
    GANGS,
    ObservedAttempt,
    RunProblem,
    observe_attempts,
)
from diht_k8s.controller.pending_causes import WarningEvents
from diht_k8s.controller.pod_logs import PodLogs, explained
from diht_k8s.controller.pod_reports import with_progress
from diht_k8s.controller.reconcile_state import ReconcileState
from diht_k8s.controller.run_metrics import BlockedRuns, UnhealthyNodes, count_changes
from diht_k8s.controller.saved_status import has_ended, saved_run_status
from diht_k8s.controller.status_builder import LoggedProgress, build_status, redacted_status
from diht_k8s.controller.status_text import one_line
from diht_k8s.controller.timing import LIVING, can_wait, due_times, progress_interval
from diht_k8s.kube.client import Cluster, ClusterError
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import Attempt
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.goodput import with_goodput
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Observed, RunPlan, Start, plan
from diht_k8s.pipeline.run_status import FINAL, RunStatus


class InternalError(Exception):
    """A reconciliation failed in a way that nobody expected; it is logged and the run's status says so."""


def log_internal_error(known: CachedRun, error: Exception) -> str:
    """Log the exception with its traceback; returns its message with the place where it was raised."""
    secrets = literals(known.document)
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = redacted_text(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", secrets)
    logger.error(
        "%s/%s: unexpected error: %s\n%s", *known.key, one_line(message),
        redacted_text("".join(traceback.format_exception(error)), secrets),
        extra={"run": known.name, "namespace": known.namespace},
    )  # fmt: skip
    return message


logger = logging.getLogger(__name__)

FIRST_ASK_AGAIN_S: Final = 2.0
"""The first wait before events and queues are read again."""
PROBLEM_WAIT_S: Final = 1.0
MOST_PROBLEM_WAIT_S: Final = 30.0
MAX_FORMER_JOBS: Final = 16


class Reconciler:
    """Reconciles runs. Different threads may reconcile different runs at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        runs: RunStore,
        jobs: Informer[JobSummary],
        pods: Informer[PodSummary],
        *,
        workloads: Workloads = NO_WORKLOADS,
        pod_groups: Callable[[], bool] = lambda: False,
        nodes: NodeWatch | None = None,
        enqueue: Callable[[Iterable[Key]], None] = lambda keys: None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        job_ttl_s: int | None = None,
    ) -> None:
        """Make one.

        Args:
            cluster: the API server.
            runs: the runs.
            jobs: their Jobs.
            pods: their pods.
            workloads: their Workloads of Kueue.
            pod_groups: whether Kubernetes itself schedules gangs here.
            nodes: those with faults; None where nobody watches them.
            enqueue: called with runs that may start because this one has ended.
            clock: seconds since the epoch.
            jitter: a random number from 0 to 1.
            job_ttl_s: seconds after which Kubernetes removes a finished Job; None keeps it.
        """
        self._cluster, self._runs, self._jobs, self._pods = cluster, runs, jobs, pods
        self._enqueue, self._clock, self._jitter = enqueue, clock, jitter
        self._job_ttl_s, self._pod_groups = job_ttl_s, pod_groups
        self._queue, self._nodes, self._unhealthy = RunQueue(cluster, workloads), nodes, UnhealthyNodes()
        self._caches: dict[Key, ReconcileState] = {}
        self._active: set[Key] = set()
        self._logs, self._warning_events, self._blocked = PodLogs(cluster), WarningEvents(cluster), BlockedRuns()
        self._second_look = LiveReads(cluster, pods)

    @property
    def active_runs(self) -> int:
        """Number of runs with an active attempt."""
        return len(self._active)

    def reconcile(self, key: Key) -> float | None:
        """Reconcile a run once.

        Returns: seconds after which to reconcile again without a change; None waits for a change.

        Raises:
            ClusterError, InternalError: the API server or the operator is at fault: reconcile again later.
        """
        known, ended = self._runs.get(key), self._runs.finished(key)
        try:
            if ended is not None:
                known = self._finished(key, ended)
            if known is None or known.deleting:
                self._forget(key)
                return None
            cache = self._caches.get(key) or self._caches.setdefault(key, self._first_cache(known))
            wait_s = self._reconcile(known, cache)
            if (ended := self._runs.finished(key)) is not None and not self._lives(key, ended):
                self._forget(key)
            return wait_s
        except ClusterError as error:
            if error.is_gone:  # the watch has not reported the deletion yet
                self._runs.remove(key, known.uid if known is not None else None)
            elif not error.is_terminating:
                raise
            return None
        except Exception as error:
            if known is None:
                raise
            raise self._failed(known, error) from None  # its text may hold a secret

    def _failed(self, known: CachedRun, error: Exception) -> InternalError:
        """Log an unexpected exception and report it in the run's status, as far as that is possible."""
        message = log_internal_error(known, error)
        try:
            cache, newest = self._caches.setdefault(known.key, ReconcileState()), self._runs.get(known.key) or known
            # it stays the problem until the actions succeed: the status does not go back and forth at each attempt
            cache.problem = RunProblem(Reason.INTERNAL_ERROR, message)
            self._refuse(newest, newest.status, cache.problem, cache, self._clock())
        except Exception as second:  # the status itself may be what cannot be read or written
            text = redacted_text(f"{type(second).__name__}: {second}", literals(known.document))
            logger.warning("%s/%s: the status cannot say so: %s", *known.key, one_line(text))
        return InternalError(message)

    def _finished(self, key: Key, ended: FinishedRun) -> CachedRun | None:
        """Delete a finished run that is due; read one of which something still runs; the others need nothing."""
        if ended.is_due(self._clock()):
            delete_run(self._cluster, key, ended.uid, str(ended.version))
            return None
        return cached_run(self._cluster.get_run(*key)) if self._lives(key, ended) else None

    def _lives(self, key: Key, ended: FinishedRun) -> bool:
        """Whether something of a finished run may still run."""
        jobs = (job for job in self._jobs.of(*key) if job.owner_uid == ended.uid)
        lost = (pod for pod in self._pods.of(*key) if not pod.job_name)
        living = any(not job.over and not job.deleted for job in jobs) or any(pod.deleted_at is None for pod in lost)
        return living or self._queue.holds(key, ended.uid)

    def _forget(self, key: Key) -> None:
        """A run is gone, or has ended: so must be its pods that no garbage collector finds."""
        cache = self._caches.pop(key, None)
        self._active.discard(key)
        self._blocked.forget(key)
        if cache is not None:
            self._delete_orphans(key, cache)

    def _delete_orphans(self, key: Key, cache: ReconcileState) -> list[RunEvent]:
        jobs = {job.uid for job in self._jobs.of(*key)}
        return delete_orphans(self._cluster, orphans(self._pods.of(*key), cache.run_uid, cache.former_jobs, jobs))

    def _first_cache(self, known: CachedRun) -> ReconcileState:
        """A new operator would read all logs at once: it uses the progress that an earlier one read for a while."""
        status = known.status
        former = [attempt.uid for attempt in status.attempts if attempt.uid]
        if status.progress is None or status.progress.last_updated_time is None:
            return ReconcileState(former_jobs=former, unnamed=len(former) < len(status.attempts))
        if not self._caches:  # a new operator knows by the statuses alone how many runs are active
            self._active |= self._runs.running()
        return ReconcileState(former_jobs=former, read_at=self._clock() - self._jitter() * self._progress_interval())

    def _reconcile(self, known: CachedRun, cache: ReconcileState) -> float | None:
        now, status = self._clock(), known.status
        try:
            run = self._runs.parsed(known)
        except UserError as error:
            self._refuse(known, status, RunProblem(Reason.INVALID_SPEC, str(error)), cache, now)
            return None
        before = saved_run_status(status)
        observed = self._observe(known, run, status, cache, now)
        if self._second_look.at_causes(known, cache, observed):
            observed = self._observe(known, run, status, cache, now)
        moves = decide_moves(observed, self._faults, _newest_step(status, cache.logged), cache.noticed)
        observed, cache.noticed = moves.observed, moves.noticed
        self._unhealthy.record(moves.faults)
        problem = cache.problem
        if before.state not in FINAL and (holder := self._runs.holder_of_output(known)) is not None:
            message = f"run {holder.namespace}/{holder.name} writes to {known.output}: choose another data.output"
            decided, problem = RunPlan((), before), RunProblem(Reason.OUTPUT_IN_USE, message)
        else:
            decided = self._plan(known, run, status, before, observed, cache, now)
        queued = self._queue.decide(known, run, decided, observed)
        decided, problem = queued.plan, queued.problem or problem
        if decided.status.state not in FINAL:
            ask_again_s = self._ask_again_s(cache)
            observed = explained(self._cluster, self._warning_events, known, observed, cache, now, ask_again_s)
        after = self._logs.read(known, before, decided.status, observed, cache, now, self._progress_interval())
        after = with_goodput(after, [_with_log(each, cache.logged) for each in observed])
        new = build_status(
            status, run, before, after, [*observed, *queued.waiting], problem=problem, logged=cache.logged, tails=cache.tails,
            generation=known.generation, now=now,
        )  # fmt: skip
        new = redacted_status(new, literals(known.document))
        is_new = not known.document["status"]
        known = self._write_status(known, new, cache, now)
        new = status if cache.owes_pod_counts else new
        if is_new and decided.actions:  # a thousand new runs all get their status before the first one's Job is created
            self._record_events(known, status, new, now)
            return 0.0
        problem = execute(
            self._cluster, known, decided.actions, observed, functools.partial(self._objects, known, run),
            functools.partial(self._created, cache), functools.partial(self._second_look.unseen_pod, known, cache),
        )  # fmt: skip
        problem = self._queue.carry_out(known, run, queued.actions, now) or problem or queued.problem
        delete_old_jobs(self._cluster, known, observed)
        self._record_events(known, status, new, now)
        self._record(known, self._delete_orphans(known.key, cache), now)
        return self._requeue_after(known, decided, observed, cache, problem, now)

    def _objects(self, known: CachedRun, run: DihtRun, start: Start) -> list[dict[str, Any]]:
        """The objects of an attempt, with its Job on the quota of its stage if that has a Workload of its own."""
        shaped = self._queue.workers(known, run, start)
        faulty = self._nodes.unhealthy() if self._nodes is not None and start.stage in GANGS else ()
        objects = build_objects(known, shaped, start, self._job_ttl_s, pod_groups=self._pod_groups(), faulty=faulty)
        self._queue.place(known, run, start, objects[-1])
        return objects

    def node_changed(self, node: str) -> list[Key]:
        """The faults of a node have changed; returns the runs that have pods on it."""
        self._unhealthy.keep(node, self._faults(node))
        return self._pods.runs_on(node)

    def _faults(self, node: str) -> tuple[NodeFault, ...]:
        return self._nodes.faults(node) if self._nodes is not None else ()

    def _created(self, cache: ReconcileState, job: Mapping[str, Any]) -> None:
        self._jobs.put(job)
        if job["metadata"]["uid"] not in cache.former_jobs:  # it may be gone before anybody looks again
            cache.former_jobs.append(job["metadata"]["uid"])

    def _refuse(self, known: CachedRun, status: Status, problem: RunProblem, cache: ReconcileState, now: float) -> None:
        """Report that a run is not accepted; its children, if any, are left alone."""
        before, generation = saved_run_status(status), known.generation
        found = conditions(status, before, None, problem, pausing=False, generation=generation, now=now)
        new = status.model_copy(update={"conditions": found, "observed_generation": known.generation})
        self._record_events(self._write_status(known, new, cache, now), status, new, now)

    def _observe(
        self, known: CachedRun, run: DihtRun, status: Status, cache: ReconcileState, now: float
    ) -> list[ObservedAttempt]:
        """The attempts of a run, from Jobs that it owns and pods that those own."""
        labelled = cache.times.jobs(self._jobs.of(*known.key), now)
        jobs = [job for job in labelled if job.owner_uid == known.uid]
        foreign = {job.uid for job in labelled} - {job.uid for job in jobs}
        pods = [pod for pod in self._pods.of(*known.key) if pod.job_uid not in foreign]
        pods = cache.times.pods(pods, now)
        cache.run_uid = known.uid
        cache.former_jobs = [*cache.former_jobs, *(job.uid for job in jobs if job.uid not in cache.former_jobs)]
        del cache.former_jobs[:-MAX_FORMER_JOBS]
        cache.disrupted |= {pod.name: pod for pod in pods if pod.disruption}
        while len(cache.disrupted) > MAX_FORMER_JOBS:
            del cache.disrupted[next(iter(cache.disrupted))]
        return observe_attempts(
            jobs, pods, now,
            known={stage.name: stage.attempt for stage in status.stages},
            run_uid=known.uid, former=cache.former_jobs, disrupted=cache.disrupted, pausing=run.spec.suspend,
        )  # fmt: skip

    def _plan(
        self,
        known: CachedRun,
        run: DihtRun,
        status: Status,
        before: RunStatus,
        observed: list[ObservedAttempt],
        cache: ReconcileState,
        now: float,
    ) -> RunPlan:
        facts = Observed(
            attempts=tuple(_with_log(each, cache.logged) for each in observed),
            retry_requested=bool(known.retry) and known.retry == status.completion_time,
        )
        back_off = BackOff(jitter=self._jitter())
        return plan(run, facts, now, status=before, back_off=back_off, steps=CLUSTER_STEPS)

    def _progress_interval(self) -> float:
        """Seconds between two reads of a run's log: with many runs each is read less often."""
        return progress_interval(len(self._active))

    def _ask_again_s(self, cache: ReconcileState) -> float:
        """Seconds after which the answer about an object is old: short at first, then as between two reads of a log."""
        return min(self._progress_interval(), FIRST_ASK_AGAIN_S * 2.0 ** max(0, min(cache.asks, 8) - 1))

    def _write_status(self, known: CachedRun, new: Status, cache: ReconcileState, now: float) -> CachedRun:
        """Write the status if it changed; returns the run as it is afterwards."""
        document, written_before = wire(new), known.document["status"]
        cache.owes_pod_counts = document != written_before and can_wait(written_before, new, document)
        if document == written_before or (
            cache.owes_pod_counts and cache.wrote_at <= now < cache.wrote_at + self._progress_interval()
        ):
            return known
        cache.owes_pod_counts, cache.wrote_at = False, now
        written = cached_run(self._cluster.write_status(known.namespace, known.name, known.version, document))
        self._runs.put(written, only_known=True)
        if has_ended(new):
            self._active.discard(known.key)
            self._enqueue([other.key for other in self._runs.sharing_output(known)])
        return written

    def _record_events(self, known: CachedRun, before: Status, after: Status, now: float) -> None:
        self._blocked.record(known.key, after)
        count_changes(before, after)
        self._record(known, events_between(before, after), now)

    def _record(self, known: CachedRun, events: Iterable[RunEvent], now: float) -> None:
        for item in events:
            extra = {"run": known.name, "namespace": known.namespace, "reason": item.reason}
            logger.info("%s", item.message, extra=extra)
            try:
                self._cluster.write_event(known.namespace, event_document(known, item, now))
            except ClusterError as error:
                logger.warning("cannot write an Event for %s/%s: %s", known.namespace, known.name, error)

    def _requeue_after(
        self,
        known: CachedRun,
        decided: RunPlan,
        observed: list[ObservedAttempt],
        cache: ReconcileState,
        problem: RunProblem | None,
        now: float,
    ) -> float | None:
        changed, cache.problem = problem != cache.problem, problem
        cache.problems = cache.problems + 1 if problem is not None else 0
        living = any(each.attempt.state in LIVING for each in observed)
        (self._active.add if living else self._active.discard)(known.key)
        due = [at - now for each in observed for at in due_times(each)]
        if decided.wake_at is not None:
            due.append(decided.wake_at - now)
        if living:
            since, interval = now - cache.read_at, self._progress_interval()
            due.append(interval - since if 0 <= since < interval else interval)
        if any(each.ask_events or (each.job is not None and each.job.suspended) for each in observed) and living:
            due.append(self._ask_again_s(cache))
        if cache.owes_pod_counts:
            due.append(cache.wrote_at + self._progress_interval() - now)
        if problem is not None:
            due.append(min(MOST_PROBLEM_WAIT_S, PROBLEM_WAIT_S * 2.0 ** min(cache.problems - 1, 8)))
        return 0.0 if changed else min((wait for wait in due if wait > 0), default=None)


def _with_log(observed: ObservedAttempt, logged: LoggedProgress | None) -> Attempt:
    """The attempt with the work that its log names."""
    if logged is None or (logged.entry, logged.attempt) != (observed.entry, observed.attempt.number):
        return observed.attempt
    began = max((pod.started_at for pod in observed.pods if pod.started_at is not None), default=logged.read_at)
    return with_progress(observed.attempt, logged.progress, tells_time=logged.read_at >= began)


def _newest_step(status: Status, logged: LoggedProgress | None) -> int | None:
    """The step of the newest checkpoint that is known."""
    said, written = logged.progress.checkpoint if logged is not None else None, status.last_checkpoint
    return max((each.step for each in (said, written) if each is not None), default=None)
