"""Act: execute what was decided about a run. Each action may be repeated at any point, since names are
deterministic.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diht_k8s.api.errors import UserError
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.controller.actions import (
    NameConflict,
    StillTerminating,
    create_or_get,
    delete_job,
    delete_run,
    name_of,
    refusal,
)
from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.decision import Decision
from diht_k8s.controller.events import RunEvent, started_event
from diht_k8s.controller.job_builder import build_objects, first_starts, requires_pod_group
from diht_k8s.controller.known_objects import KnownObjects
from diht_k8s.controller.kueue.run_queue import RunQueue
from diht_k8s.controller.live_reads import LiveReads
from diht_k8s.controller.living_gangs import pods_to_replace, replace_pods, tell_gang
from diht_k8s.controller.node_health.faults import NodeWatch
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, entry_name
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.plan import Expire, LowerMinCount, Resize, Start, Stop


@dataclass(frozen=True)
class Executed:
    """What came of the actions."""

    problem: RunProblem | None = None
    """what blocks the run, for its status; None if all is done."""
    events: tuple[RunEvent, ...] = ()
    error: Exception | None = None
    """what ended the actions early; to be raised once the events are told, for no later reconciliation knows of them.
    """


class Executor:
    """Executes decisions."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Informer[JobSummary],
        pods: Informer[PodSummary],
        *,
        nodes: NodeWatch | None,
        pod_groups: Callable[[], bool],
        job_ttl_s: int | None,
    ) -> None:
        """Make one.

        Args:
            cluster: the API server.
            jobs: the cache that gets the Jobs that are created.
            pods: the cache of pods.
            nodes: those with faults; None where nobody watches them.
            pod_groups: whether Kubernetes itself schedules gangs here.
            job_ttl_s: seconds after which Kubernetes removes a finished Job; None keeps it.
        """
        self._cluster, self._jobs, self._nodes = cluster, jobs, nodes
        self._pod_groups, self._job_ttl_s = pod_groups, job_ttl_s
        self._queue, self._live_reads = RunQueue(cluster), LiveReads(cluster, pods)

    def act(self, cached: CachedRun, run: DihtRun, decision: Decision, known: KnownObjects, now: float) -> Executed:
        """Execute what was decided.

        Args:
            cached: the run as the API server has it, with the status that was decided.
            run: the same, parsed.
            decision: what to do.
            known: its Jobs and pods that are gone, or may be.
            now: seconds since the epoch.
        """
        problem, events = None, list[RunEvent]()
        try:
            for action in decision.actions:
                if isinstance(action, Start):
                    started = self._start(cached, run, action, known)
                    problem, events = started.problem or problem, [*events, *started.events]
                elif isinstance(action, Stop):
                    self._stop(cached, action, decision.attempts)
                elif isinstance(action, LowerMinCount):
                    problem = self._lower_min_count(cached, action) or problem
                elif isinstance(action, Resize):
                    tell_gang(self._cluster, decision.attempts, action, now)
                elif isinstance(action, Expire):
                    delete_run(self._cluster, cached.key, cached.uid, cached.version)
            replace_pods(self._cluster, pods_to_replace(decision.attempts), now)
            queued = self._queue.execute(cached, run, decision.workload_actions, now)
        except Exception as error:
            return Executed(problem or decision.problem, tuple(events), error)
        return Executed(queued or problem or decision.problem, tuple(events))

    def check_all_stages(self, cached: CachedRun, run: DihtRun) -> RunProblem | None:
        """Have the API server check the objects of all stages, so that the last one's typo does not show days later.

        Nothing is created. Only what another document corrects counts: a quota or a webhook may let the objects pass
        by the time they are created, and says so then if not.

        Raises:
            ClusterError: the API server does not answer, or its answer is nothing that a person could act on.
        """
        pod_groups = self._pod_groups()
        for start in first_starts(run):
            if start.stage is Stage.TRAIN and requires_pod_group(run) and not pod_groups:
                continue  # the cluster may serve them once the training starts
            try:
                items = build_objects(cached, run, start, self._job_ttl_s, pod_groups=pod_groups)
            except UserError as error:
                return RunProblem(Reason.INVALID_SPEC, str(error), until_changed=True)
            for item in items:
                try:
                    self._cluster.create(item, dry_run=True)
                except ClusterError as error:
                    problem = None if error.is_conflict else refusal(error, name_of(item))
                    if problem is not None and problem.until_changed:
                        return problem
        return None

    def _start(self, cached: CachedRun, run: DihtRun, start: Start, known: KnownObjects) -> Executed:
        """Create the objects of an attempt.

        Raises:
            ClusterError: the API server does not answer, or its answer is nothing that a person could act on.
        """
        if pod := self._live_reads.uncached_pod(cached, known):
            return Executed(RunProblem(Reason.PENDING, f"waits until pod {pod} of an earlier attempt is gone"))
        try:
            items = self._objects(cached, run, start)
        except UserError as error:
            return Executed(RunProblem(Reason.INVALID_SPEC, str(error)))
        except ClusterError as error:
            if error.is_not_found:  # a Workload or a flavour that was there a moment ago
                return Executed(RunProblem(Reason.PENDING, error.message))
            return Executed(refusal(error, f"what attempt {start.number} of {start.stage} needs"))
        events = list[RunEvent]()
        for item in items:
            try:
                there = create_or_get(self._cluster, cached, item)
            except StillTerminating as error:
                return Executed(RunProblem(Reason.PENDING, str(error)), tuple(events))
            except NameConflict as error:
                return Executed(RunProblem(Reason.NAME_CONFLICT, str(error)), tuple(events))
            except ClusterError as error:
                return Executed(refusal(error, name_of(item)), tuple(events))
            if item["kind"] == "Job":
                self._jobs.put(there)
                known.has_job(there["metadata"]["uid"])
                events.append(started_event(entry_name(start.stage, start.step), start.number))
        return Executed(None, tuple(events))

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

    def _stop(self, cached: CachedRun, action: Stop, observed: list[ObservedAttempt]) -> None:
        for each in observed:
            if each.job is not None and each.job.name == action.name and not each.job.deleted:
                delete_job(self._cluster, cached, each.job.name, each.job.uid)

    def _lower_min_count(self, cached: CachedRun, action: LowerMinCount) -> RunProblem | None:
        """Lower the minCount of a PodGroup, unless it is as low; one that is gone needs nothing."""
        try:
            found = self._cluster.get("PodGroup", cached.namespace, action.pod_group)
            if found["spec"]["schedulingPolicy"]["gang"]["minCount"] > action.min_count:
                lower = {"spec": {"schedulingPolicy": {"gang": {"minCount": action.min_count}}}}
                self._cluster.patch_pod_group(cached.namespace, action.pod_group, lower)
        except ClusterError as error:
            return None if error.is_not_found else refusal(error, f"PodGroup {action.pod_group}")
        return None
