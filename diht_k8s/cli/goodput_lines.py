"""Goodput of a run in lines for a person, and as JSON for the report's page."""

from __future__ import annotations

from diht_k8s.api.status import StageGoodput, StageStatus, Status
from diht_k8s.pipeline.goodput import goodput_json, goodput_of, goodput_text, stage_goodput
from diht_k8s.pipeline.run_status import RunStatus

START_UP_WORDS = {
    "pod": "pod",
    "imports": "imports",
    "rendezvous": "rendezvous",
    "checkpoint": "model and checkpoint",
    "firstBatch": "first batch",
}


def goodput_lines(status: Status) -> list[str]:
    """The goodput of a run and of its stages, and the parts of their newest starts; nothing before the first
    attempt.
    """
    whole = status.goodput
    if whole is None or not whole.wall_seconds:
        return []
    lines = [f"time: {goodput_text(whole, sum(map(_starts, status.stages)))} ({whole.wall_seconds} s)"]
    for stage in status.stages:
        if stage.goodput is not None and stage.goodput.wall_seconds:
            lines.append(f"  {stage.name}: {goodput_text(stage.goodput, _starts(stage))}{_start_up(stage.goodput)}")
    return lines


def local_goodput(status: RunStatus) -> list[str]:
    """The same lines for a run on this machine."""
    records = [record for record in status.stages if record.time.since]
    whole = goodput_of(record.time for record in records)
    if not whole.wall_seconds:
        return []
    starts = sum(record.attempt + record.total_in_place for record in records)
    lines = [f"time: {goodput_text(whole, starts)} ({whole.wall_seconds} s)"]
    for name, shown, attempts in _entries(status):
        lines.append(f"  {name}: {goodput_text(shown, attempts)}{_start_up(shown)}")
    return lines


def page_goodput(status: RunStatus) -> str:
    """The same as JSON, for the report's page."""
    return goodput_json(_entries(status))


def _entries(status: RunStatus) -> list[tuple[str, StageGoodput, int]]:
    """Name, time and starts of the stages."""
    found: list[tuple[str, StageGoodput, int]] = []
    for record in status.stages:
        shown = stage_goodput(record.time, ended=True)
        if shown is not None and shown.wall_seconds:
            name = f"{record.stage}-{record.step}" if record.step else str(record.stage)
            found.append((name, shown, record.attempt + record.total_in_place))
    return found


def _starts(stage: StageStatus) -> int:
    """Attempts and restarts in place."""
    return stage.attempt + (stage.restarts_in_place.total if stage.restarts_in_place is not None else 0)


def _start_up(shown: StageGoodput) -> str:
    parts = [f"{START_UP_WORDS.get(part.name, part.name)} {part.seconds} s" for part in shown.start_up]
    return f" (newest start: {', '.join(parts)})" if parts else ""
