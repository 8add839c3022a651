"""The plan of a run whose attempts wait for quota: what may start, and what its Workloads of Kueue need. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import QUEUE_LABEL, merged
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.job_builder import build_objects, requires_pod_group
from diht_k8s.controller.kueue import admission, workload
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, entry_name
from diht_k8s.kube.api_resources import KUEUE
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.plan import CLUSTER_STEPS, RunPlan, Start
from diht_k8s.pipeline.run_status import RunStatus

MISSING: Final = (
    f"pods.queueing is PerRun, and the cluster does not serve {KUEUE}/v1beta2, or the operator may not read it"
)


@dataclass(frozen=True)
class QueuedPlan:
    """A plan whose attempts have quota, or need none; and what is left to do about the others."""

    plan: RunPlan
    actions: tuple[admission.WorkloadAction, ...] = ()
    waiting: tuple[ObservedAttempt, ...] = ()
    """the attempt that waits in a queue, for the status."""
    problem: RunProblem | None = None


def queued_plan(
    cached: CachedRun,
    run: DihtRun,
    plan: RunPlan,
    observed: Sequence[ObservedAttempt],
    workloads: Sequence[WorkloadSummary],
    absent: str,
) -> QueuedPlan:
    """Hold back the attempts of a plan that have no quota yet, and stop those that have lost it.

    Args:
        cached: the run as the API server has it.
        run: the same, parsed.
        plan: what the run needs apart from its queues.
        observed: the attempts that exist.
        workloads: those that the run owns.
        absent: why the cluster has no Workloads; empty where it has.
    """
    queues = queues_of(run)
    if not queues and not workloads:
        return QueuedPlan(plan)
    starts = [each for each in plan.actions if isinstance(each, Start) and entry_of(each) in queues]
    held = replace(plan, actions=tuple(each for each in plan.actions if each not in starts))
    if absent:
        problem = RunProblem(Reason.BACKEND_MISSING, f"{MISSING}: {absent}") if starts else None
        return QueuedPlan(held, problem=problem)
    try:
        shapes = {entry_of(each): workload.shape(job_of(cached, run, each)) for each in starts}
    except UserError as error:
        return QueuedPlan(held, problem=RunProblem(Reason.INVALID_SPEC, str(error)))
    decided = admission.decide_admission(plan, observed, workloads, queues, shapes)
    if decided.queued is None:
        return QueuedPlan(decided.plan, decided.actions)
    whole = _wishing_for_all(decided.plan.status, decided.queued.start)
    return QueuedPlan(replace(decided.plan, status=whole), decided.actions, (_waiting_attempt(decided.queued),))


def queues_of(run: DihtRun) -> dict[str, str]:
    """The queues of the stages that keep their place, by the name of their entry in status.stages."""
    found = dict[str, str]()
    for stage in run.spec.stages:
        pods = merged(run.spec.pods, getattr(run.spec, stage.value).pods)
        if pods.queueing == "PerRun" and pods.queue_name:
            found |= {entry_name(stage, each): pods.queue_name for each in CLUSTER_STEPS.get(stage, ("",))}
    return found


def job_of(cached: CachedRun, run: DihtRun, start: Start) -> dict[str, Any]:
    """The Job of an attempt, as it would be queued by itself; the place in the queue is always one for all nodes."""
    whole = replace(start, nodes=None)
    objects = build_objects(cached, run, whole, pod_groups=requires_pod_group(run))
    (job,) = (each for each in objects if each["kind"] == "Job")
    assert QUEUE_LABEL in job["metadata"]["labels"]
    return job


def entry_of(start: Start) -> str:
    """The name of its entry in status.stages."""
    return entry_name(start.stage, start.step)


def _wishing_for_all(status: RunStatus, start: Start) -> RunStatus:
    """The status whose attempt that waits in a queue asks for all nodes: who had room before it waited says nothing."""
    stages = tuple(
        replace(each, nodes=None) if (each.stage, each.step) == (start.stage, start.step) else each
        for each in status.stages
    )
    return replace(status, stages=stages)


def _waiting_attempt(queued: admission.QueuedStart) -> ObservedAttempt:
    """An attempt without a Job yet, as the status shows it."""
    start = queued.start
    attempt = Attempt(start.stage, start.number, AttemptState.PENDING, step=start.step)
    return ObservedAttempt(attempt, None, (), problem=queued.problem, queue=queued.queue)
