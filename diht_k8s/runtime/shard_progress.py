"""Committed shards of a stage whose workers share them: their number, and the time that they took.

Progress lines carry it, and the plan gives restarts back for it (`pipeline.budget`). The count is that of the whole
stage, from storage. The time is one worker's, over all its starts: a small file keeps it, beside the claims.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from diht_k8s.api.layout import join
from diht_k8s.api.reports import CommittedShards
from diht_k8s.runtime.stage import Context

EVERY_SECONDS: Final = 60.0
"""A list and a write for each worker at most this often."""


class ShardProgress:
    """Committed shards of a stage, for the progress lines of one worker."""

    def __init__(self, context: Context, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; the time counts from here.

        Args:
            context: the stage's context.
            folder: the folder of the stage that gets one file for each finished shard, relative to the stage's.
            clock: seconds, monotonic.
        """
        stage = context.layout.stage(context.stage)
        self._context, self._folder, self._clock = context, join(stage, folder), clock
        self._uri = join(stage, "claims", f"time of worker {context.worker:05d}.json")
        self._seconds: float | None = None
        self._since = clock()

    def shard_done(self) -> None:
        """A shard is committed: count again if the last count is old enough."""
        now = self._clock()
        if now - self._since < EVERY_SECONDS:
            return
        storage = self._context.storage
        self._seconds = (self._read() if self._seconds is None else self._seconds) + now - self._since
        self._since = now
        done = len(storage.names(self._folder))
        storage.write_bytes(self._uri, json.dumps({"seconds": round(self._seconds)}).encode())
        self._context.progress.committed(CommittedShards(count=done, seconds=round(self._seconds)))

    def _read(self) -> float:
        """Seconds of earlier starts of this worker."""
        storage = self._context.storage
        try:
            return float(json.loads(storage.read_bytes(self._uri))["seconds"]) if storage.exists(self._uri) else 0.0
        except (KeyError, TypeError, ValueError):
            return 0.0
