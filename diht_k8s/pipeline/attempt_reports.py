"""Reports of an attempt's programs, joined and bounded: committed work, restarts in place, time spent. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from diht_k8s.api.reports import CommittedShards, Progress, Rounds, SavedCheckpoint, TimeSpent
from diht_k8s.pipeline.attempts import CommittedWork, InPlaceRestarts

MOST_STEPS: Final = 2**62
MOST_SECONDS: Final = 2**31 - 1
MOST_RESTARTS: Final = 2**20
"""What the status can hold; a program may report nonsense."""


def checkpoint_work(checkpoint: SavedCheckpoint | None) -> CommittedWork | None:
    """The work that a checkpoint holds; None where an older program does not say how long it took."""
    if checkpoint is None or checkpoint.seconds is None:
        return None
    return _work(checkpoint.step, checkpoint.seconds)


def progress_work(progress: Progress | None) -> CommittedWork | None:
    """The work that a line of progress names; None if it names none."""
    if progress is None:
        return None
    return checkpoint_work(progress.checkpoint) or _shards_work(progress.shards)


def _shards_work(shards: CommittedShards | None) -> CommittedWork | None:
    return _work(shards.count, shards.seconds) if shards is not None else None


def _work(position: int, seconds: int) -> CommittedWork:
    return CommittedWork(bounded_step(position), min(max(seconds, 0), MOST_SECONDS))


def furthest(works: Iterable[CommittedWork | None]) -> CommittedWork | None:
    """The furthest of several reports; None without any."""
    return max((work for work in works if work is not None), key=lambda work: work.position, default=None)


def in_place_of(attempt: int, rounds: Iterable[Rounds | None]) -> InPlaceRestarts | None:
    """The restarts in place of an attempt, by the report that names the newest round; None without a report."""
    newest = max((each for each in rounds if each is not None), key=lambda each: each.round, default=None)
    if newest is None:
        return None
    restarts = min(max(newest.round - 1, 0), MOST_RESTARTS)
    step = None if newest.step is None else bounded_step(newest.step)
    code = None if newest.exit_code is None else min(max(newest.exit_code, 0), 255)
    return InPlaceRestarts(attempt, restarts, step, code, newest.message, newest.node)


def most_restarts(reports: Iterable[InPlaceRestarts | None]) -> InPlaceRestarts | None:
    """The report of an attempt that names the most restarts; None without any."""
    return max((each for each in reports if each is not None), key=lambda each: each.restarts, default=None)


def most_spent(reports: Iterable[TimeSpent | None]) -> TimeSpent | None:
    """The account of an attempt's time that covers most of it, without nonsense; None without any."""
    return max((_sound(each) for each in reports if each is not None), key=lambda each: age_of(each), default=None)


def age_of(spent: TimeSpent) -> float:
    """Seconds that an account covers."""
    return (
        spent.starting
        + spent.steps
        + spent.data
        + spent.checkpoints
        + spent.validation
        + spent.recovering
        + spent.other
    )


def _sound(spent: TimeSpent) -> TimeSpent:
    def sound(value: float | None) -> float | None:
        return value if value is None else _seconds(value)

    start_up = {name: _seconds(seconds) for name, seconds in spent.start_up.items()}
    numbers: dict[str, Any] = {name: sound(value) for name, value in spent if name != "start_up"}
    return TimeSpent(**numbers, start_up=start_up)


def _seconds(value: float) -> float:
    return min(max(value, 0.0), float(MOST_SECONDS)) if math.isfinite(value) else 0.0


def bounded_step(step: int) -> int:
    """A step that the status can hold."""
    return min(max(step, 0), MOST_STEPS)
