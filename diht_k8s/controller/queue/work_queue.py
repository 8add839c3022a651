"""A work queue: each key waits at most once and is never given to two workers at a time. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from diht_k8s.controller.queue.fair_order import FairOrder, PriorityLevel

FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 60.0
Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Keys to work on, now or later."""

    def __init__(
        self,
        clock: Callable[[], float],
        flow: Callable[[Key], Hashable],
        level: Callable[[Key], PriorityLevel],
    ) -> None:
        """Make an empty queue.

        Args:
            clock: seconds, monotonic, as the event loop's.
            flow: whose key it is: flows take turns. Always the same for a key.
            level: a key's priority level, at the time at which it begins to wait.
        """
        self._clock, self._flow, self._level = clock, flow, level
        self._ready: FairOrder[Key] = FairOrder()
        self._busy: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._timers: dict[Key, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[Key, int] = {}
        self._wakers: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._ready) + len(self._again)

    def add(self, key: Key) -> None:
        """Work on the key as soon as its turn comes."""
        self._cancel(key)
        if key in self._busy:
            self._again.setdefault(key, self._clock())
        else:
            self._put(key, self._clock())

    def add_after(self, key: Key, delay_s: float) -> None:
        """Work on the key after a while, or sooner if something asks for it sooner."""
        due = self._clock() + max(0.0, delay_s)
        timer = self._timers.get(key)
        if timer is not None and timer[0] <= due:
            return
        self._cancel(key)
        handle = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._fire, key)
        self._timers[key] = (due, handle)

    async def get(self) -> tuple[Key, float]:
        """The next key and since when it has waited; it stays busy until `done`."""
        while not self._ready:
            waker = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            await waker
        key, since = self._ready.pop()
        self._busy.add(key)
        return key, since

    def failing(self, times: int) -> int:
        """Number of keys that have failed at least N times in a row; any thread may ask."""
        return sum(failures >= times for failures in list(self._failures.values()))

    def done(self, key: Key, *, failed: bool = False) -> None:
        """The work on a key has ended; a failed key comes back after a wait that grows."""
        self._busy.discard(key)
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
        else:
            self._failures.pop(key, None)
        since = self._again.pop(key, None)
        if since is not None:
            self._put(key, since)
        elif failed:
            self.add_after(key, min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures[key] - 1, 16)))

    def _put(self, key: Key, since: float) -> None:
        self._ready.add(key, self._flow(key), self._level(key), since)
        self._wake()

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()

    def _wake(self) -> None:
        while self._wakers:
            waker = self._wakers.pop(0)
            if not waker.done():
                waker.set_result(None)
                return
