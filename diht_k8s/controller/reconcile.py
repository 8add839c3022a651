"""One reconciliation of one run: observe, plan, write the status if it changed, execute the actions, record events.

The status is written before the actions are executed: it holds the decision, and if a crash comes between, the next
reconciliation executes it, since names are deterministic. In the opposite order a restart could go uncounted.
"""

from __future__ import annotations

import functools
import logging
import random
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.field_problems import refuse, text_problems
from diht_k8s.api.pod_paths import path_problems
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import Status, wire
from diht_k8s.controller.actions import delete_old_jobs, delete_orphans, delete_run, execute, orphans
from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.runs import CachedRun, FinishedRun, Key, RunStore, cached_run
from diht_k8s.controller.conditions import conditions
from diht_k8s.controller.events import RunEvent, event_document, events_between
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.controller.kueue import admission
from diht_k8s.controller.kueue.run_queue import NO_WORKLOADS, QueuedPlan, RunQueue, Workloads
from diht_k8s.controller.live_reads import LiveReads
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.node_health.gang_moves import decide_moves
from diht_k8s.controller.node_health.node_watch import NodeWatch
from diht_k8s.controller.observe import (
    LIVING,
    ObservedAttempt,
    RunProblem,
    due_times,
    observe_attempts,
    with_named_holder,
)
from diht_k8s.controller.pending_causes import WarningEvents, with_pending_cause
from diht_k8s.controller.pod_logs import PodLogs, progress_interval
from diht_k8s.controller.pod_reports import with_progress
from diht_k8s.controller.reconcile_state import ReconcileState
from diht_k8s.controller.run_metrics import BlockedRuns, UnhealthyNodes, count_changes
from diht_k8s.controller.saved_status import condition, has_ended, saved_run_status
from diht_k8s.controller.status_builder import LoggedProgress, build_status, can_defer, redacted_status
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import Attempt
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.goodput import with_goodput
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Action, Observed, RunPlan, Start, plan
from diht_k8s.pipeline.run_status import FINAL, RunStatus

logger = logging.getLogger(__name__)

FIRST_READ_AGAIN_S: Final = 2.0
"""The first wait before events and queues are read again."""
MISSING_READ_AGAIN_S: Final = 2.5
"""The longest wait while pods do not exist and nobody has said why: with the age of a list of events less than 5 s."""
PROBLEM_WAIT_S: Final = 1.0
MOST_PROBLEM_WAIT_S: Final = 30.0
MAX_FORMER_JOBS: Final = 16
MAX_UNKNOWN: Final = 200
"""Characters of the log about what a status has that is unknown."""


class InternalError(Exception):
    """A reconciliation failed in a way that nobody expected; it is logged and the run's status says so."""


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
        self._states: dict[Key, ReconcileState] = {}
        self._active: set[Key] = set()
        self._logs, self._warning_events, self._blocked = PodLogs(cluster), WarningEvents(cluster), BlockedRuns()
        self._live_reads = LiveReads(cluster, pods)

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
        cached, ended = self._runs.get(key), self._runs.finished(key)
        try:
            if ended is not None:
                cached = self._finished(key, ended)
            if cached is None or cached.deleting:
                self._forget(key)
                return None
            state = self._states.get(key) or self._states.setdefault(key, self._first_state(cached))
            wait_s = self._reconcile(cached, state)
            if (ended := self._runs.finished(key)) is not None and not self._lives(key, ended):
                self._forget(key)
            return wait_s
        except ClusterError as error:
            if error.is_not_found:  # the watch has not reported the deletion yet
                self._runs.remove(key, cached.uid if cached is not None else None)
            elif not error.is_terminating:
                raise
            return None
        except Exception as error:
            if cached is None:
                raise
            raise self._failed(cached, error) from None  # its text may hold a secret

    def _failed(self, cached: CachedRun, error: Exception) -> InternalError:
        """Log an unexpected exception and report it in the run's status, as far as that is possible."""
        message = _log_internal_error(cached, error)
        try:
            state, newest = self._states.setdefault(cached.key, ReconcileState()), self._runs.get(cached.key) or cached
            # it stays the problem until the actions succeed: the status does not go back and forth at each attempt
            state.problem = RunProblem(Reason.INTERNAL_ERROR, message)
            self._refuse(newest, newest.status, state.problem, state, self._clock())
        except Exception as second:  # the status itself may be what cannot be read or written
            text = redacted_text(f"{type(second).__name__}: {second}", literals(cached.document))
            logger.warning("%s/%s: the status cannot say so: %s", *cached.key, one_line(text))
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
        return living or self._queue.holds_quota(key, ended.uid)

    def _forget(self, key: Key) -> None:
        """A run is gone, or has ended: so must be its pods that no garbage collector finds."""
        state = self._states.pop(key, None)
        self._active.discard(key)
        self._blocked.forget(key)
        if state is not None:
            self._delete_orphans(key, state)

    def _delete_orphans(self, key: Key, state: ReconcileState) -> list[RunEvent]:
        jobs = {job.uid for job in self._jobs.of(*key)}
        return delete_orphans(self._cluster, orphans(self._pods.of(*key), state.run_uid, state.former_jobs, jobs))

    def _first_state(self, cached: CachedRun) -> ReconcileState:
        """A new operator would read all logs at once: it uses the progress that an earlier one read for a while."""
        status = cached.status
        former = [attempt.uid for attempt in status.attempts if attempt.uid]
        accepted, problem = condition(status, ConditionType.ACCEPTED), None
        if accepted is not None and (accepted.status, accepted.observed_generation) == ("False", cached.generation):
            problem = RunProblem(accepted.reason, accepted.message)  # it holds until this operator has tried it
        if status.progress is None or status.progress.last_updated_time is None:
            unrecorded = len(former) < len(status.attempts)
            return ReconcileState(problem, former_jobs=former, has_unrecorded_job=unrecorded)
        if not self._states:  # a new operator knows by the statuses alone how many runs are active
            self._active |= self._runs.running()
        return ReconcileState(
            problem, former_jobs=former, log_read_at=self._clock() - self._jitter() * self._progress_interval()
        )

    def _reconcile(self, cached: CachedRun, state: ReconcileState) -> float | None:
        now, status = self._clock(), cached.status
        if cached.read.unknown:
            what = one_line(", ".join(cached.read.unknown), MAX_UNKNOWN)
            logger.warning("%s/%s: its status is repaired: it has unknown %s", *cached.key, what)
        try:
            run = self._runs.parsed(cached)
            if not status.attempts:  # what runs already is judged by how it ends
                refuse([*text_problems(run.spec), *path_problems(run.spec)])
        except UserError as error:
            self._refuse(cached, status, RunProblem(Reason.INVALID_SPEC, str(error).replace("\n", "; ")), state, now)
            return None
        before = saved_run_status(status)
        observed = self._observe(cached, run, status, state, now)
        if self._live_reads.read_failed_pods(cached, state, observed):
            observed = self._observe(cached, run, status, state, now)
        moves = decide_moves(observed, self._faults, _newest_step(status, state.logged), state.pending_move)
        observed, state.pending_move = moves.observed, moves.pending
        self._unhealthy.record(moves.faults)
        problem = state.problem
        decided = self._plan(cached, run, status, before, observed, state, now)
        queued = self._queue.decide(cached, run, decided, observed)
        decided, problem = queued.plan, queued.problem or problem
        if decided.status.state not in FINAL:
            read_again_s = self._read_again_s(state, observed)
            observed = with_pending_cause(
                self._cluster, self._warning_events, cached, observed, state, now, read_again_s
            )
        after = self._logs.read(cached, before, decided.status, observed, state, now, self._progress_interval())
        after = with_goodput(after, [_with_log_progress(each, state.logged) for each in observed])
        secrets = literals(cached.document)
        build = functools.partial(
            build_status, status, run, before, after, [*observed, *queued.waiting], logged=state.logged, tails=state.log_tails,
            generation=cached.generation, now=now,
        )  # fmt: skip
        new = redacted_status(build(problem=problem), secrets)
        cached = self._write_status(cached, new, state, now)
        new = status if state.defers_pod_counts else new
        refused = state.problem if state.refused_generation == cached.generation else None
        actions, places = decided.actions, queued.actions
        if refused is not None:
            actions, places = _without_creation(decided, queued)
        executed = execute(
            self._cluster, cached, actions, observed, functools.partial(self._objects, cached, run),
            functools.partial(self._created, state), functools.partial(self._live_reads.uncached_pod, cached, state),
        )  # fmt: skip
        found = self._queue.execute(cached, run, places, now) or executed.problem or queued.problem
        if (actions, places) != (decided.actions, queued.actions):
            found = found or refused
        if found != problem:  # whoever looks now learns at once why it does not go on, or that it does
            new = redacted_status(build(problem=found), secrets)
            cached = self._write_status(cached, new, state, now)
        delete_old_jobs(self._cluster, cached, observed)
        self._record_events(cached, status, new, now)
        self._record(cached, [*executed.events, *self._delete_orphans(cached.key, state)], now)
        return self._requeue_after(cached, decided, observed, state, found, now)

    def _objects(self, cached: CachedRun, run: DihtRun, start: Start) -> list[dict[str, Any]]:
        """The objects of an attempt, with its Job on the quota of its stage if that has a Workload of its own."""
        admitted = self._queue.with_admitted_workers(cached, run, start)
        faulty = self._nodes.unhealthy() if self._nodes is not None and start.stage is Stage.TRAIN else ()
        objects = build_objects(
            cached,
            admitted,
            start,
            self._job_ttl_s,
            pod_groups=self._pod_groups(),
            faulty=faulty,
            token=secrets.token_hex(),
        )
        self._queue.put_on_quota(cached, run, start, objects[-1])
        return objects

    def node_changed(self, node: str) -> list[Key]:
        """The faults of a node have changed; returns the runs that have pods on it."""
        self._unhealthy.keep(node, self._faults(node))
        return self._pods.runs_on(node)

    def _faults(self, node: str) -> tuple[NodeFault, ...]:
        return self._nodes.faults(node) if self._nodes is not None else ()

    def _created(self, state: ReconcileState, job: Mapping[str, Any]) -> None:
        self._jobs.put(job)
        if job["metadata"]["uid"] not in state.former_jobs:  # it may be gone before anybody looks again
            state.former_jobs.append(job["metadata"]["uid"])

    def _refuse(
        self, cached: CachedRun, status: Status, problem: RunProblem, state: ReconcileState, now: float
    ) -> None:
        """Report that a run is not accepted; its children, if any, are left alone."""
        before, generation = saved_run_status(status), cached.generation
        found = conditions(status, before, None, problem, pausing=False, generation=generation, now=now)
        new = status.model_copy(update={"conditions": found, "observed_generation": cached.generation})
        self._record_events(self._write_status(cached, new, state, now), status, new, now)

    def _observe(
        self, cached: CachedRun, run: DihtRun, status: Status, state: ReconcileState, now: float
    ) -> list[ObservedAttempt]:
        """The attempts of a run, from Jobs that it owns and pods that those own."""
        labelled = state.first_seen.jobs(self._jobs.of(*cached.key), now)
        jobs = [job for job in labelled if job.owner_uid == cached.uid]
        foreign = {job.uid for job in labelled} - {job.uid for job in jobs}
        pods = [pod for pod in self._pods.of(*cached.key) if pod.job_uid not in foreign]
        pods = state.first_seen.pods(pods, now)
        state.run_uid = cached.uid
        state.former_jobs = [*state.former_jobs, *(job.uid for job in jobs if job.uid not in state.former_jobs)]
        del state.former_jobs[:-MAX_FORMER_JOBS]
        state.disrupted |= {pod.name: pod for pod in pods if pod.disruption}
        while len(state.disrupted) > MAX_FORMER_JOBS:
            del state.disrupted[next(iter(state.disrupted))]
        observed = observe_attempts(
            jobs, pods, now,
            newest={stage.name: stage.attempt for stage in status.stages},
            run_uid=cached.uid, former=state.former_jobs, disrupted=state.disrupted, pausing=run.spec.suspend,
        )  # fmt: skip
        return [with_named_holder(each, functools.partial(self._runs.name_of, cached.namespace)) for each in observed]

    def _plan(
        self,
        cached: CachedRun,
        run: DihtRun,
        status: Status,
        before: RunStatus,
        observed: list[ObservedAttempt],
        state: ReconcileState,
        now: float,
    ) -> RunPlan:
        facts = Observed(
            attempts=tuple(_with_log_progress(each, state.logged) for each in observed),
            retry_requested=bool(cached.retry) and cached.retry == status.completion_time,
        )
        back_off = BackOff(jitter=self._jitter())
        return plan(run, facts, now, status=before, back_off=back_off, steps=CLUSTER_STEPS)

    def _progress_interval(self) -> float:
        """Seconds between two reads of a run's log: with many runs each is read less often."""
        return progress_interval(len(self._active))

    def _read_again_s(self, state: ReconcileState, observed: list[ObservedAttempt]) -> float:
        """Seconds after which the answer about an object is old: short at first, then as between two reads of a log."""
        wait_s = min(self._progress_interval(), FIRST_READ_AGAIN_S * 2.0 ** max(0, min(state.pending_reads, 8) - 1))
        unexplained = state.pending_cause is None and any(each.misses_pods for each in observed)
        return min(wait_s, MISSING_READ_AGAIN_S) if unexplained else wait_s

    def _write_status(self, cached: CachedRun, new: Status, state: ReconcileState, now: float) -> CachedRun:
        """Write the status if it changed; returns the run as it is afterwards."""
        document, written_before = wire(new), cached.document["status"]
        state.defers_pod_counts = document != written_before and can_defer(written_before, new, document)
        if document == written_before or (
            state.defers_pod_counts
            and state.status_written_at <= now < state.status_written_at + self._progress_interval()
        ):
            return cached
        state.defers_pod_counts, state.status_written_at = False, now
        written = cached_run(self._cluster.write_status(cached.namespace, cached.name, cached.version, document))
        self._runs.put(written, only_existing=True)
        if has_ended(new):
            self._active.discard(cached.key)
        return written

    def _record_events(self, cached: CachedRun, before: Status, after: Status, now: float) -> None:
        self._blocked.record(cached.key, after)
        count_changes(before, after)
        self._record(cached, events_between(before, after), now)

    def _record(self, cached: CachedRun, events: Iterable[RunEvent], now: float) -> None:
        for item in events:
            extra = {"run": cached.name, "namespace": cached.namespace, "reason": item.reason}
            logger.info("%s", item.message, extra=extra)
            try:
                self._cluster.write_event(cached.namespace, event_document(cached, item, now))
            except ClusterError as error:
                logger.warning("cannot write an Event for %s/%s: %s", cached.namespace, cached.name, error)

    def _requeue_after(
        self,
        cached: CachedRun,
        decided: RunPlan,
        observed: list[ObservedAttempt],
        state: ReconcileState,
        problem: RunProblem | None,
        now: float,
    ) -> float | None:
        state.problem = problem
        state.refused_generation = cached.generation if problem is not None and problem.until_changed else None
        state.problem_count = state.problem_count + 1 if problem is not None else 0
        living = any(each.attempt.state in LIVING for each in observed)
        (self._active.add if living else self._active.discard)(cached.key)
        due = [at - now for each in observed for at in due_times(each)]
        if decided.wake_at is not None:
            due.append(decided.wake_at - now)
        if living:
            since, interval = now - state.log_read_at, self._progress_interval()
            due.append(interval - since if 0 <= since < interval else interval)
        if any(each.event_subject or (each.job is not None and each.job.suspended) for each in observed) and living:
            due.append(self._read_again_s(state, observed))
        if state.defers_pod_counts:
            due.append(state.status_written_at + self._progress_interval() - now)
        if problem is not None and not problem.until_changed:
            due.append(min(MOST_PROBLEM_WAIT_S, PROBLEM_WAIT_S * 2.0 ** min(state.problem_count - 1, 8)))
        return min((wait for wait in due if wait > 0), default=None)


def _without_creation(
    plan: RunPlan, queued: QueuedPlan
) -> tuple[tuple[Action, ...], tuple[admission.WorkloadAction, ...]]:
    """The actions of a plan and in its queues that create nothing."""
    actions = tuple(each for each in plan.actions if not isinstance(each, Start))
    return actions, tuple(each for each in queued.actions if not isinstance(each, admission.CreateWorkload))


def _log_internal_error(cached: CachedRun, error: Exception) -> str:
    """Log an exception with its traceback, without literal values of the run; returns its message and where it was raised."""
    secrets = literals(cached.document)
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = redacted_text(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", secrets)
    logger.error(
        "%s/%s: unexpected error: %s\n%s", *cached.key, one_line(message),
        redacted_text("".join(traceback.format_exception(error)), secrets),
        extra={"run": cached.name, "namespace": cached.namespace},
    )  # fmt: skip
    return message


def _with_log_progress(observed: ObservedAttempt, logged: LoggedProgress | None) -> Attempt:
    """The attempt with the work that its log names."""
    if logged is None or (logged.entry, logged.attempt) != (observed.entry, observed.attempt.number):
        return observed.attempt
    began = max((pod.started_at for pod in observed.pods if pod.started_at is not None), default=logged.read_at)
    return with_progress(observed.attempt, logged.progress, tells_time=logged.read_at >= began)


def _newest_step(status: Status, logged: LoggedProgress | None) -> int | None:
    """The step of the newest checkpoint that is known."""
    said, written = logged.progress.checkpoint if logged is not None else None, status.last_checkpoint
    return max((each.step for each in (said, written) if each is not None), default=None)
