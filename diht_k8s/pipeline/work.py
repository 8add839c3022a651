"""Committed work as programs report it: checkpoints or shards in, the plan's `Work` out. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from diht_k8s.api.reports import CommittedShards, Progress, SavedCheckpoint
from diht_k8s.pipeline.states import Work

MOST_STEPS: Final = 2**62
MOST_SECONDS: Final = 2**31 - 1
"""What the status can hold; a program may report nonsense."""


def work_of(checkpoint: SavedCheckpoint | None) -> Work | None:
    """The work that a checkpoint holds; None where an older program does not say how long it took."""
    if checkpoint is None or checkpoint.seconds is None:
        return None
    return _work(checkpoint.step, checkpoint.seconds)


def logged_work(progress: Progress | None) -> Work | None:
    """The work that a line of progress names; None if it names none."""
    if progress is None:
        return None
    return work_of(progress.checkpoint) or _shards_work(progress.shards)


def _shards_work(shards: CommittedShards | None) -> Work | None:
    return _work(shards.count, shards.seconds) if shards is not None else None


def _work(position: int, seconds: int) -> Work:
    return Work(bounded_step(position), min(max(seconds, 0), MOST_SECONDS))


def furthest(works: Iterable[Work | None]) -> Work | None:
    """The furthest of several reports; None without any."""
    return max((work for work in works if work is not None), key=lambda work: work.position, default=None)


def bounded_step(step: int) -> int:
    """A step that the status can hold."""
    return min(max(step, 0), MOST_STEPS)
