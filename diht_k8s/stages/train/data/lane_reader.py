"""A lane's items one by one, from an element on, as a collator takes them.

Elements rise; those in between belong to other readers and are passed over. A reader loads a block when its first element is
due, and holds what is to come of it. Blocks of the next batch can be fetched ahead, by threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from itertools import islice

import numpy as np

from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.train.data.dataset import LabelledSample, ShardDataset
from diht_k8s.stages.train.data.sampler import LaneSampler


class LaneReader:
    """The items of a lane."""

    def __init__(self, source: ShardDataset, sampler: LaneSampler, epoch: int, lane: int, element: int) -> None:
        """Make a reader; nothing is read yet.

        Raises:
            DataError: the lane's blocks hold more or fewer samples than the epoch gives it positions.
        """
        self._source, self._sequential, self._epoch = source, sampler.sequential, epoch
        self._blocks, self._order = sampler.blocks(epoch, lane), sampler.lane(epoch, lane)
        positions = Count(self._order.length, "positions has the lane")
        samples = Count(int(self._blocks.counts.sum()), "samples have its blocks")
        require_equal(f"lane {lane} of epoch {epoch}", "report this as a fault of the program", positions, samples)
        self._pieces = self._order.elements(element)
        self._ahead: deque[int] = deque()
        """numbers of the elements to come, in their order."""
        self.next = element
        """number of the next element."""
        self._items: dict[int, LabelledSample] = {}
        """what was read and is to come, by number."""
        self._coming: dict[int, Future[list[LabelledSample]]] = {}
        """blocks that are being read."""
        self._unread: int | None = None
        """the first block that is read in sequence and was not read yet."""
        self._sequence: Iterator[LabelledSample] | None = None
        """samples of the shard of the block before it, from there on."""

    def take(self, element: int) -> LabelledSample:
        """An element; of those before it nothing is read that is not needed."""
        self._look_ahead(element)
        while self.next < element:
            self._items.pop(self._pass(), None)
        number = self._pass()
        if number not in self._items:
            self._load(number)
        return self._items.pop(number)

    def fetch(self, element: int, pool: Executor) -> None:
        """Begin to read the block of an element to come, if it is read by ranges."""
        self._look_ahead(element)
        number = self._ahead[element - self.next]
        block = self._block_of(number)
        if number not in self._items and block not in self._coming and not self._is_sequential(block):
            self._coming[block] = pool.submit(self._source.block, *self._place_of(block), self._epoch)

    def _look_ahead(self, element: int) -> None:
        while len(self._ahead) <= element - self.next:
            self._ahead.extend(next(self._pieces).tolist())

    def _pass(self) -> int:
        self.next += 1
        return self._ahead.popleft()

    def _block_of(self, number: int) -> int:
        return int(np.searchsorted(self._blocks.begins, number, side="right")) - 1

    def _place_of(self, block: int) -> tuple[int, int, int]:
        """(shard, first sample, samples) of a block."""
        blocks = self._blocks
        return int(blocks.shards[block]), int(blocks.firsts[block]), int(blocks.counts[block])

    def _is_sequential(self, block: int) -> bool:
        return int(self._blocks.shards[block]) in self._sequential

    def _load(self, number: int) -> None:
        block = self._block_of(number)
        if self._is_sequential(block):
            self._read_through(block, number)
            return
        coming = self._coming.pop(block, None)
        items = self._source.block(*self._place_of(block), self._epoch) if coming is None else coming.result()
        self._keep(block, items, number)

    def _keep(self, block: int, items: list[LabelledSample], now: int) -> None:
        """Keep those of a block that are not handed out before element number `now`."""
        begin, end = int(self._blocks.begins[block]), int(self._blocks.begins[block + 1])
        to_come = self._order.keys(begin, end) >= self._order.keys(now, now + 1)
        self._items |= {begin + place: items[place] for place in np.flatnonzero(to_come).tolist()}

    def _read_through(self, block: int, now: int) -> None:
        """Read what is read in sequence up to a block, in order, as far as something of it is to come."""
        if self._unread is None:
            oldest = int(self._order.keys(now, now + 1)[0]) - self._order.window
            self._unread = self._block_of(max(oldest, 0))
        for each in range(self._unread, block + 1):
            if self._is_sequential(each):
                shard, first, count = self._place_of(each)
                if self._sequence is None or not self._goes_on(each):
                    self._sequence = self._source.sequence(shard, first, self._epoch)
                self._keep(each, list(islice(self._sequence, count)), now)
        self._unread = max(self._unread, block + 1)

    def _goes_on(self, block: int) -> bool:
        """Whether a block begins where the one before it ends."""
        if block == 0:
            return False
        shard, first, count = self._place_of(block - 1)
        return self._place_of(block)[:2] == (shard, first + count)
