"""The status of a run as `plan` saves it: its state, and the record of each stage. Plain frozen data.

`diht run` keeps it in memory, the controller in `DihtRun.status`. Counters live here and are never derived from the
attempts that happen to exist: a deleted Job must not give a run new restarts.

The running time of a run goes from each attempt's admission to its end, without queues, waits (for another run that
computes the same training, too) and suspensions. It adds up intervals between timestamps of Jobs and pods (or of local
processes), which the status remembers: how often the operator reconciles, and whether it was away, changes nothing. The
one exception is an attempt that vanishes while nobody is there to see its end; it counts until it is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from diht_k8s.api.errors import ComputedElsewhere, ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork, InPlaceRestarts

ENDED_WELL = frozenset({StageState.COMPLETE, StageState.CACHED})


@dataclass(frozen=True)
class TimeParts:
    """Seconds by category; they sum to the wall time. docs/api.md explains each."""

    productive: float = 0.0
    """steps; lost ones are among them until `goodput.time_parts` takes them out."""
    lost: float = 0.0
    queued: float = 0.0
    scheduling: float = 0.0
    starting: float = 0.0
    checkpointing: float = 0.0
    validating: float = 0.0
    waiting_for_data: float = 0.0
    recovering: float = 0.0
    suspended: float = 0.0
    other: float = 0.0
    waiting_for_run: float = 0.0
    """which computes the same training."""
    missing_nodes: float = 0.0
    """of an elastic gang: the time that it held its nodes, times the share of those that it wished for and did not
    have.
    """

    @property
    def values(self) -> tuple[float, ...]:
        """All of them, in the order of the fields (`astuple` would copy each one)."""
        return tuple(vars(self).values())

    @property
    def total(self) -> float:
        """The wall time."""
        return sum(self.values)

    def plus(self, other: TimeParts) -> TimeParts:
        """The sum."""
        return TimeParts(*(mine + its for mine, its in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> TimeParts:
        """All parts, scaled."""
        return TimeParts(*(mine * factor for mine in self.values))


@dataclass(frozen=True)
class StageTime:
    """The wall time of a stage by category (see `pipeline.goodput`); times are seconds since the epoch.

    Productive seconds are counted along the training: at a position or checkpoint lie all those that led to it.
    """

    since: float = 0.0
    """when it began; 0: not yet."""
    until: float = 0.0
    """up to when it is counted."""
    closed: TimeParts = TimeParts()
    """attempts before the newest one, and the time between them."""
    attempt: int = 0
    """number of the newest one."""
    previous_end: float = 0.0
    """when the one before ended."""
    open: TimeParts = TimeParts()
    """of the newest one, from `previous_end` to `reported_until`."""
    reported_until: float = 0.0
    """its last timestamp, or its program's last report."""
    tail: TimeParts = TimeParts()
    """from `reported_until` to its end."""
    ran: bool = False
    """whether its program has begun, as far as is known."""
    has_report: bool = False
    """whether its program has reported what it spent its time on."""
    failed: bool = False
    readmitted: bool = False
    """whether it was suspended by its queue and admitted again."""
    suspended: bool = False
    """whether the run was suspended or over between the attempt before and this one."""
    paused: bool = False
    """whether the run has been suspended or over since this one's end."""
    lost: float = 0.0
    """productive seconds of earlier attempts that later ones have redone."""
    reached: float = 0.0
    """productive seconds at the position that the attempt before had reached."""
    checkpointed: float = 0.0
    """productive seconds at its newest checkpoint."""
    open_lost: float = 0.0
    """the same three of the newest attempt, as far as it has reported them."""
    open_reached: float = 0.0
    open_checkpointed: float = 0.0
    start_up: Mapping[str, float] = field(default_factory=dict[str, float])
    """parts of its newest start."""
    share: float = 1.0
    """of the nodes wished for that the newest attempt began with: it counts so much of each second that it holds them.
    """
    reached_share: float = 1.0
    """the same of the attempt that reached `reached`."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    exit_code: int | None
    """of the program; None if no program ended."""
    reason: str = ""
    message: str = ""
    infrastructure: bool = False
    """whether the program did not cause it."""

    @property
    def computed_elsewhere(self) -> bool:
        """Whether another run does the work: no fault of anybody."""
        return self.reason == ComputedElsewhere.__name__


@dataclass(frozen=True)
class StageRecord:
    """The saved state of one stage, or of one of its steps."""

    stage: Stage
    state: StageState = StageState.PENDING
    attempt: int = 0
    """number of the newest attempt; 0 before the first."""
    restarts: int = 0
    """that count towards failurePolicy.maxRestarts; committed work gives them back."""
    infrastructure_restarts: int = 0
    """that count towards failurePolicy.maxInfrastructureRestarts; committed work gives them back."""
    total_restarts: int = 0
    """of any cause; never given back."""
    out_of_memory: int = 0
    """restarts among the first that OOMKilled caused."""
    not_before: float | None = None
    """seconds since the epoch before which the next attempt does not start."""
    failure: Failure | None = None
    """of the newest attempt that failed."""
    nodes: int | None = None
    """of a gang that is to start, as the one before gave way to it; None once it is there, so that nothing repeats it.
    """
    resized_by_quota: bool = False
    """whether its gang has just given way as its quota changed; not saved, since the attempt's end says so."""
    min_count: int | None = None
    """minCount to which the PodGroup of a gang was lowered, none of which has a node yet; None: it asks for all its
    pods.
    """
    step: str = ""
    """step of the stage, if it runs as several jobs."""
    work: CommittedWork = field(default_factory=CommittedWork)
    """the furthest committed work."""
    failed_at: int = 0
    """the furthest position at which the program failed; nothing is given back before it is committed."""
    healed_until: int = 0
    """productive seconds up to which `restarts` were given back."""
    infrastructure_healed_until: int = 0
    """the same for `infrastructure_restarts`."""
    in_place: InPlaceRestarts = field(default_factory=InPlaceRestarts)
    """restarts in place of the newest attempt that had any; they are counted in `restarts` and not in `total_restarts`.
    """
    total_in_place: int = 0
    """restarts in place of all attempts; never given back."""
    time: StageTime = StageTime()

    @property
    def computed_elsewhere(self) -> bool:
        """Whether another run does the stage's work: its next attempt, or the one that runs, only waits for that."""
        return self.failure is not None and self.failure.computed_elsewhere


class RunState(StrEnum):
    """The state of a run. The last three are final: only a person changes them."""

    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    STOPPED = "Stopped"


FINAL = frozenset({RunState.COMPLETE, RunState.FAILED, RunState.STOPPED})


@dataclass(frozen=True)
class RunStatus:
    """The saved state of a run."""

    state: RunState = RunState.RUNNING
    started_at: float | None = None
    """seconds since the epoch of the first attempt."""
    stages: tuple[StageRecord, ...] = ()
    exit_code: int = ExitCode.DONE
    """what `diht run` ends with."""
    message: str = ""
    """one line on why it failed or stopped."""
    reason: Reason | None = None
    """why it failed or stopped, for machines."""
    ended_at: float | None = None
    """seconds since the epoch at which it became final; the caller of `plan` keeps it."""

    ran_seconds: int = 0
    """running time up to `ran_until`, without time in queues or suspended."""
    ran_until: float = 0.0
    """seconds since the epoch up to which `ran_seconds` counts."""
    running_since: float | None = None
    """seconds since the epoch since which an attempt has run that `ran_seconds` does not include."""

    def of(self, stage: Stage, step: str = "") -> StageRecord:
        """The record of a stage (or of a step of it); a new one if there is none."""
        found = (status for status in self.stages if status.stage is stage and status.step == step)
        return next(found, StageRecord(stage, step=step))


def with_running_time(status: RunStatus, attempts: Iterable[Attempt], now: float) -> RunStatus:
    """The status with the running time of its attempts; `now` is seconds since the epoch."""
    timed = sorted((each for each in attempts if not each.waits), key=_order)
    for attempt in timed:
        if attempt.ended_at is not None:
            status = _closed(status, attempt.started_at, attempt.ended_at)
    running = [each for each in timed if each.ended_at is None and _runs(each)]
    began = [each.started_at for each in running if each.started_at is not None]
    if status.running_since is None:
        return replace(status, running_since=max(min(began), status.ran_until)) if began else status
    return status if running else _closed(status, None, now)


def running_seconds(status: RunStatus, now: float) -> float:
    """Seconds that the run has run until `now`."""
    return status.ran_seconds + (max(0.0, now - status.running_since) if status.running_since is not None else 0.0)


def deadline_at(status: RunStatus, deadline_s: int | None) -> float | None:
    """When the deadline is over if the run goes on running; None while its time stands still, or without a deadline."""
    if deadline_s is None or status.running_since is None:
        return None
    return status.running_since + deadline_s - status.ran_seconds


def _runs(attempt: Attempt) -> bool:
    """Whether programs of an attempt run; one in a queue has not started, one without a Job no longer says when."""
    living = attempt.state in (AttemptState.PENDING, AttemptState.RUNNING) or attempt.active > 0
    return living and (attempt.started_at is not None or attempt.ending)


def _order(attempt: Attempt) -> float:
    known = (time for time in (attempt.started_at, attempt.ended_at) if time is not None)
    return next(known, float("inf"))


def _closed(status: RunStatus, started_at: float | None, ended_at: float) -> RunStatus:
    """The status with an interval that has ended; one that it includes already changes nothing."""
    since = status.running_since if status.running_since is not None else started_at
    if ended_at <= status.ran_until or since is None or ended_at < since:
        return status
    seconds = int(ended_at - max(since, status.ran_until))
    return replace(status, ran_seconds=status.ran_seconds + seconds, ran_until=ended_at, running_since=None)
