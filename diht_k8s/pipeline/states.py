"""What `plan` reads and writes: observed attempts, the status of a run, the actions to take. Plain frozen data.

The laptop keeps a status in memory, the controller in `DihtRun.status`. Counters live here and are never derived from the
attempts that happen to be there: a deleted Job must not give a run new restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState


class AttemptState(StrEnum):
    """Where one attempt at a stage (one Job, or one group of processes) stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


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
    """whether it ended by preemption, drain, eviction or a lost node: no fault of the program."""
    step: str = ""
    """of the stage, where the cluster runs it as several jobs one after another."""
    ending: bool = False
    """whether its programs were asked to end already: asking again would do nothing."""
    half_started_at: float | None = None
    """seconds since the epoch since when some of its pods run while others find no node; None while not so."""


@dataclass(frozen=True)
class Observed:
    """What was seen of the world."""

    attempts: tuple[Attempt, ...] = ()
    cached: frozenset[Stage] = frozenset()
    """stages whose output is committed under the run's configuration."""
    stop_requested: bool = False
    """whether a person asked to stop (a signal; `spec.suspend` counts as well)."""
    retry_requested: bool = False
    """whether a person asked to go on with this failed run."""


ENDED_WELL = frozenset({StageState.COMPLETE, StageState.CACHED})


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended badly."""

    exit_code: int
    reason: str = ""
    message: str = ""
    infrastructure: bool = False
    """whether the program had no part in it."""


@dataclass(frozen=True)
class StageStatus:
    """What is remembered of one stage."""

    stage: Stage
    state: StageState = StageState.PENDING
    attempt: int = 0
    """number of the newest attempt; 0 before the first."""
    restarts: int = 0
    """counted against failurePolicy.maxRestarts."""
    infrastructure_restarts: int = 0
    """counted against failurePolicy.maxInfrastructureRestarts."""
    out_of_memory: int = 0
    """attempts that ended by OOMKilled."""
    not_before: float | None = None
    """seconds since the epoch before which the next attempt does not start."""
    failure: Failure | None = None
    """of the newest attempt that ended badly."""
    step: str = ""
    """of the stage, where it is run as several jobs."""


class RunState(StrEnum):
    """Where the run stands. The last three are final: nothing but a person changes them."""

    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    STOPPED = "Stopped"


FINAL = frozenset({RunState.COMPLETE, RunState.FAILED, RunState.STOPPED})


@dataclass(frozen=True)
class RunStatus:
    """What is remembered of a run."""

    state: RunState = RunState.RUNNING
    started_at: float | None = None
    """seconds since the epoch of the first attempt."""
    stages: tuple[StageStatus, ...] = ()
    exit_code: int = ExitCode.DONE
    """what `diht run` ends with."""
    message: str = ""
    """one line on why it failed or stopped."""
    reason: Reason | None = None
    """why it failed or stopped, for machines."""
    ended_at: float | None = None
    """seconds since the epoch at which it became final; remembered by whoever plans."""

    def of(self, stage: Stage, step: str = "") -> StageStatus:
        """The status of a stage (or of a step of it); a fresh one where nothing is remembered."""
        found = (status for status in self.stages if status.stage is stage and status.step == step)
        return next(found, StageStatus(stage, step=step))


@dataclass(frozen=True)
class Start:
    """Start an attempt, unless one of this name is there already."""

    stage: Stage
    number: int
    name: str
    step: str = ""


@dataclass(frozen=True)
class Stop:
    """Ask the programs of an attempt to end; they save what they can. On the cluster its Job goes, too."""

    stage: Stage
    number: int
    name: str
    step: str = ""


@dataclass(frozen=True)
class Expire:
    """Delete the run: it ended longer ago than spec.ttlSecondsAfterFinished."""


Action = Start | Stop | Expire


@dataclass(frozen=True)
class Plan:
    """What to do now, and what to remember. Planning again before the world has changed gives the same plan."""

    actions: tuple[Action, ...] = ()
    status: RunStatus = field(default_factory=RunStatus)
    wake_at: float | None = None
    """seconds since the epoch at which to plan again even if nothing is observed; None waits for news."""


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
