"""One reconciliation of one run: observe, decide, report, act, report.

Each step is a function from the last one's value to the next: `Observation`, `Decision`, `Report`, `Executed`.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.field_problems import refuse, text_problems
from diht_k8s.api.named_uris import path_problems
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.api.run import DihtRun
from diht_k8s.controller.actions import delete_old_jobs, delete_orphans, delete_run, orphans
from diht_k8s.controller.cache.informer import Informer, WorkloadInformer
from diht_k8s.controller.cache.runs import CachedRun, FinishedRun, Key, RunStore, cached_run
from diht_k8s.controller.decision import Blocked, Decision, decide
from diht_k8s.controller.events import RunEvent
from diht_k8s.controller.execution import Executor
from diht_k8s.controller.known_objects import KnownObjects
from diht_k8s.controller.node_health.faults import NodeWatch
from diht_k8s.controller.node_health.gang_moves import PendingMove
from diht_k8s.controller.observation import Observer
from diht_k8s.controller.observe import LIVING, RunProblem, due_times
from diht_k8s.controller.pending_causes import PendingCause
from diht_k8s.controller.pod_logs import ReadLogs, progress_interval
from diht_k8s.controller.report import StatusReporter, WrittenStatus
from diht_k8s.controller.run_metrics import UnhealthyNodes
from diht_k8s.controller.saved_status import condition, has_ended
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary


@dataclass
class RunMemory:
    """The memory of one run; what can change is changed by the module that defines it alone, and `reconcile` replaces
    the values.
    """

    objects: KnownObjects
    blocked: Blocked = field(default_factory=Blocked)
    logs: ReadLogs = field(default_factory=ReadLogs)
    pending: PendingCause = field(default_factory=PendingCause)
    move: PendingMove | None = None
    """the fault of a node because of which the gang moves after its next checkpoint."""
    written: WrittenStatus = field(default_factory=WrittenStatus)
    checked: int = 0
    """generation of the document whose objects the API server has checked."""


logger = logging.getLogger(__name__)

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
        workloads: WorkloadInformer,
        *,
        pod_groups: Callable[[], bool] = lambda: False,
        nodes: NodeWatch | None = None,
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
            clock: seconds since the epoch.
            jitter: a random number from 0 to 1.
            job_ttl_s: seconds after which Kubernetes removes a finished Job; None keeps it.
        """
        self._cluster, self._runs, self._jobs, self._pods = cluster, runs, jobs, pods
        self._workloads, self._nodes, self._unhealthy = workloads, nodes, UnhealthyNodes()
        self._clock, self._jitter = clock, jitter
        self._observer = Observer(cluster, runs, jobs, pods, workloads, nodes)
        self._executor = Executor(cluster, jobs, pods, nodes=nodes, pod_groups=pod_groups, job_ttl_s=job_ttl_s)
        self._reporter = StatusReporter(cluster, runs)
        self._memories: dict[Key, RunMemory] = {}
        self._active: set[Key] = set()

    @property
    def active_runs(self) -> int:
        """Number of runs with an active attempt."""
        return len(self._active)

    def node_changed(self, node: str) -> list[Key]:
        """The faults of a node have changed; returns the runs that have pods on it."""
        self._unhealthy.keep(node, self._nodes.faults(node) if self._nodes is not None else ())
        return self._pods.runs_on(node)

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
            memory = self._memory_of(cached)
            wait_s = self._reconcile(cached, memory)
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

    def _reconcile(self, cached: CachedRun, memory: RunMemory) -> float | None:
        now, interval_s = self._clock(), self._interval_s()
        try:
            run = self._valid_run(cached)
        except UserError as error:
            problem = RunProblem(Reason.INVALID_SPEC, str(error).replace("\n", "; "))
            self._reporter.refuse(cached, problem, memory.written, now)
            return None
        self._check_all_stages(cached, run, memory)
        objects, logs, written = memory.objects, memory.logs, memory.written
        seen = self._observer.observe(cached, run, objects, logs, memory.pending, now=now, interval_s=interval_s)
        decision = decide(seen, memory.blocked, memory.move, self._jitter())
        memory.move = decision.move
        living = any(each.attempt.state in LIVING for each in decision.attempts)
        (self._active.add if living else self._active.discard)(cached.key)
        self._unhealthy.record(decision.faults)
        report = self._reporter.record(seen, decision, memory.blocked.problem, logs, written, interval_s)
        executed = self._executor.act(report.cached, run, decision, objects, now)
        report = self._reporter.conclude(seen, decision, report, executed, logs, written, interval_s)
        if executed.error is not None:
            raise executed.error
        memory.blocked = memory.blocked.next(executed.problem, cached.generation)
        delete_old_jobs(self._cluster, report.cached, decision.attempts)
        self._reporter.tell_events(report.cached, self._delete_orphans(cached.key, objects), now)
        return self._wait_s(cached.key, decision, memory, now)

    def _valid_run(self, cached: CachedRun) -> DihtRun:
        """The run as our models read it.

        Raises:
            UserError: it is not accepted.
        """
        if cached.read.unknown:
            what = one_line(", ".join(cached.read.unknown), MAX_UNKNOWN)
            logger.warning("%s/%s: its status is repaired: it has unknown %s", *cached.key, what)
        run = self._runs.parsed(cached)
        if not cached.status.attempts:  # what runs already is judged by how it ends
            refuse([*text_problems(run.spec), *path_problems(run.spec)])
        return run

    def _check_all_stages(self, cached: CachedRun, run: DihtRun, memory: RunMemory) -> None:
        """Have the API server check what the run will create, once a document: condition Accepted remembers it."""
        accepted = condition(cached.status, ConditionType.ACCEPTED)
        known = accepted is not None and (accepted.status, accepted.observed_generation) == ("True", cached.generation)
        if known or memory.checked == cached.generation or has_ended(cached.status):
            return
        problem = self._executor.check_all_stages(cached, run)
        if problem is not None:
            memory.blocked = memory.blocked.next(problem, cached.generation)
        memory.checked = cached.generation

    def _wait_s(self, key: Key, decision: Decision, memory: RunMemory, now: float) -> float | None:
        """Seconds after which something may have changed that no watch reports; None if nothing can."""
        attempts, interval_s = decision.attempts, self._interval_s()
        due = [at - now for each in attempts for at in due_times(each)]
        if decision.wake_at is not None:
            due.append(decision.wake_at - now)
        if key in self._active:
            since = now - memory.logs.read_at
            due.append(interval_s - since if 0 <= since < interval_s else interval_s)
            if any(each.event_subject or (each.job is not None and each.job.suspended) for each in attempts):
                due.append(memory.pending.read_again_s(attempts, interval_s))
        if memory.written.defers_pod_counts:
            due.append(memory.written.at + interval_s - now)
        if (again_s := memory.blocked.try_again_s) is not None:
            due.append(again_s)
        return min((wait for wait in due if wait > 0), default=None)

    def _interval_s(self) -> float:
        """Seconds between two reads of a run's log: with many runs each is read less often."""
        return progress_interval(len(self._active))

    def _failed(self, cached: CachedRun, error: Exception) -> InternalError:
        """Log an unexpected exception and report it in the run's status, as far as that is possible."""
        message = _log_internal_error(cached, error)
        try:
            first = RunMemory(KnownObjects(cached.uid))
            memory, newest = self._memories.setdefault(cached.key, first), self._runs.get(cached.key) or cached
            # it stays the problem until the actions succeed: the status does not go back and forth at each attempt
            problem = RunProblem(Reason.INTERNAL_ERROR, message)
            memory.blocked = memory.blocked.next(problem, newest.generation)
            self._reporter.refuse(newest, problem, memory.written, self._clock())
        except Exception as second:  # the status itself may be what cannot be read or written
            text = redacted_text(f"{type(second).__name__}: {second}", literals(cached.document))
            logger.warning("%s/%s: the status cannot say so: %s", *cached.key, one_line(text))
        return InternalError(message)

    def _finished(self, key: Key, ended: FinishedRun) -> CachedRun | None:
        """Delete a finished run that is due; read one of which something runs, or ran until now; the others need
        nothing.

        What its last pods told as they ended is in its status then, whether or not it was seen before their Job was
        over.
        """
        if ended.is_due(self._clock()):
            delete_run(self._cluster, key, ended.uid, str(ended.version))
            return None
        memory = self._memories.get(key)
        ran = memory is not None and memory.objects.run_uid == ended.uid
        return cached_run(self._cluster.get_run(*key)) if ran or self._lives(key, ended) else None

    def _lives(self, key: Key, ended: FinishedRun) -> bool:
        """Whether something of a finished run may still run, or holds quota."""
        jobs = (job for job in self._jobs.of(*key) if job.owner_uid == ended.uid)
        lost = (pod for pod in self._pods.of(*key) if not pod.job_name)
        living = any(not job.over and not job.deleted for job in jobs) or any(pod.deleted_at is None for pod in lost)
        queued = (each for each in self._workloads.of(*key) if each.owner_uid == ended.uid)
        return living or any(not (each.finished or each.deleted) for each in queued)

    def _forget(self, key: Key) -> None:
        """A run is gone, or has ended: so must be its pods that no garbage collector finds."""
        self._active.discard(key)
        self._reporter.forget(key)
        if (memory := self._memories.get(key)) is not None:
            self._delete_orphans(key, memory.objects)
            del self._memories[key]  # only now: nothing else knows whose pods they are

    def _delete_orphans(self, key: Key, known: KnownObjects) -> list[RunEvent]:
        jobs = {job.uid for job in self._jobs.of(*key)}
        return delete_orphans(self._cluster, orphans(self._pods.of(*key), known.run_uid, known.former_jobs, jobs))

    def _memory_of(self, cached: CachedRun) -> RunMemory:
        """What is known of a run; nothing of one that had its name before, whose end no reconciliation may have
        seen.
        """
        memory = self._memories.get(cached.key)
        if memory is not None and memory.objects.run_uid != cached.uid:
            self._forget(cached.key)
            memory = None
        return memory or self._memories.setdefault(cached.key, self._first_memory(cached))

    def _first_memory(self, cached: CachedRun) -> RunMemory:
        """A new operator would read all logs at once: it uses the progress that an earlier one read for a while."""
        status = cached.status
        former = [attempt.uid for attempt in status.attempts if attempt.uid]
        accepted, blocked = condition(status, ConditionType.ACCEPTED), Blocked()
        if accepted is not None and (accepted.status, accepted.observed_generation) == ("False", cached.generation):
            blocked = Blocked(RunProblem(accepted.reason, accepted.message))  # until this operator has tried it
        if status.progress is None or status.progress.last_updated_time is None:
            unrecorded = len(former) < len(status.attempts)
            return RunMemory(KnownObjects(cached.uid, former_jobs=former, has_unrecorded_job=unrecorded), blocked)
        if not self._memories:  # a new operator knows by the statuses alone how many runs are active
            self._active |= self._runs.running()
        logs = ReadLogs(read_at=self._clock() - self._jitter() * self._interval_s())
        return RunMemory(KnownObjects(cached.uid, former_jobs=former), blocked, logs)


def _log_internal_error(cached: CachedRun, error: Exception) -> str:
    """Log an exception with its traceback, without literal values of the run; returns its message and where it was
    raised.
    """
    secrets = literals(cached.document)
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = redacted_text(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", secrets)
    logger.error(
        "%s/%s: unexpected error: %s\n%s",
        *cached.key,
        one_line(message),
        redacted_text("".join(traceback.format_exception(error)), secrets),
        extra={"run": cached.name, "namespace": cached.namespace},
    )
    return message
