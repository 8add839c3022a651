"""`spec.failurePolicy` applied to an attempt that failed: start again and when, or let the stage fail. Pure.

A failure takes one restart of a budget, committed work gives it back. A counter that only grows ends every long
training: at one fault per 50,677 GPU hours (Llama 3), 8,000 GPUs use up ten restarts in four days. A counter that each
checkpoint resets lets a loop that crashes after its first checkpoint run for ever. So each budget is a token bucket: a
failure takes one restart, and every `failurePolicy.healSeconds` of committed productive time give one back.

Progress is the growth of a remembered high-water mark, so that applying the same report twice changes nothing, and
training the same steps twice gives nothing back. Nothing heals before the stage has committed the step at which its
program failed: two failures at the same step never heal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from diht_k8s.api.errors import NEVER_RETRIED, ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun, FailurePolicy
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork
from diht_k8s.pipeline.run_status import Failure, StageRecord


def with_progress(record: StageRecord, attempts: Iterable[Attempt], policy: FailurePolicy) -> StageRecord:
    """The record with the committed work of its attempts, and with the restarts that this work gives back."""
    work = record.work
    for attempt in attempts:
        if attempt.work is not None:
            work = _advanced(work, attempt.work)
    return _healed(replace(record, work=work), policy.heal_seconds)


def with_restarts_in_place(record: StageRecord, attempts: Iterable[Attempt]) -> StageRecord:
    """The record with the restarts in place that its attempts report, on the budget of the program's own faults.

    Each report names the total of its attempt, so the highest one counts: one that is read twice, late or from another
    place changes nothing.
    """
    for attempt in sorted(attempts, key=lambda attempt: attempt.number):
        said, known = attempt.in_place, record.in_place
        if said is None or not said.restarts or (said.attempt, said.restarts) <= (known.attempt, known.restarts):
            continue
        new = said.restarts - (known.restarts if said.attempt == known.attempt else 0)
        step = said.failed_at if said.failed_at is not None else record.work.position + 1
        since = record.healed_until if record.restarts else record.work.seconds
        record = replace(
            record,
            in_place=said,
            total_in_place=record.total_in_place + new,
            restarts=record.restarts + new,
            healed_until=since,
            failed_at=max(record.failed_at, step),
        )
    return record


def charged(record: StageRecord, *, infrastructure: bool) -> StageRecord:
    """The record with one more restart on the budget of its cause."""
    record = replace(record, total_restarts=record.total_restarts + 1)
    seconds = record.work.seconds
    if infrastructure:
        since = record.infrastructure_healed_until if record.infrastructure_restarts else seconds
        used = record.infrastructure_restarts + 1
        return replace(record, infrastructure_restarts=used, infrastructure_healed_until=since)
    since = record.healed_until if record.restarts else seconds
    return replace(record, restarts=record.restarts + 1, healed_until=since)


def failed_at(record: StageRecord, attempt: Attempt) -> StageRecord:
    """The record with the step at which the program failed; the first one that is not committed where nobody knows."""
    step = attempt.failed_at if attempt.failed_at is not None else record.work.position + 1
    return replace(record, failed_at=max(record.failed_at, step))


def _advanced(mark: CommittedWork, report: CommittedWork) -> CommittedWork:
    """The high-water mark after a report: time counts only where the position has advanced."""
    if report.position <= mark.position:
        return mark
    return CommittedWork(report.position, max(mark.seconds, report.seconds))


def _healed(record: StageRecord, heal_seconds: int) -> StageRecord:
    """The record with the restarts that its productive time has given back."""
    if record.work.position < record.failed_at:
        return record
    seconds = record.work.seconds
    restarts, since = _given_back(record.restarts, record.healed_until, seconds, heal_seconds)
    lost, lost_since = _given_back(
        record.infrastructure_restarts, record.infrastructure_healed_until, seconds, heal_seconds
    )
    return replace(
        record,
        restarts=restarts,
        healed_until=since,
        infrastructure_restarts=lost,
        infrastructure_healed_until=lost_since,
        out_of_memory=min(record.out_of_memory, restarts) if restarts < record.restarts else record.out_of_memory,
    )


def _given_back(used: int, since: int, seconds: int, heal_seconds: int) -> tuple[int, int]:
    """Restarts that are still used, and the productive time up to which they were given back."""
    count = min(used, max(0, seconds - since) // heal_seconds)
    return used - count, since + count * heal_seconds


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
