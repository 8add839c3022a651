"""Streams of the stand-in accelerator: what each has waited for, and work that another stream may overtake.

Every operator counts as a piece of work on its thread's current stream. Memory that is read before the stream has
waited for its writer, written before its readers, or freed for use by its own stream before another is done with it is
a race. The same pieces of work, in the order in which the host queues them, are a trace.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

numbers = itertools.count()
races: list[str] = []
trace: list[tuple[str, str]] = []
"""(stream or "host", what): neighbours that are alike count once."""


class Stream:
    """A queue of work."""

    def __init__(self, *_: Any, name: str | None = None) -> None:
        self.name = name or f"stream {next(numbers)}"
        self.done: Counter[str] = Counter()
        """Work of each stream that comes before what this one does next; its own: all of it."""

    def wait_stream(self, other: Stream) -> None:
        self.done |= other.done

    wait_event = wait_stream

    def record_event(self, *_: Any) -> Stream:
        event = Stream(name="event")
        event.done |= self.done
        return event


COMPUTE = Stream(name="compute")
host: Counter[str] = Counter()
"""Work that the host has waited for: all that it queues later comes after it."""
_local = threading.local()


def current() -> Stream:
    return getattr(_local, "stream", COMPUTE)


@contextlib.contextmanager
def on(stream: Stream) -> Iterator[None]:
    before, _local.stream = current(), stream
    yield
    _local.stream = before


def host_waits() -> None:
    host.update({name: count - host[name] for name, count in current().done.items() if count > host[name]})
    note("host", "waits")


def note(stream: str, what: str) -> None:
    if trace[-1:] != [(stream, what)]:
        trace.append((stream, what))


class Memory:
    """A piece of a device's memory, from the pool of the stream that allocated it."""

    def __init__(self) -> None:
        self.pool = current()
        self.written: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.kept_for: set[str] = set()

    def use(self, what: str, *, writes: bool) -> None:
        """The current stream's next piece of work uses it."""
        stream = current()
        stream.done |= host
        self._require(self.used if writes else self.written, stream, what)
        self.used[stream.name] = stream.done[stream.name] + 1
        if writes:
            self.written[stream.name] = self.used[stream.name]

    def _require(self, work: Counter[str], stream: Stream, what: str) -> None:
        races.extend(
            f"{what}: {name}" for name, count in work.items() if name != stream.name and stream.done[name] < count
        )

    def __del__(self) -> None:
        done = self.pool.done | host
        late = [name for name, count in self.used.items() if done[name] < count and name not in self.kept_for]
        races.extend(f"freed before {name} was done with it" for name in late)


def work(what: str) -> None:
    """The current stream has one more piece of work, of which `Memory.use` has been told."""
    stream = current()
    stream.done |= host
    stream.done[stream.name] += 1
    note(stream.name, what)
