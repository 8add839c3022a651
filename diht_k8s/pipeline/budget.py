"""Restart budgets: a failure takes one restart, committed work gives it back. Pure.

A counter that only grows ends every long training: at one fault per 50,677 GPU hours (Llama 3), 8,000 GPUs use up ten
restarts in four days. A counter that each checkpoint resets lets a loop that crashes after its first checkpoint run for
ever. So each budget is a token bucket: a failure takes one restart, and every `failurePolicy.healSeconds` of committed
productive time give one back.

Progress is the growth of a remembered high-water mark, so that applying the same report twice changes nothing, and
training the same steps twice gives nothing back. Nothing heals before the stage has committed the step at which its
program failed: two failures at the same step never heal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diht_k8s.api.run import FailurePolicy
from diht_k8s.pipeline.attempts import Attempt, CommittedWork
from diht_k8s.pipeline.run_status import StageRecord


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
