"""A lease: a small file that says who works on something, and that whoever works rewrites.

It is created conditionally, on a disk and in an object store alike. One that changes while it is watched belongs to
somebody alive; one that stands still for long, or whose owner is known to be dead, may be taken over. Each watcher uses
its own clock, so clocks need not agree. Leases avoid work that is done twice and protect nothing: whoever relies on an
order of writers needs a fence beside it (`checkpoint.fencing`).

The owner of a lease is a run: on a cluster by its UID, which the operator gives to the pods; here one `diht run`, or
one program that a shell started, by its process. So a restarted worker knows its own leases again, and where an owner's
process was of this machine, its death is known at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import DihtError
from diht_k8s.api.pods import OWNER_VARIABLE

if TYPE_CHECKING:  # the commands that submit name this process, too, and have no packages of storage
    from diht_k8s.data.shards.storage import Storage

PROC: Final = Path("/proc")
BEAT_SECONDS: Final = 20.0
STALE_SECONDS: Final = 120.0
"""Longer than loading the models, filtering a batch or storing a kept shard; a slower live owner only gets help."""
LOOK_SECONDS: Final = 2.0
"""Between two looks at a lease that may be alive."""


@dataclass(frozen=True)
class Owner:
    """Who works."""

    id: str


def owner_of(environ: Mapping[str, str]) -> Owner:
    """The owner that the environment names, else this process."""
    return Owner(environ.get(OWNER_VARIABLE) or this_process())


def this_process() -> str:
    """This process by boot, process namespace, number and start: no other one has ever the same name."""
    return f"process {_place()} {os.getpid()} {_started_at(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether an owner is known to have ended: a process of this machine that runs no more. False if nothing is
    known.
    """
    return _runs(owner) is False


def _runs(owner: str) -> bool | None:
    """Whether an owner's process runs; None if it is not of this machine."""
    kind, _, rest = owner.partition(" ")
    place, _, process = rest.partition(" ")
    pid, _, started_at = process.partition(" ")
    if kind != "process" or not pid.isdigit() or place != _place():
        return None
    return started_at == _started_at(int(pid))


def _place() -> str:
    """Boot of this machine and its process namespace: where a process number means something."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(PROC / 'self/ns/pid').readlink()}"
    except OSError:  # no Linux: a process is known by its number and the machine alone
        return os.uname().nodename


def _started_at(pid: int) -> str:
    """When a process started, in ticks since boot; empty if there is none, or it has ended and waits for its parent."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def read_lease(storage: Storage, uri: str) -> bytes | None:
    """The content of a lease, which may go at any moment; None if there is none."""
    try:
        return storage.read_bytes(uri)
    except DihtError:
        if storage.exists(uri):
            raise
        return None


def fields_of(content: bytes) -> dict[str, Any] | None:
    """The fields of a lease; None for one that is damaged, of which nothing is known."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class WorkLease:
    """One holder's view of a lease."""

    def __init__(
        self,
        storage: Storage,
        uri: str,
        holder: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is taken yet.

        Args:
            storage: where the lease is.
            uri: of its file.
            holder: `owner`, the id of an `Owner`, and what tells this holder from others of the same owner. A lease of
                the same holder is one of an earlier start, and free.
            clock: seconds, monotonic.
        """
        self._storage, self._uri, self._clock = storage, uri, clock
        self._holder = dict(holder)
        self._start = uuid.uuid4().hex
        """of this start: the holder's starts before it may still run."""
        self.notes = dict[str, Any]()
        """what this holder writes beside its name."""
        self.found: dict[str, Any] | None = None
        """the lease as it was read last; {} if it is damaged, None if there is none."""
        self._content: bytes | None = None
        self._changed_at = self._written_at = clock()
        self._looked, self._beats = False, 0
        self.lives = False
        """whether its holder is known to be alive, by what was read last."""

    def create(self) -> bool:
        """Take a lease that nobody has; False if there is one."""
        created = self._storage.create(self._uri, self._text())
        self._written_at = self._clock()
        return created

    def look(self) -> None:
        """Read what is there."""
        content, now = read_lease(self._storage, self._uri), self._clock()
        changed = content != self._content
        if changed:
            self._content, self._changed_at = content, now
        self.found = None if content is None else fields_of(content) or {}
        self.lives = self.is_foreign and ((changed and self._looked) or _runs(str(self._owner)) is True)
        self._looked = True

    def is_free(self, stale_seconds: float = STALE_SECONDS) -> bool:
        """Whether the lease that was found may be taken: released, a dead holder's, or one of an earlier start of this
        one.
        """
        if not self.is_foreign or is_dead(str(self._owner)):
            return True
        return self._clock() - self._changed_at >= stale_seconds

    def take(self) -> bool:
        """Take the lease from nobody or from a dead holder; False if its holder seems to be alive."""
        if self.create():
            return True
        self.look()
        if self.found is None:
            return self.create()
        if not self.is_free():
            return False
        self.write()
        return True

    def watch(self, between: Callable[[], object], sleep: Callable[[float], object] = time.sleep) -> bool:
        """Take the lease, for which its holder may have to be watched; False once it is known to be alive.

        Args:
            between: called between two looks; what it raises ends the watch.
            sleep: waits for seconds.
        """
        while not self.take():
            if self.lives:
                return False
            between()
            sleep(LOOK_SECONDS)
        return True

    @property
    def is_foreign(self) -> bool:
        """Whether the lease that was found is another holder's."""
        found = self.found
        return found is not None and self._owner is not None and any(found.get(k) != v for k, v in self._holder.items())

    @property
    def _owner(self) -> str | None:
        """The owner of the lease that was found; None of one that was released."""
        return None if self.found is None else self.found.get("owner", "" if not self.found else None)

    @property
    def is_mine(self) -> bool:
        """Whether this start holds the lease now."""
        content = read_lease(self._storage, self._uri)
        return content is not None and (fields_of(content) or {}).get("start") == self._start

    def write(self) -> None:
        """Write it as this holder's."""
        self._storage.write_bytes(self._uri, self._text())
        self._written_at = self._clock()

    def keep(self) -> None:
        """Show that this holder is alive, unless another one has taken over; call it often."""
        if self._clock() - self._written_at >= BEAT_SECONDS and self.is_mine:
            self.write()

    def release(self) -> None:
        """Leave it to whoever comes next; notes stay."""
        if not self.is_mine:
            return
        if self.notes:
            self._storage.write_bytes(self._uri, json.dumps(self.notes).encode())
        else:
            self._storage.remove(self._uri)

    def _text(self) -> bytes:
        """Different at each beat and each start."""
        self._beats += 1
        beat = f"{time.time():.3f} {self._beats}"
        return json.dumps({**self._holder, "start": self._start, **self.notes, "beat": beat}).encode()


@contextlib.contextmanager
def beating(keep: Callable[[], None]) -> Iterator[None]:
    """Call `keep` from time to time: what is computed may take longer than a lease may stand still."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the work itself meets the same storage and reports it
                keep()

    thread = threading.Thread(target=beat, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
