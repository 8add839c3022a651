"""`spec.failurePolicy` applied to an attempt that failed: start again and when, or let the stage fail. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from diht_k8s.api.errors import NEVER_RETRIED, ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, FailurePolicy
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.budget import charged, failed_at
from diht_k8s.pipeline.run_status import Failure, StageRecord

NEVER_RETRIED_REASONS: Final = frozenset({"StartError", "ContainerCannotRun"})
"""The container runtime's reasons for a program that cannot be started."""
MAX_OUT_OF_MEMORY: Final = 2
"""A program that the kernel killed for memory twice will not fit a third time (our choice)."""
PROMPT_INFRASTRUCTURE_RESTARTS: Final = 3
MOST_INFRASTRUCTURE_WAIT_S: Final = 15.0
"""Lost pods are replaced at once, from the fourth on after a short wait: a broken node is no busy loop (our choice)."""
SCHEDULING_TIMEOUT: Final = "SchedulingTimeout"


@dataclass(frozen=True)
class BackOff:
    """Waiting before a restart: `first_s`, doubled with each restart, at most `most_s` (our choice)."""

    first_s: float = 1.0
    most_s: float = 300.0
    jitter: float = 0.0
    """0 to 1: lengthens the wait by up to a quarter, so that runs that failed together do not come back together."""

    @property
    def longest_s(self) -> float:
        """No wait is longer, whatever its jitter."""
        return self.most_s * 1.25

    def delay_s(self, restarts: int) -> float:
        """Seconds before restart number `restarts` (from 1)."""
        return min(self.most_s, self.first_s * 2.0 ** min(restarts - 1, 32)) * (1 + self.jitter / 4)


BACK_OFF: Final = BackOff()


def withdrawn(attempt: Attempt, policy: FailurePolicy, now: float) -> Attempt:
    """The attempt, failed if only some of its pods have found nodes for too long: another gang may wait for these
    nodes.
    """
    timeout_s = policy.scheduling_timeout_seconds
    if attempt.partially_started_at is None or now < attempt.partially_started_at + timeout_s:
        return attempt
    message = f"only some of its pods found a node within {timeout_s} s (failurePolicy.schedulingTimeoutSeconds)"
    return replace(attempt, state=AttemptState.FAILED, infrastructure=True, reason=SCHEDULING_TIMEOUT, message=message)


def after_failure(
    policy: FailurePolicy, record: StageRecord, attempt: Attempt, now: float, back_off: BackOff
) -> StageRecord:
    """The record of a stage whose attempt failed."""
    if attempt.waits:
        return _after_failed_wait(policy, record, replace(attempt, step=""), now, back_off)
    failure = Failure(attempt.exit_code, attempt.reason, attempt.message, infrastructure=attempt.infrastructure)
    record = replace(record, failure=failure, nodes=None)
    if failure.computed_elsewhere:  # counts towards nothing, and there is nothing to wait for before the waiting
        return replace(record, state=StageState.RESTARTING, not_before=None)
    if attempt.infrastructure:
        return _infrastructure_restart(policy, record, now, back_off)
    if attempt.exit_code == ExitCode.STOPPED:
        return replace(record, state=StageState.STOPPED)
    if attempt.reason == "OOMKilled":
        record = replace(record, out_of_memory=record.out_of_memory + 1)
    no_use = is_never_retried(failure) or record.out_of_memory >= MAX_OUT_OF_MEMORY
    if no_use or record.restarts >= policy.max_restarts:
        return replace(record, state=StageState.FAILED)
    record = charged(failed_at(record, attempt), infrastructure=False)
    return replace(record, state=StageState.RESTARTING, not_before=now + back_off.delay_s(record.restarts))


def _after_failed_wait(
    policy: FailurePolicy, record: StageRecord, attempt: Attempt, now: float, back_off: BackOff
) -> StageRecord:
    """The record after an attempt that waited for another run and failed: that run still is why, so the next one waits,
    too.
    """
    after = after_failure(policy, record, attempt, now, back_off)
    return after if after.state is StageState.FAILED else replace(after, failure=record.failure)


def is_never_retried(failure: Failure) -> bool:
    """Whether the next attempt would fail for the same cause."""
    return failure.exit_code in NEVER_RETRIED or failure.reason in NEVER_RETRIED_REASONS


def _infrastructure_restart(policy: FailurePolicy, record: StageRecord, now: float, back_off: BackOff) -> StageRecord:
    """Restart soon and on a budget of its own: the program did nothing wrong."""
    if record.infrastructure_restarts >= policy.max_infrastructure_restarts:
        return replace(record, state=StageState.FAILED)
    record = charged(record, infrastructure=True)
    restarts = record.infrastructure_restarts
    late = restarts - PROMPT_INFRASTRUCTURE_RESTARTS
    wait_s = min(back_off.delay_s(late), MOST_INFRASTRUCTURE_WAIT_S) if late > 0 else 0.0
    if record.failure is not None and record.failure.reason == SCHEDULING_TIMEOUT:
        wait_s = back_off.delay_s(restarts)  # leaves the nodes to others that wait for them from time to time
    return replace(record, state=StageState.RESTARTING, not_before=now + wait_s)


def failure_reason(record: StageRecord, failure: Failure) -> Reason:
    """Why the run of a stage that failed for good has failed, for machines."""
    if failure.infrastructure:
        return Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED
    if failure.exit_code == ExitCode.BAD_DATA:
        return Reason.BAD_DATA
    if is_never_retried(failure):
        return Reason.USER_ERROR
    return Reason.OUT_OF_MEMORY if record.out_of_memory >= MAX_OUT_OF_MEMORY else Reason.RESTARTS_EXHAUSTED


def failure_message(run: DihtRun, record: StageRecord, failure: Failure) -> str:
    """The same in one line for a person."""
    text = failure.message or (
        f"exit code {failure.exit_code}" if failure.exit_code is not None else "no program ended"
    )
    policy = run.spec.failure_policy
    if not is_never_retried(failure) and record.restarts and record.restarts >= policy.max_restarts:
        text += f" (restarted {record.restarts} times, failurePolicy.maxRestarts)"
    return f"{record.stage}: {text}"
