"""Pure planning: run document, what is observed and what is remembered go in; actions and the new status come out.

Level-based: nothing depends on having seen an event, so a plan that was lost (a crash between an action and the write of the
status) is made again. Names are deterministic: starting an attempt that is there already does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, FailurePolicy, Spec, Stage
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.pipeline.states import (
    ENDED_WELL,
    FINAL,
    Action,
    Attempt,
    AttemptState,
    BackOff,
    Expire,
    Failure,
    Observed,
    Plan,
    RunState,
    RunStatus,
    StageState,
    StageStatus,
    Start,
    Stop,
)

NEVER_RETRIED: Final = frozenset({ExitCode.USER_ERROR, ExitCode.BAD_DATA, 2, 126, 127})
"""Wrong configuration or data, wrong usage, a program that cannot be started or found: the next attempt fails alike."""
NEVER_RETRIED_REASONS: Final = frozenset({"StartError", "ContainerCannotRun"})
"""The container runtime's words for a program that cannot be started."""
MAX_OUT_OF_MEMORY: Final = 2
"""A program that the kernel killed for memory twice will not fit the third time (our choice)."""
PROMPT_INFRASTRUCTURE_RESTARTS: Final = 3
MOST_INFRASTRUCTURE_WAIT_S: Final = 15.0
"""Lost pods are replaced at once; from the fourth on with a short wait, so that a broken node is no busy loop (our choice)."""
SCHEDULING_TIMEOUT: Final = "SchedulingTimeout"
BACK_OFF: Final = BackOff()
CLUSTER_STEPS: Final[Mapping[Stage, tuple[str, ...]]] = {Stage.LABEL: LABEL_STEPS}
"""Label runs as three jobs of different shapes, one after another."""
_RUNS: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def attempt_name(run_name: str, stage: Stage, number: int, step: str = "") -> str:
    """The name of an attempt's Job: `{run}-{stage}-{attempt}`, or the step's name in place of the stage's."""
    return f"{run_name}-{step or stage}-{number}"


def plan(
    run: DihtRun,
    observed: Observed,
    now: float,
    *,
    status: RunStatus,
    until: Stage | None = None,
    back_off: BackOff = BACK_OFF,
    steps: Mapping[Stage, tuple[str, ...]] | None = None,
) -> Plan:
    """Decide what a run needs next.

    Args:
        run: the run.
        observed: what is there.
        now: seconds since the epoch.
        status: what the last plan said to remember.
        until: the last stage to run; None runs all.
        back_off: how long to wait before restarts.
        steps: stages that are run as several jobs, one after another.

    Returns:
        Actions and the new status. The stages run one after another; at most one has a living attempt.
    """
    if status.state in FINAL:
        if not observed.retry_requested or status.state is RunState.COMPLETE:
            return _final(run, observed, status, now)
        status = _retried(status)
    units = [(stage, step) for stage in stages_until(run.spec, until) for step in (steps or {}).get(stage, ("",))]
    pausing, resumed = observed.stop_requested or run.spec.suspend, status.state is RunState.SUSPENDED
    known = tuple(_observe(run, status.of(*unit), observed, now, back_off, pausing=pausing) for unit in units)
    status = replace(status, stages=known, started_at=_started_at(status, known, now))
    if (ended := _ended(run, status, now)) is not None:
        return _final(run, observed, ended, now)
    if pausing:
        return _pause(run, observed, status)
    current = next(stage for stage in known if stage.state not in ENDED_WELL)
    if current.state is StageState.STOPPED and not resumed:
        return Plan((), _stopped(status, current))
    decided = _advance(run, observed, now, replace(status, state=RunState.RUNNING), current, back_off)
    return replace(decided, wake_at=min(_wakes(run, observed, decided), default=None))


def stages_until(spec: Spec, until: Stage | None) -> tuple[Stage, ...]:
    """The stages that a run has, up to and with `until`; all of them for None."""
    order = list(Stage)
    return tuple(stage for stage in spec.stages if until is None or order.index(stage) <= order.index(until))


def _started_at(status: RunStatus, known: tuple[StageStatus, ...], now: float) -> float | None:
    if status.started_at is None and any(stage.attempt for stage in known):
        return now
    return status.started_at


def _final(run: DihtRun, observed: Observed, status: RunStatus, now: float) -> Plan:
    """Nothing runs any more; a run with a time to live is deleted at its end."""
    stops, ttl_s = _stop(run, _living(observed)), run.spec.ttl_seconds_after_finished
    if ttl_s is None or status.ended_at is None:
        return Plan(stops, status)
    expires_at = status.ended_at + ttl_s
    return Plan((*stops, Expire()), status) if now >= expires_at else Plan(stops, status, wake_at=expires_at)


def _retried(status: RunStatus) -> RunStatus:
    """Go on with the stage that failed, with all its restarts to spare; attempts count on, since their names are taken."""
    stages = tuple(
        stage
        if stage.state in ENDED_WELL or not stage.attempt
        else StageStatus(stage.stage, StageState.RESTARTING, stage.attempt, failure=stage.failure, step=stage.step)
        for stage in status.stages
    )
    return RunStatus(stages=stages)


def _observe(
    run: DihtRun, status: StageStatus, observed: Observed, now: float, back_off: BackOff, *, pausing: bool
) -> StageStatus:
    """Fold what is observed of a stage into what is remembered of it."""
    policy = run.spec.failure_policy
    if status.state in ENDED_WELL or status.state is StageState.FAILED:
        return status
    attempts = [attempt for attempt in observed.attempts if _belongs(attempt, status)]
    newest = max(attempts, key=lambda attempt: attempt.number, default=None)
    if newest is None or newest.number < status.attempt:
        return _without_attempt(status, observed, pausing=pausing)
    if newest.number == status.attempt and status.state in (StageState.RESTARTING, StageState.STOPPED):
        return status  # its end is in the books already
    newest, status = _timed_out(newest, policy, now), replace(status, attempt=newest.number)
    if newest.state is AttemptState.FAILED:
        return _failed(policy, status, newest, now, back_off)
    if newest.state in _RUNS or newest.active:
        return replace(status, state=StageState.RUNNING, not_before=None)
    return replace(status, state=StageState.COMPLETE, failure=None)


def _belongs(attempt: Attempt, status: StageStatus) -> bool:
    return attempt.stage is status.stage and attempt.step == status.step


def _without_attempt(status: StageStatus, observed: Observed, *, pausing: bool) -> StageStatus:
    if status.stage in observed.cached:
        return replace(status, state=StageState.CACHED if status.attempt == 0 else StageState.COMPLETE)
    if status.state is StageState.RUNNING and pausing:
        return replace(status, state=StageState.STOPPED)
    return status


def _timed_out(attempt: Attempt, policy: FailurePolicy, now: float) -> Attempt:
    """A gang that started by half holds nodes that another one may be waiting for: it is withdrawn after a while."""
    timeout_s = policy.scheduling_timeout_seconds
    if attempt.half_started_at is None or now < attempt.half_started_at + timeout_s:
        return attempt
    message = f"only some of its pods found a node within {timeout_s} s (failurePolicy.schedulingTimeoutSeconds)"
    return replace(attempt, state=AttemptState.FAILED, infrastructure=True, reason=SCHEDULING_TIMEOUT, message=message)


def _failed(policy: FailurePolicy, status: StageStatus, attempt: Attempt, now: float, back_off: BackOff) -> StageStatus:
    """What follows from an attempt that ended badly."""
    code = ExitCode.UNEXPECTED if attempt.exit_code is None else attempt.exit_code
    failure = Failure(code, attempt.reason, attempt.message, infrastructure=attempt.infrastructure)
    status = replace(status, failure=failure)
    if attempt.infrastructure:
        return _infrastructure_restart(policy, status, now, back_off)
    if code == ExitCode.STOPPED:
        return replace(status, state=StageState.STOPPED)
    if attempt.reason == "OOMKilled":
        status = replace(status, out_of_memory=status.out_of_memory + 1)
    no_use = is_never_retried(failure) or status.out_of_memory >= MAX_OUT_OF_MEMORY
    if no_use or status.restarts >= policy.max_restarts:
        return replace(status, state=StageState.FAILED)
    restarts = status.restarts + 1
    return replace(status, state=StageState.RESTARTING, restarts=restarts, not_before=now + back_off.delay_s(restarts))


def is_never_retried(failure: Failure) -> bool:
    """Whether the next attempt would fail alike."""
    return failure.exit_code in NEVER_RETRIED or failure.reason in NEVER_RETRIED_REASONS


def _infrastructure_restart(policy: FailurePolicy, status: StageStatus, now: float, back_off: BackOff) -> StageStatus:
    """On its own budget and soon: the program did nothing wrong."""
    if status.infrastructure_restarts >= policy.max_infrastructure_restarts:
        return replace(status, state=StageState.FAILED)
    restarts = status.infrastructure_restarts + 1
    late = restarts - PROMPT_INFRASTRUCTURE_RESTARTS
    wait_s = min(back_off.delay_s(late), MOST_INFRASTRUCTURE_WAIT_S) if late > 0 else 0.0
    if status.failure is not None and status.failure.reason == SCHEDULING_TIMEOUT:
        wait_s = back_off.delay_s(restarts)  # whoever waits for the same nodes comes first now and then
    return replace(status, state=StageState.RESTARTING, infrastructure_restarts=restarts, not_before=now + wait_s)


def _ended(run: DihtRun, status: RunStatus, now: float) -> RunStatus | None:
    """The final status, or None while there is something to do."""
    failed = next((stage for stage in status.stages if stage.state is StageState.FAILED), None)
    if failed is not None:
        failure = failed.failure or Failure(ExitCode.UNEXPECTED)
        return replace(
            status,
            state=RunState.FAILED,
            exit_code=failure.exit_code,
            reason=_reason(failed, failure),
            message=_why_failed(run, failed, failure),
            ended_at=now,
        )
    if all(stage.state in ENDED_WELL for stage in status.stages):
        return replace(status, state=RunState.COMPLETE, reason=Reason.COMPLETE, ended_at=now)
    deadline_s = run.spec.active_deadline_seconds
    if deadline_s is not None and status.started_at is not None and now >= status.started_at + deadline_s:
        message = f"spec.activeDeadlineSeconds ({deadline_s} s) is over: raise it and start again to go on"
        return replace(
            status,
            state=RunState.FAILED,
            exit_code=ExitCode.USER_ERROR,
            reason=Reason.DEADLINE_EXCEEDED,
            message=message,
            ended_at=now,
        )
    return None


def _reason(status: StageStatus, failure: Failure) -> Reason:
    if failure.infrastructure:
        return Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED
    if failure.exit_code == ExitCode.BAD_DATA:
        return Reason.BAD_DATA
    if is_never_retried(failure):
        return Reason.USER_ERROR
    return Reason.OUT_OF_MEMORY if status.out_of_memory >= MAX_OUT_OF_MEMORY else Reason.RESTARTS_EXHAUSTED


def _why_failed(run: DihtRun, status: StageStatus, failure: Failure) -> str:
    text = failure.message or f"exit code {failure.exit_code}"
    policy = run.spec.failure_policy
    if not is_never_retried(failure) and status.restarts and status.restarts >= policy.max_restarts:
        text += f" (restarted {status.restarts} times, failurePolicy.maxRestarts)"
    return f"{status.stage}: {text}"


def _pause(run: DihtRun, observed: Observed, status: RunStatus) -> Plan:
    """Ask what runs to stop; once nothing does, a request ends the run, and `suspend` holds it."""
    if living := _living(observed):
        return Plan(_stop(run, living), status)
    if not observed.stop_requested:
        return Plan((), replace(status, state=RunState.SUSPENDED))
    stopped = {"exit_code": ExitCode.STOPPED, "reason": Reason.STOPPED, "message": "stopped on request"}
    return Plan((), replace(status, state=RunState.STOPPED, **stopped))


def _stopped(status: RunStatus, current: StageStatus) -> RunStatus:
    """A program was asked to stop by somebody else than us, and the observer knows of no lost node: the run stops."""
    message = current.failure.message if current.failure else ""
    return replace(
        status,
        state=RunState.STOPPED,
        exit_code=ExitCode.STOPPED,
        reason=Reason.STOPPED,
        message=f"{current.stage}: {message or 'stopped on request'}",
    )


def _advance(
    run: DihtRun, observed: Observed, now: float, status: RunStatus, current: StageStatus, back_off: BackOff
) -> Plan:
    """Start the current stage's next attempt where it is time; whatever else still runs is stopped first."""
    running = [
        attempt
        for attempt in observed.attempts
        if _belongs(attempt, current) and attempt.number == current.attempt and current.state is StageState.RUNNING
    ]
    others = tuple(attempt for attempt in _living(observed) if attempt not in running)
    if running or others:
        return Plan(_stop(run, others), status)
    if current.not_before is not None and now < current.not_before <= now + back_off.longest_s:
        return Plan((), status)  # a longer wait than any was decided before the clock was set back: it is over
    # A running attempt that is not there was never started (a crash came between), or somebody removed it: the same again.
    number = current.attempt + (current.state is not StageState.RUNNING)
    started = replace(current, state=StageState.RUNNING, attempt=number, not_before=None)
    stages = tuple(started if stage is current else stage for stage in status.stages)
    name = attempt_name(run.metadata.name, current.stage, number, current.step)
    start = Start(current.stage, number, name, current.step)
    started_at = now if status.started_at is None else status.started_at
    return Plan((start,), replace(status, stages=stages, started_at=started_at))


def _wakes(run: DihtRun, observed: Observed, decided: Plan) -> Iterator[float]:
    """When something is due though nothing happens."""
    yield from (stage.not_before for stage in decided.status.stages if stage.not_before is not None)
    if run.spec.active_deadline_seconds is not None and decided.status.started_at is not None:
        yield decided.status.started_at + run.spec.active_deadline_seconds
    for attempt in observed.attempts:
        if attempt.half_started_at is not None:
            yield attempt.half_started_at + run.spec.failure_policy.scheduling_timeout_seconds


def _living(observed: Observed) -> tuple[Attempt, ...]:
    return tuple(attempt for attempt in observed.attempts if attempt.state in _RUNS or attempt.active)


def _stop(run: DihtRun, attempts: tuple[Attempt, ...]) -> tuple[Action, ...]:
    """Ask attempts to end, unless they were asked."""
    return tuple(
        Stop(each.stage, each.number, attempt_name(run.metadata.name, each.stage, each.number, each.step), each.step)
        for each in attempts
        if not each.ending
    )
