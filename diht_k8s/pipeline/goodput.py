"""Goodput: the wall time of each stage by category, from its first attempt on, and how status and pages show it. Pure.

Of an elastic training it is in node-seconds over the nodes wished for: on 3 of 4 nodes a second of steps is 0.75 s of
productive time and 0.25 s of missing nodes.

The parts add up to the wall time by construction: an attempt is a line of timestamps (created, admitted, on a node,
running, last report, ended), and each interval between two of them goes to one part. The timestamps are those of Jobs
and pods, or of local processes; within a program its own monotonic clock counts. How often the operator looks, and
whether it was away, changes nothing, and neither does looking twice at the same facts.

Steps are productive until they are found to be redone. A program reports how many productive seconds lie behind its
position (`path`) and behind its newest checkpoint (`kept`). The next attempt resumes at the high-water mark: what the
path had beyond it is lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final

from diht_k8s.api.base import seconds, timestamp
from diht_k8s.api.errors import ComputedElsewhere
from diht_k8s.api.reports import TimeSpent
from diht_k8s.api.status import MAX_COUNT, Goodput, StageGoodput, StageStatus, StartUp
from diht_k8s.pipeline.attempts import Attempt, AttemptState, AttemptTimes
from diht_k8s.pipeline.run_status import RunStatus, StageRecord, StageTime, TimeParts

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
    "waiting_for_run": "waiting for another run",
    "missing_nodes": "missing nodes",
}
"""The parts other than the productive one, for people."""
_MAX_SECONDS: Final = 1e10
_MIN_SHOWN: Final = 0.0005
"""Smallest share of the wall time that the sentence names."""
_NUMBERS: Final = (
    "since",
    "until",
    "attempt",
    "previous_end",
    "reported_until",
    "lost",
    "reached",
    "checkpointed",
    "open_lost",
    "open_reached",
    "open_checkpointed",
)
_SHARES: Final = ("share", "reached_share")
_FLAGS: Final = ("ran", "has_report", "failed", "readmitted", "suspended", "paused")
_PARTS: Final = ("closed", "open", "tail")
_NAMES: Final = tuple(each.name for each in fields(TimeParts))
_LIVES: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def with_goodput(status: RunStatus, attempts: Iterable[Attempt]) -> RunStatus:
    """The status with the time of its stages up to what is known of their attempts."""
    ordered = sorted(attempts, key=lambda attempt: attempt.number)
    stages, before = list[StageRecord](), 0.0
    for record in status.stages:
        own = [each for each in ordered if each.stage is record.stage and each.record_step == record.step]
        time = record.time
        for attempt in own:
            time = with_attempt(time, attempt, committed_s=record.work.seconds, after=before)
        stages.append(record if time == record.time else replace(record, time=time))
        before = max(before, time.until)
    return replace(status, stages=tuple(stages))


def paused(time: StageTime) -> StageTime:
    """The time of a stage whose run is suspended or over: the gap before its next attempt is nobody's fault."""
    return time if time.paused else replace(time, paused=True)


def with_attempt(time: StageTime, attempt: Attempt, *, committed_s: float, after: float) -> StageTime:
    """The time of a stage with one attempt as now observed.

    Args:
        time: as known so far.
        attempt: as observed.
        committed_s: committed seconds of a stage whose program does not report them.
        after: seconds since the epoch at which the stage before ended; 0 without one.
    """
    times = attempt.times
    if times is None or attempt.number < time.attempt:
        return time
    if attempt.number > time.attempt:
        begins = time.until or min(after or times.created, times.created)
        since = time.since or begins
        time = replace(
            _closed(time),
            attempt=attempt.number,
            share=attempt.share,
            since=since,
            previous_end=begins,
            reported_until=begins,
            until=begins,
        )
    elif times.admitted is not None and times.admitted > time.until and time.ran:
        time = replace(
            _closed(time), attempt=attempt.number, share=attempt.share, readmitted=True
        )  # suspended by its queue, and admitted again
    if attempt.waits:
        return _with_wait(time, times)
    time = _with_report(time, times, attempt.spent, committed_s=committed_s)
    return _with_end(time, attempt)


def time_parts(time: StageTime) -> TimeParts:
    """The parts of a stage, its steps among them divided into productive ones and lost ones."""
    parts = time.closed.plus(time.open).plus(time.tail)
    lost = min(parts.productive, max(0.0, time.lost + _lost(time)))
    return replace(parts, productive=parts.productive - lost, lost=lost)


def _lost(time: StageTime) -> float:
    """Productive seconds that the open attempt, or the one before it, has lost as far as is known."""
    if not time.has_report:
        return time.reached_share * max(0.0, time.reached - time.checkpointed)
    beyond = max(0.0, time.open_reached - time.open_checkpointed) if time.failed else 0.0
    return time.open_lost + time.share * beyond


def _held(parts: TimeParts, share: float) -> TimeParts:
    """The parts of a time in which a gang holds its nodes: a share of those that it wishes for."""
    return parts.scaled(share).plus(TimeParts(missing_nodes=parts.total * (1 - share)))


def _with_report(time: StageTime, times: AttemptTimes, spent: TimeSpent | None, *, committed_s: float) -> StageTime:
    """The time with the open attempt up to its last timestamp or report, if that is later than the one known so far."""
    at, parts = time.previous_end, TimeParts()
    gap = max(0.0, (times.created if not time.readmitted else at) - at)
    parts = parts.plus(TimeParts(**{_gap_part(time): gap}))
    at += gap
    passed = 0.0
    for name, moment in (("queued", times.admitted), ("scheduling", times.scheduled), ("starting", times.running)):
        if moment is None:
            return _extended(time, parts, at)
        passed = max(0.0, moment - at)
        each = TimeParts(**{name: passed})
        parts = parts.plus(_held(each, time.share) if name == "starting" else each)
        at += passed
    if spent is None:
        return _extended(time, parts, at, ran=True)
    own = reported_parts(spent)
    length, known = own.total, None if times.ended is None else max(0.0, times.ended - at)
    if known is not None and length > known:
        own, length = own.scaled(known / length), known  # timestamps of whole seconds
    if at + length < time.reported_until or (time.has_report and at + length == time.reported_until):
        return time
    resumed = time.checkpointed if spent.resumed is None else spent.resumed
    path = time.checkpointed + spent.steps if spent.path is None else spent.path
    kept = min(max(committed_s, time.checkpointed), path) if spent.kept is None else spent.kept
    return replace(
        _extended(time, parts.plus(_held(own, time.share)), at + length, ran=True),
        has_report=True,
        open_lost=time.share * spent.lost + time.reached_share * max(0.0, time.reached - resumed),
        open_reached=path,
        open_checkpointed=kept,
        start_up={"pod": passed, **spent.start_up},
    )


def _with_wait(time: StageTime, times: AttemptTimes) -> StageTime:
    """The time up to the last timestamp of an attempt that only waits for another run."""
    gap = max(0.0, times.created - time.previous_end) if time.suspended else 0.0
    known = [
        moment for moment in (times.created, times.admitted, times.scheduled, times.running, times.ended) if moment
    ]
    until = max(*known, time.previous_end + gap)
    return _extended(time, TimeParts(suspended=gap, waiting_for_run=until - time.previous_end - gap), until)


def _extended(time: StageTime, parts: TimeParts, until: float, *, ran: bool = False) -> StageTime:
    """The time whose open attempt is known up to `until`; an earlier moment changes nothing."""
    if until <= time.reported_until and time.until > time.previous_end:
        return time
    return replace(time, open=parts, tail=TimeParts(), reported_until=until, until=until, ran=time.ran or ran)


def _with_end(time: StageTime, attempt: Attempt) -> StageTime:
    """The time up to the attempt's end: what its program has not reported."""
    times, failed = attempt.times, attempt.state is AttemptState.FAILED
    assert times is not None
    if times.ended is None or attempt.state in _LIVES:
        return time
    rest = max(0.0, times.ended - time.reported_until)
    name = "recovering" if failed else "other"
    if not time.has_report:
        name = "productive" if time.ran and not failed else "recovering"
    tail = _held(TimeParts(**{name: rest}), time.share)
    if failed and attempt.reason == ComputedElsewhere.__name__:
        tail = TimeParts(waiting_for_run=rest)
    return replace(time, tail=tail, until=max(time.until, time.reported_until + rest), failed=failed)


def _closed(time: StageTime) -> StageTime:
    """The time with its open attempt among the closed ones; the position that it reached stays for the next one."""
    reported = time.has_report
    return StageTime(
        since=time.since,
        until=time.until,
        closed=time.closed.plus(time.open).plus(time.tail),
        previous_end=time.until,
        reported_until=time.until,
        suspended=time.paused,
        start_up=time.start_up,
        reached=time.open_reached if reported else time.reached,
        checkpointed=time.open_checkpointed if reported else time.checkpointed,
        lost=time.lost + (time.open_lost if reported else 0.0),
        reached_share=time.share if reported else time.reached_share,
    )


def _gap_part(time: StageTime) -> str:
    """The part to which the time before the newest attempt goes."""
    if time.suspended:
        return "suspended"
    return "recovering" if time.previous_end > time.since else "other"


def reported_parts(spent: TimeSpent) -> TimeParts:
    """A program's report of its time, as parts of its stage."""
    return TimeParts(
        starting=spent.starting,
        productive=spent.steps,
        checkpointing=spent.checkpoints,
        validating=spent.validation,
        waiting_for_data=spent.data,
        recovering=spent.recovering,
        other=spent.other,
        missing_nodes=spent.missing_nodes,
    )


def whole_seconds(parts: TimeParts) -> dict[str, int]:
    """The parts in whole seconds; they sum to the rounded total (largest remainders)."""
    names = [each.name for each in fields(parts)]
    exact = dict(zip(names, parts.values, strict=True))
    found = {name: int(value) for name, value in exact.items()}
    missing = round(parts.total) - sum(found.values())
    for name in sorted(names, key=lambda name: found[name] - exact[name])[: max(0, missing)]:
        found[name] += 1
    return found


def stage_goodput(time: StageTime, *, ended: bool) -> StageGoodput | None:
    """A stage's time for the status; None before its first attempt.

    Args:
        time: of the stage.
        ended: whether no attempt follows, so that no ledger is needed.
    """
    if not time.since:
        return None
    named = {name[:63]: value for name, value in time.start_up.items() if value}
    start_up = [StartUp(name=name, seconds=f"{value:.1f}") for name, value in list(named.items())[:8]]
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
    """The sum over the stages of a local run, which keeps their times in memory."""
    whole = TimeParts()
    for time in times:
        whole = whole.plus(time_parts(time))
    return Goodput(**_figures(whole_seconds(whole)))


def _figures(parts: dict[str, int]) -> dict[str, Any]:
    wall = sum(parts.values())
    percent = f"{100 * parts['productive'] / wall:.1f}" if wall else None
    return {
        "wall_seconds": wall,
        "productive_percent": percent,
        **{f"{name}_seconds": value for name, value in parts.items()},
    }


def shown_parts(shown: Goodput) -> TimeParts:
    """The parts that a status shows."""
    return TimeParts(**{name: float(getattr(shown, f"{name}_seconds")) for name in _NAMES})


def saved_time(shown: StageGoodput | None) -> StageTime:
    """The time of a stage as saved in its status; without a readable ledger, the seconds shown count as closed."""
    if shown is None:
        return StageTime()
    try:
        return _read_ledger(shown)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        parts, until = shown_parts(shown), min(seconds(shown.until) or 0.0, _MAX_SECONDS)
        since = max(0.0, until - parts.total)
        productive, worked = parts.productive, replace(parts, productive=parts.productive + parts.lost, lost=0.0)
        return StageTime(
            since,
            until,
            closed=worked,
            previous_end=until,
            reported_until=until,
            reached=productive,
            checkpointed=productive,
            lost=parts.lost,
        )


def _ledger(time: StageTime) -> str:
    """The whole `StageTime` as JSON: `_NUMBERS`, `_SHARES`, `_FLAGS`, `_PARTS` in one list."""
    numbers = [_short(getattr(time, name)) for name in _NUMBERS]
    shares = [round(getattr(time, name), 6) for name in _SHARES]
    flags = [int(getattr(time, name)) for name in _FLAGS]
    parts = [_sparse(getattr(time, name)) for name in _PARTS]
    return json.dumps([*numbers, *shares, *flags, *parts], separators=(",", ":"))


def _sparse(parts: TimeParts) -> dict[str, float | int]:
    """Its parts by number, without those that are 0."""
    return {str(index): _short(value) for index, value in enumerate(parts.values) if _short(value)}


def _short(value: float) -> float | int:
    rounded = round(min(value, _MAX_SECONDS), 2)
    return int(rounded) if rounded == int(rounded) else rounded


def _read_ledger(shown: StageGoodput) -> StageTime:
    found = json.loads(shown.ledger)
    names = (*_NUMBERS, *_SHARES)
    numbers = dict(zip(names, (_number(each) for each in found[: len(names)]), strict=True))
    flags = found[len(names) : -len(_PARTS)]
    parts = dict(zip(_PARTS, (_read_parts(each) for each in found[-len(_PARTS) :]), strict=True))
    numbers |= {name: min(1.0, numbers[name]) for name in _SHARES}
    attempt = min(int(numbers.pop("attempt")), MAX_COUNT)
    start_up = {part.name: _number(float(part.seconds)) for part in shown.start_up}
    known: dict[str, Any] = dict(zip(_FLAGS, map(bool, flags), strict=True))
    return StageTime(**numbers, **parts, **known, attempt=attempt, start_up=start_up)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or not 0 <= number <= _MAX_SECONDS:
        raise ValueError("not a number of seconds")
    return number


def _read_parts(found: Any) -> TimeParts:
    return TimeParts(**{_NAMES[int(index)]: _number(value) for index, value in dict(found).items()})


def goodput_json(entries: Iterable[tuple[str, Goodput, int]]) -> str:
    """The goodput of the stages before the evaluation, for its environment (`GOODPUT_VARIABLE`).

    Args:
        entries: name, goodput and number of attempts of each stage.
    """
    return json.dumps(
        [
            {"stage": name, "wall_seconds": shown.wall_seconds, "text": goodput_text(shown, attempts)}
            for name, shown, attempts in entries
            if shown.wall_seconds
        ]
    )


def goodput_text(shown: Goodput, attempts: int) -> str:
    """The goodput in words, for example `94.1 % productive; 3.2 % starting in 5 attempts; 1.0 % redone`."""
    wall = shown.wall_seconds
    if not wall:
        return "nothing measured yet"
    parts = {name: getattr(shown, f"{name}_seconds") / wall for name in PART_LABELS}
    listed = [f"{shown.productive_percent or '0.0'} % productive"]
    for name, part in sorted(parts.items(), key=lambda each: -each[1]):
        if part >= _MIN_SHOWN:
            often = f" in {attempts} attempts" if name == "starting" and attempts > 1 else ""
            listed.append(f"{100 * part:.1f} % {PART_LABELS[name]}{often}")
    return "; ".join(listed)
