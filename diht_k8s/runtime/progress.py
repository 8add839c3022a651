"""Progress of a program: lines on stdout, at most one every few seconds, and its wall time by category.

The categories sum to the total. The launcher of a training begins the account and exports it to rank 0, which notes it
where the launcher finds it after the rank has died. The next round goes on from there. `time.monotonic` is shared by
all processes of a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from diht_k8s.api.reports import (
    ROUNDS_VARIABLE,
    CommittedShards,
    NodeResult,
    Progress,
    Rounds,
    SavedCheckpoint,
    TimeSpent,
)
from diht_k8s.api.run import Stage
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, TIME_NOTE, write_whole

GANG_VARIABLES: Final = ("DIHT_NUM_NODES", "DIHT_PROCESSES")
"""In the environment of ranks: the nodes of the gang's Job, and the processes of each."""
MISSING: Final = "missing_nodes"
TIME_VARIABLE: Final = "DIHT_TIME_SPENT"
"""In the environment of ranks: the account up to their start."""
STARTING: Final = "starting"


class TimeAccount:
    """The wall time of one program."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, began: float | None = None) -> None:
        """Go on with the account in the environment; without one begin at this process's start.

        Args:
            clock: seconds, monotonic.
            began: when an account that is not in the environment begins; None: when this process began.
        """
        self._clock, exported_text = clock, os.environ.get(TIME_VARIABLE)
        self._share = _share_of_gang()
        self._base, self._at = TimeSpent(), process_began(clock) if began is None else began
        if exported_text is not None:
            self._base, self._at = load_account(exported_text)
        self._parts: dict[str, float] = {}
        self._start_up: dict[str, float] = {}
        self._part, self._detail = STARTING, "imports"
        self._resumed: float | None = None
        self._path = self._kept = 0.0
        folder = os.environ.get(FOLDER_VARIABLE) if os.environ.get("RANK") == "0" else None
        self._note = None if folder is None else Path(folder) / TIME_NOTE

    def enter(self, part: str, detail: str = "") -> None:
        """Count for this category from now on; of `starting`, for the detail."""
        now = self._clock()
        self._add(now - self._at)
        self._part, self._detail, self._at = part, detail, now

    def _add(self, seconds: float) -> None:
        held = seconds * self._share
        self._parts[self._part] = self._parts.get(self._part, 0.0) + held
        self._parts[MISSING] = self._parts.get(MISSING, 0.0) + seconds - held
        if self._part == STARTING:
            self._start_up[self._detail] = self._start_up.get(self._detail, 0.0) + seconds
        elif self._part == "steps":
            self._path += held

    def start_steps(self) -> None:
        """The first unit of work begins, if the program has not come so far before."""
        if self._part == STARTING:
            self.enter("steps")

    def resumed(self, productive: float) -> None:
        """The training goes on behind this many productive seconds of steps, which a checkpoint holds."""
        self._resumed = self._path = self._kept = productive

    @property
    def productive(self) -> float:
        """Seconds of steps behind the present position, over all attempts, by the share of the gang's nodes that
        trained.
        """
        return self._path + (self._share * (self._clock() - self._at) if self._part == "steps" else 0.0)

    def checkpoint_committed(self, productive: float) -> None:
        """The newest committed checkpoint holds this many productive seconds."""
        self._kept = productive

    def spent(self) -> TimeSpent:
        """The account up to now."""
        self.enter(self._part, self._detail)
        base = self._base.model_dump()
        sums = {name: round(base[name] + value, 3) for name, value in self._parts.items()}
        sums["start_up"] = {name: round(value, 3) for name, value in self._start_up.items()}
        if self._resumed is not None:
            first = self._base.resumed is None
            sums["resumed"] = self._resumed if first else self._base.resumed
            sums["lost"] = (
                self._base.lost if first else self._base.lost + max(0.0, (self._base.path or 0.0) - self._resumed)
            )
            sums |= {"path": round(self._path, 3), "kept": round(self._kept, 3)}
        return TimeSpent(**{**base, **sums})

    def note(self) -> None:
        """Write the account where the launcher finds it."""
        if self._note is not None:
            write_whole(self._note, self.to_text())

    def to_text(self) -> str:
        """The account for the environment of the ranks."""
        return dump_account(self.spent(), self._at)


@contextlib.contextmanager
def exported(account: TimeAccount) -> Iterator[None]:
    """Keep an account in the environment: processes that start meanwhile go on with it."""
    os.environ[TIME_VARIABLE] = account.to_text()
    try:
        yield
    finally:
        del os.environ[TIME_VARIABLE]


def dump_account(spent: TimeSpent, at: float) -> str:
    """An account up to a moment of the monotonic clock, as text."""
    return json.dumps({"at": at, "spent": spent.model_dump(exclude_none=True)})


def load_account(text: str) -> tuple[TimeSpent, float]:
    """The account and its moment."""
    found: dict[str, Any] = json.loads(text)
    return TimeSpent.model_validate(found["spent"]), float(found["at"])


def with_recovery(text: str, now: float) -> str:
    """The account of a round that has ended, up to the start of the next one."""
    spent, at = load_account(text)
    return dump_account(spent.model_copy(update={"recovering": round(spent.recovering + max(0.0, now - at), 3)}), now)


def _share_of_gang() -> float:
    """The share of its Job's nodes with which a rank's gang trains; 1 but where it goes on in place without some."""
    nodes, processes = (int(os.environ.get(name, "1")) for name in GANG_VARIABLES)
    return min(1.0, int(os.environ.get("WORLD_SIZE", nodes * processes)) / (nodes * processes))


def process_began(clock: Callable[[], float] = time.monotonic) -> float:
    """When this process began, by the clock; now where the system does not say."""
    now = clock()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - max(0.0, age)


STEADY_S: Final = 30.0
STEADY_SHARE: Final = 0.05
"""A step says when it ends once so much time, or so much of its work, has passed."""


class Reporter:
    """Prints progress of one program. Only one program of a gang should have a stream."""

    def __init__(
        self,
        stage: Stage,
        *,
        worker: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float | None = None,
        time_spent: TimeAccount | None = None,
        preflight: Sequence[NodeResult] = (),
    ) -> None:
        """Make a reporter.

        Args:
            stage: the stage that is running.
            worker: index of this worker.
            stream: where lines go; stdout when None.
            clock: seconds, monotonic.
            every_s: seconds between lines; None takes DIHT_PROGRESS_SECONDS, else 10.
            time_spent: the program's account of its time; None begins one.
            preflight: the worst nodes of a training.
        """
        self._preflight = list(preflight)
        self._stage, self._worker, self._clock = stage, worker, clock
        self._stream = sys.stdout if stream is None else stream
        self._every_s = float(os.environ.get("DIHT_PROGRESS_SECONDS", "10")) if every_s is None else every_s
        self._step, self._total, self._unit = "", 0, "samples"
        self._first_done, self._started_at, self._printed_at = 0, 0.0, float("-inf")
        self._finished = False
        self._checkpoint: SavedCheckpoint | None = None
        rounds = os.environ.get(ROUNDS_VARIABLE)
        self._rounds = None if rounds is None else Rounds.model_validate_json(rounds)
        self._shards: CommittedShards | None = None
        self._keeps_time = time_spent is not None
        self.time = time_spent or TimeAccount()
        """what the program spends its time on."""

    def start(self, step: str, total: int, *, done: int = 0, unit: str = "samples") -> None:
        """Begin a step; `done` is what an earlier attempt had finished, so that the rate counts new work only."""
        self._step, self._total, self._unit, self._first_done = step, total, unit, done
        self._started_at, self._printed_at, self._finished = self._clock(), float("-inf"), False
        if not self._keeps_time:
            self.time.start_steps()
        self.update(done)

    def saved(self, checkpoint: SavedCheckpoint | None) -> None:
        """A checkpoint is committed: the lines from here on name it. None before the first one."""
        self._checkpoint = checkpoint

    def committed(self, shards: CommittedShards) -> None:
        """Shards are committed: the lines from here on name them."""
        self._shards = shards

    def update(
        self, done: int, metrics: Mapping[str, float] | None = None, *, total: int | None = None, last: bool = False
    ) -> None:
        """Report progress; prints a line if the last one is old enough, if the step has just finished or if `last` is
        set.
        """
        now = self._clock()
        self._total = self._total if total is None else total
        finished = done == self._total and not self._finished
        if now - self._printed_at < self._every_s and not finished and not last:
            return
        self._printed_at, self._finished = now, done == self._total
        elapsed = now - self._started_at
        rate = (done - self._first_done) / elapsed if elapsed > 0 else 0.0
        left = self._total - done
        line = Progress(
            stage=self._stage,
            step=self._step,
            done=done,
            total=self._total,
            unit=self._unit,
            per_second=round(rate, 2),
            eta_seconds=round(left / rate) if rate > 0 and self._total and self._is_steady(done, elapsed) else None,
            metrics={name: float(f"{value:.6g}") for name, value in (metrics or {}).items()},
            worker=self._worker,
            checkpoint=self._checkpoint,
            rounds=self._rounds,
            shards=self._shards,
            time_spent=self.time.spent(),
            preflight=self._preflight,
        ).line()
        print(line, file=self._stream, flush=True)

    def _is_steady(self, done: int, elapsed: float) -> bool:
        """Whether the rate tells when the step ends: loading a model is most of the first seconds."""
        return elapsed >= STEADY_S or done - self._first_done >= STEADY_SHARE * (self._total - self._first_done)
