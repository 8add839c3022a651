"""The plan of a run whose attempts wait for quota: what may start, and what its Workloads of Kueue need. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import QUEUE_LABEL
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.job_builder import build_objects, requires_pod_group
from diht_k8s.controller.kueue import admission, workload
from diht_k8s.controller.kueue.extra_nodes import elastic_queue, entry_of, fewest_nodes, queues_of
from diht_k8s.controller.observe import ObservedAttempt, RunProblem
from diht_k8s.kube.connection import KUEUE
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.plan import RunPlan, Start
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
    now: float,
) -> QueuedPlan:
    """Hold back the attempts of a plan that have no quota yet, and stop those that have lost it.

    Args:
        cached: the run as the API server has it.
        run: the same, parsed.
        plan: what the run needs apart from its queues.
        observed: the attempts that exist.
        workloads: those that the run owns.
        absent: why the cluster has no Workloads; empty where it has.
        now: seconds since the epoch.
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
    decided = admission.decide_admission(plan, observed, workloads, queues, shapes, elastic_queue(run, now))
    if decided.queued is None:
        return QueuedPlan(decided.plan, decided.actions)
    whole = _wishing_for_all(decided.plan.status, decided.queued.start)
    return QueuedPlan(replace(decided.plan, status=whole), decided.actions, (_waiting_attempt(decided.queued),))


def job_of(cached: CachedRun, run: DihtRun, start: Start) -> dict[str, Any]:
    """The Job of an attempt, as it would be queued by itself; that of an elastic training has its fewest nodes."""
    train = run.spec.train
    fewest = fewest_nodes(train) if train is not None and start.stage is Stage.TRAIN else None
    objects = build_objects(cached, run, replace(start, nodes=fewest), pod_groups=requires_pod_group(run))
    (job,) = (each for each in objects if each["kind"] == "Job")
    assert QUEUE_LABEL in job["metadata"]["labels"]
    return job


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
