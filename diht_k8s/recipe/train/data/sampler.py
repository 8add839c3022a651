"""The order of trainings that began before there were lanes (checkpoints of version 1), which go on in it; and what both share.

Position p belongs to epoch p // N and has offset o = p % N (N samples in all). Each epoch shuffles the shards and, inside each
shard, its samples; the result is cut into S streams that are read side by side: offset o is element o // S of stream o % S.
The batch of step t is the positions tB to (t+1)B - 1, and rank r of W takes those congruent to r modulo W. Where W does not
divide S, a stream is read by several ranks, up to W times.

A shard is shuffled in windows, so that its reader holds a window and not the shard: all streams together hold about
WINDOW_SAMPLES. New trainings take `lanes`.

Pure: numbers in, numbers out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

MAX_STREAMS = 1024
MIN_STREAM_LENGTH = 64
"""Shorter streams would re-read shards for a handful of samples."""
WINDOW_SAMPLES = 1 << 16
"""A shuffle buffer over all ranks: about 4 GiB of images of 50 KiB. Shards are shuffled among each other anyway."""


@dataclass(frozen=True)
class Slice:
    """Samples of one window of a shard, in the order in which a stream yields them."""

    shard: int
    indexes: np.ndarray
    """positions inside the shard, int64."""
    turn: int
    """which reading of the shard in this epoch, from 0."""


@dataclass(frozen=True)
class ShardPass:
    """One read of a shard within an epoch."""

    shard: int
    turn: int
    size: int
    """samples that it takes: all, or a part."""


@dataclass(frozen=True)
class GlobalSampler:
    """The global order over shards of known sizes, in streams."""

    interleaves: ClassVar[bool] = True
    """whether a rank's rows are those of its workers in turn, and not one worker's after the other's."""

    sizes: tuple[int, ...]
    """samples of each shard."""
    streams: int
    seed: int
    weights: tuple[float, ...] = ()
    """how often each shard is drawn, relative to the others; none: all alike."""

    @staticmethod
    def of(sizes: Sequence[int], batch_size: int, seed: int, *, weights: Sequence[float] = ()) -> GlobalSampler:
        """Make an order; the number of streams is the largest power of two that suits the data and divides the batch.

        Args:
            sizes: samples of each shard.
            batch_size: samples of a global batch.
            seed: of the shuffle.
            weights: how often each shard is drawn, relative to the others; none: all alike.
        """
        total, streams = sum(reading.size for reading in readings(sizes, weights)), 1
        while streams * 2 <= min(MAX_STREAMS, total // MIN_STREAM_LENGTH) and batch_size % (streams * 2) == 0:
            streams *= 2
        return GlobalSampler(tuple(sizes), streams, seed, tuple(weights))

    @cached_property
    def total(self) -> int:
        """Samples in an epoch, each as often as it is drawn."""
        return sum(reading.size for reading in self.readings)

    @cached_property
    def readings(self) -> list[ShardPass]:
        """What an epoch reads, before it is shuffled."""
        return readings(self.sizes, self.weights)

    def locate(self, position: int) -> tuple[int, int, int]:
        """(epoch, stream, element of the stream) of a position."""
        epoch, offset = divmod(position, self.total)
        return epoch, offset % self.streams, offset // self.streams

    def rows(self, start: int, batch_size: int, part: int, parts: int) -> range:
        """The positions of one of several readers' rows of the batch that begins at a position, in its order."""
        return range(start + part, start + batch_size, parts)

    def reader_of(self, rank: int, world: int, worker: int, workers: int) -> tuple[int, int]:
        """(reader, number of readers) of a rank's loader worker."""
        return rank + worker * world, world * workers

    def stream_slices(self, epoch: int, stream: int) -> list[Slice]:
        """A stream's reads in an epoch: the ordered samples of each window; the windows of a shard rise."""
        length = self.total // self.streams + (stream < self.total % self.streams)
        begin = stream * (self.total // self.streams) + min(stream, self.total % self.streams)
        slices: list[Slice] = []
        at = 0
        for number in generator(self.seed, "shards", epoch, 0).permutation(len(self.readings)):
            reading = self.readings[number]
            low, high = max(begin, at), min(begin + length, at + reading.size)
            if low < high:
                slices += self._windows(epoch, reading, low - at, high - at)
            at += reading.size
        return slices

    def _windows(self, epoch: int, reading: ShardPass, low: int, high: int) -> list[Slice]:
        """Elements `low` to `high` of a reading's shuffled order, by window."""
        turn = (reading.turn,) if reading.turn else ()
        rng = generator(self.seed, "samples", epoch, reading.shard, *turn)
        size, window, slices = self.sizes[reading.shard], WINDOW_SAMPLES // self.streams, []
        for begin in range(0, size, window):
            end = min(begin + window, size)
            first, last = (
                place * reading.size // size for place in (begin, end)
            )  # a part takes its share of each window
            if first >= high:
                break
            order = begin + rng.permutation(end - begin)[: last - first]
            taken = order[max(low - first, 0) : high - first]
            if len(taken):
                slices.append(Slice(reading.shard, taken, reading.turn))
        return slices


def readings(sizes: Sequence[int], weights: Sequence[float]) -> list[ShardPass]:
    """What an epoch reads, before it is shuffled.

    Args:
        sizes: samples of each shard.
        weights: how often each shard is drawn, relative to the others; none: all alike.
    """
    least = min(weights, default=1.0)
    found = []
    for shard, size in enumerate(sizes):
        whole, rest = divmod(weights[shard] / least, 1) if weights else (1, 0)
        found += [ShardPass(shard, turn, size) for turn in range(int(whole))]
        if part := round(size * rest):
            found.append(ShardPass(shard, int(whole), part))
    return found


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and on names alone, never on which worker asks."""
    text = "\0".join([str(seed), *map(str, names)])
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
