"""The global order of samples: lanes of shuffled blocks, read side by side, the same for any number of processes.

Training walks through positions p = 0, 1, 2, ... Position p belongs to epoch p // T (T samples in an epoch) and to lane
p % S of S lanes, where S divides the batch B: each batch takes B / S rows from every lane, in every epoch, and the
short last batch of an epoch continues in the next one. So every sample is seen exactly once in an epoch, what a batch
holds depends on its position and on S alone, and the whole state of the data path is one number: the next position.

An epoch shuffles the shards and cuts their sequence into S lanes. Each shard begins at a random sample (its end
continues at its beginning), and is cut into blocks of consecutive samples, which are one range request each; a lane
shuffles its blocks. Then a lane's element i gets the key i + w * u, with u uniform in [0, 1) and w its share of the
window, and is handed out in the order of the keys: a sliding shuffle, in which a reader holds about w / 2 samples of a
lane and reads a block at a time.

A shard of which no ranges can be read (a compressed tar) is one long block, which is read from its start in sequence.

The rows of a batch, sorted by lane and element, are cut contiguously among N readers (ranks x workers, any number;
`share`). So reader r has the same lanes in every batch, and a lane is read twice only where a cut splits it: all
readers together read at most 1 + (N - 1) / S times what there is, and exactly once where N divides S.

Where sources have weights, an epoch reads the shards of the lightest one once and the others' as many times as they are
heavier; a fractional weight adds a random part of each shard, drawn again in each epoch. Each reading has its own
order.

Pure: numbers in, numbers out. Random generators depend on a seed and names alone: the same on any worker and after any
restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

MAX_LANES: Final = 1024
BLOCK: Final = 64
"""Samples of a block: at 50 KiB an image 3 MiB, for which a request's latency of some 25 ms is a small part of its
time."""
MAX_WINDOW: Final = 1 << 19
"""Samples of the window over all lanes. Of 438 million pairs in blocks of 64 at most 10 % more pairs then meet again in
the next epoch's batches than in a full shuffle; half of it is held, and a block of each lane: 15 GiB over all readers
at 50 KiB."""
MIN_WINDOW: Final = 1 << 15
MAX_RESUME_SHARE: Final = 100
"""A resume reads the window and a block of each lane again: together a hundredth of an epoch, unless the window would
then be below `MIN_WINDOW` or two batches (in fewer than two all of a block would come into one)."""
_CHUNK: Final = 1024
"""Elements whose keys are drawn at once, at least."""

Numbers = npt.NDArray[np.int64]


class OrderSizes(NamedTuple):
    """The numbers on which an order depends beside data and seed; a checkpoint's cursor keeps them."""

    lanes: int
    """a divisor of the batch size."""
    block: int
    """samples of a block."""
    window: int
    """samples among which the order is mixed, over all lanes."""


def order_sizes(
    total: int, batch_size: int, *, lanes: int | None = None, block: int | None = None, window: int | None = None
) -> OrderSizes:
    """The order's numbers: those that are asked for, and for the others what suits the data and the batch.

    Args:
        total: samples of an epoch.
        batch_size: samples of a global batch.
        lanes: the most of them; the largest divisor of the batch up to it is taken, if each lane then has a block's
            worth.
        block: samples of a block.
        window: samples among which the order is mixed, over all lanes.
    """
    block = block or BLOCK
    most = max(1, min(lanes or MAX_LANES, total // block, batch_size))
    divisor = next(number for number in range(most, 0, -1) if batch_size % number == 0)
    if window is None:
        window = min(MAX_WINDOW, total // MAX_RESUME_SHARE - divisor * block)
        window = max(window, MIN_WINDOW, 2 * batch_size)
    return OrderSizes(divisor, block, max(window, divisor))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a lane in an epoch, in the order in which they are read."""

    shards: Numbers
    firsts: Numbers
    """number of a block's first sample in its shard."""
    counts: Numbers

    @cached_property
    def begins(self) -> Numbers:
        """The lane's element with which each block begins, and its length at the end."""
        return np.concatenate([[0], np.cumsum(self.counts)])


@dataclass(frozen=True)
class ShardPass:
    """One read of a shard within an epoch."""

    shard: int
    size: int
    """samples that it takes: all, or a part."""


def shard_passes(sizes: Sequence[int], weights: Sequence[float]) -> list[ShardPass]:
    """The reads of an epoch, before they are shuffled.

    Args:
        sizes: samples of each shard.
        weights: how often each shard is drawn, relative to the others; none: all alike.
    """
    least = min(weights, default=1.0)
    found: list[ShardPass] = []
    for shard, size in enumerate(sizes):
        whole, rest = divmod(weights[shard] / least, 1) if weights else (1, 0)
        found += [ShardPass(shard, size)] * int(whole)
        if part := round(size * rest):
            found.append(ShardPass(shard, part))
    return found


@dataclass(frozen=True)
class LaneSampler:
    """The global order over shards of known sizes."""

    sizes: tuple[int, ...]
    """samples of each shard."""
    order: OrderSizes
    seed: int
    weights: tuple[float, ...] = ()
    """how often each shard is drawn, relative to the others; none: all alike."""
    sequential: frozenset[int] = frozenset()
    """shards of which no ranges can be read."""
    _plans: dict[int, _Plan] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def total(self) -> int:
        """Samples in an epoch, each as often as it is drawn."""
        return int(self._readings[1].sum())

    @cached_property
    def _readings(self) -> tuple[Numbers, Numbers]:
        """Shard and number of samples of each reading of an epoch, before they are shuffled."""
        found = shard_passes(self.sizes, self.weights)
        return np.array([each.shard for each in found], np.int64), np.array([each.size for each in found], np.int64)

    def locate(self, position: int) -> tuple[int, int, int]:
        """(epoch, lane, element of the lane) of a position."""
        lanes = self.order.lanes
        epoch, lane = position // self.total, position % lanes
        first = -((lane - epoch * self.total) // lanes)  # the first turn of the lane in this epoch, rounded up
        return epoch, lane, position // lanes - first

    def positions(self, start: int, batch_size: int, rows: range) -> list[int]:
        """The positions of some rows of the batch that begins at a position.

        Args:
            start: a multiple of the batch size.
            batch_size: of the global batch, a multiple of the lanes.
            rows: numbers of the rows in the batch's order, by lane and element.
        """
        lanes = self.order.lanes
        each = batch_size // lanes
        return [start + row % each * lanes + row // each for row in rows]

    def length(self, epoch: int, lane: int) -> int:
        """Elements of a lane in an epoch."""
        return self._begin(epoch, lane + 1) - self._begin(epoch, lane)

    def _begin(self, epoch: int, lane: int) -> int:
        """Elements of all lanes before this one in an epoch: its positions that are smaller modulo the lanes."""

        def below(position: int) -> int:
            turns, rest = divmod(position, self.order.lanes)
            return turns * lane + min(rest, lane)

        return below((epoch + 1) * self.total) - below(epoch * self.total)

    def blocks(self, epoch: int, lane: int) -> Blocks:
        """A lane's blocks in an epoch."""
        plan = self._plan(epoch)
        begin, end = self._begin(epoch, lane), self._begin(epoch, lane + 1)
        pieces: list[tuple[int, int, int, int]] = []  # shard, first sample, samples, unit that stays together
        units = 0
        number = int(np.searchsorted(plan.ends, begin, side="right"))
        while begin < end:
            shard, size = int(plan.shards[number]), int(plan.sizes[number])
            low = begin - (int(plan.ends[number]) - size)
            high = min(size, low + end - begin)
            together = shard in self.sequential
            for at in range(low, high, self.order.block):
                first, count = int(plan.starts[number]) + at, min(self.order.block, high - at)
                for piece in _unwrapped(first, count, self.sizes[shard]):
                    pieces.append((shard, *piece, units))
                    units += not together
            units += together
            begin += high - low
            number += 1
        shards, firsts, counts, unit = np.array(pieces, np.int64).reshape(-1, 4).T
        places = generator(self.seed, "blocks", epoch, lane).permutation(units)
        order = np.argsort(places[unit], kind="stable")
        return Blocks(shards[order], firsts[order], counts[order])

    def lane(self, epoch: int, lane: int) -> LaneOrder:
        """The order in which a lane's elements are handed out in an epoch."""
        window = self.order.window // self.order.lanes
        return LaneOrder(self.length(epoch, lane), window, self.seed, epoch, lane)

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            for old in [old for old in self._plans if old < epoch - 1]:  # of two epochs at their border
                del self._plans[old]
            self._plans[epoch] = self._make_plan(epoch)
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> _Plan:
        shards, sizes = self._readings
        whole = np.array(self.sizes, np.int64)[shards]
        last = np.isin(shards, list(self.sequential))  # these do not go on at their beginning
        starts = generator(self.seed, "starts", epoch).integers(
            0, np.maximum(np.where(last, whole - sizes + 1, whole), 1)
        )
        order = generator(self.seed, "shards", epoch).permutation(len(shards))
        return _Plan(shards[order], sizes[order], starts[order], np.cumsum(sizes[order]))


class _Plan(NamedTuple):
    """The readings of an epoch, shuffled."""

    shards: Numbers
    sizes: Numbers
    starts: Numbers
    """the sample of the shard with which each begins."""
    ends: Numbers
    """elements up to each one's end."""


def _unwrapped(first: int, count: int, size: int) -> list[tuple[int, int]]:
    """(first, count) of consecutive samples of a shard that continues at its beginning: one piece, or two."""
    first %= size
    head = min(count, size - first)
    return [(first, head)] if head == count else [(first, head), (0, count - head)]


@dataclass(frozen=True)
class LaneOrder:
    """The sliding shuffle of a lane's elements."""

    length: int
    window: int
    """how far behind its place an element may come, at most."""
    seed: int
    epoch: int
    lane: int

    @property
    def _chunk(self) -> int:
        return max(self.window, _CHUNK)

    def keys(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """The keys of some consecutive elements; an element is handed out after all those with smaller keys."""
        parts = [np.empty(0)]
        for chunk in range(first // self._chunk, -(-last // self._chunk)):
            begin = chunk * self._chunk
            parts.append(self._keys_of(chunk)[max(first - begin, 0) : last - begin])
        return np.concatenate(parts)

    def _keys_of(self, chunk: int) -> npt.NDArray[np.float64]:
        begin = chunk * self._chunk
        numbers = np.arange(begin, min(begin + self._chunk, self.length))
        draws = generator(self.seed, "window", self.epoch, self.lane, chunk).random(max(len(numbers), 0))
        return numbers + self.window * draws

    def elements(self, start: int = 0) -> Iterator[Numbers]:
        """The elements from one place of the order on, in pieces."""
        chunk, interval = self._chunk, start // self._chunk
        while True:
            begin = max(interval - 1, 0) * chunk
            keys = self.keys(begin, min((interval + 1) * chunk, self.length))
            before = begin + int((keys < interval * chunk).sum())  # a key is less than a chunk above its element
            if before >= self.length:
                return
            inside = np.flatnonzero((keys >= interval * chunk) & (keys < (interval + 1) * chunk))
            order = inside[np.argsort(keys[inside], kind="stable")] + begin
            yield order[max(start - before, 0) :]
            interval += 1


def sampler_over(
    sizes: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    weights: Sequence[float] = (),
    sequential: frozenset[int] = frozenset(),
    lanes: int | None = None,
    block: int | None = None,
    window: int | None = None,
) -> LaneSampler:
    """An order with what suits the data and the batch.

    Args:
        sizes: samples of each shard.
        batch_size: samples of a global batch.
        seed: of the shuffle.
        weights: how often each shard is drawn, relative to the others; none: all alike.
        sequential: shards of which no ranges can be read.
        lanes: as `order_sizes` has it, as `block` and `window`.
        block: samples of a block.
        window: samples among which the order is mixed, over all lanes.
    """
    total = sum(each.size for each in shard_passes(sizes, weights))
    order = order_sizes(total, batch_size, lanes=lanes, block=block, window=window)
    return LaneSampler(tuple(sizes), order, seed, tuple(weights), sequential)


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and on names alone, never on which worker asks."""
    text = "\0".join([str(seed), *map(str, names)])
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
