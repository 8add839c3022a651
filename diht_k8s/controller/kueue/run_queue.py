"""Workloads of Kueue on the cluster: created, finished and deleted as `admission` decides, and the Jobs on their
quota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import QUEUE_PRIORITY_LABEL
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.controller.actions import NameConflict, StillTerminating, create_or_get, refusal
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.job_builder import labels_of
from diht_k8s.controller.kueue import admission, workload
from diht_k8s.controller.kueue.extra_nodes import elastic_queue, entry_of, queues_of, useful_extra
from diht_k8s.controller.kueue.queued_plan import job_of
from diht_k8s.controller.observe import RunProblem
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import KUEUE, SCHEDULING
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.object_fields import ATTEMPT_LABEL
from diht_k8s.launch.stages import sized_for_step
from diht_k8s.pipeline.plan import Start

PLACED: Final = (
    "train.minNodes does not go with a queue whose flavours have a topology (topologyName): it gives places to "
    "the pods "
    "of one Workload, and the others would wait for theirs: choose another queue, or unset minNodes"
)


class RunQueue:
    """The Workloads of runs whose `pods.queueing` is PerRun."""

    def __init__(self, cluster: Cluster) -> None:
        """Make one."""
        self._cluster = cluster

    def execute(
        self, cached: CachedRun, run: DihtRun, actions: Sequence[admission.WorkloadAction], now: float
    ) -> RunProblem | None:
        """Execute actions; returns what a person has to correct.

        Raises:
            ClusterError: the API server does not answer, or somebody else has changed a Workload meanwhile.
        """
        problem = None
        for action in actions:
            try:
                if isinstance(action, admission.CreateWorkload):
                    self._create(cached, run, action.start, extra=action.extra)
                else:
                    self._update(action, now)
            except StillTerminating as error:
                problem = RunProblem(Reason.PENDING, str(error))
            except NameConflict as error:
                problem = RunProblem(Reason.NAME_CONFLICT, str(error))
            except ClusterError as error:
                if isinstance(action, admission.CreateWorkload):
                    name = workload_name(cached.name, action.start)
                    problem = refusal(error, f"Workload {name}{workload.EXTRA if action.extra else ''}")
                elif error.status == 403:
                    problem = refusal(error, f"Workload {action.workload.name}")
                elif not error.is_not_found:
                    raise
        return problem

    def _update(
        self,
        action: admission.ReleaseQuota
        | admission.FinishWorkload
        | admission.DeleteWorkload
        | admission.ReportPodsReady,
        now: float,
    ) -> None:
        namespace, name = action.workload.namespace, action.workload.name
        if isinstance(action, admission.DeleteWorkload):
            self._cluster.delete("Workload", namespace, name, action.workload.uid)
            return
        found = self._cluster.get("Workload", namespace, name)
        if found["metadata"]["uid"] != action.workload.uid:
            return
        if isinstance(action, admission.ReleaseQuota):
            patch = workload.release_patch(found, now)
        elif isinstance(action, admission.FinishWorkload):
            patch = workload.finish_patch(found, now, succeeded=action.succeeded)
        else:
            patch = workload.pods_ready_patch(found, now)
        self._cluster.patch_workload_status(namespace, name, patch)

    def _create(self, cached: CachedRun, run: DihtRun, start: Start, *, extra: bool) -> None:
        job = job_of(cached, run, start)
        labels = {key: value for key, value in labels_of(cached, start).items() if key != ATTEMPT_LABEL}
        name = workload_name(cached.name, start)
        document = workload.workload_document(name, job, labels, self._priority(job))
        if extra:
            assert run.spec.train is not None
            flavours = self._flavours(self._cluster.get("Workload", cached.namespace, name))
            document = workload.extra_document(document, job, useful_extra(run.spec.train), flavours)
        create_or_get(self._cluster, cached, document)

    def _priority(self, job: Mapping[str, Any]) -> workload.WorkloadPriority:
        """The priority that Kueue would give the Job."""
        name = job["metadata"]["labels"].get(QUEUE_PRIORITY_LABEL)
        kind, group = "WorkloadPriorityClass", KUEUE
        if not name:
            name = job["spec"]["template"]["spec"].get("priorityClassName")
            kind, group = "PriorityClass", SCHEDULING
        if not name:
            return workload.WorkloadPriority(0)
        value = self._cluster.get(kind, "", name)["value"]
        return workload.WorkloadPriority(value, {"group": group, "kind": kind, "name": name})

    def put_on_quota(self, cached: CachedRun, run: DihtRun, start: Start, job: dict[str, Any]) -> None:
        """Put the Job of an attempt on its quota, if its stage has a Workload of its own.

        Raises:
            ClusterError: the Workload or its flavour is gone, or cannot be read.
            UserError: the queue gives the pods of an elastic training their places.
        """
        if entry_of(start) not in queues_of(run):
            return
        found = self._cluster.get("Workload", cached.namespace, workload_name(cached.name, start))
        if start.stage is Stage.TRAIN and elastic_queue(run, 0.0) is not None and workload.gives_places(found):
            raise UserError(PLACED)
        workload.put_on_quota(job, found, self._flavours(found), first=start.number == 1, nodes=start.quota)

    def _flavours(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The ResourceFlavors that a Workload was admitted with."""
        return [self._cluster.get("ResourceFlavor", "", name) for name in workload.flavours_of(found)]

    def with_admitted_workers(self, cached: CachedRun, run: DihtRun, start: Start) -> DihtRun:
        """The run with as many workers as its stage was admitted with."""
        if start.stage is Stage.TRAIN or entry_of(start) not in queues_of(run):
            return run
        found = self._cluster.get("Workload", cached.namespace, workload_name(cached.name, start))
        count, config = workload.admitted_count(found), getattr(run.spec, start.stage.value)
        if config.workers == count or sized_for_step(run, start.stage, start.step) is not run:
            return run
        spec = run.spec.model_copy(update={start.stage.value: config.model_copy(update={"workers": count})})
        return run.model_copy(update={"spec": spec})


def workload_name(run: str, start: Start) -> str:
    """The name of a stage's Workload."""
    return f"{run}-{start.step or start.stage}"
