"""Goodput: what each second of a stage went to, from its first attempt on. Pure.

The parts add up to the wall time by construction: an attempt is a line of moments (created, admitted, on a node,
running, as far as its program has told, ended), and each interval between two of them goes to one part. Moments are
timestamps of Jobs and pods, or of local processes; within a program its own monotonic clock counts. How often somebody
looks, and whether the operator was away, changes nothing, and looking twice at the same facts neither.

Steps are productive until they are found to be redone. A program says how many productive seconds lie behind its
position (the path) and behind its newest checkpoint (kept). Where the next one resumes is the high-water mark: what the
path had beyond it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Final

from diht_k8s.api.reports import TimeSpent
from diht_k8s.pipeline.states import Attempt, AttemptState, Moments, Parts, RunStatus, StageRecord, StageTime

_LIVES: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def with_goodput(status: RunStatus, attempts: Iterable[Attempt]) -> RunStatus:
    """The status with the time of its stages as far as its attempts tell it."""
    ordered = sorted(attempts, key=lambda attempt: attempt.number)
    stages, before = list[StageRecord](), 0.0
    for record in status.stages:
        own = [each for each in ordered if each.stage is record.stage and each.step == record.step]
        time = record.time
        for attempt in own:
            time = with_attempt(time, attempt, kept_s=record.work.seconds, after=before)
        stages.append(record if time == record.time else replace(record, time=time))
        before = max(before, time.until)
    return replace(status, stages=tuple(stages))


def paused(time: StageTime) -> StageTime:
    """The time of a stage whose run is suspended or over: until its next attempt nobody wants it to run."""
    return time if time.pausing else replace(time, pausing=True)


def with_attempt(time: StageTime, attempt: Attempt, *, kept_s: float, after: float) -> StageTime:
    """The time of a stage with what is known of one attempt.

    Args:
        time: as known so far.
        attempt: as observed.
        kept_s: committed seconds of a stage whose program names none itself.
        after: seconds since the epoch at which the stage before ended; 0 without one.
    """
    moments = attempt.moments
    if moments is None or attempt.number < time.attempt:
        return time
    if attempt.number > time.attempt:
        begins = time.until or min(after or moments.created, moments.created)
        since = time.since or begins
        time = replace(_closed(time), attempt=attempt.number, since=since, base=begins, told=begins, until=begins)
    elif moments.admitted is not None and moments.admitted > time.until and time.ran:
        time = replace(_closed(time), attempt=attempt.number, readmitted=True)  # back from its queue
    time = _told(time, moments, attempt.spent, kept_s=kept_s)
    return _ended(time, attempt)


def total(time: StageTime) -> Parts:
    """The parts of a stage, its steps among them divided into productive ones and lost ones."""
    parts = time.closed.plus(time.open).plus(time.tail)
    lost = min(parts.productive, max(0.0, time.lost + _lost(time)))
    return replace(parts, productive=parts.productive - lost, lost=lost)


def _lost(time: StageTime) -> float:
    """What the open attempt, or the one before it, has lost as far as one can tell."""
    if not time.told_spent:
        return max(0.0, time.path - time.kept)
    return time.open_lost + (max(0.0, time.open_path - time.open_kept) if time.failed else 0.0)


def _told(time: StageTime, moments: Moments, spent: TimeSpent | None, *, kept_s: float) -> StageTime:
    """The open attempt up to the last moment that is known, if it is later than the one known so far."""
    at, parts = time.base, Parts()
    gap = max(0.0, (moments.created if not time.readmitted else at) - at)
    parts = parts.plus(Parts(**{_between(time): gap}))
    at += gap
    for name, moment in (("queued", moments.admitted), ("scheduling", moments.placed), ("starting", moments.running)):
        if moment is None:
            return _further(time, parts, at)
        parts = parts.plus(Parts(**{name: max(0.0, moment - at)}))
        at = max(at, moment)
    if spent is None:
        return _further(time, parts, at, ran=True)
    own = parts_of(spent)
    length, known = own.total, None if moments.ended is None else max(0.0, moments.ended - at)
    if known is not None and length > known:
        own, length = own.times(known / length), known  # timestamps of whole seconds
    if at + length < time.told or (time.told_spent and at + length == time.told):
        return time
    resumed = time.kept if spent.resumed is None else spent.resumed
    path = time.kept + spent.steps if spent.path is None else spent.path
    kept = min(max(kept_s, time.kept), path) if spent.kept is None else spent.kept
    return replace(
        _further(time, parts.plus(own), at + length, ran=True),
        told_spent=True,
        open_lost=spent.lost + max(0.0, time.path - resumed),
        open_path=path,
        open_kept=kept,
        start_up={"pod": parts.starting, **spent.start_up},
    )


def _further(time: StageTime, parts: Parts, told: float, *, ran: bool = False) -> StageTime:
    if told <= time.told and time.until > time.base:
        return time
    return replace(time, open=parts, tail=Parts(), told=told, until=told, ran=time.ran or ran)


def _ended(time: StageTime, attempt: Attempt) -> StageTime:
    """The time up to the attempt's end: what its program did not tell any more."""
    moments, failed = attempt.moments, attempt.state is AttemptState.FAILED
    assert moments is not None
    if moments.ended is None or attempt.state in _LIVES:
        return time
    rest = max(0.0, moments.ended - time.told)
    name = "recovering" if failed else "other"
    if not time.told_spent:
        name = "productive" if time.ran and not failed else "recovering"
    return replace(time, tail=Parts(**{name: rest}), until=max(time.until, time.told + rest), failed=failed)


def _closed(time: StageTime) -> StageTime:
    """The time with its open attempt among the closed ones; where it got to is kept for the next one."""
    told = time.told_spent
    return StageTime(
        since=time.since,
        until=time.until,
        closed=time.closed.plus(time.open).plus(time.tail),
        base=time.until,
        told=time.until,
        suspended=time.pausing,
        start_up=time.start_up,
        path=time.open_path if told else time.path,
        kept=time.open_kept if told else time.kept,
        lost=time.lost + (time.open_lost if told else 0.0),
    )


def _between(time: StageTime) -> str:
    if time.suspended:
        return "suspended"
    return "recovering" if time.base > time.since else "other"


def parts_of(spent: TimeSpent) -> Parts:
    """What a program tells, as parts of its stage."""
    return Parts(
        starting=spent.starting,
        productive=spent.steps,
        checkpointing=spent.checkpoints,
        validating=spent.validation,
        waiting_for_data=spent.data,
        recovering=spent.recovering,
        other=spent.other,
    )


def whole_seconds(parts: Parts) -> dict[str, int]:
    """The parts in whole seconds whose sum is the whole seconds of the sum (largest remainders)."""
    names = [each.name for each in fields(parts)]
    exact = dict(zip(names, parts.values, strict=True))
    found = {name: int(value) for name, value in exact.items()}
    missing = round(parts.total) - sum(found.values())
    for name in sorted(names, key=lambda name: found[name] - exact[name])[: max(0, missing)]:
        found[name] += 1
    return found
