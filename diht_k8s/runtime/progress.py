"""Progress lines: what a stage has done of how much, at most one line every few seconds, on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TextIO

from diht_k8s.api.reports import ROUNDS_VARIABLE, CommittedShards, NodeResult, Progress, Rounds, SavedCheckpoint
from diht_k8s.api.run import Stage
from diht_k8s.runtime.time_spent import TimeAccount

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
