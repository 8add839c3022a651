"""Attempts at stages, as observed of the cluster or of local processes, and the reports of their programs, joined.
Plain frozen data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from diht_k8s.api.reports import CommittedShards, Progress, Rounds, SavedCheckpoint, TimeSpent
from diht_k8s.api.run import Stage
from diht_k8s.api.steps import WAIT_STEP


class AttemptState(StrEnum):
    """The state of one attempt at a stage (one Job, or one group of processes)."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class CommittedWork:
    """Work of a stage that is committed: another attempt need not repeat it."""

    position: int = 0
    """how far the stage is: optimiser steps of a training, shards of the other stages."""
    seconds: int = 0
    """time spent on it, over all attempts."""


@dataclass(frozen=True)
class InPlaceRestarts:
    """Restarts of an attempt's programs in its living pods."""

    attempt: int = 0
    """number of the attempt; 0: none."""
    restarts: int = 0
    failed_at: int | None = None
    """furthest position at which a program failed; None if unknown."""
    exit_code: int | None = None
    """of the program that caused the newest restart, as are the next two."""
    message: str = ""
    index: int | None = None
    """of its pod."""


@dataclass(frozen=True)
class AttemptTimes:
    """Timestamps of an attempt, seconds since the epoch by the cluster's clock; None: not yet, or unknown."""

    created: float
    admitted: float | None = None
    """from its queue."""
    scheduled: float | None = None
    """its first pod has a node, as the next one."""
    running: float | None = None
    """its program runs."""
    ended: float | None = None


@dataclass(frozen=True)
class LivingGang:
    """The pods of a gang that resizes without ending them, by completion index."""

    nodes: int
    """of its Job."""
    placed: frozenset[int] = frozenset()
    """those that have a node, which answers."""
    running: frozenset[int] = frozenset()
    """those whose program runs there."""
    without: tuple[int, ...] = ()
    """those without which it was decided to go on."""
    decided_at: float | None = None
    """when that was, seconds since the epoch; None: never."""
    changed_at: float = 0.0
    """when the newest of its pods started, or was lost or created again, seconds since the epoch."""

    @property
    def members(self) -> frozenset[int]:
        """Those with which it goes on."""
        return frozenset(range(self.nodes)).difference(self.without)

    @property
    def whole(self) -> bool:
        """Whether all members have a node."""
        return self.members <= self.placed


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage, as observed."""

    stage: Stage
    number: int
    """from 1."""
    state: AttemptState
    active: int = 0
    """pods or processes that still run; a failed attempt with some is being stopped."""
    exit_code: int | None = None
    """of the first program that failed."""
    reason: str = ""
    """OOMKilled, UserError, ..., for machines; Committed if it ended well and said that its stage is committed."""
    message: str = ""
    """one line for a person."""
    infrastructure: bool = False
    """whether a preemption, drain, eviction or lost node ended it: not the program's fault."""
    step: str = ""
    """step of the stage, if the cluster runs it as several jobs one after another."""
    ending: bool = False
    """whether its programs were already asked to end: asking again would do nothing."""
    partially_started_at: float | None = None
    """seconds since the epoch since which some of its pods run while others find no node; None otherwise."""
    newest_start_at: float | None = None
    """seconds since the epoch at which the newest of its pods started, of such an attempt."""
    faulty_since: float | None = None
    """seconds since the epoch since which all pods of a gang run, some on nodes with faults that no others could take;
    None otherwise.
    """
    placed: int = 0
    """pods that have a node, and one without faults, of such attempts."""
    unplaced_since: float | None = None
    """seconds since the epoch since which none of the pods of a gang finds a node; None otherwise."""
    pods: int = 0
    """that it has when all of them are there."""
    share: float = 1.0
    """of the nodes that its training wishes for; less for an elastic gang that was shrunk."""
    quota: int | None = None
    """nodes for which an elastic gang had quota as it was made; None if it has no Workload of its own for them."""
    pod_group: str = ""
    """name of the PodGroup by which none of its pods gets a node before enough can, of such a gang."""
    living_gang: LivingGang | None = None
    """its pods, if it resizes without ending them and the first one has a node."""
    work: CommittedWork | None = None
    """what it reported as committed; None if it reported nothing."""
    failed_at: int | None = None
    """position at which its program failed; None if unknown."""
    in_place: InPlaceRestarts | None = None
    """its restarts in place as it reported them; None if it reported none."""
    started_at: float | None = None
    """seconds since the epoch at which it was admitted; None while it waits in a queue."""
    ended_at: float | None = None
    """seconds since the epoch at which it ended, or left its nodes for the queue; None while it runs."""
    remaining_s: float | None = None
    """seconds that its work still takes, as its program estimated last; None if it said nothing."""
    times: AttemptTimes | None = None
    spent: TimeSpent | None = None
    """what its program spent its time on, as it said last; None if it said nothing."""

    @property
    def waits(self) -> bool:
        """Whether it only waits for another run, which computes the same training."""
        return self.step == WAIT_STEP

    @property
    def is_gang(self) -> bool:
        """Whether its programs start and end together."""
        return self.stage is Stage.TRAIN and not self.waits

    @property
    def record_step(self) -> str:
        """The step in whose record it counts: waiting shares record and numbers with the training that it waits for."""
        return "" if self.waits else self.step


def attempt_name(run_name: str, stage: Stage, number: int, step: str = "") -> str:
    """The name of an attempt's Job: `{run}-{stage}-{attempt}`, or the step's name in place of the stage's."""
    return f"{run_name}-{step or stage}-{number}"


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
