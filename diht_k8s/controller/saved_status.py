"""The saved status (`DihtRun.status`) in the form that the plan reads. Pure.

Counters come from the status alone, never from the Jobs that happen to exist.
"""

from __future__ import annotations

from typing import Any

from diht_k8s.api.base import seconds
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.status import Condition, RestartsInPlace, StageState, StageStatus, Status, WorkStatus
from diht_k8s.controller.observe import entry_parts
from diht_k8s.pipeline.attempts import CommittedWork, InPlaceRestarts
from diht_k8s.pipeline.goodput import saved_time
from diht_k8s.pipeline.run_status import Failure, RunState, RunStatus, StageRecord


def saved_run_status(status: Status) -> RunStatus:
    """The saved status in the form that the plan reads."""
    state = _state(status)
    failed = condition(status, ConditionType.FAILED)
    ended = state in (RunState.FAILED, RunState.STOPPED)
    return RunStatus(
        state=state,
        started_at=seconds(status.start_time),
        **_running_time(status),
        stages=tuple(_stage(entry) for entry in status.stages),
        message=failed.message if ended and failed is not None else "",
        reason=failed.reason if ended and failed is not None else None,
        ended_at=seconds(status.completion_time),
    )


def condition(status: Status, kind: ConditionType) -> Condition | None:
    """A condition of a status; None if it is absent."""
    return next((each for each in status.conditions if each.type is kind), None)


def is_true(status: Status, kind: ConditionType) -> bool:
    """Whether a condition exists and is True."""
    found = condition(status, kind)
    return found is not None and found.status == "True"


def has_ended(status: Status) -> bool:
    """Whether a run is complete or has failed."""
    return is_true(status, ConditionType.COMPLETE) or is_true(status, ConditionType.FAILED)


def _state(status: Status) -> RunState:
    if is_true(status, ConditionType.COMPLETE):
        return RunState.COMPLETE
    if is_true(status, ConditionType.FAILED):
        failed = condition(status, ConditionType.FAILED)
        return RunState.STOPPED if failed is not None and failed.reason is Reason.STOPPED else RunState.FAILED
    progressing = condition(status, ConditionType.PROGRESSING)
    suspended = progressing is not None and progressing.reason is Reason.SUSPENDED
    return RunState.SUSPENDED if suspended else RunState.RUNNING


def _stage(entry: StageStatus) -> StageRecord:
    stage, step = entry_parts(entry.name)
    cause, lost = entry.cause, entry.infrastructure_restarts_count_towards_max
    work, in_place = entry.work or WorkStatus(), entry.restarts_in_place or RestartsInPlace()
    return StageRecord(
        stage=stage,
        state=StageState(entry.state.value),
        attempt=entry.attempt,
        restarts=entry.restarts_count_towards_max,
        infrastructure_restarts=max(0, entry.restarts - entry.restarts_count_towards_max) if lost is None else lost,
        total_restarts=entry.restarts,
        out_of_memory=entry.out_of_memory,
        not_before=seconds(entry.not_before),
        failure=None if cause is None else Failure(cause.exit_code, cause.reason, cause.message),
        nodes=_decided_nodes(entry),
        min_count=entry.min_count,
        step=step,
        work=CommittedWork(work.position, work.seconds),
        failed_at=work.failed_position,
        healed_until=entry.healed_until_seconds,
        infrastructure_healed_until=entry.infrastructure_healed_until_seconds,
        in_place=InPlaceRestarts(
            in_place.attempt, in_place.restarts, exit_code=in_place.exit_code, message=in_place.message
        ),
        total_in_place=in_place.total,
        time=saved_time(entry.goodput),
    )


def _decided_nodes(entry: StageStatus) -> int | None:
    """The nodes of a gang that is to start on fewer than wished for; None if it is there, or was: then it wishes for
    all.
    """
    if entry.state is StageState.RESTARTING:
        return entry.nodes
    starts = entry.state is StageState.RUNNING and entry.workload is None
    return entry.nodes if starts and (entry.nodes or 0) < (entry.wished_nodes or 0) else None


def _running_time(status: Status) -> dict[str, Any]:
    """What a run has run; an older operator counted from the first attempt on without a break."""
    found = status.running_time
    if found is None:
        return {"running_since": seconds(status.start_time)}
    return {
        "ran_seconds": found.seconds,
        "ran_until": seconds(found.until) or 0.0,
        "running_since": seconds(found.since),
    }
