"""The time of a stage as the status shows it, as it is read back, and in words. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final

from diht_k8s.api.status import MAX_COUNT, Goodput, StageGoodput, StageStatus, StartUp
from diht_k8s.api.times import seconds, timestamp
from diht_k8s.pipeline.goodput import total, whole_seconds
from diht_k8s.pipeline.states import Parts, StageTime

WORDS: Final = {
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
_NAMES: Final = tuple(each.name for each in fields(Parts))


def stage_goodput(time: StageTime, *, ended: bool) -> StageGoodput | None:
    """What the status says of a stage's time; None before its first attempt. `ended`: nothing follows."""
    if not time.since:
        return None
    start_up = [
        StartUp(name=name[:63], seconds=f"{value:.1f}") for name, value in list(time.start_up.items())[:8] if value
    ]
    return StageGoodput(
        **_figures(whole_seconds(total(time))),
        start_up=start_up,
        until=timestamp(time.until),
        ledger="" if ended else _ledger(time),
    )


def run_goodput(stages: Iterable[StageStatus]) -> Goodput | None:
    """The sum over all stages; None before the first attempt."""
    found = [parts_of(stage.goodput) for stage in stages if stage.goodput is not None]
    if not found:
        return None
    whole = found[0]
    for parts in found[1:]:
        whole = whole.plus(parts)
    return Goodput(**_figures(whole_seconds(whole)))


def goodput_of(times: Iterable[StageTime]) -> Goodput:
    """The same from what a local run keeps in memory."""
    whole = Parts()
    for time in times:
        whole = whole.plus(total(time))
    return Goodput(**_figures(whole_seconds(whole)))


def _figures(parts: dict[str, int]) -> dict[str, Any]:
    wall = sum(parts.values())
    percent = f"{100 * parts['productive'] / wall:.1f}" if wall else None
    return {
        "wall_seconds": min(wall, MAX_COUNT),
        "productive_percent": percent,
        **{f"{name}_seconds": min(value, MAX_COUNT) for name, value in parts.items()},
    }


def parts_of(shown: Goodput) -> Parts:
    """The parts that a status shows."""
    return Parts(**{name: float(getattr(shown, f"{name}_seconds")) for name in _NAMES})


def saved_time(shown: StageGoodput | None) -> StageTime:
    """The time of a stage as its status holds it; without a ledger that can be read, what it shows is settled."""
    if shown is None:
        return StageTime()
    try:
        return _read(shown)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        parts, until = parts_of(shown), min(seconds(shown.until) or 0.0, MOST_SECONDS)
        since = max(0.0, until - parts.total)
        path, worked = parts.productive, replace(parts, productive=parts.productive + parts.lost, lost=0.0)
        return StageTime(since, until, closed=worked, base=until, told=until, path=path, kept=path, lost=parts.lost)


def _ledger(time: StageTime) -> str:
    numbers = [_short(getattr(time, name)) for name in _NUMBERS]
    flags = [int(getattr(time, name)) for name in _FLAGS]
    parts = [_sparse(getattr(time, name)) for name in _PARTS]
    return json.dumps([*numbers, *flags, *parts], separators=(",", ":"))


def _sparse(parts: Parts) -> dict[str, float | int]:
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


def _parts(found: Any) -> Parts:
    return Parts(**{_NAMES[int(index)]: _number(value) for index, value in dict(found).items()})


def for_the_page(entries: Iterable[tuple[str, Goodput, int]]) -> str:
    """What the time of the stages before went to, for the environment of the evaluation; their names, times, attempts."""
    return json.dumps([
        {"stage": name, "wall_seconds": shown.wall_seconds, "text": sentence(shown, attempts)}
        for name, shown, attempts in entries
        if shown.wall_seconds
    ])  # fmt: skip


def sentence(shown: Goodput, attempts: int) -> str:
    """The goodput in words, for example `94.1 % productive; 3.2 % starting in 5 attempts; 1.0 % redone`."""
    wall = shown.wall_seconds
    if not wall:
        return "nothing measured yet"
    parts = {name: getattr(shown, f"{name}_seconds") / wall for name in WORDS}
    listed = [f"{shown.productive_percent or '0.0'} % productive"]
    for name, part in sorted(parts.items(), key=lambda each: -each[1]):
        if part >= LEAST_SHOWN:
            often = f" in {attempts} attempts" if name == "starting" and attempts > 1 else ""
            listed.append(f"{100 * part:.1f} % {WORDS[name]}{often}")
    return "; ".join(listed)
