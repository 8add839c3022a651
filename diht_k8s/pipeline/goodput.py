"""Goodput: what each second of a stage went to, from its first attempt on. Pure.

The parts add up to the wall time by construction: an attempt is a line of moments (created, admitted, on a node,
running, as far as its program has told, ended), and each interval between two of them goes to one part. Moments are
timestamps of Jobs and pods, or of local processes; within a program its own monotonic clock counts. How often somebody
looks, and whether the operator was away, changes nothing, and looking twice at the same facts neither.

Steps are productive until they are found to be redone. A program says how many productive seconds lie behind its
position (the path) and behind its newest checkpoint (kept). Where the next one resumes is the high-water mark: what the
path had beyond it is lost.

The time of a stage as the status shows it, as it is read back, and in words. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final

from diht_k8s.api.reports import TimeSpent
from diht_k8s.api.status import MAX_COUNT, Goodput, StageGoodput, StageStatus, StartUp
from diht_k8s.api.times import seconds, timestamp
from diht_k8s.pipeline.attempts import Attempt, AttemptState, AttemptTimes
from diht_k8s.pipeline.run_status import RunStatus, StageRecord, StageTime, TimeParts

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


def time_parts(time: StageTime) -> TimeParts:
    """The parts of a stage, its steps among them divided into productive ones and lost ones."""
    parts = time.closed.plus(time.open).plus(time.tail)
    lost = min(parts.productive, max(0.0, time.lost + _lost(time)))
    return replace(parts, productive=parts.productive - lost, lost=lost)


def _lost(time: StageTime) -> float:
    """What the open attempt, or the one before it, has lost as far as one can tell."""
    if not time.told_spent:
        return max(0.0, time.path - time.kept)
    return time.open_lost + (max(0.0, time.open_path - time.open_kept) if time.failed else 0.0)


def _told(time: StageTime, moments: AttemptTimes, spent: TimeSpent | None, *, kept_s: float) -> StageTime:
    """The open attempt up to the last moment that is known, if it is later than the one known so far."""
    at, parts = time.base, TimeParts()
    gap = max(0.0, (moments.created if not time.readmitted else at) - at)
    parts = parts.plus(TimeParts(**{_between(time): gap}))
    at += gap
    for name, moment in (("queued", moments.admitted), ("scheduling", moments.placed), ("starting", moments.running)):
        if moment is None:
            return _further(time, parts, at)
        parts = parts.plus(TimeParts(**{name: max(0.0, moment - at)}))
        at = max(at, moment)
    if spent is None:
        return _further(time, parts, at, ran=True)
    own = reported_parts(spent)
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


def _further(time: StageTime, parts: TimeParts, told: float, *, ran: bool = False) -> StageTime:
    if told <= time.told and time.until > time.base:
        return time
    return replace(time, open=parts, tail=TimeParts(), told=told, until=told, ran=time.ran or ran)


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
    return replace(time, tail=TimeParts(**{name: rest}), until=max(time.until, time.told + rest), failed=failed)


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


def reported_parts(spent: TimeSpent) -> TimeParts:
    """What a program tells, as parts of its stage."""
    return TimeParts(
        starting=spent.starting,
        productive=spent.steps,
        checkpointing=spent.checkpoints,
        validating=spent.validation,
        waiting_for_data=spent.data,
        recovering=spent.recovering,
        other=spent.other,
    )


def whole_seconds(parts: TimeParts) -> dict[str, int]:
    """The parts in whole seconds whose sum is the whole seconds of the sum (largest remainders)."""
    names = [each.name for each in fields(parts)]
    exact = dict(zip(names, parts.values, strict=True))
    found = {name: int(value) for name, value in exact.items()}
    missing = round(parts.total) - sum(found.values())
    for name in sorted(names, key=lambda name: found[name] - exact[name])[: max(0, missing)]:
        found[name] += 1
    return found


PART_LABELS: Final = {
    "lost": "redone",
    "queued": "queued",
    "scheduling": "scheduling",
    "starting": "starting",
    "checkpointing": "standing still for checkpoints",
    "validating": "validating",
    "waiting_for_data": "waiting for data",
    "recovering": "down after failures",
    "suspended": "suspended",
    "other": "between stages and at the ends of attempts",
}
"""Parts other than the productive one, in words."""
MOST_SECONDS: Final = 1e10
LEAST_SHOWN: Final = 0.0005
"""Part of the wall time below which the sentence leaves a part out."""
_NUMBERS: Final = ("since", "until", "attempt", "base", "told", "lost", "path", "kept", "open_lost", "open_path", "open_kept")  # fmt: skip
_FLAGS: Final = ("ran", "told_spent", "failed", "readmitted", "suspended", "pausing")
_PARTS: Final = ("closed", "open", "tail")
_NAMES: Final = tuple(each.name for each in fields(TimeParts))


def stage_goodput(time: StageTime, *, ended: bool) -> StageGoodput | None:
    """What the status says of a stage's time; None before its first attempt. `ended`: nothing follows."""
    if not time.since:
        return None
    start_up = [
        StartUp(name=name[:63], seconds=f"{value:.1f}") for name, value in list(time.start_up.items())[:8] if value
    ]
    return StageGoodput(
        **_figures(whole_seconds(time_parts(time))),
        start_up=start_up,
        until=timestamp(time.until),
        ledger="" if ended else _ledger(time),
    )


def run_goodput(stages: Iterable[StageStatus]) -> Goodput | None:
    """The sum over all stages; None before the first attempt."""
    found = [shown_parts(stage.goodput) for stage in stages if stage.goodput is not None]
    if not found:
        return None
    whole = found[0]
    for parts in found[1:]:
        whole = whole.plus(parts)
    return Goodput(**_figures(whole_seconds(whole)))


def goodput_of(times: Iterable[StageTime]) -> Goodput:
    """The same from what a local run keeps in memory."""
    whole = TimeParts()
    for time in times:
        whole = whole.plus(time_parts(time))
    return Goodput(**_figures(whole_seconds(whole)))


def _figures(parts: dict[str, int]) -> dict[str, Any]:
    wall = sum(parts.values())
    percent = f"{100 * parts['productive'] / wall:.1f}" if wall else None
    return {
        "wall_seconds": min(wall, MAX_COUNT),
        "productive_percent": percent,
        **{f"{name}_seconds": min(value, MAX_COUNT) for name, value in parts.items()},
    }


def shown_parts(shown: Goodput) -> TimeParts:
    """The parts that a status shows."""
    return TimeParts(**{name: float(getattr(shown, f"{name}_seconds")) for name in _NAMES})


def saved_time(shown: StageGoodput | None) -> StageTime:
    """The time of a stage as its status holds it; without a ledger that can be read, what it shows is settled."""
    if shown is None:
        return StageTime()
    try:
        return _read(shown)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        parts, until = shown_parts(shown), min(seconds(shown.until) or 0.0, MOST_SECONDS)
        since = max(0.0, until - parts.total)
        path, worked = parts.productive, replace(parts, productive=parts.productive + parts.lost, lost=0.0)
        return StageTime(since, until, closed=worked, base=until, told=until, path=path, kept=path, lost=parts.lost)


def _ledger(time: StageTime) -> str:
    numbers = [_short(getattr(time, name)) for name in _NUMBERS]
    flags = [int(getattr(time, name)) for name in _FLAGS]
    parts = [_sparse(getattr(time, name)) for name in _PARTS]
    return json.dumps([*numbers, *flags, *parts], separators=(",", ":"))


def _sparse(parts: TimeParts) -> dict[str, float | int]:
    """Its parts by number, without those that are 0."""
    return {str(index): _short(value) for index, value in enumerate(parts.values) if _short(value)}


def _short(value: float) -> float | int:
    rounded = round(min(value, MOST_SECONDS), 2)
    return int(rounded) if rounded == int(rounded) else rounded


def _read(shown: StageGoodput) -> StageTime:
    found = json.loads(shown.ledger)
    numbers = dict(zip(_NUMBERS, (_number(each) for each in found[: len(_NUMBERS)]), strict=True))
    flags = found[len(_NUMBERS) : -len(_PARTS)]
    parts = dict(zip(_PARTS, (_parts(each) for each in found[-len(_PARTS) :]), strict=True))
    attempt = min(int(numbers.pop("attempt")), MAX_COUNT)
    start_up = {part.name: _number(float(part.seconds)) for part in shown.start_up}
    known: dict[str, Any] = dict(zip(_FLAGS, map(bool, flags), strict=True))
    return StageTime(**numbers, **parts, **known, attempt=attempt, start_up=start_up)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or not 0 <= number <= MOST_SECONDS:
        raise ValueError("no number of seconds")
    return number


def _parts(found: Any) -> TimeParts:
    return TimeParts(**{_NAMES[int(index)]: _number(value) for index, value in dict(found).items()})


def goodput_json(entries: Iterable[tuple[str, Goodput, int]]) -> str:
    """What the time of the stages before went to, for the environment of the evaluation; their names, times, attempts."""
    return json.dumps([
        {"stage": name, "wall_seconds": shown.wall_seconds, "text": goodput_text(shown, attempts)}
        for name, shown, attempts in entries
        if shown.wall_seconds
    ])  # fmt: skip


def goodput_text(shown: Goodput, attempts: int) -> str:
    """The goodput in words, for example `94.1 % productive; 3.2 % starting in 5 attempts; 1.0 % redone`."""
    wall = shown.wall_seconds
    if not wall:
        return "nothing measured yet"
    parts = {name: getattr(shown, f"{name}_seconds") / wall for name in PART_LABELS}
    listed = [f"{shown.productive_percent or '0.0'} % productive"]
    for name, part in sorted(parts.items(), key=lambda each: -each[1]):
        if part >= LEAST_SHOWN:
            often = f" in {attempts} attempts" if name == "starting" and attempts > 1 else ""
            listed.append(f"{100 * part:.1f} % {PART_LABELS[name]}{often}")
    return "; ".join(listed)
