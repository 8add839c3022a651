"""Progress of the filter over all shards, as one worker sees it.

The worker counts its own samples and assumes that the others advance at the same rate.

The total is unknown until the shards have been read. It is counted in advance where that is cheap (small local shards)
and estimated from file sizes otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from diht_k8s.data.shards.samples import count_samples
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.scores import Row

STEP: Final = "images and captions"
MAX_COUNTED_BYTES: Final = 64 << 20
"""Local input up to this many bytes is counted in advance, which takes under a second."""
MAX_COUNTED_SHARDS: Final = 1000


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
        self._context = context
        inputs: dict[str, str] = context.config["inputs"]
        self._bytes = {
            shard.name: int(inputs[shard.name].partition("-")[0]) if shard.part is None else shard.part.size
            for shard in shards
        }
        self._all, self._mine = _Part(self._bytes), _Part(self._bytes)
        for shard in shards:
            self._all.add(shard.name)
        for shard in mine:
            self._mine.add(shard.name)
        self._done, self._in_shard, self._bad_shards = 0, 0, 0
        if len(shards) <= MAX_COUNTED_SHARDS and sum(self._bytes.values()) <= MAX_COUNTED_BYTES:
            self._count(shards)
        context.progress.start(STEP, self._estimate(self._all))

    def _count(self, shards: Sequence[Shard]) -> None:
        """Count the samples in advance, if all shards are local."""
        storage = self._context.storage
        if all(shard.part is None and storage.local_path(shard.uri) is not None for shard in shards):
            for shard in shards:
                self._set_samples(shard.name, count_samples(storage, shard.uri))

    def begin(self, shard: Shard) -> None:
        """Start a shard, from this worker's share or another's."""
        self._mine.add(shard.name)

    def advance(self, rows: Sequence[Row]) -> None:
        """Count one finished batch of the current shard."""
        self._processed += len(rows)
        self._kept += sum(row.kept for row in rows)
        self._in_shard += len(rows)
        self._spotted_images += sum(row.ocr_state != "not_run" for row in rows)
        self._report()

    def close(self, counts: Mapping[str, Any]) -> None:
        """Report the stage's own counts, for the line that stays: rules on the whole pool drop pairs behind the last
        batch, and this worker estimated what others read.

        Args:
            counts: `input` and `kept` of the whole stage.
        """
        metrics = self._metrics(counts["kept"], counts["input"])
        self._context.progress.update(counts["input"], metrics, total=counts["input"], last=True)

    def _report(self, *, last: bool = False) -> None:
        self._context.progress.update(
            self._scaled(self._done + self._in_shard),
            self._metrics(self._kept, self._processed),
            total=self._estimate(self._all),
            last=last,
        )

    def _metrics(self, kept: int, processed: int) -> dict[str, float]:
        metrics = {"kept_percent": 100 * kept / processed} if processed else {}
        if self._bad_shards:
            metrics["bad_shards"] = self._bad_shards
        elapsed = self._clock() - self._started_at
        if self._spotted_images and elapsed > 0:
            metrics["pictures_per_second"] = self._scaled(self._spotted_images) / elapsed
        return metrics

    def finish(self, shard: Shard, samples: int, *, skipped: bool = False, bad_shards: int = 0) -> None:
        """Count the current shard as done.

        Args:
            shard: the shard.
            samples: its number of samples.
            skipped: an earlier attempt filtered it, so it does not count towards the speed.
            bad_shards: number of damaged shards that this worker knows.
        """
        self._mine.add(shard.name)
        self._set_samples(shard.name, samples)
        self._done, self._in_shard = self._done + samples, 0
        if skipped:
            total = self._estimate(self._all)
            self._context.progress.start(STEP, total, done=self._scaled(self._done))
        if bad_shards > self._bad_shards:
            self._bad_shards = bad_shards
            self._report(last=True)

    def _set_samples(self, name: str, samples: int) -> None:
        self._all.set_samples(name, samples)
        self._mine.set_samples(name, samples)

    def _estimate(self, part: _Part) -> int:
        """Estimated samples of some shards; 0 while nothing is known."""
        known_bytes, known = self._all.known_bytes, self._all.samples
        unknown_bytes = part.bytes - part.known_bytes
        return round(part.samples + unknown_bytes * known / known_bytes) if known_bytes else 0

    def _scaled(self, done: int) -> int:
        """Scale this worker's number of samples to that of all workers."""
        mine = self._estimate(self._mine)
        return round(done * self._estimate(self._all) / mine) if mine else done


class _Part:
    """Sums over some shards, kept up to date, since there may be 100,000."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes, self._known = sizes, dict[str, int]()
        self._names = set[str]()
        self.bytes, self.known_bytes, self.samples = 0, 0, 0

    def add(self, name: str) -> None:
        """Count a shard in, once."""
        if name not in self._names:
            self._names.add(name)
            self.bytes += self._sizes[name]
            self._add_known(name)

    def set_samples(self, name: str, samples: int) -> None:
        """Learn the number of samples of a shard, which may change."""
        if name in self._names and name in self._known:
            self.samples -= self._known[name]
            self.known_bytes -= self._sizes[name]
        self._known[name] = samples
        if name in self._names:
            self._add_known(name)

    def _add_known(self, name: str) -> None:
        if name in self._known:
            self.samples += self._known[name]
            self.known_bytes += self._sizes[name]
