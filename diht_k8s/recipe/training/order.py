"""The order in which samples are seen: one global sequence, the same for any number of processes.

Training walks through positions p = 0, 1, 2, ... Position p belongs to epoch p // N and stands at offset o = p % N there (N samples in
all). Each epoch shuffles the shards and, inside each shard, its samples; the result is cut into S streams that are read side by side,
so that a batch mixes many shards: offset o is element o // S of stream o % S. The batch of step t is the positions tB to (t+1)B - 1,
and rank r of W takes those congruent to r modulo W. So every sample is seen exactly once in an epoch, the short last batch goes on into
the next epoch, and the whole state of the data path is one number: the next position. S depends on the data and the batch only; where W
divides S, a rank reads S / W streams and no other.

A shard is shuffled in windows, so that its reader holds a window and not the shard: all streams together hold about WINDOW_SAMPLES.

Pure: numbers in, numbers out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_STREAMS = 1024
MIN_STREAM_LENGTH = 64
"""Shorter streams would re-read shards for a handful of samples."""
WINDOW_SAMPLES = 1 << 16
"""A shuffle buffer over all ranks: about 4 GiB of pictures of 50 KiB. Shards are shuffled among each other anyway."""


@dataclass(frozen=True)
class Slice:
    """Samples of one window of a shard, in the order in which a stream yields them."""

    shard: int
    indexes: np.ndarray
    """positions inside the shard, int64."""


@dataclass(frozen=True)
class Order:
    """The global order over shards of known sizes."""

    sizes: tuple[int, ...]
    """samples of each shard."""
    streams: int
    seed: int

    @staticmethod
    def of(sizes: Sequence[int], batch_size: int, seed: int) -> Order:
        """Make an order; the number of streams is the largest power of two that suits the data and divides the batch.

        Args:
            sizes: samples of each shard.
            batch_size: samples of a global batch.
            seed: of the shuffle.
        """
        total, streams = sum(sizes), 1
        while streams * 2 <= min(MAX_STREAMS, total // MIN_STREAM_LENGTH) and batch_size % (streams * 2) == 0:
            streams *= 2
        return Order(tuple(sizes), streams, seed)

    @property
    def total(self) -> int:
        """Samples in an epoch."""
        return sum(self.sizes)

    def locate(self, position: int) -> tuple[int, int, int]:
        """(epoch, stream, element of the stream) of a position."""
        epoch, offset = divmod(position, self.total)
        return epoch, offset % self.streams, offset // self.streams

    def stream_slices(self, epoch: int, stream: int) -> list[Slice]:
        """What a stream reads in an epoch: for each window that it touches, which samples in which order; windows of a shard rise."""
        length = self.total // self.streams + (stream < self.total % self.streams)
        begin = stream * (self.total // self.streams) + min(stream, self.total % self.streams)
        slices: list[Slice] = []
        at = 0
        for shard in self._generator("shards", epoch, 0).permutation(len(self.sizes)):
            size = self.sizes[shard]
            low, high = max(begin, at), min(begin + length, at + size)
            if low < high:
                slices += self._windows(epoch, int(shard), low - at, high - at)
            at += size
        return slices

    def _windows(self, epoch: int, shard: int, low: int, high: int) -> list[Slice]:
        """Elements `low` to `high` of a shard's shuffled order, by window."""
        rng, size, window = self._generator("samples", epoch, shard), self.sizes[shard], WINDOW_SAMPLES // self.streams
        slices = []
        for begin in range(0, min(high, size), window):
            order = begin + rng.permutation(min(window, size - begin))
            taken = order[max(low - begin, 0) : high - begin]
            if len(taken):
                slices.append(Slice(shard, taken))
        return slices

    def _generator(self, what: str, epoch: int, shard: int) -> np.random.Generator:
        return generator(self.seed, what, epoch, shard)


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and on names alone, never on which worker asks."""
    text = "\0".join([str(seed), *map(str, names)])
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
