"""Decisions about the Workloads of a run, from its plan, its attempts and the Workloads that it has. Pure.

A Workload holds the place of one stage in its queue, and its quota, through all attempts at it. Its life is that of a
Job in Kueue's own reconciler: pods run only while it is admitted; where Kueue evicts it, the pods are stopped and
awaited before the quota is given back; it is finished when the stage is. It keeps its creation time, by which Kueue
orders Workloads of equal priority, so a run that was evicted is the first of its priority again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diht_k8s.api.reasons import Reason
from diht_k8s.api.status import StageState
from diht_k8s.controller.kueue.extra_nodes import ENTRY, ElasticQueue
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, entry_name
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.plan import Action, RunPlan, Start, Stop
from diht_k8s.pipeline.run_status import ENDED_WELL, FINAL, RunState, RunStatus, StageRecord

UNSEEN: Final = "Kueue has not looked at it yet"


@dataclass(frozen=True)
class CreateWorkload:
    """Create the Workload of a stage."""

    start: Start
    extra: bool = False
    """whether it is the second one of an elastic training."""


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
    workloads: Sequence[WorkloadSummary],
    queues: Mapping[str, str],
    shapes: Mapping[str, str],
    elastic: ElasticQueue | None = None,
) -> AdmissionDecision:
    """Hold back the attempts whose stage has no quota, and stop those that have lost it.

    Args:
        plan: what the run needs apart from its queue.
        observed: the attempts that exist.
        workloads: those that the run owns.
        queues: the queues of stages whose restarts keep their place, by the name of their entry in status.stages.
        shapes: digests of the pods that stages to be started need, by the same.
        elastic: the training, if it has a second Workload.
    """
    own = {each.stage: each for each in workloads if not each.extra}
    extra = next((each for each in workloads if each.extra), None)
    actions, stops = list[WorkloadAction](), list[Action]()
    for entry, workload in own.items():
        living = [each for each in observed if each.entry == entry and _lives(each) and not each.attempt.waits]
        if workload.deleted or (living and not all(_holds(each) for each in living)):
            continue
        actions += _upkeep(workload, living, plan.status, queues)
    for each in observed:
        if _holds(each) and _lives(each) and not each.attempt.ending and _lacks_quota(each, own.get(each.entry), extra):
            stops.append(_stop(each))
    kept = tuple(each for each in plan.actions if not isinstance(each, Start))
    starts = [each for each in plan.actions if isinstance(each, Start)]
    queued, wakes = None, list[float]()
    for start in starts:
        entry = entry_name(start.stage, start.step)
        if entry not in queues:
            kept = (*kept, start)
            continue
        workload = own.get(entry)
        allowed, needed, cause = _admission(start, workload, shapes.get(entry, ""))
        if allowed and elastic is not None and workload is not None and entry == ENTRY:
            allowed, needed, cause = _extra_admission(start, workload, extra, elastic)
            until = elastic.waits_until(workload, extra)
            wakes = [until] if not allowed and until is not None else []
        if needed is not None and needed not in actions:
            actions.append(needed)
        kept = (*kept, start) if allowed else kept
        queued = queued if allowed else QueuedStart(start, queues[entry], cause)
    gangs = [each for each in observed if each.attempt.is_gang and _lives(each)]
    needed = _extra_needs(extra, own.get(ENTRY), gangs, starts, elastic, actions)
    if needed is not None and needed not in actions:
        actions.append(needed)
    wakes += [plan.wake_at] if plan.wake_at is not None else []
    kept = (*kept, *(each for each in stops if each not in kept))
    planned = RunPlan(kept, plan.status, min(wakes, default=None))
    return AdmissionDecision(planned, tuple(actions), queued)


def _extra_admission(
    start: Start, base: WorkloadSummary, extra: WorkloadSummary | None, elastic: ElasticQueue
) -> tuple[bool, WorkloadAction | None, str]:
    """Whether an elastic training with quota for its fewest nodes may start, or waits a while for more."""
    if extra is not None and not extra.deleted and not elastic.may_start_with(extra, start):
        uses = extra.may_run and start.quota is not None and start.quota > base.admitted_count
        return not uses, DeleteWorkload(extra), "its Workload of more nodes is replaced, since their number has changed"
    if not start.lacks_quota:
        return True, None, ""
    if extra is None:
        return False, CreateWorkload(start, extra=True), "asks for quota of all its nodes"
    if extra.deleted:
        return False, None, "its old Workload of more nodes is being deleted"
    if extra.may_run or elastic.waits_until(base, extra) is None:
        return True, None, ""
    return False, None, f"has quota for {start.quota} nodes, and waits a while for all: {extra.message or UNSEEN}"


def _extra_needs(
    extra: WorkloadSummary | None,
    base: WorkloadSummary | None,
    living: list[ObservedAttempt],
    starts: Sequence[Start],
    elastic: ElasticQueue | None,
    actions: Sequence[WorkloadAction],
) -> WorkloadAction | None:
    """What the second Workload of an elastic training needs, apart from the start of an attempt."""
    newest = living[-1] if living else None
    if extra is not None and (extra.deleted or _uses(living, base)):
        ready = newest is not None and extra.may_run and not extra.pods_ready and _all_ready(newest)
        return ReportPodsReady(extra) if ready and not extra.deleted else None
    left = base is None or not base.may_run or any(_ends(each, base) for each in actions)
    if left or elastic is None or base is None or (extra is not None and extra.evicted):
        return DeleteWorkload(extra) if extra is not None else None
    if newest is None or newest.attempt.ending or starts:
        return None
    if not elastic.may_grow_by(extra, base, newest.attempt):
        return DeleteWorkload(extra) if extra is not None else None
    if extra is not None:
        return None
    attempt = newest.attempt
    assert newest.job is not None
    return CreateWorkload(Start(attempt.stage, attempt.number, newest.job.name), extra=True)


def _uses(living: Sequence[ObservedAttempt], base: WorkloadSummary | None) -> bool:
    """Whether a gang has more pods than the first Workload of an elastic training has quota for, as far as that is
    known.
    """
    return any(each.attempt.pods > (base.count if base is not None else 0) for each in living)


def _ends(action: WorkloadAction, base: WorkloadSummary) -> bool:
    return isinstance(action, FinishWorkload | DeleteWorkload) and action.workload == base


def _lives(observed: ObservedAttempt) -> bool:
    attempt, ended = observed.attempt, all(pod.ended or pod.name in observed.lost for pod in observed.pods)
    if observed.job is not None and observed.job.over and ended:  # a Job that cannot be removed runs nothing
        return False
    return attempt.state in (AttemptState.PENDING, AttemptState.RUNNING) or attempt.active > 0


def _holds(observed: ObservedAttempt) -> bool:
    """Whether an attempt runs on the quota of a Workload of its run; one without its Job is what is left of one."""
    return observed.job is None or bool(observed.job.workload)


def _lacks_quota(observed: ObservedAttempt, base: WorkloadSummary | None, extra: WorkloadSummary | None) -> bool:
    """Whether an attempt has lost its quota, or a gang that was made for that of both Workloads has more pods than
    there is.

    An elastic training shrinks then. One that was made rigid since, or taken from its queue, has no smaller size: it
    stops.
    """
    if base is None or not base.may_run:
        return True
    more = extra.admitted_count if extra is not None and extra.may_run else 0
    return observed.attempt.quota is not None and observed.attempt.pods > base.admitted_count + more


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
    if not workload.may_run:
        return False, None, workload.message or UNSEEN
    return True, None, ""
