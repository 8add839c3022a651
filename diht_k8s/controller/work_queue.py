"""A work queue: each key waits at most once and is never given to two workers at a time, and no tenant's flood delays
another's key by more than a round. Thread-safe.

In the terms of Kubernetes' API priority and fairness: a key has a priority level, and a flow within it (its namespace).
Flows take turns, one key each, first in first out within a flow. Unlike there, a level has no seats of its own: a level
that waits gets a share of the turns, so that even a flood of a higher level does not starve it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class PriorityLevel(IntEnum):
    """Priority level of a key, highest first."""

    NEW = 0
    """It has had no answer at all: its owner waits for a sign of life."""
    CHANGED = 1
    """Something that it depends on has changed, or its time has come."""
    ENDED = 2
    """It has ended, or is not known (yet): it hardly needs anything."""


PATIENCE: Final = {PriorityLevel.NEW: 0, PriorityLevel.CHANGED: 1, PriorityLevel.ENDED: 15}
"""How many keys of higher levels may go before the next one of a level that waits."""


class FairOrder(Generic[Key]):
    """Waiting keys, each once."""

    def __init__(self) -> None:
        # OrderedDict, for a plain dict whose first key is taken again and again takes quadratic time
        self._flows: dict[PriorityLevel, OrderedDict[Hashable, OrderedDict[Key, float]]] = {
            level: OrderedDict() for level in PriorityLevel
        }
        """the flow whose turn is next comes first; none is empty."""
        self._places: dict[Key, tuple[PriorityLevel, Hashable]] = {}
        self._passed = dict.fromkeys(PriorityLevel, 0)
        """keys of higher levels that went while this level waited, since its last turn."""

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: Key, flow: Hashable, level: PriorityLevel, since: float) -> None:
        """Have a key wait.

        One that waits already keeps its place and its time, unless this level is higher: then it goes to the end of its
        flow there.

        Args:
            key: the key.
            flow: whose key it is; always the same for a key.
            level: its priority level.
            since: when it began to wait.
        """
        if key in self._places:
            if self._places[key][0] <= level:
                return
            since = self._take(key)
        self._flows[level].setdefault(flow, OrderedDict())[key] = since
        self._places[key] = level, flow

    def pop(self) -> tuple[Key, float]:
        """The next key and since when it has waited.

        Raises:
            IndexError: none waits.
        """
        if not self._places:
            raise IndexError("no key waits")
        level = self._next_level()
        flows = self._flows[level]
        flow = next(iter(flows))
        key = next(iter(flows[flow]))
        since = self._take(key)
        if flow in flows:  # its next turn is after all others'
            flows.move_to_end(flow)
        return key, since

    def _next_level(self) -> PriorityLevel:
        waiting = [level for level in PriorityLevel if self._flows[level]]
        highest = waiting[0]
        level = next((low for low in reversed(waiting[1:]) if self._passed[low] >= PATIENCE[low]), highest)
        for each in PriorityLevel:
            if each not in waiting or each == level:
                self._passed[each] = 0
            elif each > level:
                self._passed[each] += 1
        return level

    def _take(self, key: Key) -> float:
        level, flow = self._places.pop(key)
        keys = self._flows[level][flow]
        since = keys.pop(key)
        if not keys:
            del self._flows[level][flow]
        return since


FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 60.0
LEAST_TIMERS: Final = 64
"""Timers that are kept however few of them still count."""


class WorkQueue(Generic[Key]):
    """Keys to work on, now or later."""

    def __init__(
        self,
        flow: Callable[[Key], Hashable],
        level: Callable[[Key], PriorityLevel],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty queue.

        Args:
            flow: whose key it is: flows take turns. Always the same for a key.
            level: a key's priority level, at the time at which it begins to wait.
            clock: seconds, monotonic.
        """
        self._flow, self._level, self._clock = flow, level, clock
        self._ready: FairOrder[Key] = FairOrder()
        self._busy: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        """a heap; an entry counts only if `_due` has the same time for its key."""
        self._numbers = itertools.count()
        self._failures: dict[Key, int] = {}
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._ready) + len(self._again)

    def add(self, key: Key) -> None:
        """Work on the key as soon as its turn comes."""
        with self._changed:
            self._add(key)

    def add_after(self, key: Key, delay_s: float) -> None:
        """Work on the key after a while, or sooner if something asks for it sooner."""
        with self._changed:
            self._add_after(key, delay_s)

    def get(self, timeout_s: float | None = None) -> tuple[Key, float] | None:
        """The next key and since when it has waited; it stays busy until `done`.

        Returns: None once the queue is closed, or after `timeout_s` seconds without a key.
        """
        until = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while not self._closed:
                now = self._clock()
                self._fire(now)
                if self._ready:
                    key, since = self._ready.pop()
                    self._busy.add(key)
                    return key, since
                if until is not None and now >= until:
                    return None
                ends = [end for end in (until, self._timers[0][0] if self._timers else None) if end is not None]
                self._changed.wait(min(ends) - now if ends else None)
            return None

    def close(self) -> None:
        """Give out no key any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def failing(self, times: int) -> int:
        """Number of keys that have failed at least N times in a row."""
        with self._changed:
            return sum(failures >= times for failures in self._failures.values())

    def done(self, key: Key, *, failed: bool = False) -> None:
        """The work on a key has ended; a failed key comes back after a wait that grows."""
        with self._changed:
            self._busy.discard(key)
            if failed:
                self._failures[key] = self._failures.get(key, 0) + 1
            else:
                self._failures.pop(key, None)
            since = self._again.pop(key, None)
            if since is not None:
                self._put(key, since)
            elif failed:
                self._add_after(key, min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures[key] - 1, 16)))

    def _add(self, key: Key) -> None:
        self._due.pop(key, None)
        if key in self._busy:
            self._again.setdefault(key, self._clock())
        else:
            self._put(key, self._clock())

    def _add_after(self, key: Key, delay_s: float) -> None:
        due = self._clock() + max(0.0, delay_s)
        if self._due.get(key, due + 1.0) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._numbers), key))
        if len(self._timers) > LEAST_TIMERS + 2 * len(self._due):  # rarely enough to cost each timer the same
            self._timers = [timer for timer in self._timers if not self._is_stale(timer)]
            heapq.heapify(self._timers)
        self._changed.notify()

    def _put(self, key: Key, since: float) -> None:
        self._ready.add(key, self._flow(key), self._level(key), since)
        self._changed.notify()

    def _fire(self, now: float) -> None:
        """Queue the keys that are due."""
        while self._timers and (self._timers[0][0] <= now or self._is_stale(self._timers[0])):
            timer = heapq.heappop(self._timers)
            if not self._is_stale(timer):
                self._add(timer[2])

    def _is_stale(self, timer: tuple[float, int, Key]) -> bool:
        """Whether its key was asked for sooner since, or has been queued."""
        return self._due.get(timer[2]) != timer[0]
