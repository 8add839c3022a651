"""Progress of the filter over all shards, seen from one worker: own samples are counted, the others' are taken to move alike.

Totals are unknown until shards have been read; they are counted beforehand where that is cheap (small local shards) and
estimated by bytes elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from diht_k8s.recipe.filter.scores import Row
from diht_k8s.recipe.runtime.stage import Context
from diht_k8s.recipe.shards.samples import count_samples
from diht_k8s.recipe.shards.sources import Shard

STEP: Final = "images and captions"
MAX_COUNTED_BYTES: Final = 64 << 20
"""Local input up to this size is counted beforehand; that takes under a second."""


class StageProgress:
    """Reports through the context's reporter."""

    def __init__(
        self,
        context: Context,
        shards: Sequence[Shard],
        mine: Sequence[Shard],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            context: the stage's context.
            shards: all shards of the stage.
            mine: this worker's share; those in which it helps others come later.
            clock: seconds, monotonic.
        """
        self._clock, self._started_at = clock, clock()
        self._processed, self._kept, self._spotted_images = 0, 0, 0
        self._context, self._shards = context, shards
        inputs: dict[str, str] = context.config["inputs"]
        self._bytes = {shard.name: int(inputs[shard.name].partition("-")[0]) for shard in shards}
        self._samples: dict[str, int] = {}
        self._mine = {shard.name: shard for shard in mine}
        self._done, self._in_shard = 0, 0
        local = all(context.storage.local_path(shard.uri) is not None for shard in shards)
        if local and sum(self._bytes.values()) <= MAX_COUNTED_BYTES:
            self._samples = {shard.name: count_samples(context.storage, shard.uri) for shard in shards}
        context.progress.start(STEP, self._estimate(shards))

    def begin(self, shard: Shard) -> None:
        """A shard comes next, this worker's own or another one's."""
        self._mine[shard.name] = shard

    def advance(self, rows: Sequence[Row]) -> None:
        """A batch of the current shard is done."""
        self._processed += len(rows)
        self._kept += sum(row.kept for row in rows)
        self._in_shard += len(rows)
        self._spotted_images += sum(row.ocr_state != "not_run" for row in rows)
        metrics = {"kept_percent": 100 * self._kept / self._processed}
        elapsed = self._clock() - self._started_at
        if self._spotted_images and elapsed > 0:
            metrics["pictures_per_second"] = self._scaled(self._spotted_images) / elapsed
        self._context.progress.update(
            self._scaled(self._done + self._in_shard), metrics, total=self._estimate(self._shards)
        )

    def finish(self, shard: Shard, samples: int, *, skipped: bool = False) -> None:
        """The current shard is done and held so many samples; `skipped` by an earlier attempt, so that they do not count as speed."""
        self._mine[shard.name], self._samples[shard.name] = shard, samples
        self._done, self._in_shard = self._done + samples, 0
        if skipped:
            total = self._estimate(self._shards)
            self._context.progress.start(STEP, total, done=self._scaled(self._done))

    def _estimate(self, shards: Iterable[Shard]) -> int:
        """Samples of the shards; 0 while nothing is known."""
        shards = list(shards)
        known = sum(self._samples.values())
        known_bytes = sum(self._bytes[name] for name in self._samples)
        unknown_bytes = sum(self._bytes[shard.name] for shard in shards if shard.name not in self._samples)
        counted = sum(self._samples.get(shard.name, 0) for shard in shards)
        return round(counted + unknown_bytes * known / known_bytes) if known_bytes else 0

    def _scaled(self, done: int) -> int:
        """This worker's samples -> those of all workers."""
        mine = self._estimate(self._mine.values())
        return round(done * self._estimate(self._shards) / mine) if mine else done
