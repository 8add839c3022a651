"""Reports of an attempt's programs, joined: committed work, restarts in place, time spent. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from diht_k8s.api.reports import CommittedShards, Progress, Rounds, SavedCheckpoint, TimeSpent
from diht_k8s.pipeline.attempts import CommittedWork, InPlaceRestarts


def checkpoint_work(checkpoint: SavedCheckpoint | None) -> CommittedWork | None:
    """The work that a checkpoint holds; None where an older program does not say how long it took."""
    if checkpoint is None or checkpoint.seconds is None:
        return None
    return CommittedWork(checkpoint.step, checkpoint.seconds)


def progress_work(progress: Progress | None) -> CommittedWork | None:
    """The work that a line of progress names; None if it names none."""
    if progress is None:
        return None
    return checkpoint_work(progress.checkpoint) or _shards_work(progress.shards)


def _shards_work(shards: CommittedShards | None) -> CommittedWork | None:
    return CommittedWork(shards.count, shards.seconds) if shards is not None else None


def furthest(works: Iterable[CommittedWork | None]) -> CommittedWork | None:
    """The furthest of several reports; None without any."""
    return max((work for work in works if work is not None), key=lambda work: work.position, default=None)


def in_place_of(attempt: int, rounds: Iterable[Rounds | None]) -> InPlaceRestarts | None:
    """The restarts in place of an attempt, by the report that names the newest round; None without a report."""
    newest = max((each for each in rounds if each is not None), key=lambda each: each.round, default=None)
    if newest is None:
        return None
    restarts = max(0, newest.round - 1 - newest.uncounted)
    return InPlaceRestarts(attempt, restarts, newest.step, newest.exit_code, newest.message, newest.node)


def most_restarts(reports: Iterable[InPlaceRestarts | None]) -> InPlaceRestarts | None:
    """The report of an attempt that names the most restarts; None without any."""
    return max((each for each in reports if each is not None), key=lambda each: each.restarts, default=None)


def most_spent(reports: Iterable[TimeSpent | None]) -> TimeSpent | None:
    """The account of an attempt's time that covers most of it; None without any."""
    return max((each for each in reports if each is not None), key=age_of, default=None)


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
        + spent.missing_nodes
    )
