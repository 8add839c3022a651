"""Asynchronous writer of checkpoints, and at the end of model, metrics and summary. Every rank calls, rank 0 commits.

A checkpoint is taken in one step and written in a thread while training continues; it is committed in the first step
in which all ranks have written. One at a time: the next one waits for it, so at most one copy of a rank's part is held.
One that fails on any rank has failed on all; a few in a row (`train.checkpoint.maxFailures`) end the training.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from diht_k8s.api.errors import DihtError, RetryableError, StopRequested
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, Part
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.collectives import broadcast_error, broadcast_object, gather_objects
from diht_k8s.stages.train.metrics import Metrics
from diht_k8s.stages.train.model.export import ModelDescription, export, write_card
from diht_k8s.stages.train.stage import RESULT

RETRY_S: Final = 3.0
"""Pause before another attempt at the end of a training, where no next interval follows."""


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    cursor: Cursor
    bad: dict[str, int]
    """this rank's bad samples since the checkpoint that this attempt began with."""
    part: Future[Part]

    def outcome(self) -> Part | str:
        """Wait for this rank's part; the error's text if it could not be written."""
        try:
            return self.part.result()
        except DihtError as error:
            return str(error)


class Checkpointer:
    """Writes for one attempt; stops when a newer attempt has begun."""

    def __init__(
        self, storage: Storage, layout: Layout, *, keep: int, rank: int, world: int, max_failures: int = 3
    ) -> None:
        """Take an attempt's number (a collective).

        Args:
            storage: where to.
            layout: of the run.
            keep: number of checkpoints that stay.
            rank: of this process.
            world: number of processes.
            max_failures: failed checkpoints in a row that end the training.
        """
        self._storage, self._layout, self._keep, self._max_failures = storage, layout, keep, max_failures
        self._rank, self._world = rank, world
        # Only rank 0 commits and removes; the others write parts under the number of the attempt.
        self._fence = Fence(storage, layout) if rank == 0 else None
        self.attempt = broadcast_object(0 if self._fence is None else self._fence.attempt)
        """number of this attempt; equal on all ranks."""
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Pending | None = None
        self._failed_in_a_row = 0
        self.failed = 0
        """checkpoints of this attempt that could not be written; equal on all ranks."""

    def fence(self) -> None:
        """Check on rank 0 that this is still the newest attempt, before a write that others read.

        Raises:
            StopRequested: a newer one writes here.
        """
        if self._fence is not None:
            self._fence.require_newest()

    def newest(self, config_sha256: str) -> checkpoint.Saved | None:
        """The checkpoint to resume from, which all ranks read together (a collective)."""
        if self._fence is not None:
            checkpoint.write_missing_marker(self._storage, self._layout.checkpoints, self._fence)
        where = {"rank": self._rank, "world": self._world}
        return checkpoint.newest(self._storage, self._layout.checkpoints, config_sha256, **where)

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is not committed yet; equal on all ranks."""
        return self._pending is not None

    @property
    def busy(self) -> bool:
        """Whether this rank still writes."""
        return self._pending is not None and not self._pending.part.done()

    def begin(self, state: Mapping[str, Tensor], cursor: Cursor, bad: Mapping[str, int]) -> None:
        """Start to write this rank's part of a checkpoint; the one before must be complete."""
        assert self._pending is None
        who = {"rank": self._rank, "attempt": self.attempt}
        part = self._thread.submit(checkpoint.write_part, self._storage, self._layout.checkpoints, cursor, state, **who)
        self._pending = Pending(cursor, dict(bad), part)

    def complete(self, metrics: Metrics) -> Cursor | None:
        """Wait for the pending checkpoint and commit it (a collective).

        Returns:
            its cursor; None if none is pending, or if it failed, which all ranks then know and count.

        Raises:
            RetryableError: too many in a row could not be written.
            StopRequested: another attempt has replaced this one.
        """
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        gathered = gather_objects((pending.outcome(), pending.bad))
        lost = [f"rank {rank}: {part}" for rank, (part, _) in enumerate(gathered) if isinstance(part, str)]
        if not lost:
            parts = [part for part, _ in gathered if not isinstance(part, str)]
            bad = _sum([pending.cursor.bad, *(theirs for _, theirs in gathered)])
            error = broadcast_error((lambda: self._commit(pending, parts, bad, metrics)) if self._rank == 0 else None)
            if isinstance(error, StopRequested):
                raise error
            lost = [] if error is None else [str(error)]
        if lost:
            self._count_failed(pending, lost[0])
            return None
        self._failed_in_a_row = 0
        return pending.cursor

    def _commit(self, pending: Pending, parts: list[Part], bad: dict[str, int], metrics: Metrics) -> None:
        assert self._fence is not None
        metrics.try_write()
        counted = pending.cursor.model_copy(update={"bad": bad})
        checkpoint.commit(self._storage, self._layout.checkpoints, counted, parts, keep=self._keep, fence=self._fence)

    def _count_failed(self, pending: Pending, reason: str) -> None:
        """Count a failed checkpoint (a collective), and end the training after too many in a row."""
        self.failed += 1
        self._failed_in_a_row += 1

        def clean() -> None:
            assert self._fence is not None
            logging.warning(
                "the checkpoint of step %d is not saved (%d of at most %d in a row): %s; training continues from "
                "memory",
                pending.cursor.step,
                self._failed_in_a_row,
                self._max_failures,
                reason,
            )
            checkpoint.remove_unfinished(self._storage, self._layout.checkpoints, pending.cursor, fence=self._fence)

        error = broadcast_error(clean if self._rank == 0 else None)
        if error is not None:
            raise error
        if self._failed_in_a_row >= self._max_failures:
            raise RetryableError(
                f"{reason}; no checkpoint was saved in {self._failed_in_a_row} attempts in a row "
                "(train.checkpoint.maxFailures): the training stops, the last checkpoint is kept"
            )

    def finish(
        self,
        run: DihtRun,
        state: Mapping[str, Tensor],
        model: ModelDescription,
        metrics: Metrics,
        summary: Mapping[str, Any],
    ) -> None:
        """Write the model and what the launcher commits; `state` is rank 0's, of all weights (a collective).

        Raises:
            DihtError: rank 0 could not write them, on all ranks.
        """

        def write() -> None:
            self.fence()
            whole = {**summary, **metrics.summary()}
            files = export(self._storage, self._layout, model, state)
            files.append(write_card(self._storage, self._layout, run, model.config, whole))
            metrics.write()
            metrics.try_write_tensorboard()
            result = {"files": [*files, "metrics.jsonl"], "summary": whole}
            self._storage.write_bytes(join(self._layout.stage(Stage.TRAIN), RESULT), json.dumps(result).encode())

        error = broadcast_error((lambda: self._retried(write)) if self._rank == 0 else None)
        if error is not None:
            raise error

    def _retried(self, write: Callable[[], None]) -> None:
        """Write what must be there at the end; transient errors are tried again as often as checkpoints are."""
        for number in range(1, self._max_failures):
            try:
                return write()
            except RetryableError as error:
                logging.warning("the model is not written (%d of at most %d): %s", number, self._max_failures, error)
                time.sleep(RETRY_S)
        return write()

    def bad(self, cursor: Cursor, bad: Mapping[str, int]) -> dict[str, int]:
        """Bad samples of all ranks and attempts, by reason."""
        return _sum([cursor.bad, *gather_objects(dict(bad))])


def _sum(counts: list[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
