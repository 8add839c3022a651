"""Observe: what a reconciliation of a run starts from, read from the caches, and past them where they may be late."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.controller.cache.informer import Informer, WorkloadInformer
from diht_k8s.controller.cache.runs import CachedRun, RunStore
from diht_k8s.controller.known_objects import KnownObjects
from diht_k8s.controller.live_reads import LiveReads
from diht_k8s.controller.node_health.faults import NodeFault, NodeWatch
from diht_k8s.controller.observe import LoggedProgress, ObservedAttempt, observe_attempts, with_named_holder
from diht_k8s.controller.pending_causes import PendingCause, WarningEvents, with_pending_cause
from diht_k8s.controller.pod_logs import PodLogs, ReadLogs
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.elasticity import share_of
from diht_k8s.pipeline.run_status import RunStatus


@dataclass(frozen=True)
class Observation:
    """A run, and what exists of it."""

    cached: CachedRun
    """the run as the API server has it."""
    run: DihtRun
    """the same, parsed."""
    before: RunStatus
    """its status, as the plan reads it."""
    attempts: list[ObservedAttempt]
    now: float
    """when they were observed, seconds since the epoch."""
    logged: LoggedProgress | None = None
    """the newest progress that a log named."""
    workloads: tuple[WorkloadSummary, ...] = ()
    """the Workloads of Kueue that it owns."""
    workloads_absent: str = ""
    """why the cluster has no Workloads."""
    faults: Mapping[str, tuple[NodeFault, ...]] = field(default_factory=dict)
    """faults of the nodes of its pods, urgent ones first."""


class Observer:
    """Observes runs."""

    def __init__(
        self,
        cluster: Cluster,
        runs: RunStore,
        jobs: Informer[JobSummary],
        pods: Informer[PodSummary],
        workloads: WorkloadInformer,
        nodes: NodeWatch | None,
    ) -> None:
        """Make one over the caches; `nodes` is None where nobody watches them."""
        self._cluster, self._runs, self._jobs, self._pods = cluster, runs, jobs, pods
        self._workloads, self._nodes = workloads, nodes
        self._live_reads, self._logs = LiveReads(cluster, pods), PodLogs(cluster)
        self._warning_events = WarningEvents(cluster)

    def observe(
        self,
        cached: CachedRun,
        run: DihtRun,
        known: KnownObjects,
        logs: ReadLogs,
        pending: PendingCause,
        *,
        now: float,
        interval_s: float,
    ) -> Observation:
        """Observe a run.

        Args:
            cached: the run as the API server has it.
            run: the same, parsed.
            known: its Jobs and pods that are gone, or may be.
            logs: what its logs have told.
            pending: what was read about why its pods are pending.
            now: seconds since the epoch.
            interval_s: seconds between two reads of a log.

        Raises:
            ClusterError: the API server does not answer.
        """
        attempts = self._attempts(cached, run, known, now)
        if self._live_reads.read_ended_pods(cached, known, attempts):
            attempts = self._attempts(cached, run, known, now)
        attempts = with_pending_cause(self._cluster, self._warning_events, cached, attempts, pending, now, interval_s)
        self._logs.read_progress(cached, attempts, logs, now, interval_s)
        return Observation(
            cached,
            run,
            saved_run_status(cached.status),
            attempts,
            now,
            logs.logged,
            workloads=tuple(each for each in self._workloads.of(*cached.key) if each.owner_uid == cached.uid),
            workloads_absent=self._workloads.absent,
            faults=self._faults(attempts),
        )

    def _attempts(self, cached: CachedRun, run: DihtRun, known: KnownObjects, now: float) -> list[ObservedAttempt]:
        """The attempts of a run, from Jobs that it owns and pods that those own."""
        labelled = known.first_seen.jobs(self._jobs.of(*cached.key), now)
        jobs = [job for job in labelled if job.owner_uid == cached.uid]
        foreign = {job.uid for job in labelled} - {job.uid for job in jobs}
        pods = [pod for pod in self._pods.of(*cached.key) if pod.job_uid not in foreign]
        pods = known.first_seen.pods(pods, now)
        known.saw(jobs, pods)
        observed = observe_attempts(
            jobs,
            pods,
            now,
            newest={stage.name: stage.attempt for stage in cached.status.stages},
            run_uid=cached.uid,
            former=known.former_jobs,
            disrupted=known.disrupted,
            pausing=run.spec.suspend,
        )
        name_of = functools.partial(self._runs.name_of, cached.namespace)
        return [_with_share(with_named_holder(each, name_of), run.spec.train) for each in observed]

    def _faults(self, attempts: list[ObservedAttempt]) -> dict[str, tuple[NodeFault, ...]]:
        if self._nodes is None:
            return {}
        return {node: self._nodes.faults(node) for each in attempts for node in {pod.node for pod in each.pods} if node}


def _with_share(observed: ObservedAttempt, train: Train | None) -> ObservedAttempt:
    """An attempt with the share that its gang has of the nodes wished for."""
    if observed.job is None or not observed.attempt.is_gang:
        return observed
    share = share_of(train, observed.job.parallelism)
    return replace(observed, attempt=replace(observed.attempt, share=share))
