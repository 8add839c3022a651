"""Decisions about the Workloads of a run, from its plan, its attempts and the Workloads that it has. Pure.

A Workload holds the place of one stage in its queue, and its quota, through all attempts at it. Its life is that of a
Job in Kueue's own reconciler: pods run only while it is admitted; where Kueue evicts it, the pods are stopped and
awaited before the quota is given back; it is finished when the stage is. It keeps its creation time, by which Kueue
orders Workloads of equal priority, so a run that was evicted is the first of its priority again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diht_k8s.api.reasons import Reason
from diht_k8s.api.status import StageState
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, entry_name
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.plan import Action, RunPlan, Start, Stop
from diht_k8s.pipeline.run_status import ENDED_WELL, FINAL, RunState, RunStatus, StageRecord


@dataclass(frozen=True)
class CreateWorkload:
    """Create the Workload of a stage."""

    start: Start


@dataclass(frozen=True)
class ReleaseQuota:
    """Clear the reservation of a Workload that Kueue evicted: no pod of it runs any more."""

    workload: WorkloadSummary


@dataclass(frozen=True)
class FinishWorkload:
    """Finish the Workload of a stage that has ended."""

    workload: WorkloadSummary
    succeeded: bool


@dataclass(frozen=True)
class DeleteWorkload:
    """Delete a Workload that nothing needs, or that asks for other pods than the stage has now."""

    workload: WorkloadSummary


@dataclass(frozen=True)
class ReportPodsReady:
    """Say that all pods of an admitted Workload are ready: Kueue may wait for it (waitForPodsReady)."""

    workload: WorkloadSummary


WorkloadAction = CreateWorkload | ReleaseQuota | FinishWorkload | DeleteWorkload | ReportPodsReady


@dataclass(frozen=True)
class QueuedStart:
    """An attempt that waits in a queue."""

    start: Start
    queue: str
    cause: str

    @property
    def problem(self) -> RunProblem:
        """What keeps it from starting, for a person."""
        return RunProblem(Reason.QUEUED, f"waits in the queue {self.queue}: {self.cause}")


@dataclass(frozen=True)
class AdmissionDecision:
    """A plan without the attempts that have to wait in their queue, and what their Workloads need."""

    plan: RunPlan
    actions: tuple[WorkloadAction, ...] = ()
    queued: QueuedStart | None = None
    """the attempt that waits."""


def decide_admission(
    plan: RunPlan,
    observed: Sequence[ObservedAttempt],
    workloads: Iterable[WorkloadSummary],
    queues: Mapping[str, str],
    shapes: Mapping[str, str],
) -> AdmissionDecision:
    """Hold back the attempts whose stage has no quota, and stop those that have lost it.

    Args:
        plan: what the run needs apart from its queue.
        observed: the attempts that exist.
        workloads: those that the run owns.
        queues: the queues of stages whose restarts keep their place, by the name of their entry in status.stages.
        shapes: digests of the pods that stages to be started need, by the same.
    """
    own = {each.stage: each for each in workloads}
    actions, stops = list[WorkloadAction](), list[Action]()
    for entry, workload in own.items():
        living = [each for each in observed if each.entry == entry and _lives(each) and not each.attempt.waits]
        if workload.deleted or (living and not all(_holds(each) for each in living)):
            continue
        actions += _upkeep(workload, living, plan.status, queues)
    for each in observed:
        if _holds(each) and _lives(each) and not each.attempt.ending and not _may_run(own.get(each.entry)):
            stops.append(_stop(each))
    kept = tuple(each for each in plan.actions if not isinstance(each, Start))
    starts = [each for each in plan.actions if isinstance(each, Start)]
    queued = None
    for start in starts:
        entry = entry_name(start.stage, start.step)
        if entry not in queues:
            kept = (*kept, start)
            continue
        workload = own.get(entry)
        allowed, needed, cause = _admission(start, workload, shapes.get(entry, ""))
        if needed is not None and needed not in actions:
            actions.append(needed)
        kept = (*kept, start) if allowed else kept
        queued = queued if allowed else QueuedStart(start, queues[entry], cause)
    planned = RunPlan((*kept, *(each for each in stops if each not in kept)), plan.status, plan.wake_at)
    return AdmissionDecision(planned, tuple(actions), queued)


def _lives(observed: ObservedAttempt) -> bool:
    attempt = observed.attempt
    if observed.job is not None and observed.job.over and not attempt.active:
        return False
    return attempt.state in (AttemptState.PENDING, AttemptState.RUNNING) or attempt.active > 0


def _holds(observed: ObservedAttempt) -> bool:
    """Whether an attempt runs on the quota of a Workload of its run; one without its Job is what is left of one."""
    return observed.job is None or bool(observed.job.workload)


def _may_run(workload: WorkloadSummary | None) -> bool:
    return workload is not None and workload.admitted and not workload.evicted and not workload.deleted


def _stop(observed: ObservedAttempt) -> Stop:
    assert observed.job is not None
    attempt = observed.attempt
    return Stop(attempt.stage, attempt.number, observed.job.name, attempt.step)


def _upkeep(
    workload: WorkloadSummary, living: list[ObservedAttempt], status: RunStatus, queues: Mapping[str, str]
) -> list[WorkloadAction]:
    """What a Workload needs apart from the start of an attempt."""
    record = next((each for each in status.stages if entry_name(each.stage, each.step) == workload.stage), None)
    if workload.finished:
        return []
    if living:
        ready = workload.admitted and not workload.evicted and not workload.pods_ready and _all_ready(living[-1])
        return [ReportPodsReady(workload)] if ready else []
    if record is not None and _has_ended(record, status):
        return [FinishWorkload(workload, succeeded=record.state in ENDED_WELL)]
    elsewhere = record is not None and record.computed_elsewhere  # no quota is held for another run's work
    if record is None or workload.stage not in queues or status.state is RunState.SUSPENDED or elsewhere:
        return [DeleteWorkload(workload)]
    return [ReleaseQuota(workload)] if workload.evicted and workload.reserved else []


def _has_ended(record: StageRecord, status: RunStatus) -> bool:
    return record.state in ENDED_WELL or record.state is StageState.FAILED or status.state in FINAL


def _all_ready(observed: ObservedAttempt) -> bool:
    job = observed.job
    return job is not None and not job.deleted and sum(pod.ready for pod in observed.pods) >= job.parallelism


def _admission(start: Start, workload: WorkloadSummary | None, shape: str) -> tuple[bool, WorkloadAction | None, str]:
    """Whether an attempt may start, what has to be done first, and why it waits."""
    if workload is None:
        return False, CreateWorkload(start), "its Workload is created"
    if workload.deleted:
        return False, None, "its old Workload is being deleted"
    if workload.finished or workload.shape != shape:
        return (
            False,
            DeleteWorkload(workload),
            "its Workload is replaced, since it is finished or its pods have changed",
        )
    if workload.evicted and workload.reserved:
        return False, ReleaseQuota(workload), workload.message
    if not _may_run(workload):
        return False, None, workload.message or "Kueue has not looked at it yet"
    return True, None, ""
