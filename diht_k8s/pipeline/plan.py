"""Pure planning: run document, what is observed and what is remembered go in; actions and the new status come out.

Level-based: nothing depends on having seen an event, so a plan that was lost (a crash between an action and the write of the
status) is made again. Names are deterministic: starting an attempt that is there already does nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.run import DihtRun, FailurePolicy, Spec, Stage
from diht_k8s.pipeline.states import (
    ENDED_WELL,
    FINAL,
    Action,
    Attempt,
    AttemptState,
    BackOff,
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
MAX_OUT_OF_MEMORY: Final = 2
"""A program that the kernel killed for memory twice will not fit the third time (our choice)."""
BACK_OFF: Final = BackOff()
_RUNS: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def attempt_name(run_name: str, stage: Stage, number: int) -> str:
    """The name of an attempt's Job: `{run}-{stage}-{attempt}`."""
    return f"{run_name}-{stage}-{number}"


def plan(
    run: DihtRun,
    observed: Observed,
    now: float,
    *,
    status: RunStatus,
    until: Stage | None = None,
    back_off: BackOff = BACK_OFF,
) -> Plan:
    """Decide what a run needs next.

    Args:
        run: the run.
        observed: what is there.
        now: seconds since the epoch.
        status: what the last plan said to remember.
        until: the last stage to run; None runs all.
        back_off: how long to wait before restarts.

    Returns:
        Actions and the new status. The stages run one after another; at most one has a living attempt.
    """
    if status.state in FINAL:
        return Plan(_stop_all(run, observed), status)
    stages = stages_until(run.spec, until)
    pausing, resumed = observed.stop_requested or run.spec.suspend, status.state is RunState.SUSPENDED
    known = tuple(_observe(run, status.of(stage), observed, now, back_off, pausing=pausing) for stage in stages)
    status = replace(status, stages=known, started_at=_started_at(status, known, now))
    if (ended := _ended(run, status, now)) is not None:
        return Plan(_stop_all(run, observed), ended)
    if pausing:
        return _pause(run, observed, status)
    current = next(stage for stage in known if stage.state not in ENDED_WELL)
    if current.state is StageState.STOPPED and not resumed:
        return Plan((), _stopped(status, current))
    return _advance(run, observed, now, replace(status, state=RunState.RUNNING), current)


def stages_until(spec: Spec, until: Stage | None) -> tuple[Stage, ...]:
    """The stages that a run has, up to and with `until`; all of them for None."""
    order = list(Stage)
    return tuple(stage for stage in spec.stages if until is None or order.index(stage) <= order.index(until))


def _started_at(status: RunStatus, known: tuple[StageStatus, ...], now: float) -> float | None:
    if status.started_at is None and any(stage.attempt for stage in known):
        return now
    return status.started_at


def _observe(
    run: DihtRun, status: StageStatus, observed: Observed, now: float, back_off: BackOff, *, pausing: bool
) -> StageStatus:
    """Fold what is observed of a stage into what is remembered of it."""
    policy = run.spec.failure_policy
    if status.state in ENDED_WELL or status.state is StageState.FAILED:
        return status
    attempts = [attempt for attempt in observed.attempts if attempt.stage is status.stage]
    newest = max(attempts, key=lambda attempt: attempt.number, default=None)
    if newest is None or newest.number < status.attempt:
        return _without_attempt(status, observed, pausing=pausing)
    if newest.number == status.attempt and status.state in (StageState.RESTARTING, StageState.STOPPED):
        return status  # its end is in the books already
    status = replace(status, attempt=newest.number)
    if newest.state in _RUNS or newest.active:
        return replace(status, state=StageState.RUNNING, not_before=None)
    if newest.state is AttemptState.SUCCEEDED:
        return replace(status, state=StageState.COMPLETE, failure=None)
    return _failed(policy, status, newest, now, back_off)


def _without_attempt(status: StageStatus, observed: Observed, *, pausing: bool) -> StageStatus:
    if status.stage in observed.cached:
        return replace(status, state=StageState.CACHED if status.attempt == 0 else StageState.COMPLETE)
    if status.state is StageState.RUNNING and pausing:
        return replace(status, state=StageState.STOPPED)
    return status


def _failed(policy: FailurePolicy, status: StageStatus, attempt: Attempt, now: float, back_off: BackOff) -> StageStatus:
    """What follows from an attempt that ended badly."""
    code = ExitCode.UNEXPECTED if attempt.exit_code is None else attempt.exit_code
    status = replace(status, failure=Failure(code, attempt.reason, attempt.message))
    if attempt.infrastructure:
        return _infrastructure_restart(policy, status, now)
    if code == ExitCode.STOPPED:
        return replace(status, state=StageState.STOPPED)
    if attempt.reason == "OOMKilled":
        status = replace(status, out_of_memory=status.out_of_memory + 1)
    no_use = code in NEVER_RETRIED or status.out_of_memory >= MAX_OUT_OF_MEMORY
    if no_use or status.restarts >= policy.max_restarts:
        return replace(status, state=StageState.FAILED)
    restarts = status.restarts + 1
    return replace(status, state=StageState.RESTARTING, restarts=restarts, not_before=now + back_off.delay_s(restarts))


def _infrastructure_restart(policy: FailurePolicy, status: StageStatus, now: float) -> StageStatus:
    """At once and on its own budget: the program did nothing wrong."""
    if status.infrastructure_restarts >= policy.max_infrastructure_restarts:
        return replace(status, state=StageState.FAILED)
    return replace(
        status,
        state=StageState.RESTARTING,
        infrastructure_restarts=status.infrastructure_restarts + 1,
        not_before=now,
    )


def _ended(run: DihtRun, status: RunStatus, now: float) -> RunStatus | None:
    """The final status, or None while there is something to do."""
    failed = next((stage for stage in status.stages if stage.state is StageState.FAILED), None)
    if failed is not None:
        failure = failed.failure or Failure(ExitCode.UNEXPECTED)
        return replace(
            status, state=RunState.FAILED, exit_code=failure.exit_code, message=_why_failed(run, failed, failure)
        )
    if all(stage.state in ENDED_WELL for stage in status.stages):
        return replace(status, state=RunState.COMPLETE)
    deadline_s = run.spec.active_deadline_seconds
    if deadline_s is not None and status.started_at is not None and now >= status.started_at + deadline_s:
        message = f"spec.activeDeadlineSeconds ({deadline_s} s) is over: raise it and start again to go on"
        return replace(status, state=RunState.FAILED, exit_code=ExitCode.USER_ERROR, message=message)
    return None


def _why_failed(run: DihtRun, status: StageStatus, failure: Failure) -> str:
    text = failure.message or f"exit code {failure.exit_code}"
    policy = run.spec.failure_policy
    if failure.exit_code not in NEVER_RETRIED and status.restarts and status.restarts >= policy.max_restarts:
        text += f" (restarted {status.restarts} times, failurePolicy.maxRestarts)"
    return f"{status.stage}: {text}"


def _pause(run: DihtRun, observed: Observed, status: RunStatus) -> Plan:
    """Ask what runs to stop; once nothing does, a request ends the run, and `suspend` holds it."""
    if stops := _stop_all(run, observed):
        return Plan(stops, status)
    if observed.stop_requested:
        return Plan(
            (), replace(status, state=RunState.STOPPED, exit_code=ExitCode.STOPPED, message="stopped on request")
        )
    return Plan((), replace(status, state=RunState.SUSPENDED))


def _stopped(status: RunStatus, current: StageStatus) -> RunStatus:
    """A program was asked to stop by somebody else than us, and the observer knows of no lost node: the run stops."""
    message = current.failure.message if current.failure else ""
    return replace(
        status,
        state=RunState.STOPPED,
        exit_code=ExitCode.STOPPED,
        message=f"{current.stage}: {message or 'stopped on request'}",
    )


def _advance(run: DihtRun, observed: Observed, now: float, status: RunStatus, current: StageStatus) -> Plan:
    """Start the current stage's next attempt where it is time, end a failed one that still has programs."""
    seen = any(attempt.stage is current.stage and attempt.number == current.attempt for attempt in observed.attempts)
    if current.state is StageState.RUNNING and seen:
        return Plan(_stop_failed(run, observed), status)
    if current.not_before is not None and now < current.not_before:
        return Plan((), status, wake_at=current.not_before)
    # A running attempt that is not there was never started (a crash came between), or somebody removed it: the same again.
    number = current.attempt + (current.state is not StageState.RUNNING)
    started = replace(current, state=StageState.RUNNING, attempt=number, not_before=None)
    stages = tuple(started if stage.stage is current.stage else stage for stage in status.stages)
    start = Start(current.stage, number, attempt_name(run.metadata.name, current.stage, number))
    started_at = now if status.started_at is None else status.started_at
    return Plan((start,), replace(status, stages=stages, started_at=started_at))


def _stop_all(run: DihtRun, observed: Observed) -> tuple[Action, ...]:
    return tuple(
        Stop(attempt.stage, attempt.number, attempt_name(run.metadata.name, attempt.stage, attempt.number))
        for attempt in observed.attempts
        if attempt.state in _RUNS or attempt.active
    )


def _stop_failed(run: DihtRun, observed: Observed) -> tuple[Action, ...]:
    """A stage whose one worker failed is over: the others stop at their next safe point."""
    failed = tuple(attempt for attempt in observed.attempts if attempt.state is AttemptState.FAILED and attempt.active)
    return _stop_all(run, replace(observed, attempts=failed))
