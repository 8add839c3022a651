"""A work queue: each key waits at most once and is never given to two workers at a time. Thread-safe."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from diht_k8s.controller.queue.fair_order import FairOrder, PriorityLevel

FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 60.0
LEAST_TIMERS: Final = 64
"""Timers that are kept however few of them still count."""
Key = TypeVar("Key", bound=Hashable)


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
