"""The planner: run document, observed attempts and the saved status in; actions and the new status out. Pure.

Level-based: nothing depends on having seen an event, so a plan that was lost (a crash between the write of the status
and an action) is made again. Names are deterministic: starting an attempt that already exists does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import COMMITTED
from diht_k8s.api.run import DihtRun, Spec, Stage
from diht_k8s.api.status import MAX_COUNT, StageState
from diht_k8s.api.steps import LABEL_STEPS, WAIT_STEP
from diht_k8s.pipeline.attempts import Attempt, AttemptState, attempt_name
from diht_k8s.pipeline.elasticity import (
    in_place,
    lowered_to,
    resized_by_quota,
    resized_in_place,
    resized_to,
    resizes_at,
    resizes_in_place_at,
    still_fewer,
    within_quota,
)
from diht_k8s.pipeline.failure_policy import (
    BACK_OFF,
    BackOff,
    after_failure,
    failure_message,
    failure_reason,
    with_progress,
    with_restarts_in_place,
    withdrawn,
)
from diht_k8s.pipeline.goodput import paused, with_goodput
from diht_k8s.pipeline.run_status import (
    ENDED_WELL,
    FINAL,
    Failure,
    RunState,
    RunStatus,
    StageRecord,
    deadline_at,
    running_seconds,
    with_running_time,
)

RESTARTED_IN_PLACE: Final = "RestartedInPlace"
"""Reason of a failure whose program runs again by itself, where its restarts are used up."""
CLUSTER_STEPS: Final[Mapping[Stage, tuple[str, ...]]] = {Stage.LABEL: LABEL_STEPS}
"""Label runs as three jobs of different shapes, one after another."""
_RUNS: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


@dataclass(frozen=True)
class Observed:
    """What was observed of the cluster or the processes."""

    attempts: tuple[Attempt, ...] = ()
    cached: frozenset[Stage] = frozenset()
    """stages whose output is committed under the run's configuration."""
    stop_requested: bool = False
    """whether a person asked to stop (a signal; `spec.suspend` counts as well)."""
    retry_requested: bool = False
    """whether a person asked to retry this failed run."""
    quota: int | None = None
    """nodes for which an elastic training has quota; None: not for its fewest, or it needs none."""


@dataclass(frozen=True)
class Start:
    """Start an attempt, unless one of this name already exists."""

    stage: Stage
    number: int
    name: str
    step: str = ""
    nodes: int | None = None
    """of an elastic gang that does not get all of them; None: as many as the document says."""
    quota: int | None = None
    """nodes for which an elastic gang has quota."""
    lacks_quota: bool = False
    """whether it would have more nodes if it had quota for them."""


@dataclass(frozen=True)
class Stop:
    """Ask the programs of an attempt to end; they save what they can. On a cluster its Job is deleted, too."""

    stage: Stage
    number: int
    name: str
    step: str = ""


@dataclass(frozen=True)
class LowerMinCount:
    """Lower the minCount of a gang's PodGroup, unless it is as low; asked again until one of its pods has a node."""

    stage: Stage
    pod_group: str
    min_count: int


@dataclass(frozen=True)
class Resize:
    """Have a gang go on without some of its nodes, or with them again, in its living pods."""

    stage: Stage
    number: int
    name: str
    without: tuple[int, ...]
    """completion indexes of their pods."""


@dataclass(frozen=True)
class Expire:
    """Delete the run: it ended longer ago than spec.ttlSecondsAfterFinished."""


Action = Start | Stop | LowerMinCount | Resize | Expire


@dataclass(frozen=True)
class RunPlan:
    """What to do now, and the new status. Planning again before anything has changed gives the same plan."""

    actions: tuple[Action, ...] = ()
    status: RunStatus = field(default_factory=RunStatus)
    wake_at: float | None = None
    """seconds since the epoch at which to plan again even if nothing changes; None waits for a change."""


def plan(
    run: DihtRun,
    observed: Observed,
    now: float,
    *,
    status: RunStatus,
    until: Stage | None = None,
    back_off: BackOff = BACK_OFF,
    steps: Mapping[Stage, tuple[str, ...]] | None = None,
) -> RunPlan:
    """Decide what a run needs next.

    Args:
        run: the run.
        observed: the attempts that exist, and what a person asked for.
        now: seconds since the epoch.
        status: the status that the last plan returned.
        until: the last stage to run; None runs all.
        back_off: how long to wait before restarts.
        steps: stages that run as several jobs, one after another.

    Returns:
        Actions and the new status. The stages run one after another; at most one has an active attempt.
    """
    if status.state in FINAL:
        if not observed.retry_requested or status.state is RunState.COMPLETE:
            return _final(run, observed, status, now)
        status = _retried(status, now)
    units = [(stage, step) for stage in stages_until(run.spec, until) for step in (steps or {}).get(stage, ("",))]
    saved, pausing = status, observed.stop_requested or run.spec.suspend
    known = tuple(_observe(run, status.of(*unit), observed, now, back_off, pausing=pausing) for unit in units)
    status = replace(status, stages=known, started_at=_started_at(status, known, now))
    status = with_goodput(with_running_time(status, observed.attempts, now), observed.attempts)
    if (ended := _ended(run, status, now)) is not None:
        return _final(run, observed, ended, now)
    if pausing:
        return _pause(run, observed, status, now)
    current = next(stage for stage in known if stage.state not in ENDED_WELL)
    if current.state is StageState.STOPPED:
        if saved.state is not RunState.SUSPENDED and saved.of(current.stage, current.step).state is not current.state:
            return RunPlan((), _stopped(status, current, now))
        # We stopped it, and the run was resumed, maybe before all had stopped. Saved, since the next attempt may have
        # to wait for another one that still ends: resuming happens once.
        restarting = replace(current, state=StageState.RESTARTING, nodes=None)
        status, current = _with(status, current, restarting), restarting
    decided = _advance(run, observed, now, replace(status, state=RunState.RUNNING), current, back_off)
    return replace(decided, wake_at=min(_wakes(run, observed, decided, now), default=None))


def stages_until(spec: Spec, until: Stage | None) -> tuple[Stage, ...]:
    """The stages of a run up to and including `until`; all of them for None."""
    order = list(Stage)
    return tuple(stage for stage in spec.stages if until is None or order.index(stage) <= order.index(until))


def _started_at(status: RunStatus, known: tuple[StageRecord, ...], now: float) -> float | None:
    if status.started_at is None and any(stage.attempt for stage in known):
        return now
    return status.started_at


def _final(run: DihtRun, observed: Observed, status: RunStatus, now: float) -> RunPlan:
    """Stop whatever still runs; a run with a time to live is deleted when it is over."""
    stops, ttl_s = _stop(run, _living(observed)), run.spec.ttl_seconds_after_finished
    if ttl_s is None or status.ended_at is None:
        return RunPlan(stops, status)
    expires_at = status.ended_at + ttl_s
    return RunPlan((*stops, Expire()), status) if now >= expires_at else RunPlan(stops, status, wake_at=expires_at)


def _retried(status: RunStatus, now: float) -> RunStatus:
    """Resume with the stage that failed and all its restarts. Attempt numbers continue, since their names are taken."""
    stages = tuple(
        stage
        if stage.state in ENDED_WELL or not stage.attempt
        else StageRecord(
            stage.stage,
            StageState.RESTARTING,
            stage.attempt,
            failure=stage.failure,
            step=stage.step,
            work=stage.work,
            in_place=stage.in_place,
            total_in_place=stage.total_in_place,
            time=paused(stage.time),
        )
        for stage in status.stages
    )
    return RunStatus(stages=stages, ran_until=now)


def _observe(
    run: DihtRun, record: StageRecord, observed: Observed, now: float, back_off: BackOff, *, pausing: bool
) -> StageRecord:
    """Fold the observed attempts of a stage into its record."""
    policy = run.spec.failure_policy
    if record.state in ENDED_WELL or record.state is StageState.FAILED:
        return record
    attempts = [attempt for attempt in observed.attempts if _belongs(attempt, record)]
    record = with_progress(record, attempts, policy)
    # Once more, since work that is committed beyond the step of a restart gives that restart back.
    record = with_progress(with_restarts_in_place(record, attempts), attempts, policy)
    newest = max(attempts, key=lambda attempt: attempt.number, default=None)
    if newest is None or newest.number < record.attempt:
        return _without_attempt(record, observed, pausing=pausing)
    if newest.number == record.attempt and record.state in (StageState.RESTARTING, StageState.STOPPED):
        return record  # its end is already counted
    record = replace(record, attempt=newest.number)
    newest, resizes = in_place(run.spec.train, newest), newest.state in _RUNS and not pausing
    if resizes and (resized := _resized(run, record, newest, observed.quota, now)) is not None:
        return resized
    newest = withdrawn(newest, policy, now)
    if newest.state is AttemptState.FAILED:
        return after_failure(policy, record, newest, now, back_off)
    if newest.state in _RUNS or newest.active:
        if record.restarts > policy.max_restarts and newest.in_place is not None:
            why = Failure(record.in_place.exit_code, RESTARTED_IN_PLACE, record.in_place.message)
            return replace(record, state=StageState.FAILED, failure=why)
        enough = lowered_to(run.spec.train, policy, newest, now, record.min_count)
        return replace(record, state=StageState.RUNNING, not_before=None, nodes=None, min_count=enough)
    ended = StageState.COMPLETE
    if newest.waits:  # the other run has made the result; if not, the work itself comes next
        ended = StageState.CACHED if newest.reason == COMMITTED else StageState.RESTARTING
    return replace(record, state=ended, failure=None)


def _resized(run: DihtRun, record: StageRecord, newest: Attempt, quota: int | None, now: float) -> StageRecord | None:
    """The record of a stage whose gang gives way to one of another size; None if it goes on."""
    train, policy = run.spec.train, run.spec.failure_policy
    if train is None or train.min_nodes is None or not newest.is_gang:
        return None
    for_quota = resized_by_quota(train, policy, newest, quota, now)
    nodes = resized_to(train, policy, newest, now) if for_quota is None else for_quota
    if nodes is None:
        return None
    by_quota = for_quota is not None
    return replace(record, state=StageState.RESTARTING, nodes=nodes, resized_by_quota=by_quota, not_before=None)


def _belongs(attempt: Attempt, record: StageRecord) -> bool:
    return attempt.stage is record.stage and attempt.record_step == record.step


def _without_attempt(record: StageRecord, observed: Observed, *, pausing: bool) -> StageRecord:
    if record.stage in observed.cached:
        return replace(record, state=StageState.CACHED if record.attempt == 0 else StageState.COMPLETE)
    if record.state is StageState.RUNNING and pausing:
        return replace(record, state=StageState.STOPPED)
    return record


def _ended(run: DihtRun, status: RunStatus, now: float) -> RunStatus | None:
    """The final status, or None while the run has not ended."""
    failed = next((stage for stage in status.stages if stage.state is StageState.FAILED), None)
    if failed is not None:
        failure = failed.failure or Failure(None)
        return replace(
            status,
            state=RunState.FAILED,
            exit_code=ExitCode.UNEXPECTED if failure.exit_code is None else failure.exit_code,
            reason=failure_reason(failed, failure),
            message=failure_message(run, failed, failure),
            ended_at=now,
        )
    if all(stage.state in ENDED_WELL for stage in status.stages):
        return replace(status, state=RunState.COMPLETE, reason=Reason.COMPLETE, ended_at=now)
    deadline_s = run.spec.active_deadline_seconds
    if deadline_s is not None and running_seconds(status, now) >= deadline_s:
        message = (
            f"spec.activeDeadlineSeconds ({deadline_s} s of running time) is over: raise it and start again to resume"
        )
        return replace(
            status,
            state=RunState.FAILED,
            exit_code=ExitCode.USER_ERROR,
            reason=Reason.DEADLINE_EXCEEDED,
            message=message,
            ended_at=now,
        )
    return None


def _pause(run: DihtRun, observed: Observed, status: RunStatus, now: float) -> RunPlan:
    """Ask whatever runs to stop; once nothing runs, a request ends the run, and `suspend` holds it."""
    if living := _living(observed):
        return RunPlan(_stop(run, living), status)
    if not observed.stop_requested:
        stages = tuple(
            stage if stage.state in ENDED_WELL else replace(stage, time=paused(stage.time), nodes=None)
            for stage in status.stages
        )
        return RunPlan((), replace(status, state=RunState.SUSPENDED, stages=stages))
    stopped = {"exit_code": ExitCode.STOPPED, "reason": Reason.STOPPED, "message": "stopped on request"}
    return RunPlan((), replace(status, state=RunState.STOPPED, ended_at=now, **stopped))


def _stopped(status: RunStatus, current: StageRecord, now: float) -> RunStatus:
    """Somebody else asked a program to stop, and no node was lost: the run stops."""
    message = current.failure.message if current.failure else ""
    return replace(
        status,
        state=RunState.STOPPED,
        exit_code=ExitCode.STOPPED,
        reason=Reason.STOPPED,
        message=f"{current.stage}: {message or 'stopped on request'}",
        ended_at=now,
    )


def _with(status: RunStatus, old: StageRecord, new: StageRecord) -> RunStatus:
    return replace(status, stages=tuple(new if stage is old else stage for stage in status.stages))


def _advance(
    run: DihtRun, observed: Observed, now: float, status: RunStatus, current: StageRecord, back_off: BackOff
) -> RunPlan:
    """Start the current stage's next attempt when it is due; whatever else still runs is stopped first."""
    running = [
        attempt
        for attempt in observed.attempts
        if _belongs(attempt, current) and attempt.number == current.attempt and current.state is StageState.RUNNING
    ]
    others = tuple(attempt for attempt in _living(observed) if attempt not in running)
    if running or others:
        actions = (*_stop(run, others), *_lowered(running, current), *_resize(run, running, current, now))
        return RunPlan(actions, status)
    if current.not_before is not None and now < current.not_before <= now + back_off.longest_s:
        return RunPlan((), status)  # longer than any wait means that the clock was set back: the wait is over
    # A running attempt that does not exist was never started (a crash), or somebody removed it: start the same again.
    number = min(current.attempt + (current.state is not StageState.RUNNING), MAX_COUNT)
    fewer = still_fewer(run.spec.train, current.nodes)
    started = replace(current, state=StageState.RUNNING, attempt=number, not_before=None, nodes=fewer, min_count=None)
    step = WAIT_STEP if current.computed_elsewhere else current.step
    start = Start(current.stage, number, attempt_name(run.metadata.name, current.stage, number, step), step, fewer)
    if current.stage is Stage.TRAIN and step != WAIT_STEP:
        nodes = within_quota(run.spec.train, fewer, observed.quota)
        start = replace(start, nodes=nodes, quota=observed.quota, lacks_quota=nodes != fewer)
    started_at = now if status.started_at is None else status.started_at
    return RunPlan((start,), replace(_with(status, current, started), started_at=started_at))


def _lowered(running: list[Attempt], current: StageRecord) -> tuple[Action, ...]:
    if current.min_count is None:
        return ()
    return tuple(LowerMinCount(each.stage, each.pod_group, current.min_count) for each in running)


def _resize(run: DihtRun, running: list[Attempt], record: StageRecord, now: float) -> Iterator[Resize]:
    """Have a gang go on with other nodes in its living pods, where it is due."""
    policy = run.spec.failure_policy
    for each in running:
        without = resized_in_place(run.spec.train, policy, record, each, now)
        if without is not None and each.state in _RUNS and not each.ending:
            yield Resize(each.stage, each.number, attempt_name(run.metadata.name, each.stage, each.number), without)


def _wakes(run: DihtRun, observed: Observed, decided: RunPlan, now: float) -> Iterator[float]:
    """Times at which to plan again without a change."""
    yield from (stage.not_before for stage in decided.status.stages if stage.not_before is not None)
    if (deadline := deadline_at(decided.status, run.spec.active_deadline_seconds)) is not None:
        yield deadline
    policy = run.spec.failure_policy
    for attempt in observed.attempts:
        since = attempt.partially_started_at
        due = (
            resizes_at(policy, attempt),
            resizes_in_place_at(policy, attempt),
            None if since is None else since + policy.scheduling_timeout_seconds,
        )
        yield from (at for at in due if at is not None and at > now)


def _living(observed: Observed) -> tuple[Attempt, ...]:
    return tuple(attempt for attempt in observed.attempts if attempt.state in _RUNS or attempt.active)


def _stop(run: DihtRun, attempts: tuple[Attempt, ...]) -> tuple[Action, ...]:
    """Ask attempts to end, unless they were asked."""
    return tuple(
        Stop(each.stage, each.number, attempt_name(run.metadata.name, each.stage, each.number, each.step), each.step)
        for each in attempts
        if not each.ending
    )
