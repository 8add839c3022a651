"""What `plan` reads and writes: observed attempts, the status of a run, the actions to take. Plain frozen data.

`diht run` keeps the status in memory, the controller in `DihtRun.status`. Counters live here and are never derived from
the attempts that happen to exist: a deleted Job must not give a run new restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import TimeSpent
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState


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
    """When an attempt got on, in seconds since the epoch by the cluster's clock; None: not yet, or nobody knows."""

    created: float
    admitted: float | None = None
    """from its queue."""
    placed: float | None = None
    """its first pod has a node, as the next one."""
    running: float | None = None
    """its program runs."""
    ended: float | None = None


@dataclass(frozen=True)
class TimeParts:
    """Seconds by what they went to; see docs/operations.md."""

    productive: float = 0.0
    """before it is divided: steps, lost ones included."""
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

    def times(self, factor: float) -> TimeParts:
        """All parts, shortened or lengthened."""
        return TimeParts(*(mine * factor for mine in self.values))


@dataclass(frozen=True)
class StageTime:
    """What the time of a stage went to (see `pipeline.goodput`); moments are seconds since the epoch."""

    since: float = 0.0
    """when it began; 0: not yet."""
    until: float = 0.0
    """up to when it is counted."""
    closed: TimeParts = TimeParts()
    """attempts before the newest one, and the time between them."""
    attempt: int = 0
    """number of the newest one."""
    base: float = 0.0
    """when the one before ended."""
    open: TimeParts = TimeParts()
    """of the newest one, from `base` to `told`."""
    told: float = 0.0
    tail: TimeParts = TimeParts()
    """from `told` to its end."""
    ran: bool = False
    """whether its program has begun, as far as is known."""
    told_spent: bool = False
    """whether its program has said what it did."""
    failed: bool = False
    readmitted: bool = False
    """whether it went back to its queue before."""
    suspended: bool = False
    """whether nobody wanted the stage to run before it."""
    pausing: bool = False
    """whether nobody has wanted it to run since then."""
    lost: float = 0.0
    """of the attempts before, as far as their successors have resumed."""
    path: float = 0.0
    """productive seconds behind the position that the one before had reached."""
    kept: float = 0.0
    """and behind its newest checkpoint."""
    open_lost: float = 0.0
    """the same of the newest one, as are the next two."""
    open_path: float = 0.0
    open_kept: float = 0.0
    start_up: Mapping[str, float] = field(default_factory=dict[str, float])
    """parts of its newest start."""


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
    """OOMKilled, UserError, ..., for machines."""
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
    moments: AttemptTimes | None = None
    spent: TimeSpent | None = None
    """what its program spent its time on, as it said last; None if it said nothing."""


@dataclass(frozen=True)
class Observed:
    """What was observed of the cluster or the processes."""

    attempts: tuple[Attempt, ...] = ()
    cached: frozenset[Stage] = frozenset()
    """stages whose output is committed under the run's configuration."""
    stop_requested: bool = False
    """whether a person asked to stop (a signal; `spec.suspend` counts as well)."""
    retry_requested: bool = False
    """whether a person asked to retry this failed run."""


ENDED_WELL = frozenset({StageState.COMPLETE, StageState.CACHED})


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    exit_code: int | None
    """of the program; None if no program ended."""
    reason: str = ""
    message: str = ""
    infrastructure: bool = False
    """whether the program did not cause it."""


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
    step: str = ""
    """step of the stage, if it runs as several jobs."""
    work: CommittedWork = CommittedWork()
    """the furthest committed work."""
    failed_at: int = 0
    """the furthest position at which the program failed; nothing is given back before it is committed."""
    healed_until: int = 0
    """productive seconds up to which `restarts` were given back."""
    infrastructure_healed_until: int = 0
    """the same for `infrastructure_restarts`."""
    in_place: InPlaceRestarts = InPlaceRestarts()
    """restarts in place of the newest attempt that had any; they are counted in `restarts` and not in `total_restarts`."""
    total_in_place: int = 0
    """restarts in place of all attempts; never given back."""
    time: StageTime = StageTime()


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


@dataclass(frozen=True)
class Start:
    """Start an attempt, unless one of this name already exists."""

    stage: Stage
    number: int
    name: str
    step: str = ""


@dataclass(frozen=True)
class Stop:
    """Ask the programs of an attempt to end; they save what they can. On a cluster its Job is deleted, too."""

    stage: Stage
    number: int
    name: str
    step: str = ""


@dataclass(frozen=True)
class Expire:
    """Delete the run: it ended longer ago than spec.ttlSecondsAfterFinished."""


Action = Start | Stop | Expire


@dataclass(frozen=True)
class RunPlan:
    """What to do now, and the new status. Planning again before anything has changed gives the same plan."""

    actions: tuple[Action, ...] = ()
    status: RunStatus = field(default_factory=RunStatus)
    wake_at: float | None = None
    """seconds since the epoch at which to plan again even if nothing changes; None waits for a change."""


@dataclass(frozen=True)
class BackOff:
    """Waiting before a restart: `first_s`, doubled with each restart, at most `most_s` (our choice)."""

    first_s: float = 2.0
    most_s: float = 300.0
    jitter: float = 0.0
    """0 to 1: lengthens the wait by up to a quarter, so that runs that failed together do not come back together."""

    @property
    def longest_s(self) -> float:
        """No wait is longer, whatever its jitter."""
        return self.most_s * 1.25

    def delay_s(self, restarts: int) -> float:
        """Seconds before restart number `restarts` (from 1)."""
        return min(self.most_s, self.first_s * 2.0 ** min(restarts - 1, 32)) * (1 + self.jitter / 4)
