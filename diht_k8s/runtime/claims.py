"""Workers that share a stage: claims on its shards, the work up to the commit, and who is at work in which folder.

Claims are leases (`data.lease`) in the stage's folder, and replace a coordinator: a worker creates a claim and rewrites
it while it works on the shard. Runs that share a folder so share its work, and a dead worker's claims go to others. Two
workers on one shard (a slow one and its successor) write the same bytes.

A claim also counts the workers that died while they held it: a shard that kills its worker (memory, a crash in a
decoder) would kill one after another. Whoever ended together with its whole run was not killed by the shard.

A worker takes shards as long as there are any that are neither done nor another's. Then one worker ends the stage, and
the others wait for its marker: a worker succeeds only once the stage is committed, so one that has succeeded tells that
no other is needed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import LEASE, MARKER, join
from diht_k8s.api.reports import CommittedShards
from diht_k8s.api.wording import first_of
from diht_k8s.data.lease import (
    BEAT_SECONDS,
    LOOK_SECONDS,
    STALE_SECONDS,
    Owner,
    WorkLease,
    beating,
    fields_of,
    is_dead,
    read_lease,
)
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, Outcome

MAX_DEATHS: Final = 3
"""Workers that may die on one shard (our choice); then the stage ends."""
FINAL_STALE_SECONDS: Final = 600.0
"""So long must the claim of the last of them stand still, unless it was this worker's own: it may only be slow."""
END: Final = "end of the stage"
"""Name of the claim on the end of the stage, so that only one worker reads all that the others wrote."""
EVERY_SECONDS: Final = 60.0
"""A worker counts committed shards, by a list and a write, at most this often."""
Watch = Callable[[Storage, Iterable[str], StopFlag], dict[str, str]]
"""`living`, or what takes its place."""


class Claims:
    """One worker's view of the claims of a stage."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        owner: Owner,
        worker: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is claimed yet.

        Args:
            storage: where the claims lie.
            folder: the stage's folder.
            owner: whose worker this is.
            worker: its index.
            clock: seconds, monotonic.
        """
        self._storage, self._folder, self._clock = storage, join(folder, "claims"), clock
        self._holder = {"owner": owner.id, "worker": worker}
        self._watched: dict[str, WorkLease] = {}
        """claims of others, by name."""
        self._held: tuple[str, WorkLease] | None = None
        """name of the claim that this worker holds, and the claim; its notes are how many workers died on it before,
        and the shard that the owner works on, of a claim on several."""
        self.took_over = False
        """whether the claim that was taken last had another owner before."""

    def take(self, name: str, *, counts_deaths: bool = True, shown: str = "") -> bool:
        """Claim something; False if another worker seems to work on it.

        Args:
            name: of the claim.
            counts_deaths: whether it is a shard, on which at most MAX_DEATHS workers may die.
            shown: what the error calls it; empty takes the name.

        Raises:
            DataError: MAX_DEATHS workers died on it; the next start of the stage counts from zero.
        """
        self.took_over = False
        lease = self._watched.pop(name, None) or self._lease(name)
        if not lease.create():
            lease.look()
            if lease.found is None:  # it has just been removed
                return False
            deaths, at = _deaths(lease.found) if counts_deaths else (0, "")
            if not lease.is_free(FINAL_STALE_SECONDS if deaths >= MAX_DEATHS else STALE_SECONDS):
                self._watched[name] = lease
                return False
            if deaths >= MAX_DEATHS:
                self._storage.remove(self._uri(name))
                raise DataError(
                    f"{at or shown or name}: {deaths} workers died on this shard (killed for memory, or by a crash): "
                    "leave it out of the shards or fetch it again; for more memory set pods.resources"
                )
            lease.notes = _notes(deaths, at)
            lease.write()
            self.took_over = True
        self._held = name, lease
        return True

    def work_on(self, shard: str) -> None:
        """Note which shard of a claim on several comes next: deaths on one before it say nothing about this one."""
        if self._held is None:
            return
        _, lease = self._held
        deaths, before = lease.notes.get("deaths", 0), lease.notes.get("at", "")
        lease.notes = _notes(deaths if before in ("", shard) else 0, shard)
        if deaths:  # somebody died on this claim: the next one shall know where, without waiting for a beat
            lease.write()

    def keep(self) -> None:
        """Show that the owner of the held claim is alive; call it often."""
        if self._held is not None:
            self._held[1].keep()

    def give_up(self, name: str) -> None:
        """Release a claim on work that this worker will not finish; who died on it before is not forgotten."""
        held, self._held = self._held, None
        if held is None or held[0] != name:
            self._storage.remove(self._uri(name))
            return
        lease = held[1]
        if lease.notes:  # shards of it may be done, which the next owner looks for
            lease.notes = {"deaths": lease.notes.get("deaths", 0)}
        lease.release()

    def clear(self, name: str) -> None:
        """Remove all claims except one, and the times of the workers (`ShardProgress`)."""
        self._storage.remove_named(self._folder, "*.json")
        self._lease(name).write()

    def _lease(self, name: str) -> WorkLease:
        return WorkLease(self._storage, self._uri(name), self._holder, clock=self._clock)

    def _uri(self, name: str) -> str:
        return join(self._folder, f"{name}.json")


def _deaths(claim: dict[str, Any]) -> tuple[int, str]:
    """How many workers have died on a claim if its owner is dead, and on which shard of it."""
    died = claim.get("owner") is not None and not is_dead(str(claim["owner"]))
    return int(claim.get("deaths", 0)) + died, str(claim.get("at", ""))


def _notes(deaths: int, at: str) -> dict[str, Any]:
    return {**({"deaths": deaths} if deaths else {}), **({"at": at} if at else {})}


def claims_of(context: Context) -> Claims:
    """This worker's claims on shards of its stage."""
    return Claims(context.storage, context.layout.stage(context.stage), context.owner, context.worker)


def until_committed(
    context: Context,
    claims: Claims,
    take: Callable[[], tuple[bool, int]],
    end: Callable[[], Outcome | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome | None:
    """Work until the stage is committed.

    Args:
        context: the stage's context.
        claims: of this worker.
        take: works on what is free; returns whether there was anything, and how many shards are not done.
        end: once all are done, makes the outcome; None if it finds one that is not, which `take` works on next.
        sleep: waits for seconds.

    Returns:
        The outcome in the worker that ends the stage, None in the others.
    """
    while not context.storage.exists(context.layout.committed(context.stage)):
        worked, waiting = take()
        if not worked and not waiting and claims.take(END, counts_deaths=False):
            if (outcome := _ended(claims, end)) is not None:
                return outcome
        elif not worked:
            context.stop.raise_if_requested("finished shards are kept")
            sleep(min(max(1, waiting), BEAT_SECONDS))  # about one request per second
    return None


def once(
    context: Context,
    name: str,
    is_done: Callable[[], bool],
    work: Callable[[], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have something done by one worker of all runs that share the folder, and wait for it.

    Args:
        context: the stage's context.
        name: of the claim.
        is_done: whether it is done.
        work: does it.
        sleep: waits for seconds.
    """
    claims = claims_of(context)
    while not is_done():
        if claims.take(name, counts_deaths=False):
            try:
                with beating(claims.keep):
                    work()
            finally:
                claims.give_up(name)
        else:
            context.stop.raise_if_requested()
            sleep(1.0)


def _ended(claims: Claims, end: Callable[[], Outcome | None]) -> Outcome | None:
    """The outcome; without one the claim on the end is another's to take."""
    outcome = None
    try:
        with beating(claims.keep):
            outcome = end()
    finally:
        if outcome is None:
            claims.give_up(END)
    claims.clear(END)
    return outcome


class ShardProgress:
    """Committed shards of a stage, for the progress lines of one worker."""

    def __init__(self, context: Context, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; the time counts from here.

        Args:
            context: the stage's context.
            folder: the folder of the stage that gets one file for each finished shard, relative to the stage's.
            clock: seconds, monotonic.
        """
        stage = context.layout.stage(context.stage)
        self._context, self._folder, self._clock = context, join(stage, folder), clock
        self._uri = join(stage, "claims", f"time of worker {context.worker:05d}.json")
        self._seconds: float | None = None
        self._since = clock()

    def shard_done(self) -> None:
        """A shard is committed: count again if the last count is old enough."""
        now = self._clock()
        if now - self._since < EVERY_SECONDS:
            return
        storage = self._context.storage
        self._seconds = (self._read() if self._seconds is None else self._seconds) + now - self._since
        self._since = now
        done = len(storage.names(self._folder))
        storage.write_bytes(self._uri, json.dumps({"seconds": round(self._seconds)}).encode())
        self._context.progress.committed(CommittedShards(count=done, seconds=round(self._seconds)))

    def _read(self) -> float:
        """Seconds of earlier starts of this worker."""
        storage = self._context.storage
        try:
            return float(json.loads(storage.read_bytes(self._uri))["seconds"]) if storage.exists(self._uri) else 0.0
        except (KeyError, TypeError, ValueError):
            return 0.0


def living(
    storage: Storage,
    folders: Iterable[str],
    stop: StopFlag,
    *,
    is_dead: Callable[[str], bool] = is_dead,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, str]:
    """The stage folders in which somebody works. Returns at once where nobody holds anything, else within two minutes.

    Args:
        storage: where the folders are.
        folders: of stages.
        stop: checked between two looks.
        is_dead: whether an owner is known to have ended, so that nobody need watch what it holds.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Returns:
        Folder -> the claim or lease that lives in it.

    Raises:
        StopRequested: a signal.
    """
    found = {folder: held_in(storage, folder) for folder in folders}
    waiting = {folder: held for folder, held in found.items() if not _all_dead(held, is_dead)}
    alive: dict[str, str] = {}
    if waiting:
        _tell(waiting)
    until = clock() + STALE_SECONDS
    while waiting and clock() < until:
        stop.raise_if_requested("nothing has been changed")
        sleep(LOOK_SECONDS)
        for folder, before in list(waiting.items()):
            now = held_in(storage, folder)
            if now != before:
                alive[folder] = next(uri for uri in {**before, **now} if before.get(uri) != now.get(uri))
            if now != before or _all_dead(before, is_dead):
                del waiting[folder]
    return alive


def held_in(storage: Storage, folder: str) -> dict[str, bytes]:
    """The claims that somebody holds in a stage's folder, and the lease: URI -> content."""
    if storage.exists(join(folder, MARKER)):
        return {}
    places = [join(folder, "claims", name) for name in storage.names(join(folder, "claims"))]
    found = {
        uri: content for uri in [*places, join(folder, LEASE)] if (content := read_lease(storage, uri)) is not None
    }
    return {uri: content for uri, content in found.items() if _is_held(uri, content)}


def _is_held(uri: str, content: bytes) -> bool:
    """Whether somebody holds it; a claim may be released, and workers keep their times beside the claims."""
    document = fields_of(content)
    return document is None or uri.endswith(f"/{LEASE}") or document.get("owner") is not None


def _all_dead(held: dict[str, bytes], is_dead: Callable[[str], bool]) -> bool:
    owners = [(fields_of(content) or {}).get("owner") for content in held.values()]
    return all(isinstance(owner, str) and is_dead(owner) for owner in owners)


def _tell(waiting: dict[str, dict[str, bytes]]) -> None:
    first = next(iter(next(iter(waiting.values()))))
    print(
        f"diht: {first_of(list(waiting), 1)} may be in use ({first}): watching for up to {STALE_SECONDS:.0f} s whether "
        "somebody works there",
        file=sys.stderr,
        flush=True,
    )
