"""Progress of the filter over all shards, as one worker sees it.

The worker counts its own samples and assumes that the others advance at the same rate.

The total is unknown until the shards have been read. It is counted in advance where that is cheap (small local shards)
and estimated from file sizes otherwise.
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
"""Local input up to this many bytes is counted in advance, which takes under a second."""


class StageProgress:
    """Reports the progress through the reporter of the context."""

    def __init__(
        self,
        context: Context,
        shards: Sequence[Shard],
        mine: Sequence[Shard],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at zero.

        Args:
            context: the stage's context.
            shards: all shards of the stage.
            mine: this worker's share; `begin` adds the shards that it takes over from others.
            clock: seconds, monotonic.
        """
        self._clock, self._started_at = clock, clock()
        self._processed, self._kept, self._spotted_images = 0, 0, 0
        self._context, self._shards = context, shards
        inputs: dict[str, str] = context.config["inputs"]
        self._bytes = {
            shard.name: int(inputs[shard.name].partition("-")[0]) if shard.part is None else shard.part.size
            for shard in shards
        }
        self._samples: dict[str, int] = {}
        self._mine = {shard.name: shard for shard in mine}
        self._done, self._in_shard, self._bad_shards = 0, 0, 0
        tars = all(shard.part is None and context.storage.local_path(shard.uri) is not None for shard in shards)
        if tars and sum(self._bytes.values()) <= MAX_COUNTED_BYTES:
            self._samples = {shard.name: count_samples(context.storage, shard.uri) for shard in shards}
        context.progress.start(STEP, self._estimate(shards))

    def begin(self, shard: Shard) -> None:
        """Start a shard, from this worker's share or another's."""
        self._mine[shard.name] = shard

    def advance(self, rows: Sequence[Row]) -> None:
        """Count one finished batch of the current shard."""
        self._processed += len(rows)
        self._kept += sum(row.kept for row in rows)
        self._in_shard += len(rows)
        self._spotted_images += sum(row.ocr_state != "not_run" for row in rows)
        self._report()

    def _report(self, *, last: bool = False) -> None:
        metrics = {"kept_percent": 100 * self._kept / self._processed} if self._processed else {}
        if self._bad_shards:
            metrics["bad_shards"] = self._bad_shards
        elapsed = self._clock() - self._started_at
        if self._spotted_images and elapsed > 0:
            metrics["pictures_per_second"] = self._scaled(self._spotted_images) / elapsed
        self._context.progress.update(
            self._scaled(self._done + self._in_shard), metrics, total=self._estimate(self._shards), last=last
        )

    def finish(self, shard: Shard, samples: int, *, skipped: bool = False, bad_shards: int = 0) -> None:
        """Count the current shard as done.

        Args:
            shard: the shard.
            samples: its number of samples.
            skipped: an earlier attempt filtered it, so it does not count towards the speed.
            bad_shards: number of damaged shards that this worker knows.
        """
        self._mine[shard.name], self._samples[shard.name] = shard, samples
        self._done, self._in_shard = self._done + samples, 0
        if skipped:
            total = self._estimate(self._shards)
            self._context.progress.start(STEP, total, done=self._scaled(self._done))
        if bad_shards > self._bad_shards:
            self._bad_shards = bad_shards
            self._report(last=True)

    def _estimate(self, shards: Iterable[Shard]) -> int:
        """Estimated samples of the shards; 0 while nothing is known."""
        shards = list(shards)
        known = sum(self._samples.values())
        known_bytes = sum(self._bytes[name] for name in self._samples)
        unknown_bytes = sum(self._bytes[shard.name] for shard in shards if shard.name not in self._samples)
        counted = sum(self._samples.get(shard.name, 0) for shard in shards)
        return round(counted + unknown_bytes * known / known_bytes) if known_bytes else 0

    def _scaled(self, done: int) -> int:
        """Scale this worker's number of samples to that of all workers."""
        mine = self._estimate(self._mine.values())
        return round(done * self._estimate(self._shards) / mine) if mine else done
