"""Writes checkpoints, and at the end model, metrics and summary. Every rank calls, rank 0 commits.

A checkpoint is taken in one step and written in a thread while training continues; it is committed in the first step
in which all ranks have written. One at a time: the next one waits for it, so at most one copy of a rank's part is held.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.checkpoint import checkpoint, fencing
from diht_k8s.recipe.train.checkpoint.checkpoint import Cursor, Part
from diht_k8s.recipe.train.collectives import barrier, gather_objects, object_of_rank_0
from diht_k8s.recipe.train.metrics import Metrics
from diht_k8s.recipe.train.model.card import write_card
from diht_k8s.recipe.train.model.export import export
from diht_k8s.recipe.train.stage import RESULT


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    cursor: Cursor
    bad: dict[str, int]
    """this rank's bad samples since the checkpoint that this attempt began with."""
    part: Future[Part]


class Checkpointer:
    """Writes for one attempt; stops when a newer attempt has begun."""

    def __init__(self, storage: Storage, layout: Layout, *, keep: int, rank: int, world: int) -> None:
        """Take an attempt's number (a collective).

        Args:
            storage: where to.
            layout: of the run.
            keep: number of checkpoints that stay.
            rank: of this process.
            world: number of processes.
        """
        self._storage, self._layout, self._keep = storage, layout, keep
        self._rank, self._world = rank, world
        self._attempt = object_of_rank_0(fencing.claim(storage, layout) if rank == 0 else 0)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Pending | None = None

    def fence(self) -> None:
        """Check that this is still the newest attempt, before a write that others read.

        Raises:
            StopRequested: a newer one writes here.
        """
        fencing.require_newest(self._storage, self._layout, self._attempt)

    def newest(self, config_sha256: str) -> checkpoint.Saved | None:
        """The checkpoint to resume from: rank 0 finds it, all ranks read the same one."""
        saved = checkpoint.newest(self._storage, self._layout.checkpoints, config_sha256) if self._rank == 0 else None
        uri = object_of_rank_0(None if saved is None else saved.uri)
        return checkpoint.read(self._storage, uri) if saved is None and uri is not None else saved

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
        who = {"rank": self._rank, "attempt": self._attempt}
        part = self._thread.submit(checkpoint.write_part, self._storage, self._layout.checkpoints, cursor, state, **who)
        self._pending = Pending(cursor, dict(bad), part)

    def complete(self, metrics: Metrics) -> Cursor | None:
        """Wait for the pending checkpoint and commit it (a collective); return its cursor, None if none is pending.

        Raises:
            DihtError: this rank's part could not be written.
        """
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        gathered = gather_objects((pending.part.result(), pending.bad))
        if self._rank == 0:
            metrics.write()
            total = _sum([pending.cursor.bad, *(theirs for _, theirs in gathered)])
            counted = pending.cursor.model_copy(update={"bad": total})
            parts = [part for part, _ in gathered]
            checkpoint.commit(
                self._storage, self._layout.checkpoints, counted, parts, keep=self._keep, fence=self.fence
            )
        barrier()
        return pending.cursor

    def finish(
        self,
        run: DihtRun,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        metrics: Metrics,
        summary: Mapping[str, Any],
    ) -> None:
        """Write the model and what the launcher commits; `state` is rank 0's, of all weights."""
        if self._rank == 0:
            self.fence()
            whole = {**summary, **metrics.summary()}
            files = export(self._storage, self._layout, config, state)
            files.append(write_card(self._storage, run, config, whole))
            metrics.write()
            metrics.write_tensorboard()
            result = {"files": [*files, "metrics.jsonl"], "summary": whole}
            self._storage.write_bytes(join(self._layout.stage(Stage.TRAIN), RESULT), json.dumps(result).encode())
        barrier()

    def bad(self, cursor: Cursor, bad: Mapping[str, int]) -> dict[str, int]:
        """Bad samples of all ranks and attempts, by reason."""
        return _sum([cursor.bad, *gather_objects(dict(bad))])


def _sum(counts: list[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
